//! What the planner does in situations that an operator meets, one by one.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "each test file uses a part of it")]
#[path = "support/cluster.rs"]
mod cluster;

use cluster::{Cluster, Random, id, node};
use fsd::segment::{SegmentId, Stamp};
use sync::planner::{
    CopyState, MoveReason, Node, NodeState, PlanRefusal, PlanSettings, Rule, Rules, Why, World,
    plan,
};

const GRACE_MS: u64 = 1_000;
const LOST_GRACE_MS: u64 = 5_000;

fn settings() -> PlanSettings {
    PlanSettings {
        drain_grace_ms: GRACE_MS,
        lost_grace_ms: LOST_GRACE_MS,
        moved_bytes_max: u64::MAX,
        ..PlanSettings::default()
    }
}

fn rules() -> Rules {
    Rules::new(settings(), Vec::new()).unwrap()
}

/// `segments` of 10 bytes on `nodes` of `quota` bytes, at rest.
fn at_rest(segments: u64, nodes: usize, quota: u64) -> Cluster {
    let mut cluster = Cluster::new(2);
    for n in 0..segments {
        cluster.pool.insert(id(&format!("s{n}")), Stamp { length: 10, mtime_ms: n + 1 });
    }
    for n in 0..nodes {
        cluster.join(node(&format!("n{n}"), quota));
    }
    cluster.converge(&rules(), &mut Random(1), 10);
    cluster.pulled_bytes = 0;
    cluster
}

fn lost(cluster: &Cluster) -> NodeState {
    NodeState::Lost { since_ms: cluster.now_ms }
}

#[test]
fn a_lost_node_is_waited_for_and_then_replaced() {
    let mut cluster = at_rest(40, 4, 1000);
    let held = cluster.nodes["n1"].held.len() as u64;
    cluster.set_state("n1", lost(&cluster));
    let plan = cluster.cycle(&rules()).unwrap();
    assert!(plan.is_empty(), "{}", plan.summary(&cluster.world()));
    assert_eq!(plan.figures.copies_missing, held);
    cluster.now_ms += LOST_GRACE_MS;
    let plan = cluster.cycle(&rules()).unwrap();
    assert_eq!(plan.bytes, held * 10);
    assert!(plan.moves.iter().all(|one| one.reason == MoveReason::Repair));
}

#[test]
fn a_node_that_returns_has_its_copies_back_without_movement() {
    // copies are being made anew; others hold them, and its own are told to drain; nothing is told of its own any more
    for cycles in [1, 2, 10] {
        let mut cluster = at_rest(40, 4, 1000);
        cluster.set_state("n1", lost(&cluster));
        cluster.now_ms += LOST_GRACE_MS;
        for cycle in 0..cycles {
            cluster.cycle(&rules()).unwrap();
            if cycles > 1 {
                cluster.finish(&mut Random(1));
                cluster.now_ms += GRACE_MS;
            }
            let lines = &cluster.nodes["n1"].written;
            let draining = lines.values().filter(|line| line.1 != CopyState::Hold).count();
            assert_eq!((lines.len(), draining), [(20, 0), (20, 20), (0, 0)][cycle.min(2)]);
        }
        cluster.pulled_bytes = 0;
        cluster.comes_back("n1");
        cluster.cycle(&rules()).unwrap();
        cluster.finish(&mut Random(1));
        cluster.set_state("n1", NodeState::Live);
        let plan = cluster.converge(&rules(), &mut Random(1), 10);
        assert_eq!((plan.figures.copies_missing, cluster.pulled_bytes), (0, 0));
        assert!(plan.figures.max_over_average <= 1.05, "{:?}", plan.figures);
        assert!(cluster.nodes["n1"].held.len() >= 19);
        assert!(cluster.pool.keys().all(|id| cluster.held(id) == 2));
    }
}

/// Lets `names` be lost until others hold what they held, and come back with it.
fn come_back(cluster: &mut Cluster, rules: &Rules, names: &[&str]) {
    for name in names {
        cluster.set_state(name, lost(cluster));
    }
    cluster.now_ms += LOST_GRACE_MS;
    cluster.converge(rules, &mut Random(1), 10);
    for name in names {
        cluster.comes_back(name);
        cluster.set_state(name, NodeState::Live);
    }
    (cluster.pulled_bytes, cluster.loaded_bytes) = (0, 0);
}

