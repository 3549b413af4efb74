//! The lead's cycle: on a SQLite file and a directory, with nodes that hold what they are told without pulling it, and
//! a clock of the test's own.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use sync::kv::{Consistency, Key, Op, Txn};
use sync::lead::{CycleError, Orders};
use sync::node::NodeName;
use sync::planner::CopyState;
use sync::table::{TableError, Written};

#[path = "support/breaking.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod breaking;
#[path = "support/leading.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod leading;

use breaking::{Break, BreakingKv};
use leading::{DRAIN_MS, LOST_MS, Place, id};

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

#[tokio::test]
async fn a_pool_is_spread_over_the_nodes_and_the_table_names_who_answers() {
    let mut place = Place::new().await;
    place.put(0..40, 1);
    for node in ["a", "b", "c"] {
        place.join(node, 1 << 20).await;
    }
    let mut lead = place.lead().await;
    place.announce().await;
    let report = lead.cycle(true).await.unwrap();
    assert_eq!(report.moves, 80, "{report:?}");
    let waiting = place.pool().await;
    assert_eq!(waiting.len(), 40);
    assert!(waiting.values().all(|row| row.holders.is_empty()), "nobody pulled yet");
    place.converge(&mut lead).await;
    for row in place.pool().await.values() {
        assert_eq!(row.holders.len(), 2, "{row:?}");
        for holder in &row.holders {
            let held = &place.nodes[holder.as_str()].held[&row.id];
            assert_eq!((held.version, Some(held.tag)), (row.version, row.tag));
        }
    }
    let report = lead.cycle(true).await.unwrap();
    assert_eq!((report.moves, report.written), (0, Written::default()), "{report:?}");

    // a new version is served by who has it, and until then by all who have the old one
    place.put(7..8, 2);
    lead.cycle(true).await.unwrap();
    let of = |pool: &leading::PoolRows| pool[&id(7)].clone();
    let before = of(&place.pool().await);
    assert_eq!(before.holders.len(), 2);
    let first = before.holders[0].clone();
    place.nodes.get_mut(first.as_str()).unwrap().follow().await;
    lead.cycle(false).await.unwrap();
    let row = of(&place.pool().await);
    assert_eq!(row.holders, [first], "{row:?}");
    assert_ne!(row.tag, before.tag);
    place.converge(&mut lead).await;
    assert_eq!(of(&place.pool().await).holders.len(), 2);
}

/// Make before break, as who asks by the pool table sees it.
#[tokio::test]
async fn a_segment_that_moves_is_never_without_its_copies() {
    let (mut place, mut lead) = Place::at_rest(60, &["a", "b", "c"]).await;
    place.join("d", 1 << 20).await;
    Orders::change(&*place.kv, |orders| orders.decommission.extend([name("a")])).await.unwrap();
    for round in 0.. {
        let report = lead.cycle(true).await.unwrap();
        let pool = place.pool().await;
        assert!(pool.values().all(|row| row.holders.len() >= 2), "round {round}: {pool:?}");
        if report.written == Written::default() && round > 2 {
            break;
        }
        assert!(round < 100, "it does not come to rest: {report:?}");
        place.is_answered(&format!("round {round}")).await;
        place.pass_ms(DRAIN_MS / 2);
    }
    assert!(place.nodes["a"].held.is_empty(), "decommissioned, and not empty");
    assert!(place.nodes["d"].held.len() > 20);

    // empty and gone: forgotten, with everything that the registry said of it
    place.leave("a").await;
    lead.cycle(false).await.unwrap();
    for below in ["trough/assign/a", "trough/holds/a"] {
        let left = place.kv.list(&Key::new(below).unwrap(), Consistency::Consistent).await.unwrap();
        assert_eq!(left, Vec::new());
    }
    assert_eq!(place.kv.get(&Key::new("trough/node/a").unwrap()).await.unwrap(), None);
    let (orders, _) = Orders::read(&*place.kv).await.unwrap();
    assert_eq!(orders, Orders::default());
}

