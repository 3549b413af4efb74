//! What the planner looks at: the pool, the nodes, what they were told to hold and what they hold.
//!
//! Invariants: segments and nodes are small numbers whose order depends on their names alone, not on the order
//! they were told in; every list is sorted by segment and names a segment once. A million segments with two
//! copies take about 250 MB.

use std::collections::HashMap;

use fsd::segment::{SegmentId, Stamp};
use serde::{Deserialize, Serialize};

use super::hash;

/// The most nodes: a number of 16 bits names one.
pub const NODES_MAX: usize = 10_000;

/// A segment of one [`World`]; means nothing in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentKey(pub(super) u32);

/// A node of one [`World`]: its place in order of name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey(pub(super) u16);

/// Whether a node can be counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Registered and passing.
    Live,
    /// Registered again, still telling what it holds: its copies count, nothing new goes there.
    Returning,
    /// Not registered.
    Lost {
        /// Since when, milliseconds since 1970.
        since_ms: u64,
    },
    /// A person wants it empty.
    Decommissioning,
}

/// One node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name, the same in every cycle.
    pub name: String,
    /// What its cache may take, in bytes.
    pub quota_bytes: u64,
    /// What fails together with it (a rack, a power feed); without one it fails alone.
    pub rack: Option<String>,
    /// Whether it can be counted on.
    pub state: NodeState,
}

/// What a node is to do with one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyState {
    /// Hold it and answer for it.
    Hold,
    /// For the node the same as [`Self::Hold`]. The lead means to drain it once the copies that take its place
    /// are held; written down so that every cycle goes on with the same move.
    Leave,
    /// Answer who still asks, but tell nobody any more. When the entry is gone the file may go.
    Drain {
        /// Since when, milliseconds since 1970.
        since_ms: u64,
    },
}

/// One line of a node's assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Which segment.
    pub segment: SegmentKey,
    /// Which version of it.
    pub version: Stamp,
    /// What to do with it.
    pub state: CopyState,
}

/// What a node reports to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) segment: SegmentKey,
    pub(super) version: Stamp,
}

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) hash: u64,
    pub(super) id: SegmentId,
    /// What the pool has; `None` when it has left the pool.
    pub(super) wanted: Option<Stamp>,
}

#[derive(Debug)]
pub(super) struct NodeView {
    pub(super) node: Node,
    pub(super) hash: u64,
    pub(super) entries: Vec<Entry>,
    pub(super) held: Vec<Holding>,
}

/// A world that cannot be planned for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorldError {
    /// Two nodes of one name.
    #[error(
        "take the nodes of the cluster: {0:?} is there twice; give every node a name of its own"
    )]
    DuplicateNode(String),
    /// More than fit.
    #[error("take the nodes of the cluster: {0} are too many; {NODES_MAX} is the most")]
    TooManyNodes(usize),
    /// More than fit.
    #[error("take the pool: {0} segments are too many; {max} is the most", max = u32::MAX)]
    TooManySegments(usize),
    /// The pool has one id twice.
    #[error("take the pool: segment {0} is there twice; say which of the two counts first")]
    DuplicateSegment(SegmentId),
}

/// Everything the planner looks at, and the time it is.
#[derive(Debug)]
pub struct World {
    pub(super) now_ms: u64,
    pub(super) expected_quota_bytes: u64,
    pub(super) segments: Vec<Segment>,
    pub(super) in_pool: usize,
    pub(super) nodes: Vec<NodeView>,
}

/// A [`World`] that is being told.
#[derive(Debug)]
pub struct WorldBuilder {
    world: World,
    /// Segments that are not in the pool but on some node.
    strangers: HashMap<SegmentId, SegmentKey>,
}

impl World {
    /// Begins with the pool and the nodes. `now_ms` is the time, milliseconds since 1970.
    pub fn builder(
        now_ms: u64,
        pool: impl IntoIterator<Item = (SegmentId, Stamp)>,
        mut nodes: Vec<Node>,
    ) -> Result<WorldBuilder, WorldError> {
        if nodes.len() > NODES_MAX {
            return Err(WorldError::TooManyNodes(nodes.len()));
        }
        nodes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if let Some(twice) = nodes.windows(2).find(|two| two[0].name == two[1].name) {
            return Err(WorldError::DuplicateNode(twice[0].name.clone()));
        }
        let segment = |(id, stamp): (SegmentId, Stamp)| Segment {
            hash: hash::of_name(id.as_str()),
            id,
            wanted: Some(stamp),
        };
        let mut segments: Vec<_> = pool.into_iter().map(segment).collect();
        if u32::try_from(segments.len()).is_err() {
            return Err(WorldError::TooManySegments(segments.len()));
        }
        // by hash: much cheaper than by text, and as independent of the order of telling
        segments.sort_unstable_by(|a, b| (a.hash, &a.id).cmp(&(b.hash, &b.id)));
        if let Some(twice) = segments.windows(2).find(|two| two[0].id == two[1].id) {
            return Err(WorldError::DuplicateSegment(twice[0].id.clone()));
        }
        let view = |node: Node| NodeView {
            hash: hash::of_name(&node.name),
            node,
            entries: Vec::new(),
            held: Vec::new(),
        };
        let nodes = nodes.into_iter().map(view).collect();
        let in_pool = segments.len();
        let world = World { now_ms, expected_quota_bytes: 0, segments, in_pool, nodes };
        Ok(WorldBuilder { world, strangers: HashMap::new() })
    }

