//! What would happen, told beforehand: on a SQLite file and a directory, with nodes that hold what they are told.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use sync::kv::{Consistency, Entry, Key, Op};
use sync::lead::{Forecast, MoveSum, Orders, WhatIf, dry_run};
use sync::node::NodeName;
use sync::planner::{MoveReason, PlanSettings, Rule, Rules, Why};

#[path = "support/breaking.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod breaking;
#[path = "support/leading.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod leading;

use leading::{LENGTH, Place, rules};

const RATIO: f64 = 0.1;

async fn registry(place: &Place) -> Vec<Entry> {
    place.kv.list(&Key::new("trough").unwrap(), Consistency::Consistent).await.unwrap()
}

/// What would happen, which changes nothing.
async fn foretold(place: &Place, rules: &Rules, what_if: WhatIf) -> Forecast {
    let before = registry(place).await;
    let forecast = dry_run(&place.outside(), RATIO, rules, what_if).await.unwrap();
    assert_eq!(registry(place).await, before, "something was written");
    forecast
}

fn names(all: &[&str]) -> BTreeSet<NodeName> {
    all.iter().map(|name| NodeName::new(name).unwrap()).collect()
}

fn segments(count: u64) -> MoveSum {
    MoveSum { segments: count, bytes: count * LENGTH as u64 }
}

fn node(forecast: &Forecast, name: &str) -> (MoveSum, MoveSum, MoveSum) {
    let node = forecast.nodes.iter().find(|node| node.name == name).unwrap();
    (node.before, node.after, node.pull)
}

#[tokio::test]
async fn a_cluster_at_rest_moves_nothing_and_what_is_new_is_counted() {
    let (place, _lead) = Place::at_rest(30, &["a", "b", "c"]).await;
    let forecast = foretold(&place, &rules(), WhatIf::default()).await;
    assert_eq!(forecast.pulls, MoveSum::default(), "{forecast:?}");
    assert_eq!((forecast.figures.copies_wanted, forecast.figures.copies_missing), (60, 0));
    assert!(forecast.listing.unwrap().complete());

    place.put(30..40, 1);
    place.put(0..5, 2);
    let forecast = foretold(&place, &rules(), WhatIf::default()).await;
    assert_eq!(forecast.pulls, segments(30), "{forecast:?}");
    assert_eq!(forecast.reasons[&MoveReason::New], segments(20));
    assert_eq!(forecast.reasons[&MoveReason::Update], segments(10));
    let after: u64 = forecast.nodes.iter().map(|node| node.after.segments).sum();
    assert_eq!(after, 80);

    // no more than would be removed anyway
    for n in 0..40 {
        place.unput(n);
    }
    let forecast = foretold(&place, &rules(), WhatIf::default()).await;
    assert_eq!(forecast.held_back.unwrap().missing, 30);
    assert_eq!(forecast.pulls, MoveSum::default());
}