#[tokio::test]
async fn a_lost_node_answers_for_nothing_at_once_and_is_made_good_after_its_grace() {
    let (mut place, mut lead) = Place::at_rest(40, &["a", "b", "c"]).await;
    let on_b = place.leave("b").await;
    let report = lead.cycle(false).await.unwrap();
    assert_eq!((report.moves, report.unplanned), (0, None));
    let pool = place.pool().await;
    assert!(pool.values().all(|row| !row.holders.is_empty() && !row.holders.contains(&name("b"))));
    place.pass_ms(LOST_MS);
    assert!(lead.cycle(false).await.unwrap().moves > 0);
    place.converge(&mut lead).await;
    assert!(place.pool().await.values().all(|row| row.holders.len() == 2));

    // it is back with what it had when another goes: that is needed now, and named at once
    place.leave("c").await;
    place.join_with("b", 1 << 20, on_b.clone()).await;
    lead.cycle(false).await.unwrap();
    for row in place.pool().await.values() {
        assert_eq!(row.holders.contains(&name("b")), on_b.contains_key(&row.id), "{row:?}");
    }

    // two of three gone: refused, and what was said still holds, until a person says something
    place.leave("a").await;
    let refused = |why: Option<String>| why.unwrap_or_default().contains("accept the smaller");
    assert!(refused(lead.cycle(false).await.unwrap().unplanned));
    let change = async |quota: Option<u64>, gone: &[&str]| {
        let order = |orders: &mut Orders| {
            orders.accepted_quota_bytes = quota;
            orders.decommission = gone.iter().map(|gone| name(gone)).collect();
        };
        Orders::change(&*place.kv, order).await.unwrap();
    };
    change(Some(1 << 20), &[]).await;
    assert_eq!(lead.cycle(false).await.unwrap().unplanned, None);
    change(None, &[]).await;
    assert!(refused(lead.cycle(false).await.unwrap().unplanned));
    change(None, &["a", "c"]).await;
    assert_eq!(lead.cycle(false).await.unwrap().unplanned, None);
}

#[tokio::test]
async fn s9_an_emptied_store_removes_nothing_until_a_person_says_so() {
    // few enough to go without a word, did nobody remember that they wait
    let (mut place, mut lead) = Place::at_rest(15, &["a", "b"]).await;
    let before = place.pool().await;
    for n in 0..15 {
        place.unput(n);
    }
    for _ in 0..2 {
        let report = lead.cycle(true).await.unwrap();
        assert_eq!(report.held_back.unwrap().missing, 15);
        let pool = place.pool().await;
        let kept = before.keys().all(|id| pool[id].vanished && pool[id].holders.len() == 2);
        assert!(kept, "{pool:?}");
        // a lead that begins knows what waits, and does not take what is left for all that there ever was
        place.term.take().unwrap().resign().await;
        lead = place.lead().await;
        place.put(100..101, 1);
    }
    place.unput(100);
    for n in 0..10 {
        place.put(n..n + 1, 1);
    }
    Orders::change(&*place.kv, |orders| orders.accept_removals = true).await.unwrap();
    lead.cycle(true).await.unwrap();
    let pool = place.pool().await;
    assert_eq!(pool.len(), 10);
    assert!(pool.values().all(|row| !row.vanished && before.contains_key(&row.id)));
    let (orders, _) = Orders::read(&*place.kv).await.unwrap();
    assert!(!orders.accept_removals, "it counts once");
    place.converge(&mut lead).await;
    assert!(place.nodes.values().all(|node| node.held.len() == 10));
}

#[tokio::test]
async fn s9_what_a_person_accepts_counts_for_one_listing_also_when_nothing_waits() {
    let (place, mut lead) = Place::at_rest(15, &["a", "b"]).await;
    Orders::change(&*place.kv, |orders| orders.accept_removals = true).await.unwrap();
    lead.cycle(false).await.unwrap();
    assert!(Orders::read(&*place.kv).await.unwrap().0.accept_removals, "there was no listing");
    assert_eq!(lead.cycle(true).await.unwrap().held_back, None);
    assert!(!Orders::read(&*place.kv).await.unwrap().0.accept_removals, "it counts once");
    for n in 0..15 {
        place.unput(n);
    }
    assert_eq!(lead.cycle(true).await.unwrap().held_back.unwrap().missing, 15);
    assert_eq!(place.pool().await.len(), 15);
}