#[test]
fn what_drains_for_a_node_that_returned_is_taken_back_when_that_node_goes_again() {
    for emptied in [false, true] {
        let mut cluster = at_rest(40, 4, 1000);
        come_back(&mut cluster, &rules(), &["n1"]);
        for _ in 0..2 {
            cluster.cycle(&rules()).unwrap();
            cluster.finish(&mut Random(1));
        }
        let drains = |name: &str| {
            let lines = cluster.nodes[name].written.values();
            lines.filter(|line| matches!(line.1, CopyState::Drain { .. })).count()
        };
        assert!(drains("n0") + drains("n2") + drains("n3") >= 19);
        let state = if emptied { NodeState::Decommissioning } else { lost(&cluster) };
        cluster.set_state("n1", state);
        // nothing drains meanwhile that might have to be taken back
        let wait = if emptied { 0 } else { LOST_GRACE_MS };
        let slow = PlanSettings { drain_grace_ms: 2 * LOST_GRACE_MS, ..settings() };
        cluster.now_ms += wait;
        cluster.converge(&Rules::new(slow, Vec::new()).unwrap(), &mut Random(1), 10);
        assert_eq!((cluster.pulled_bytes, cluster.loaded_bytes), (0, 0));
        cluster.now_ms += LOST_GRACE_MS;
        cluster.converge(&rules(), &mut Random(1), 10);
        let left = &cluster.nodes["n1"].written;
        assert!(left.is_empty() && cluster.pulled_bytes == 0, "{left:?}");
    }
}

#[test]
fn a_node_that_is_to_be_empty_has_nothing_back() {
    let mut cluster = at_rest(40, 4, 1000);
    come_back(&mut cluster, &rules(), &["n1"]);
    cluster.set_state("n1", NodeState::Decommissioning);
    cluster.join(node("n4", 1000));
    for _ in 0..10 {
        cluster.cycle(&rules()).unwrap();
        let stays = |line: &(Stamp, CopyState)| !matches!(line.1, CopyState::Drain { .. });
        assert!(!cluster.nodes["n1"].written.values().any(stays));
        cluster.finish(&mut Random(1));
        cluster.now_ms += GRACE_MS;
    }
    assert!(cluster.nodes["n1"].held.is_empty() && cluster.nodes["n4"].held.len() >= 19);
}

#[test]
fn an_old_version_is_not_taken_back() {
    let mut cluster = at_rest(40, 4, 1000);
    let had: Vec<_> = cluster.nodes["n1"].held.keys().cloned().collect();
    cluster.set_state("n1", lost(&cluster));
    cluster.now_ms += LOST_GRACE_MS;
    for id in &had {
        cluster.pool.insert(id.clone(), Stamp { length: 10, mtime_ms: 100 });
    }
    cluster.converge(&rules(), &mut Random(1), 10);
    (cluster.pulled_bytes, cluster.loaded_bytes) = (0, 0);
    cluster.comes_back("n1");
    cluster.set_state("n1", NodeState::Live);
    cluster.converge(&rules(), &mut Random(1), 10);
    assert_eq!(cluster.pulled_bytes, cluster.loaded_bytes);
    let held = &cluster.nodes["n1"].held;
    assert!(held.len() >= 19 && held.iter().all(|(id, version)| cluster.pool[id] == *version));
}

#[test]
fn what_a_rule_prefers_is_taken_back_as_far_as_there_is_room() {
    let nodes = vec!["n4".to_owned(), "n3".to_owned()];
    let rule = Rule { glob: "s1*".to_owned(), copies: 2, pinned: false, nodes };
    let rules = Rules::new(settings(), vec![rule]).unwrap();
    for quota in [1000, 60] {
        let mut cluster = at_rest(40, 5, 1000);
        cluster.converge(&rules, &mut Random(1), 20);
        come_back(&mut cluster, &rules, &["n4"]);
        cluster.nodes.get_mut("n4").unwrap().node.quota_bytes = quota;
        cluster.shrunk = true;
        cluster.converge(&rules, &mut Random(1), 20);
        let preferred = |id: &&SegmentId| id.as_str().starts_with("s1");
        let back = cluster.nodes["n4"].held.keys().filter(preferred).count() as u64;
        assert_eq!(back, u64::min(11, quota / 10));
        assert_eq!((cluster.pulled_bytes, cluster.loaded_bytes), (0, 0));
    }
}

