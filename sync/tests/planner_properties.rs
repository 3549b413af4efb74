//! What the planner promises, on random clusters that follow its plans in random order.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

#[path = "support/cluster.rs"]
mod cluster;

use std::collections::{BTreeMap, BTreeSet};

use cluster::{Cluster, Random, SimNode, id, node};
use fsd::segment::{SegmentId, Stamp};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use sync::planner::{CopyState, NodeState, PlanSettings, Rules, Why};

const GRACE_MS: u64 = 1_000;

fn rules() -> Rules {
    let settings = PlanSettings {
        drain_grace_ms: GRACE_MS,
        lost_grace_ms: 5 * GRACE_MS,
        moved_bytes_max: u64::MAX,
        ..PlanSettings::default()
    };
    Rules::new(settings, Vec::new()).unwrap()
}

/// Fixed, so that a failure is found again; proptest prints the value that failed.
fn config(cases: u32) -> ProptestConfig {
    let rng_seed = RngSeed::Fixed(20_261_122);
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

/// The bar of max/average: the dead band, or one large segment on the smallest node.
fn bar(cluster: &Cluster) -> f64 {
    let largest = cluster.pool.values().map(|stamp| stamp.length).max().unwrap_or(0);
    let smallest = cluster.nodes.values().map(|sim| sim.node.quota_bytes).min().unwrap();
    1.0 + f64::max(0.05, largest as f64 / smallest as f64)
}

proptest! {
    #![proptest_config(config(12))]

    /// Balance, movement on join and on leave, and rest.
    #[test]
    fn balanced_with_little_movement(seed: u64) {
        println!("seed {seed}");
        let random = &mut Random(seed);
        let mut cluster = Cluster::usual(random, 1500, 12, 0.7);
        let rules = rules();
        let plan = cluster.converge(&rules, random, 10);
        prop_assert!(plan.figures.max_over_average <= bar(&cluster), "{:?}", plan.figures);
        prop_assert_eq!(plan.figures.copies_missing, 0);
        let stored: u64 = cluster.nodes.keys().map(|name| cluster.held_bytes(name)).sum();
        let quota: u64 = cluster.nodes.values().map(|sim| sim.node.quota_bytes).sum();

        cluster.pulled_bytes = 0;
        prop_assert!(cluster.cycle(&rules).unwrap().is_empty());
        prop_assert_eq!(cluster.pulled_bytes, 0);

        let joins = cluster.nodes["n02"].node.quota_bytes;
        cluster.join(node("joins", joins));
        let plan = cluster.converge(&rules, random, 30);
        let optimum = stored as f64 * joins as f64 / (quota + joins) as f64;
        let share = cluster.pulled_bytes as f64 / optimum;
        prop_assert!(share <= 1.05, "join moved {share}");
        prop_assert!(plan.figures.max_over_average <= bar(&cluster), "{:?}", plan.figures);

        cluster.pulled_bytes = 0;
        let optimum = cluster.held_bytes("n03") as f64;
        cluster.set_state("n03", NodeState::Decommissioning);
        let plan = cluster.converge(&rules, random, 30);
        let share = cluster.pulled_bytes as f64 / optimum;
        prop_assert_eq!(cluster.held_bytes("n03"), 0);
        prop_assert!(share <= 1.05, "leave moved {share}");
        prop_assert!(plan.figures.max_over_average <= bar(&cluster), "{:?}", plan.figures);
    }

    /// Make before break at every step, whatever happens and in whatever order nodes follow.
    #[test]
    fn s13_no_planned_move_takes_a_copy_before_another_is_held(seed: u64) {
        println!("seed {seed}");
        let random = &mut Random(seed);
        let mut cluster = Cluster::usual(random, 150, 9, 0.4);
        // with few segments one may be larger than a small node's free room
        for stamp in cluster.pool.values_mut() {
            stamp.length = stamp.length.min(64 << 20);
        }
        let rules = rules();
        cluster.converge(&rules, random, 20);
        let mut lost: Option<String> = None;
        for step in 0..60 {
            let plan = cluster.cycle(&rules).unwrap();
            disturb(&mut cluster, random, &mut lost, step);
            for left in plan.unplaced {
                prop_assert!(!matches!(left.why, Why::TooLarge | Why::TooFewNodes), "{left:?}");
            }
            let names: Vec<_> = cluster.nodes.keys().cloned().collect();
            for _ in 0..names.len() {
                let name = &names[random.below(names.len())];
                if random.below(3) > 0 {
                    cluster.read(name);
                }
                cluster.pull(name, random, 0.4);
            }
            cluster.now_ms += GRACE_MS / 2;
        }
        for sim in cluster.nodes.values_mut() {
            if matches!(sim.node.state, NodeState::Lost { .. } | NodeState::Returning) {
                sim.node.state = NodeState::Live;
            }
        }
        let plan = cluster.converge(&rules, random, 60);
        prop_assert_eq!(plan.figures.copies_missing, 0);
        for id in cluster.pool.keys() {
            prop_assert_eq!(cluster.held(id), 2);
        }
    }

    /// An over-full pool comes to rest, and no second copy has a place that a first copy could have.
    #[test]
    fn an_over_full_pool_settles(seed: u64, full in 1.05_f64..4.0) {
        println!("seed {seed}");
        let random = &mut Random(seed);
        let mut cluster = Cluster::usual(random, 200, 4, full);
        cluster.roomy = false;
        let rules = rules();
        cluster.converge(&rules, random, 40);
        for n in 0..20 {
            let stamp = Stamp { length: 20 << 20, mtime_ms: 2_000_000 + n };
            cluster.pool.insert(id(&format!("new{n}")), stamp);
        }
        let plan = cluster.converge(&rules, random, 60);
        prop_assert!(!plan.unplaced.is_empty());
        for n in 0..20 {
            // the newest of all have at least their first copy
            let held = cluster.held(&id(&format!("new{n}")));
            prop_assert!(held >= 1);
        }
        let none: Vec<_> =
            cluster.pool.iter().filter(|(id, _)| cluster.held(id) == 0).map(|(_, s)| s.length).collect();
        for sim in cluster.nodes.values() {
            let held = sim.held.values().map(|stamp| stamp.length).sum::<u64>();
            let second = sim.held.keys().filter(|id| cluster.held(id) > 1);
            let second: u64 = second.map(|id| cluster.pool[id].length).sum();
            for length in &none {
                prop_assert!(held - second + length > sim.node.quota_bytes);
            }
        }
    }
}

proptest! {
    #![proptest_config(config(48))]

    /// What lies on a node that returns is used, whoever was given its copies meanwhile: nothing is pulled among
    /// equal nodes, and little among unequal ones, whose segments are large against the smallest.
    #[test]
    fn a_node_that_returns_pulls_nothing_that_it_had(
        seed: u64,
        equal in prop::bool::weighted(0.75),
        away in 1_usize..6,
    ) {
        println!("seed {seed}");
        let random = &mut Random(seed);
        let mut cluster = returning(random, equal);
        let rules = rules();
        cluster.converge(&rules, random, 20);
        let name = cluster.nodes.keys().nth(random.below(9)).unwrap().clone();
        cluster.set_state(&name, NodeState::Lost { since_ms: cluster.now_ms });
        cluster.now_ms += 5 * GRACE_MS;
        for _ in 0..away {
            cluster.cycle(&rules).unwrap();
            cluster.finish(random);
            cluster.now_ms += GRACE_MS;
        }
        let had = cluster.held_bytes(&name);
        (cluster.pulled_bytes, cluster.loaded_bytes) = (0, 0);
        cluster.comes_back(&name);
        cluster.cycle(&rules).unwrap();
        cluster.finish(random);
        cluster.now_ms += GRACE_MS;
        cluster.set_state(&name, NodeState::Live);
        let mut turns: BTreeMap<_, usize> = BTreeMap::new();
        let mut rests = false;
        for _ in 0..10 {
            let before = draining(&cluster);
            let plan = cluster.cycle(&rules).unwrap();
            let after = draining(&cluster);
            for copy in before.difference(&after) {
                let held = cluster.nodes[&copy.0].written.contains_key(&copy.1);
                *turns.entry(copy.clone()).or_default() += usize::from(held);
            }
            cluster.finish(random);
            cluster.now_ms += GRACE_MS;
            rests = plan.is_empty();
            if rests {
                prop_assert!(plan.figures.max_over_average <= bar(&cluster), "{:?}", plan.figures);
                break;
            }
        }
        prop_assert!(rests);
        prop_assert!(turns.values().all(|&turns| turns <= 1), "a copy goes to and fro");
        prop_assert_eq!(cluster.pulled_bytes, cluster.loaded_bytes);
        let share = cluster.pulled_bytes as f64 / had as f64;
        prop_assert!(share <= if equal { 0.0 } else { 0.08 }, "pulled {share} of what it had");
        for id in cluster.pool.keys() {
            prop_assert_eq!(cluster.held(id), 2);
        }
    }
}

/// Nine nodes, none of which has its balance from a single segment.
fn returning(random: &mut Random, equal: bool) -> Cluster {
    let mut cluster = Cluster::usual(random, 600, 9, 0.6);
    let quotas = || cluster.nodes.values().map(|sim| sim.node.quota_bytes);
    let (sum, least) = (quotas().sum::<u64>(), quotas().min().unwrap());
    for stamp in cluster.pool.values_mut() {
        stamp.length = stamp.length.min(least / 25);
    }
    for sim in cluster.nodes.values_mut().filter(|_| equal) {
        sim.node.quota_bytes = sum / 9;
    }
    cluster
}

/// Every copy that is told to drain: on which node, and of what.
fn draining(cluster: &Cluster) -> BTreeSet<(String, SegmentId)> {
    let drains = |(name, sim): (&String, &SimNode)| {
        let lines = sim.written.iter();
        let drain = lines.filter(|(_, line)| matches!(line.1, CopyState::Drain { .. }));
        drain.map(|(id, _)| (name.clone(), id.clone())).collect::<Vec<_>>()
    };
    cluster.nodes.iter().flat_map(drains).collect()
}

/// Something happens to the cluster.
fn disturb(cluster: &mut Cluster, random: &mut Random, lost: &mut Option<String>, step: u64) {
    let names: Vec<_> = cluster.nodes.keys().cloned().collect();
    let name = names[random.below(names.len())].clone();
    let ids: Vec<_> = cluster.pool.keys().cloned().collect();
    let segment = ids[random.below(ids.len())].clone();
    cluster.excused = false;
    for sim in cluster.nodes.values_mut() {
        if sim.node.state == NodeState::Returning {
            sim.node.state = NodeState::Live;
        }
    }
    match random.below(9) {
        0 => {
            if let Some(back) = lost.take() {
                cluster.comes_back(&back);
                cluster.excused = true;
            }
        }
        1 if lost.is_none() => {
            cluster.set_state(&name, NodeState::Lost { since_ms: cluster.now_ms });
            *lost = Some(name);
            cluster.excused = true;
        }
        2 => {
            let stamp =
                Stamp { length: random.size().min(64 << 20), mtime_ms: cluster.now_ms + step };
            cluster.pool.insert(segment, stamp);
        }
        3 => {
            let stamp = Stamp { length: random.size().min(64 << 20), mtime_ms: cluster.now_ms };
            cluster.pool.insert(id(&format!("added{step}")), stamp);
        }
        4 => {
            cluster.pool.remove(&segment);
        }
        5 if cluster.nodes.len() < 11 => {
            let quota = cluster.nodes["n02"].node.quota_bytes;
            cluster.join(node(&format!("j{step:02}"), quota));
        }
        6 => {
            let emptied = cluster
                .nodes
                .iter()
                .find(|(_, sim)| sim.node.state == NodeState::Decommissioning)
                .map(|(name, _)| name.clone());
            match emptied {
                Some(name) => cluster.set_state(&name, NodeState::Live),
                None if Some(&name) != lost.as_ref() => {
                    cluster.set_state(&name, NodeState::Decommissioning);
                }
                None => {}
            }
        }
        7 if Some(&name) != lost.as_ref() => {
            // its disk was wiped
            let sim = cluster.nodes.get_mut(&name).unwrap();
            sim.held.clear();
            sim.seen.clear();
            cluster.excused = true;
        }
        _ => {}
    }
}
