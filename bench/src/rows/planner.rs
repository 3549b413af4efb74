//! Row 8: plans for a large cluster that stays as it is, that a node joins, and that a node leaves.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use fsd::segment::{SegmentId, Stamp};
use sync::planner::{
    CopyState, Node, NodeState, Plan, PlanSettings, Rules, World, WorldBuilder, plan,
};

use crate::alone::{self, Alone, Figures};
use crate::data::Place;
use crate::harness::{Spread, check_stopped};
use crate::report::{Limit, Outcome};

const NODES: usize = 100;
const COPIES: u64 = 2;
const RUNS: usize = 3;
/// Any time at all: only differences count.
const NOW_MS: u64 = 1_000_000_000;

/// Row 8.
pub fn plans(place: &Place) -> anyhow::Result<Vec<Outcome>> {
    let segments = place.size(1_000_000, 10_000) as u64;
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for _ in 0..RUNS {
        check_stopped()?;
        for (name, figure) in alone::start(Alone::Planner, segments, None)? {
            all.entry(name).or_default().push(figure);
        }
    }
    let outcome = |what: String, limit: Limit, name: &str, note: &str| -> anyhow::Result<Outcome> {
        let figures = all.get(name).with_context(|| format!("no figure {name}"))?;
        let (measured, note) = (Spread::of(figures.iter().copied()), note.to_owned());
        Ok(Outcome { what, limit, measured, runs: RUNS, note })
    };
    let cluster = format!("{segments} segments x {COPIES} on {NODES} nodes");
    let cpu = |what: &str| format!("processor time to plan {cluster}, {what}");
    let seconds = Limit::SecondsAtMost(2.0);
    let largest = all.get("largest_over_quota").and_then(|f| f.first()).copied().unwrap_or(0.0);
    Ok(vec![
        outcome(cpu("unchanged"), seconds, "unchanged_s", "the plan is empty")?,
        outcome(cpu("a node joined"), seconds, "joined_s", "")?,
        outcome(cpu("a node left"), seconds, "left_s", "")?,
        outcome(
            "memory for it".to_owned(),
            Limit::MibAtMost(1024.0),
            "peak_mib",
            "worlds included",
        )?,
        outcome(
            "fullest node over the average".to_owned(),
            Limit::RatioAtMost(1.0 + largest.max(0.05)),
            "max_over_average",
            "from a cold start, after a join and after a leave",
        )?,
        outcome(
            "bytes moved on a join over the least possible".to_owned(),
            Limit::RatioAtMost(1.05),
            "join_over_optimum",
            "the new node's fair share",
        )?,
        outcome(
            "bytes moved on a leave over the least possible".to_owned(),
            Limit::RatioAtMost(1.05),
            "leave_over_optimum",
            "what the node had",
        )?,
    ])
}