#[test]
fn a_rack_that_returns_has_its_copies_back_without_movement() {
    let mut cluster = at_rest(60, 6, 1000);
    for (n, sim) in cluster.nodes.values_mut().enumerate() {
        sim.node.rack = Some(format!("rack{}", n / 4));
    }
    cluster.converge(&rules(), &mut Random(1), 20);
    let had = ["n4", "n5"].map(|name| cluster.nodes[name].held.clone());
    come_back(&mut cluster, &rules(), &["n4", "n5"]);
    cluster.converge(&rules(), &mut Random(1), 20);
    assert_eq!((cluster.pulled_bytes, cluster.loaded_bytes), (0, 0));
    assert_eq!(["n4", "n5"].map(|name| cluster.nodes[name].held.clone()), had);
}

#[test]
fn what_drains_goes_on_draining_while_all_is_in_balance() {
    let mut cluster = at_rest(100, 4, 1000);
    let three = Rules::new(PlanSettings { copies: 3, ..settings() }, Vec::new()).unwrap();
    cluster.converge(&three, &mut Random(1), 10);
    assert!(!cluster.cycle(&rules()).unwrap().is_empty());
    cluster.finish(&mut Random(1));
    // one node is fuller now, but within the dead band
    cluster.nodes.get_mut("n0").unwrap().node.quota_bytes = 960;
    cluster.now_ms += GRACE_MS - 1;
    let plan = cluster.cycle(&rules()).unwrap();
    assert!(plan.is_empty() && plan.figures.max_over_average > 1.02, "{:?}", plan.figures);
}

#[test]
fn what_a_lost_node_said_last_holds_nothing_up() {
    let mut cluster = at_rest(40, 3, 1000);
    cluster.set_state("n1", lost(&cluster));
    cluster.now_ms += LOST_GRACE_MS;
    cluster.converge(&rules(), &mut Random(1), 10);
    cluster.join(node("n3", 1000));
    cluster.converge(&rules(), &mut Random(1), 10);
    assert!(cluster.nodes["n1"].held.len() > 20 && cluster.nodes["n3"].held.len() > 24);
}

#[test]
fn of_several_nodes_that_drain_a_copy_the_emptiest_has_it_back() {
    let version = Stamp { length: 10, mtime_ms: 1 };
    let segments: Vec<_> = (0..14).map(|n| id(&format!("s{n:02}"))).collect();
    let pool = segments.iter().map(|id| (id.clone(), version));
    let nodes = ["a", "b", "c"].map(|name| node(name, 1000)).to_vec();
    let mut told = World::builder(0, pool, nodes).unwrap();
    for (name, holds) in [("a", 0..10), ("b", 10..13), ("c", 13..14)] {
        let key = told.node_key(name).unwrap();
        for id in &segments[holds] {
            told.assign(key, id, version, CopyState::Hold);
            told.holds(key, id, version);
        }
        if name != "a" {
            told.assign(key, &segments[0], version, CopyState::Drain { since_ms: 0 });
            told.holds(key, &segments[0], version);
        }
    }
    let world = told.build();
    let one = Rules::new(PlanSettings { copies: 1, ..settings() }, Vec::new()).unwrap();
    let plan = plan(&world, &one).unwrap();
    let line = |entry: &&sync::planner::Entry| world.segment_id(entry.segment) == &segments[0];
    let lines = plan.assign.iter().map(|node| node.entries.iter().find(line).unwrap().state);
    let drains = CopyState::Drain { since_ms: 0 };
    assert_eq!(lines.collect::<Vec<_>>(), [CopyState::Leave, drains, CopyState::Hold]);
    assert_eq!(plan.bytes, 0);
}

