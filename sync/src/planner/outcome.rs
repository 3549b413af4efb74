//! What a plan says: the assignment of every node, what is pulled for it, what has no place, and figures for
//! people.

use std::fmt;

use fsd::segment::Stamp;
use serde::{Deserialize, Serialize};

use super::world::{Entry, NodeKey, SegmentKey, World};

/// Why a copy is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveReason {
    /// No node within reach holds the version.
    New,
    /// A newer version takes an older one's place on the same node.
    Update,
    /// A copy is missing.
    Repair,
    /// A node is to be emptied.
    Decommission,
    /// A node has more or less than its share.
    Balance,
    /// Copies lie in one rack, or not on the nodes that a rule prefers.
    Spread,
}

impl MoveReason {
    /// Whether the cap on moved bytes holds it back.
    pub(super) fn capped(self) -> bool {
        match self {
            Self::New | Self::Update => false,
            Self::Repair | Self::Decommission | Self::Balance | Self::Spread => true,
        }
    }
}

/// One pull that a plan begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Which segment.
    pub segment: SegmentKey,
    /// The node that it leaves once the new copy is held; none when nothing is given up.
    pub from: Option<NodeKey>,
    /// The node that pulls it from the deep store.
    pub to: NodeKey,
    /// What is pulled.
    pub bytes: u64,
    /// Why.
    pub reason: MoveReason,
}

/// Why a copy has no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Larger than every quota.
    TooLarge,
    /// Fewer live nodes than copies asked for.
    TooFewNodes,
    /// Everything that lies where it could go is more important.
    NoRoom,
    /// Room is being made: it comes when what lies there has drained.
    RoomDrains,
    /// The cap on moved bytes of this cycle is used up.
    Cap,
    /// A later cycle places it.
    Later,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "it is larger than every node's quota; raise a quota",
            Self::TooFewNodes => "there are fewer live nodes than copies asked for; add nodes",
            Self::NoRoom => "no node has room and what lies there comes first; add nodes or quota",
            Self::RoomDrains => "room is being made for it; it comes when that has drained",
            Self::Cap => {
                "the bytes that may move in one cycle are used up; it comes in a later one"
            }
            Self::Later => "other copies of it change first; it comes in a later cycle",
        })
    }
}

/// A copy that has no place now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unplaced {
    /// Which segment.
    pub segment: SegmentKey,
    /// How many copies of it are missing.
    pub copies: u16,
    /// Why; of several reasons the first copy's.
    pub why: Why,
}

/// The lines of one node's assignment, in order of key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAssignment {
    /// Which node.
    pub node: NodeKey,
    /// Whether they say anything else than before: only then must they be written.
    pub changed: bool,
    /// What the node is to hold and drain.
    pub entries: Vec<Entry>,
}

/// A line that is gone: the node may drop that version's file, which it has seen as draining.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retire {
    /// On which node.
    pub node: NodeKey,
    /// Which segment.
    pub segment: SegmentKey,
    /// Which version.
    pub version: Stamp,
}

/// Figures of a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Segments of the pool.
    pub segments: u64,
    /// Quota of all registered nodes, in bytes: to be expected from now on.
    pub registered_quota_bytes: u64,
    /// Greatest stored/quota over the average, as it will be; 0 when nothing is stored.
    pub max_over_average: f64,
    /// Copies asked for.
    pub copies_wanted: u64,
    /// Of those, how many are not held yet where they are to stay.
    pub copies_missing: u64,
    /// Of those, how many have no place.
    pub copies_unplaced: u64,
    /// Bytes that the cap counted.
    pub moved_bytes: u64,
    /// Bytes that the cap held back.
    pub postponed_bytes: u64,
}

/// What a node has and gets, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeFigures {
    /// Which node.
    pub node: NodeKey,
    /// What lies or may come to lie there before the plan, in bytes: held, loading and draining.
    pub used_bytes: u64,
    /// What is to stay there, in bytes.
    pub future_bytes: u64,
    /// What it pulls for this plan, in bytes.
    pub pull_bytes: u64,
    /// What others pull so that it may leave here, in bytes.
    pub leave_bytes: u64,
}

/// What to do.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Every node's lines, in order of node.
    pub assign: Vec<NodeAssignment>,
    /// Lines that are gone.
    pub retire: Vec<Retire>,
    /// Pulls that begin.
    pub moves: Vec<Move>,
    /// What they pull altogether, in bytes.
    pub bytes: u64,
    /// What has no place, once for each segment, in order of importance.
    pub unplaced: Vec<Unplaced>,
    /// Figures of the whole.
    pub figures: Figures,
    /// Figures of each node, in order of node.
    pub nodes: Vec<NodeFigures>,
}

impl Plan {
    /// Whether nothing is to be written or done.
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty()
            && self.retire.is_empty()
            && self.assign.iter().all(|node| !node.changed)
    }

    /// What the plan would do, for people: bytes to move for each node, then what has no place.
    pub fn summary<'a>(&'a self, world: &'a World) -> Summary<'a> {
        Summary { plan: self, world }
    }
}

/// Shows what a plan would do.
#[derive(Debug)]
pub struct Summary<'a> {
    plan: &'a Plan,
    world: &'a World,
}

/// How many segments without a place are named; all are counted.
const EXAMPLES_MAX: usize = 10;

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (plan, figures) = (self.plan, &self.plan.figures);
        if plan.is_empty() {
            writeln!(f, "nothing to do")?;
        } else {
            let (moves, bytes, retire) = (plan.moves.len(), plan.bytes, plan.retire.len());
            writeln!(f, "{moves} pulls of {bytes} bytes, {retire} copies to drop")?;
        }
        writeln!(f, "{:<20} {:>16} {:>7} {:>16} {:>16}", "node", "quota", "full", "pull", "leave")?;
        for node in &plan.nodes {
            let at = self.world.node(node.node);
            let full = 100.0 * node.future_bytes as f64 / at.quota_bytes.max(1) as f64;
            let (name, quota) = (&at.name, at.quota_bytes);
            let (pull, leave) = (node.pull_bytes, node.leave_bytes);
            writeln!(f, "{name:<20} {quota:>16} {full:>6.1}% {pull:>16} {leave:>16}")?;
        }
        let Figures { copies_wanted, copies_missing, copies_unplaced, .. } = figures;
        writeln!(
            f,
            "{copies_wanted} copies wanted, {copies_missing} not held yet, {copies_unplaced} without a place; \
             fullest node {:.3} of the average",
            figures.max_over_average
        )?;
        for left in plan.unplaced.iter().take(EXAMPLES_MAX) {
            let (id, copies) = (self.world.segment_id(left.segment), left.copies);
            writeln!(f, "no place for {copies} of {id}: {}", left.why)?;
        }
        if plan.unplaced.len() > EXAMPLES_MAX {
            writeln!(f, "and for {} segments more", plan.unplaced.len() - EXAMPLES_MAX)?;
        }
        Ok(())
    }
}