#[tokio::test]
async fn what_was_deleted_leaves_the_pool_at_once_and_no_late_file_brings_it_back() {
    let (mut place, mut lead) = Place::at_rest(3, &["a", "b"]).await;
    // of a file that goes, and of one that stays for a while
    place.delete(0).await;
    place.delete_late(1).await;
    lead.cycle(false).await.unwrap();
    let there = async |place: &Place| place.pool().await.into_keys().collect::<Vec<_>>();
    assert_eq!(there(&place).await, [id(2)], "without a listing");
    let report = lead.cycle(true).await.unwrap();
    assert_eq!((there(&place).await, report.held_back), (vec![id(2)], None));
    // the last one: an emptied pool is no emptied store
    place.delete(2).await;
    let report = lead.cycle(true).await.unwrap();
    assert_eq!((there(&place).await, report.held_back), (vec![], None));
    place.converge(&mut lead).await;
    assert!(place.nodes.values().all(|node| node.held.is_empty()));

    // the next who leads knows it, too
    place.term.take().unwrap().resign().await;
    place.put(0..1, 1);
    let mut lead = place.lead().await;
    lead.cycle(true).await.unwrap();
    assert_eq!(there(&place).await, []);
    place.put(0..1, 2);
    lead.cycle(true).await.unwrap();
    assert_eq!(there(&place).await, [id(0)], "a newer one lives");

    // they are kept for long, and for longer while they are needed
    const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
    place.pass_ms(29 * DAY_MS);
    lead.cycle(true).await.unwrap();
    assert_eq!(place.tombs().await.len(), 3);
    place.pass_ms(2 * DAY_MS);
    lead.cycle(false).await.unwrap();
    assert_eq!(place.tombs().await.len(), 3, "nobody looked what is there");
    lead.cycle(true).await.unwrap();
    assert_eq!(place.tombs().await, [id(1)], "its file is still there");
    place.unput(1);
    lead.cycle(true).await.unwrap();
    assert_eq!(place.tombs().await, []);
}

#[tokio::test]
async fn s10_a_registry_that_comes_back_empty_moves_nothing() {
    let (mut place, _) = Place::at_rest(40, &["a", "b", "c"]).await;
    let (before, epoch) = (place.pool().await, place.term.as_ref().unwrap().epoch());
    let held = place.held();

    place.empty_the_registry().await;
    place.settle_s = 1;
    // and the store with it: what the nodes say is what there was, so the guard has something to go by
    for n in 0..40 {
        place.unput(n);
    }
    let mut lead = place.lead().await;
    assert!(place.term.as_ref().unwrap().epoch() > epoch);
    let report = lead.cycle(true).await.unwrap();
    assert!(report.unplanned.unwrap().contains("registry was empty"));
    assert_eq!(report.written, Written::default());
    for node in ["a", "b", "c"] {
        place.rejoin(node).await;
    }
    tokio::time::sleep_until(lead.settled_at().unwrap()).await;
    let report = lead.cycle(true).await.unwrap();
    assert_eq!((report.moves, report.retired), (0, 0), "{report:?}");
    assert_eq!(report.held_back.unwrap().missing, 40);
    place.put(0..40, 1);
    place.converge(&mut lead).await;
    assert_eq!(place.pool().await, before);
    assert_eq!(place.held(), held, "something was moved");
}

#[tokio::test]
async fn s10_a_registry_that_comes_back_empty_while_nothing_may_be_planned_says_who_answers() {
    let (mut place, _) = Place::at_rest(40, &["a", "b"]).await;
    let before = place.pool().await;
    place.empty_the_registry().await;
    Orders::change(&*place.kv, |orders| orders.paused = true).await.unwrap();
    for node in ["a", "b"] {
        place.rejoin(node).await;
    }
    let mut lead = place.lead().await;
    place.announce().await;
    for _ in 0..3 {
        assert!(lead.cycle(true).await.unwrap().unplanned.is_some());
        assert_eq!(place.pool().await, before);
    }
}