#[test]
fn what_is_taken_back_does_not_wait_for_the_cap() {
    let mut cluster = at_rest(40, 4, 1000);
    let capped = PlanSettings { moved_bytes_max: 10, ..settings() };
    let capped = Rules::new(capped, Vec::new()).unwrap();
    come_back(&mut cluster, &rules(), &["n1"]);
    // a pull that uses the cap up: a copy was damaged
    let sim = cluster.nodes.get_mut("n0").unwrap();
    let (damaged, _) = sim.held.pop_first().unwrap();
    sim.written.remove(&damaged);
    cluster.cycle(&capped).unwrap();
    let lines = cluster.nodes["n1"].written.values();
    let back = lines.filter(|line| line.1 == CopyState::Hold).count();
    assert!(back >= 18, "{back}");
}

#[test]
fn with_nothing_assigned_what_is_announced_counts_as_assigned() {
    let mut cluster = at_rest(40, 4, 1000);
    let before: Vec<_> = cluster.nodes.values().map(|sim| sim.written.clone()).collect();
    for sim in cluster.nodes.values_mut() {
        sim.written.clear();
        sim.seen.clear();
    }
    let plan = cluster.cycle(&rules()).unwrap();
    assert_eq!((plan.bytes, plan.figures.copies_missing), (0, 0));
    let after: Vec<_> = cluster.nodes.values().map(|sim| sim.written.clone()).collect();
    assert_eq!(before, after);
    assert!(cluster.cycle(&rules()).unwrap().is_empty());
}

#[test]
fn a_sudden_drop_of_capacity_is_refused_until_a_person_accepts_it() {
    let mut cluster = at_rest(40, 4, 1000);
    for name in ["n0", "n1", "n2"] {
        cluster.set_state(name, lost(&cluster));
    }
    let refused = cluster.cycle(&rules()).unwrap_err();
    let expected = PlanRefusal::CapacityDropped { expected_bytes: 4000, registered_bytes: 1000 };
    assert_eq!(refused, expected);
    let accept = |bytes| PlanSettings { accepted_quota_bytes: Some(bytes), ..settings() };
    assert!(cluster.cycle(&Rules::new(accept(2000), Vec::new()).unwrap()).is_err());
    cluster.cycle(&Rules::new(accept(1000), Vec::new()).unwrap()).unwrap();

    // nodes that nobody knows any more are missed by the figure that was expected
    let mut told = World::builder(0, [], vec![node("new", 1000)]).unwrap();
    told.expect_quota_bytes(4000);
    assert_eq!(plan(&told.build(), &rules()).unwrap_err(), expected);
    let nobody = World::builder(0, [], Vec::new()).unwrap().build();
    assert_eq!(plan(&nobody, &rules()).unwrap_err(), PlanRefusal::NoLiveNode(0));
}

#[test]
fn in_shortage_first_copies_come_first_then_pinned_then_the_newest() {
    let mut cluster = at_rest(6, 2, 40);
    cluster.roomy = false;
    // 8 places: every first copy, and the second copies of the two newest
    let copies = |cluster: &Cluster, n: u64| cluster.held(&id(&format!("s{n}")));
    assert_eq!((0..6).map(|n| copies(&cluster, n)).collect::<Vec<_>>(), [1, 1, 1, 1, 2, 2]);
    cluster.pool.insert(id("s9"), Stamp { length: 10, mtime_ms: 99 });
    let pin = Rule { glob: "s0".to_owned(), copies: 2, pinned: true, nodes: Vec::new() };
    let pinned = Rules::new(settings(), vec![pin]).unwrap();
    let plan = cluster.converge(&pinned, &mut Random(1), 20);
    assert_eq!((0..6).map(|n| copies(&cluster, n)).collect::<Vec<_>>(), [2, 1, 1, 1, 1, 1]);
    assert_eq!(copies(&cluster, 9), 1);
    assert!(plan.unplaced.iter().all(|left| left.why == Why::NoRoom));
    assert_eq!(plan.figures.copies_unplaced, 6);
}

