//! A cluster without machines: nodes that follow a plan in random order, for tests of the planner.
//!
//! Every step checks what the planner promises: no node is told to take more than its quota, no segment lies
//! twice on a node, and no file is dropped while fewer than enough others are held.

use std::collections::BTreeMap;

use fsd::segment::{SegmentId, Stamp};
use sync::planner::{CopyState, Node, NodeState, Plan, PlanRefusal, Rules, World, plan};

/// SplitMix64: small, seeded, the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Lognormal: median 8 MiB, sigma 1.8, at most 8 GiB.
    pub fn size(&mut self) -> u64 {
        let normal = (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos();
        ((8_u64 << 20) as f64 * (1.8 * normal).exp()).clamp(4096.0, (8_u64 << 30) as f64) as u64
    }
}

pub type Lines = BTreeMap<SegmentId, (Stamp, CopyState)>;

pub struct SimNode {
    pub node: Node,
    /// What the lead wrote.
    pub written: Lines,
    /// What it had written before.
    pub before: Lines,
    /// What the node has read of it.
    pub seen: Lines,
    pub held: BTreeMap<SegmentId, Stamp>,
}

pub struct Cluster {
    pub now_ms: u64,
    pub pool: BTreeMap<SegmentId, Stamp>,
    pub nodes: BTreeMap<String, SimNode>,
    pub copies: usize,
    /// Whether everything has room: then nothing may be dropped for want of it.
    pub roomy: bool,
    /// Whether a node was lost, returned or was wiped since the last plan: what it decided may be too late.
    pub excused: bool,
    /// Whether a quota became smaller than what lies there.
    pub shrunk: bool,
    /// What plans begin to pull.
    pub pulled_bytes: u64,
    /// What nodes really pulled.
    pub loaded_bytes: u64,
}

pub fn id(text: &str) -> SegmentId {
    SegmentId::new(text).unwrap()
}

pub fn node(name: &str, quota_bytes: u64) -> Node {
    Node { name: name.to_owned(), quota_bytes, rack: None, state: NodeState::Live }
}

impl Cluster {
    pub fn new(copies: usize) -> Self {
        let (pool, nodes) = (BTreeMap::new(), BTreeMap::new());
        Self {
            now_ms: 1_000_000,
            pool,
            nodes,
            copies,
            roomy: true,
            excused: false,
            shrunk: false,
            pulled_bytes: 0,
            loaded_bytes: 0,
        }
    }

    /// `segments` of the usual sizes, and `nodes` with quotas 1:1:2:4 and so on, `full` full.
    pub fn usual(random: &mut Random, segments: usize, nodes: usize, full: f64) -> Self {
        let mut cluster = Self::new(2);
        for n in 0..segments {
            let stamp = Stamp { length: random.size(), mtime_ms: 1 + random.next() % 1_000_000 };
            cluster.pool.insert(id(&format!("s{n}")), stamp);
        }
        let weights: Vec<u64> = (0..nodes).map(|n| [1, 1, 2, 4][n % 4]).collect();
        let bytes: u64 = cluster.pool.values().map(|stamp| stamp.length).sum();
        let unit = 2.0 * bytes as f64 / full / weights.iter().sum::<u64>() as f64;
        for (n, weight) in weights.iter().enumerate() {
            cluster.join(node(&format!("n{n:02}"), (unit * *weight as f64) as u64));
        }
        cluster
    }

    pub fn join(&mut self, node: Node) {
        let (written, before, seen, held) = Default::default();
        let name = node.name.clone();
        self.nodes.insert(name, SimNode { node, written, before, seen, held });
    }

    pub fn set_state(&mut self, name: &str, state: NodeState) {
        self.nodes.get_mut(name).unwrap().node.state = state;
    }

    /// A node starts again: it has read its lines, and has not said yet what it holds.
    pub fn comes_back(&mut self, name: &str) {
        self.set_state(name, NodeState::Returning);
        let sim = self.nodes.get_mut(name).unwrap();
        sim.seen = sim.written.clone();
    }

    pub fn world(&self) -> World {
        let nodes = self.nodes.values().map(|sim| sim.node.clone()).collect();
        let pool = self.pool.iter().map(|(id, stamp)| (id.clone(), *stamp));
        let mut told = World::builder(self.now_ms, pool, nodes).unwrap();
        for (name, sim) in &self.nodes {
            let key = told.node_key(name).unwrap();
            for (id, (version, state)) in &sim.written {
                told.assign(key, id, *version, *state);
            }
            // also of those that are lost: the lead knows what they said last
            for (id, version) in &sim.held {
                told.holds(key, id, *version);
            }
        }
        told.build()
    }