/// One cluster, planned three times.
pub fn measure(segments: u64) -> anyhow::Result<Figures> {
    let settings = PlanSettings { moved_bytes_max: u64::MAX, ..PlanSettings::default() };
    let rules = Rules::new(settings, Vec::new())?;
    let pool = pool(segments)?;
    let total: u64 = pool.iter().map(|(_, stamp)| stamp.length * COPIES).sum();
    // two thirds full
    let quota_bytes = total / NODES as u64 * 3 / 2;
    let largest = pool.iter().map(|(_, stamp)| stamp.length).max().unwrap_or(0);
    let nodes = |count: usize| (0..count).map(|n| node(n, quota_bytes, NodeState::Live)).collect();

    let cold = World::builder(NOW_MS, pool.clone(), nodes(NODES))?.build();
    let first = plan(&cold, &rules)?;
    let held = Held::of(&cold, &first);
    let mut worst = first.figures.max_over_average;
    drop((cold, first));

    let unchanged = held.world(&pool, nodes(NODES))?;
    let (same, unchanged_s) = timed(&unchanged, &rules)?;
    ensure!(same.is_empty(), "an unchanged world is changed: {}", same.summary(&unchanged));
    drop((same, unchanged));

    let joined = held.world(&pool, nodes(NODES + 1))?;
    let (join, joined_s) = timed(&joined, &rules)?;
    let share = total as f64 / (NODES + 1) as f64;
    worst = worst.max(join.figures.max_over_average);
    let join_over_optimum = join.bytes as f64 / share;
    drop((join, joined));

    let mut left: Vec<Node> = nodes(NODES);
    let had = held.bytes(NODES / 2);
    left[NODES / 2].state = NodeState::Lost { since_ms: 0 };
    let left = held.world(&pool, left)?;
    let (leave, left_s) = timed(&left, &rules)?;
    worst = worst.max(leave.figures.max_over_average);

    let figures = [
        ("unchanged_s", unchanged_s),
        ("joined_s", joined_s),
        ("left_s", left_s),
        ("max_over_average", worst),
        ("largest_over_quota", largest as f64 / quota_bytes as f64),
        ("join_over_optimum", join_over_optimum),
        ("leave_over_optimum", leave.bytes as f64 / had as f64),
    ];
    Ok(figures.map(|(name, figure)| (name.to_owned(), figure)).into())
}

/// The plan, and the processor time that it took, in seconds.
fn timed(world: &World, rules: &Rules) -> anyhow::Result<(Plan, f64)> {
    let spent = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    let before = spent();
    let plan = plan(world, rules)?;
    Ok((plan, (spent() - before).as_secs_f64()))
}

fn node(n: usize, quota_bytes: u64, state: NodeState) -> Node {
    // in order of name as in order of number
    Node { name: format!("node-{n:04}"), quota_bytes, rack: None, state }
}

/// Segments of lognormal sizes: median 8 MiB, sigma 1.8, at most 8 GiB.
fn pool(segments: u64) -> anyhow::Result<Vec<(SegmentId, Stamp)>> {
    let unit = |bytes: &[u8]| {
        let mut word = [0; 8];
        word.copy_from_slice(bytes);
        ((u64::from_le_bytes(word) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    };
    let one = |n: u64| {
        let hash = blake3::hash(&n.to_le_bytes());
        let (a, b) = (unit(&hash.as_bytes()[..8]), unit(&hash.as_bytes()[8..16]));
        let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        let size = f64::from(8 << 20) * (1.8 * normal).exp();
        let length = size.clamp(4096.0, (8_u64 << 30) as f64) as u64;
        anyhow::Ok((SegmentId::new(&format!("segment-{n:08}"))?, Stamp { length, mtime_ms: n + 1 }))
    };
    (0..segments).map(one).collect()
}

/// What each node was told and holds.
struct Held(Vec<Vec<(SegmentId, Stamp)>>);

impl Held {
    fn of(world: &World, plan: &Plan) -> Self {
        let rows = |node: &sync::planner::NodeAssignment| {
            let row = |entry: &sync::planner::Entry| {
                (world.segment_id(entry.segment).clone(), entry.version)
            };
            node.entries.iter().map(row).collect()
        };
        Self(plan.assign.iter().map(rows).collect())
    }

    fn bytes(&self, node: usize) -> u64 {
        self.0[node].iter().map(|(_, stamp)| stamp.length).sum()
    }

    fn world(&self, pool: &[(SegmentId, Stamp)], nodes: Vec<Node>) -> anyhow::Result<World> {
        let mut world: WorldBuilder = World::builder(NOW_MS, pool.to_vec(), nodes)?;
        for (n, rows) in self.0.iter().enumerate() {
            let key = world.node_key(&format!("node-{n:04}")).context("a node of the world")?;
            for (id, version) in rows {
                world.assign(key, id, *version, CopyState::Hold);
                world.holds(key, id, *version);
            }
        }
        Ok(world.build())
    }
}