#[test]
fn what_can_never_fit_says_so() {
    let mut cluster = at_rest(2, 2, 40);
    cluster.pool.insert(id("large"), Stamp { length: 41, mtime_ms: 1 });
    let three = Rules::new(PlanSettings { copies: 3, ..settings() }, Vec::new()).unwrap();
    let plan = cluster.converge(&three, &mut Random(1), 10);
    let world = cluster.world();
    let why = |name: &str| {
        plan.unplaced.iter().find(|left| world.segment_id(left.segment) == &id(name)).unwrap().why
    };
    assert_eq!(
        (why("large"), why("s0"), why("s1")),
        (Why::TooLarge, Why::TooFewNodes, Why::TooFewNodes)
    );
}

#[test]
fn copies_lie_in_different_racks_and_go_there_when_racks_are_named_later() {
    let mut cluster = at_rest(60, 6, 1000);
    for (n, sim) in cluster.nodes.values_mut().enumerate() {
        sim.node.rack = Some(format!("rack{}", n % 2));
    }
    let racks = |cluster: &Cluster| {
        let of = |id| {
            cluster
                .nodes
                .values()
                .filter(move |sim| sim.held.contains_key(id))
                .map(|sim| sim.node.rack.clone().unwrap())
        };
        let both = |id| of(id).collect::<std::collections::BTreeSet<_>>().len() == 2;
        cluster.pool.keys().filter(|id| both(*id)).count()
    };
    assert!(racks(&cluster) < 60);
    let plan = cluster.converge(&rules(), &mut Random(1), 20);
    assert_eq!(racks(&cluster), 60);
    assert!(plan.figures.max_over_average <= 1.06, "{:?}", plan.figures);
}

#[test]
fn copies_go_to_the_nodes_that_a_rule_prefers() {
    let mut cluster = at_rest(40, 5, 1000);
    let nodes = vec!["n4".to_owned(), "n3".to_owned()];
    let rule = Rule { glob: "s1*".to_owned(), copies: 2, pinned: false, nodes };
    let rules = Rules::new(settings(), vec![rule]).unwrap();
    cluster.converge(&rules, &mut Random(1), 20);
    for name in ["n3", "n4"] {
        let held = &cluster.nodes[name].held;
        let there = cluster.pool.keys().filter(|id| id.as_str().starts_with("s1"));
        assert!(there.into_iter().all(|id| held.contains_key(id)));
    }
}

#[test]
fn no_cycle_moves_more_than_the_cap() {
    let mut cluster = at_rest(100, 4, 1000);
    let capped = PlanSettings { moved_bytes_max: 55, ..settings() };
    let capped = Rules::new(capped, Vec::new()).unwrap();
    cluster.set_state("n0", NodeState::Decommissioning);
    let mut most = 0;
    for _ in 0..40 {
        let plan = cluster.cycle(&capped).unwrap();
        most = most.max(plan.bytes);
        cluster.finish(&mut Random(1));
        cluster.now_ms += GRACE_MS;
    }
    assert_eq!(most, 50);
    assert!(cluster.nodes["n0"].held.is_empty());
    // what is new is not held back
    cluster.pool.insert(id("new"), Stamp { length: 60, mtime_ms: 1 });
    let plan = cluster.cycle(&capped).unwrap();
    let new = plan.moves.iter().filter(|one| one.reason == MoveReason::New);
    assert_eq!(new.map(|one| one.bytes).sum::<u64>(), 120);
    assert!(plan.figures.moved_bytes <= 55);
}