#[tokio::test]
async fn rules_and_nodes_that_are_not_there_yet_or_not_any_more_are_tried_out() {
    let (mut place, mut lead) = Place::at_rest(30, &["a", "b", "c"]).await;
    let all = foretold(&place, &rules(), WhatIf::default()).await;
    let (on_c, ..) = node(&all, "c");
    assert!(on_c.segments > 10, "{all:?}");

    // all of it goes elsewhere, however little may move in one cycle
    let slow = PlanSettings { moved_bytes_max: 1, ..rules().settings().clone() };
    let slow = Rules::new(slow, Vec::new()).unwrap();
    for reason in [MoveReason::Decommission, MoveReason::Repair] {
        let what_if = match reason {
            MoveReason::Repair => WhatIf { without: names(&["c"]), ..WhatIf::default() },
            _ => WhatIf { decommission: names(&["c"]), ..WhatIf::default() },
        };
        let forecast = foretold(&place, &slow, what_if).await;
        assert_eq!(forecast.pulls, on_c, "{forecast:?}");
        assert_eq!(forecast.reasons[&reason], on_c);
        assert_eq!(node(&forecast, "c"), (on_c, MoveSum::default(), MoveSum::default()));
        assert_eq!(node(&forecast, "a").1, segments(30));
    }
    // with one node left, what needs two stays where it is
    let what_if = WhatIf { decommission: names(&["b", "c"]), ..WhatIf::default() };
    let forecast = foretold(&place, &rules(), what_if).await;
    assert_eq!(node(&forecast, "a").1, segments(30));
    assert_eq!((forecast.unplaced_segments, forecast.unplaced[0].why), (30, Why::TooFewNodes));
    assert!(node(&forecast, "b").1.segments > 0, "{forecast:?}");
    // and what is on its way already needs no more
    Orders::change(&*place.kv, |orders| orders.decommission = names(&["c"])).await.unwrap();
    assert_eq!(lead.cycle(false).await.unwrap().moves, on_c.segments);
    let forecast = foretold(&place, &rules(), WhatIf::default()).await;
    assert_eq!(forecast.pulls, MoveSum::default(), "{forecast:?}");
    assert_eq!(node(&forecast, "c"), (on_c, MoveSum::default(), MoveSum::default()));
    Orders::change(&*place.kv, |orders| orders.decommission.clear()).await.unwrap();
    place.converge(&mut lead).await;
    let on_c = node(&foretold(&place, &rules(), WhatIf::default()).await, "c").0;

    let nobody = WhatIf { decommission: names(&["d"]), ..WhatIf::default() };
    let error = dry_run(&place.outside(), RATIO, &rules(), nobody).await.unwrap_err();
    assert_eq!(error.to_string(), "no node is called d; there are a, b, c");

    // one that is gone is not waited for, as the lead does
    place.leave("c").await;
    assert_eq!(lead.cycle(false).await.unwrap().moves, 0);
    assert_eq!(foretold(&place, &rules(), WhatIf::default()).await.pulls, on_c);
    // too much at once is refused, as the lead does
    let without_b = WhatIf { without: names(&["b"]), ..WhatIf::default() };
    let refused = foretold(&place, &rules(), without_b).await;
    assert!(refused.refused.as_ref().unwrap().contains("accept-quota"), "{refused:?}");

    let three = Rule { glob: "s00*".into(), copies: 3, pinned: false, nodes: Vec::new() };
    let three = Rules::new(rules().settings().clone(), vec![three]).unwrap();
    let forecast = foretold(&place, &three, WhatIf::default()).await;
    assert_eq!(forecast.figures.copies_wanted, 70);
    assert_eq!((forecast.unplaced_segments, forecast.unplaced[0].why), (10, Why::TooFewNodes));
}

#[tokio::test]
async fn a_paused_cluster_is_left_alone_and_one_without_a_table_says_what_its_nodes_say() {
    let (mut place, _lead) = Place::at_rest(10, &["a", "b"]).await;
    Orders::change(&*place.kv, |orders| orders.paused = true).await.unwrap();
    place.put(10..20, 1);
    let forecast = foretold(&place, &rules(), WhatIf::default()).await;
    assert!(forecast.orders.paused && forecast.list_ms.is_none());
    assert_eq!((forecast.pulls, forecast.refused), (MoveSum::default(), None));

    let orders = Key::new("trough/orders").unwrap();
    place.kv.txn(&[Op::Set { key: orders, value: "{".into() }]).await.unwrap();
    let error = dry_run(&place.outside(), RATIO, &rules(), WhatIf::default()).await.unwrap_err();
    assert!(error.to_string().contains("give the orders again"), "{error}");

    place.empty_the_registry().await;
    for name in ["a", "b"] {
        place.rejoin(name).await;
    }
    let _lead = place.lead().await;
    place.announce().await;
    let forecast = foretold(&place, &rules(), WhatIf::default()).await;
    assert_eq!(forecast.pulls, segments(20), "{forecast:?}");
    assert_eq!(node(&forecast, "a").0, segments(10));
}
