//! Plans for 1,000,000 segments with 2 copies on 100 nodes: unchanged, with a node joined, with a node left,
//! from nothing, and with half the quota. Prints the processor time of each plan and the most memory the process ever had.
//!
//! `cargo run --release -p sync --example plan_bench [SEGMENTS] [NODES]`

// a measurement that cannot be made is no measurement
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use fsd::segment::{SegmentId, Stamp};
use sync::planner::{
    CopyState, Node, NodeState, Plan, PlanSettings, Rule, Rules, World, WorldBuilder, plan,
};

#[allow(dead_code, reason = "of the simulation only the sizes are used here")]
#[path = "../tests/support/cluster.rs"]
mod cluster;

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

/// Tells the next world: what `before` was told, and that it is held.
fn follow(before: &World, plan: &Plan, pool: &[(SegmentId, Stamp)], nodes: Vec<Node>) -> World {
    let mut told = World::builder(1_000_000_000, pool.iter().cloned(), nodes).unwrap();
    for lines in &plan.assign {
        let Some(key) = told.node_key(&before.node(lines.node).name) else { continue };
        tell(&mut told, before, key, lines);
    }
    told.build()
}

fn tell(
    told: &mut WorldBuilder,
    before: &World,
    key: sync::planner::NodeKey,
    lines: &sync::planner::NodeAssignment,
) {
    for entry in &lines.entries {
        let id = before.segment_id(entry.segment);
        if entry.state == CopyState::Hold {
            told.assign(key, id, entry.version, entry.state);
            told.holds(key, id, entry.version);
        }
    }
}

fn measure(name: &str, world: &World, rules: &Rules) -> Plan {
    let start = cpu();
    let plan = plan(world, rules).unwrap();
    let took = (cpu() - start).as_secs_f64();
    println!(
        "{name:<10} {took:.2} s of processor time, {} moves, {} bytes, max/average {:.3}, empty {}, \
         peak {} MiB",
        plan.moves.len(),
        plan.bytes,
        plan.figures.max_over_average,
        plan.is_empty(),
        peak_mib()
    );
    plan
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().unwrap());
    let segments = arguments.next().unwrap_or(1_000_000);
    let count = arguments.next().unwrap_or(100);
    let mut random = cluster::Random(20_261_122);
    let pool: Vec<_> = (0..segments)
        .map(|n| {
            let stamp = Stamp { length: random.size(), mtime_ms: random.next() % 1_000_000 };
            (SegmentId::new(&format!("crawl-2026-{n:08}")).unwrap(), stamp)
        })
        .collect();
    let bytes: u64 = pool.iter().map(|(_, stamp)| stamp.length).sum();
    let weights: Vec<u64> = (0..count).map(|n| [1, 1, 2, 4][n % 4]).collect();
    let unit = 2.0 * bytes as f64 / 0.7 / weights.iter().sum::<u64>() as f64;
    let node = |n: usize| Node {
        name: format!("node{n:04}"),
        quota_bytes: (unit * [1, 1, 2, 4][n % 4] as f64) as u64,
        rack: None,
        state: NodeState::Live,
    };
    let nodes: Vec<_> = (0..count).map(node).collect();
    let settings = PlanSettings { moved_bytes_max: u64::MAX, ..PlanSettings::default() };
    let rule = Rule { glob: "hot-*".to_owned(), copies: 3, pinned: false, nodes: Vec::new() };
    let rules = Rules::new(settings, vec![rule]).unwrap();

    let world = World::builder(0, pool.iter().cloned(), nodes.clone()).unwrap().build();
    let mut start = measure("nothing", &world, &rules);
    let mut world = world;
    loop {
        let next = follow(&world, &start, &pool, nodes.clone());
        start = plan(&next, &rules).unwrap();
        world = next;
        if start.is_empty() {
            break;
        }
    }
    let begin = cpu();
    let unchanged = follow(&world, &start, &pool, nodes.clone());
    println!("telling the world took {:.2} s of processor time", (cpu() - begin).as_secs_f64());
    drop(world);
    drop(start);
    let first = measure("unchanged", &unchanged, &rules);

    let mut more = nodes.clone();
    more.push(Node { name: "joined".to_owned(), ..node(2) });
    let joined = follow(&unchanged, &first, &pool, more);
    measure("joined", &joined, &rules);
    drop(joined);

    let mut smaller = nodes.clone();
    for node in &mut smaller {
        node.quota_bytes /= 2;
    }
    let over_full = follow(&unchanged, &first, &pool, smaller);
    measure("over-full", &over_full, &rules);
    drop(over_full);

    let mut fewer = nodes;
    fewer[3].state = NodeState::Decommissioning;
    let left = follow(&unchanged, &first, &pool, fewer.clone());
    measure("emptied", &left, &rules);
    drop(left);
    fewer[3].state = NodeState::Lost { since_ms: 0 };
    let lost = follow(&unchanged, &first, &pool, fewer);
    measure("lost", &lost, &rules);
}