    /// Plans and writes the plan down; the nodes have not read it yet.
    pub fn cycle(&mut self, rules: &Rules) -> Result<Plan, PlanRefusal> {
        let world = self.world();
        let plan = plan(&world, rules)?;
        let gone = |gone: &sync::planner::Retire| {
            (world.node(gone.node).name.clone(), world.segment_id(gone.segment).clone())
        };
        let mut going: Vec<_> = plan.retire.iter().map(gone).collect();
        for assignment in &plan.assign {
            let sim = self.nodes.get_mut(&world.node(assignment.node).name).unwrap();
            let line = |e: &sync::planner::Entry| {
                (world.segment_id(e.segment).clone(), (e.version, e.state))
            };
            let lines: Lines = assignment.entries.iter().map(line).collect();
            assert_eq!(lines.len(), assignment.entries.len(), "a segment twice on one node");
            let drains = lines.iter().filter(|(id, (_, state))| {
                let before = sim.written.get(*id).map(|line| line.1);
                before != Some(*state) && matches!(state, CopyState::Drain { .. })
            });
            let name = &sim.node.name;
            going.extend(drains.map(|(id, _)| (name.clone(), id.clone())));
            let changed = lines != sim.written;
            assert_eq!(changed, assignment.changed);
            sim.before = std::mem::replace(&mut sim.written, lines);
        }
        for (name, id) in going {
            self.others_are_held(&name, &id);
        }
        for sim in self.nodes.values() {
            let used = used(sim);
            let quota = sim.node.quota_bytes;
            assert!(self.shrunk || used <= quota, "{} of {quota} bytes on {}", used, sim.node.name);
        }
        self.pulled_bytes += plan.bytes;
        Ok(plan)
    }

    /// What a line that begins to drain, or is dropped, must find.
    fn others_are_held(&self, name: &str, id: &SegmentId) {
        if !self.roomy || !self.pool.contains_key(id) {
            return;
        }
        let told =
            |lines: &Lines| matches!(lines.get(id), Some((_, CopyState::Hold | CopyState::Leave)));
        let others = |sim: &&SimNode| {
            sim.node.name != name
                && sim.held.get(id) == self.pool.get(id)
                && told(&sim.before)
                && told(&sim.written)
        };
        let places = |sim: &&SimNode| sim.node.state == NodeState::Live;
        let enough = self.copies.min(self.live().filter(places).count());
        let others = self.live().filter(others).count();
        assert!(others >= enough, "{id} goes from {name} with {others} of {enough} held");
    }

    fn live(&self) -> impl Iterator<Item = &SimNode> {
        self.nodes.values().filter(|sim| !matches!(sim.node.state, NodeState::Lost { .. }))
    }

    /// How many nodes within reach hold `id` in any version.
    pub fn held(&self, id: &SegmentId) -> usize {
        self.live().filter(|sim| sim.held.contains_key(id)).count()
    }

    /// A random node reads its lines and drops what it may.
    pub fn read(&mut self, name: &str) {
        let sim = &self.nodes[name];
        if matches!(sim.node.state, NodeState::Lost { .. }) {
            return;
        }
        let may_go = |(id, held): &(&SegmentId, &Stamp)| {
            let drained =
                matches!(sim.seen.get(*id), Some((v, CopyState::Drain { .. })) if v == *held);
            drained && !sim.written.contains_key(*id)
        };
        let go: Vec<_> = sim.held.iter().filter(may_go).map(|(id, _)| id.clone()).collect();
        for id in go {
            self.nodes.get_mut(name).unwrap().held.remove(&id);
            let places = |sim: &&SimNode| sim.node.state == NodeState::Live;
            let enough = self.copies.min(self.live().filter(places).count());
            let left = self.held(&id);
            assert!(
                !self.roomy || self.excused || !self.pool.contains_key(&id) || left >= enough,
                "{name} dropped {id}: {left} of {enough} are left"
            );
        }
        let sim = self.nodes.get_mut(name).unwrap();
        sim.seen = sim.written.clone();
    }

    /// A node finishes each pull with probability `chance`.
    pub fn pull(&mut self, name: &str, random: &mut Random, chance: f64) {
        let sim = self.nodes.get_mut(name).unwrap();
        if matches!(sim.node.state, NodeState::Lost { .. }) {
            return;
        }
        for (id, (version, state)) in &sim.seen {
            let holds = matches!(state, CopyState::Hold | CopyState::Leave);
            // only the version that the store has can be pulled
            let comes = holds && self.pool.get(id) == Some(version) && random.unit() < chance;
            if comes && sim.held.insert(id.clone(), *version) != Some(*version) {
                self.loaded_bytes += version.length;
            }
        }
    }

    /// Every node reads and pulls everything.
    pub fn finish(&mut self, random: &mut Random) {
        for name in self.nodes.keys().cloned().collect::<Vec<_>>() {
            self.read(&name);
            self.pull(&name, random, 1.0);
        }
    }

    /// Plans and finishes until a plan is empty; at most `cycles` times.
    pub fn converge(&mut self, rules: &Rules, random: &mut Random, cycles: usize) -> Plan {
        for _ in 0..cycles {
            let plan = self.cycle(rules).unwrap();
            self.finish(random);
            if plan.is_empty() {
                return plan;
            }
            self.now_ms += rules.settings().drain_grace_ms;
        }
        let left = self.cycle(rules).unwrap();
        panic!("no rest after {cycles} cycles: {}", left.summary(&self.world()));
    }

    pub fn held_bytes(&self, name: &str) -> u64 {
        self.nodes[name].held.values().map(|stamp| stamp.length).sum()
    }
}

/// Everything that lies or may come to lie on a node's disk.
fn used(sim: &SimNode) -> u64 {
    let held: u64 = sim.held.values().map(|stamp| stamp.length).sum();
    let loading = sim.written.iter().filter(|(id, line)| sim.held.get(*id) != Some(&line.0));
    held + loading.map(|(_, (version, _))| version.length).sum::<u64>()
}