#[test]
fn an_old_version_stays_until_the_new_one_is_there() {
    let mut cluster = at_rest(1, 2, 25);
    let (old, new) = (Stamp { length: 10, mtime_ms: 1 }, Stamp { length: 15, mtime_ms: 2 });
    cluster.pool.insert(id("s0"), new);
    let plan = cluster.cycle(&rules()).unwrap();
    assert!(plan.moves.iter().all(|one| one.from.is_none()) && plan.bytes == 30);
    assert_eq!(cluster.nodes["n0"].written[&id("s0")], (new, CopyState::Hold));
    cluster.finish(&mut Random(1));
    assert!(cluster.cycle(&rules()).unwrap().is_empty());

    // without room for both, the old one stays and the plan says what is missing
    let newest = Stamp { length: 16, mtime_ms: 3 };
    cluster.pool.insert(id("s0"), newest);
    let plan = cluster.converge(&rules(), &mut Random(1), 5);
    assert_eq!(cluster.nodes["n1"].held[&id("s0")], new);
    assert_eq!(plan.unplaced[0].copies, 2);
    // a node with room takes it, and the old ones go then
    cluster.join(node("n2", 100));
    cluster.join(node("n3", 100));
    cluster.converge(&rules(), &mut Random(1), 10);
    let versions: Vec<_> =
        cluster.nodes.values().filter_map(|sim| sim.held.get(&id("s0")).copied()).collect();
    assert_eq!(versions, [newest, newest]);
    assert_ne!(old, newest);
}

#[test]
fn a_line_is_dropped_only_after_the_drain_grace() {
    let mut cluster = at_rest(1, 2, 100);
    let one = Rules::new(PlanSettings { copies: 1, ..settings() }, Vec::new()).unwrap();
    cluster.copies = 1;
    let drains = |cluster: &Cluster| {
        let state = |sim: &cluster::SimNode| sim.written.get(&id("s0")).map(|line| line.1);
        cluster.nodes.values().filter_map(state).find(|state| *state != CopyState::Hold)
    };
    cluster.cycle(&one).unwrap();
    let since = CopyState::Drain { since_ms: cluster.now_ms };
    assert_eq!(drains(&cluster), Some(since));
    cluster.now_ms += GRACE_MS - 1;
    assert!(cluster.cycle(&one).unwrap().is_empty());
    // wanted again in time, it comes back without movement
    let mut again = Cluster { nodes: Default::default(), pool: cluster.pool.clone(), ..cluster };
    std::mem::swap(&mut again.nodes, &mut cluster.nodes);
    assert_eq!(again.cycle(&rules()).unwrap().bytes, 0);
    assert_eq!(drains(&again), None);
    let plan = again.cycle(&one).unwrap();
    assert!(plan.retire.is_empty());
    again.now_ms += GRACE_MS;
    assert_eq!(again.cycle(&one).unwrap().retire.len(), 1);
}

#[test]
fn a_smaller_quota_lets_copies_go_elsewhere_first() {
    let mut cluster = at_rest(40, 4, 400);
    cluster.nodes.get_mut("n0").unwrap().node.quota_bytes = 100;
    // it is above its new quota until others hold what it gives up
    cluster.shrunk = true;
    cluster.converge(&rules(), &mut Random(1), 20);
    assert!(cluster.held_bytes("n0") <= 100);
    assert!(cluster.pool.keys().all(|id| cluster.held(id) == 2));
}

#[test]
fn two_leads_plan_the_same_whatever_the_order_they_are_told_in() {
    let lead = |reversed: bool| {
        let order = |mut names: Vec<u64>| {
            if reversed {
                names.reverse();
            }
            names
        };
        let pool = order((0..200).collect())
            .into_iter()
            .map(|n| (id(&format!("s{n}")), Stamp { length: 10 + n % 7, mtime_ms: n }));
        let nodes: Vec<Node> =
            order((0..5).collect()).into_iter().map(|n| node(&format!("n{n}"), 1500)).collect();
        let mut told = World::builder(0, pool, nodes).unwrap();
        for n in order((0..100).collect()) {
            let key = told.node_key(&format!("n{}", n % 3)).unwrap();
            let version = Stamp { length: 10 + n % 7, mtime_ms: n };
            told.assign(key, &id(&format!("s{n}")), version, CopyState::Hold);
            told.holds(key, &id(&format!("s{n}")), version);
        }
        let world = told.build();
        let plan = plan(&world, &rules()).unwrap();
        let moves: Vec<_> = plan
            .moves
            .iter()
            .map(|one| (world.segment_id(one.segment).clone(), world.node(one.to).name.clone()))
            .collect();
        (moves, plan.summary(&world).to_string())
    };
    let (one, other) = (lead(false), lead(true));
    assert!(!one.0.is_empty());
    assert_eq!(one, other);
}