#[tokio::test]
async fn s10_a_registry_that_comes_back_empty_waits_for_nodes_but_not_for_ever() {
    // it says nothing, or is not even there: then only who led before misses it
    for (speaks, there) in [(true, true), (true, false), (false, true)] {
        let (mut place, _) = Place::at_rest(40, &["a", "b", "c"]).await;
        let held = place.held();
        place.empty_the_registry().await;
        place.settle_s = 1;
        for node in ["a", "b"] {
            place.rejoin(node).await;
        }
        let on_c = place.nodes.remove("c").unwrap().held;
        match there {
            true => place.join_silent("c", on_c.clone()).await,
            false => place.remembered = ["a", "b", "c"].map(name).into(),
        }
        let mut lead = place.lead().await;
        for node in ["a", "b"] {
            place.nodes.get_mut(node).unwrap().announce().await.unwrap();
        }
        tokio::time::sleep_until(lead.settled_at().unwrap()).await;
        assert!(lead.cycle(true).await.unwrap().unplanned.is_some(), "c has not spoken");
        if speaks {
            if !there {
                place.join_silent("c", on_c).await;
            }
            place.announce().await;
            tokio::time::sleep_until(lead.settled_at().unwrap()).await;
            let report = lead.cycle(true).await.unwrap();
            assert_eq!((report.unplanned, report.moves), (None, 0));
            place.converge(&mut lead).await;
            assert_eq!(place.held(), held);
        }
        let mut looks = 0;
        while let Some(at) = lead.settled_at() {
            tokio::time::sleep_until(at).await;
            lead.cycle(true).await.unwrap();
            looks += 1;
            assert!(looks < 10, "it waits for ever");
        }
    }
}

#[tokio::test]
async fn s10_a_registry_that_was_empty_is_not_written_to_before_the_nodes_had_time() {
    let mut place = Place::new().await;
    place.put(0..4, 1);
    place.settle_s = 3_600;
    let mut lead = place.lead().await;
    lead.cycle(true).await.unwrap();
    let trough = Key::new("trough").unwrap();
    let keys = place.kv.list(&trough, Consistency::Consistent).await.unwrap();
    let keys: Vec<_> = keys.iter().map(|entry| entry.key.to_string()).collect();
    assert_eq!(keys, ["trough/incarnation", "trough/lead"]);
}

#[tokio::test]
async fn a_lead_that_was_overtaken_writes_nothing() {
    let mut place = Place::new().await;
    let mut old = place.rest(10, &["a"]).await;
    let term = place.term.take().unwrap();
    place.put(10..20, 1);
    let mut new = place.after(term).await;
    let error = old.cycle(true).await.unwrap_err();
    assert!(matches!(error, CycleError::Table(TableError::Fenced { .. })), "{error}");
    assert_eq!(place.pool().await.len(), 10);
    place.converge(&mut new).await;
    assert_eq!(place.pool().await.len(), 20);
}

/// Documents that a person deletes, empties or garbles: nothing changes for nodes and readers, and the lead mends them.
#[tokio::test]
async fn s9_what_somebody_breaks_in_the_registry_changes_nothing_and_is_mended() {
    let (mut place, mut lead) = Place::at_rest(40, &["a", "b", "c"]).await;
    let (before, held) = (place.pool().await, place.held());
    for (n, below) in
        ["trough/assign/a", "trough/pool", "trough/holds/b"].into_iter().cycle().take(9).enumerate()
    {
        for entry in
            place.kv.list(&Key::new(below).unwrap(), Consistency::Consistent).await.unwrap()
        {
            let key = entry.key;
            let op = match n / 3 {
                0 => Op::Delete { key },
                1 => Op::Set { key, value: "".into() },
                _ => Op::Set { key, value: entry.value.slice(..entry.value.len() / 2) },
            };
            assert!(matches!(place.kv.txn(&[op]).await.unwrap(), Txn::Committed(_)));
        }
        // half of the time another lead comes, who has seen nothing of before
        if n % 2 == 1 {
            place.term.take().unwrap().resign().await;
            lead = place.lead().await;
        }
        let report = lead.cycle(true).await.unwrap();
        assert_eq!((report.moves, report.retired), (0, 0), "{n}, {below}: {report:?}");
        assert_eq!(place.pool().await, before, "{n}, {below}");
        for node in place.nodes.values_mut() {
            node.mend().await;
        }
        lead.cycle(true).await.unwrap();
        assert_eq!(place.pool().await, before, "{n}, {below}");
        assert_eq!(place.held(), held, "{n}, {below}");
        for node in place.nodes.values() {
            let all = node.assigned_anew().await;
            assert!(all.iter().all(|row| row.state == CopyState::Hold), "{n}, {below}");
            assert_eq!(all.len(), node.held.len(), "{n}, {below}");
        }
    }
}