    /// The id behind a key of this world.
    pub fn segment_id(&self, key: SegmentKey) -> &SegmentId {
        &self.segments[key.0 as usize].id
    }

    /// The node behind a key of this world.
    pub fn node(&self, key: NodeKey) -> &Node {
        &self.nodes[usize::from(key.0)].node
    }

    /// The key of the node called `name`.
    pub fn node_key(&self, name: &str) -> Option<NodeKey> {
        let at = self.nodes.binary_search_by(|view| view.node.name.as_str().cmp(name)).ok()?;
        u16::try_from(at).ok().map(NodeKey)
    }

    /// What `node` was told so far, in order of key.
    pub fn entries(&self, node: NodeKey) -> &[Entry] {
        &self.nodes[usize::from(node.0)].entries
    }

    fn find(&self, id: &SegmentId) -> Option<SegmentKey> {
        let hash = hash::of_name(id.as_str());
        let pool = &self.segments[..self.in_pool];
        let at = pool.binary_search_by(|s| (s.hash, &s.id).cmp(&(hash, id))).ok()?;
        u32::try_from(at).ok().map(SegmentKey)
    }
}

impl WorldBuilder {
    /// The capacity that was registered when all was well, in bytes: what a sudden drop is measured against.
    pub fn expect_quota_bytes(&mut self, bytes: u64) {
        self.world.expected_quota_bytes = bytes;
    }

    /// The key of the node called `name`.
    pub fn node_key(&self, name: &str) -> Option<NodeKey> {
        self.world.node_key(name)
    }

    /// Tells what `node` was told to do with `id`.
    pub fn assign(&mut self, node: NodeKey, id: &SegmentId, version: Stamp, state: CopyState) {
        let segment = self.key(id);
        let entry = Entry { segment, version, state };
        self.world.nodes[usize::from(node.0)].entries.push(entry);
    }

    /// Tells that `node` reports to hold `version` of `id`.
    pub fn holds(&mut self, node: NodeKey, id: &SegmentId, version: Stamp) {
        let segment = self.key(id);
        self.world.nodes[usize::from(node.0)].held.push(Holding { segment, version });
    }

    /// All is told. Of two lines for one segment on one node the later counts.
    pub fn build(mut self) -> World {
        for view in &mut self.world.nodes {
            sort_last_wins(&mut view.entries, |entry| entry.segment);
            sort_last_wins(&mut view.held, |holding| holding.segment);
        }
        self.world
    }

    fn key(&mut self, id: &SegmentId) -> SegmentKey {
        if let Some(key) = self.world.find(id) {
            return key;
        }
        let segments = &mut self.world.segments;
        *self.strangers.entry(id.clone()).or_insert_with(|| {
            let segment =
                Segment { hash: hash::of_name(id.as_str()), id: id.clone(), wanted: None };
            segments.push(segment);
            // keys are 32 bits: four thousand million lines would not fit in memory long before
            SegmentKey((segments.len() - 1) as u32)
        })
    }
}

fn sort_last_wins<T>(list: &mut Vec<T>, key: impl Fn(&T) -> SegmentKey) {
    list.reverse();
    list.sort_by_key(&key);
    list.dedup_by_key(|item| key(item));
    list.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SegmentId {
        SegmentId::new(text).unwrap()
    }

    fn node(name: &str) -> Node {
        Node { name: name.to_owned(), quota_bytes: 1, rack: None, state: NodeState::Live }
    }

    const V1: Stamp = Stamp { length: 1, mtime_ms: 1 };
    const V2: Stamp = Stamp { length: 2, mtime_ms: 2 };

    #[test]
    fn keys_do_not_depend_on_the_order_of_telling() {
        let names = ["a", "b", "c", "d"];
        let pool = |names: &[&str]| names.iter().map(|n| (id(n), V1)).collect::<Vec<_>>();
        let one = World::builder(0, pool(&names), vec![node("x"), node("y")]).unwrap().build();
        let mut back = names;
        back.reverse();
        let other = World::builder(0, pool(&back), vec![node("y"), node("x")]).unwrap().build();
        for key in (0..4).map(SegmentKey) {
            assert_eq!(one.segment_id(key), other.segment_id(key));
        }
        assert_eq!(one.node_key("y"), Some(NodeKey(1)));
        assert_eq!(one.node_key("z"), None);
    }

    #[test]
    fn the_later_line_counts_and_strangers_get_keys() {
        let mut told = World::builder(0, [(id("a"), V1)], vec![node("x")]).unwrap();
        let x = told.node_key("x").unwrap();
        told.assign(x, &id("gone"), V1, CopyState::Hold);
        told.assign(x, &id("a"), V1, CopyState::Leave);
        told.assign(x, &id("a"), V2, CopyState::Hold);
        told.holds(x, &id("gone"), V1);
        let world = told.build();
        let entries = world.entries(x);
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].version, entries[0].state), (V2, CopyState::Hold));
        assert_eq!(world.segment_id(entries[1].segment), &id("gone"));
        assert_eq!(world.segments.len(), 2);
    }

    #[test]
    fn the_same_name_twice_is_refused() {
        let twice = World::builder(0, [], vec![node("x"), node("x")]);
        assert!(matches!(twice, Err(WorldError::DuplicateNode(name)) if name == "x"));
        let twice = World::builder(0, [(id("a"), V1), (id("a"), V2)], Vec::new());
        assert!(matches!(twice, Err(WorldError::DuplicateSegment(_))));
    }
}