#[tokio::test]
async fn while_paused_the_store_is_left_alone_and_the_table_goes_on() {
    let (mut place, mut lead) = Place::at_rest(10, &["a", "b", "c"]).await;
    Orders::change(&*place.kv, |orders| orders.paused = true).await.unwrap();
    place.put(10..20, 1);
    place.leave("a").await;
    place.pass_ms(LOST_MS);
    let report = lead.cycle(true).await.unwrap();
    assert!(report.list_ms.is_none() && report.unplanned.unwrap().contains("resume"));
    let pool = place.pool().await;
    assert_eq!(pool.len(), 10);
    assert!(pool.values().all(|row| !row.holders.contains(&name("a"))));

    // orders that nobody can read change nothing of what was ordered
    let orders = Key::new("trough/orders").unwrap();
    place.kv.txn(&[Op::Set { key: orders.clone(), value: "{".into() }]).await.unwrap();
    assert!(lead.cycle(true).await.unwrap().unplanned.is_some());
    let refused = Orders::change(&*place.kv, |orders| orders.paused = false).await.unwrap_err();
    assert!(refused.to_string().contains("give the orders again"), "{refused}");
    place.kv.txn(&[Op::Delete { key: orders }]).await.unwrap();
    let report = lead.cycle(true).await.unwrap();
    assert!(report.list_ms.is_some() && report.moves >= 10, "{report:?}");
}

#[tokio::test]
async fn a_cycle_that_is_cut_off_anywhere_is_gone_on_with() {
    for how in [Break::Refused, Break::AnswerLost] {
        for at in 0.. {
            let mut place = Place::new().await;
            let breaking = BreakingKv::new(place.kv.clone());
            place.leads_kv = Some(breaking.clone());
            let mut lead = place.rest(30, &["a", "b", "c"]).await;
            place.join("d", 1 << 20).await;
            place.put(30..40, 1);
            place.put(0..5, 2);
            place.unput(9);

            breaking.break_at(at, how);
            let whole = lead.cycle(true).await.is_ok();
            breaking.mend();
            if whole {
                assert!(
                    at >= 5,
                    "{how:?}: it wrote to four nodes and readers, in {at} transactions"
                );
                break;
            }
            for round in 0.. {
                let case = format!("{how:?} at {at}, round {round}");
                place.is_answered(&case).await;
                // those that were there before, and not the one that is gone or the new versions
                let pool = place.pool().await;
                let few = (10..30).map(id).filter(|id| pool[id].holders.len() < 2);
                assert_eq!(few.collect::<Vec<_>>(), [], "{case}");
                place.pass_ms(DRAIN_MS);
                if round < 4 {
                    if (at + round) % 2 == 1 {
                        place.term.take().unwrap().resign().await;
                        lead = place.lead().await;
                    }
                    breaking.break_at((at + round) % 7, how);
                }
                let cycle = lead.cycle(true).await;
                breaking.mend();
                if round > 6 && cycle.unwrap().written == Written::default() {
                    break;
                }
            }
            let pool = place.pool().await;
            assert_eq!(pool.len(), 39, "{how:?} at {at}");
            for row in pool.values() {
                let of = |n: &NodeName| &place.nodes[n.as_str()].held[&row.id];
                assert_eq!(row.holders.len(), 2, "{how:?} at {at}: {row:?}");
                assert!(row.holders.iter().all(|n| of(n).version == row.version), "{row:?}");
            }
            let held: usize = place.held().values().map(Vec::len).sum();
            assert_eq!(held, 78, "{how:?} at {at}: something was not dropped");
        }
    }
}
