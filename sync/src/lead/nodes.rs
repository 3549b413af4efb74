//! The nodes as the lead sees them: who is there, what each was told to hold, and what it holds.
//!
//! Invariants: a document that cannot be read changes nothing of what it said before, within one term; what the lead
//! believes to have told a node is what the node's table says, or is not known and read again.
//!
//! Left out: what follows from it ([`super::cycle`]).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use fsd::segment::SegmentId;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::cluster::{AssignRow, HoldsRow, assign_table, holds_table};
use crate::kv::{Consistency, Entry, Index, Kv, Op, TXN_OPS_MAX, Txn};
use crate::node::{Member, Node, NodeName, members};
use crate::planner::{self, CopyState, NodeState, WorldBuilder};
use crate::registry::Epoch;
use crate::table::{Part, TableError, TableReader, TableWriter, Written};

/// Nodes whose tables are read or written at the same time.
const AT_ONCE: usize = 16;
/// The lead looks at tables, and never waits at one; this is for the watch that it does not use.
const NO_WAIT: Duration = Duration::ZERO;

/// One node, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its name.
    pub name: NodeName,
    /// Whether it can be counted on.
    pub state: NodeState,
    /// What it says of itself.
    pub node: Node,
    /// How many segments it holds; `None` when that could not be read yet.
    pub holds: Option<u64>,
    /// How many it was told to hold.
    pub told: u64,
    /// How many it was told to drain.
    pub draining: u64,
}

impl NodeReport {
    /// Whether it is there.
    pub fn is_registered(&self) -> bool {
        !matches!(self.state, NodeState::Lost { .. })
    }
}

/// Every node that is known, by name.
#[derive(Debug, Default)]
pub(super) struct Nodes(BTreeMap<NodeName, Known>);

/// One node.
#[derive(Debug)]
pub(super) struct Known {
    /// What it said last that could be read.
    node: Node,
    registered: bool,
    lost_since_ms: Option<u64>,
    /// When it had said what its holdings were last looked at for.
    looked_at: Option<Index>,
    holds: TableReader<HoldsRow>,
    /// Its holdings; `None` until they could be read once.
    held: Option<BTreeMap<Part, Vec<HoldsRow>>>,
    told: TableWriter<AssignRow>,
    /// What it was told; `None` when that must be read.
    assigned: Option<Vec<AssignRow>>,
    was_told: bool,
}

impl Known {
    fn new(name: &NodeName, node: Node) -> Result<Self, TableError> {
        Ok(Self {
            node,
            registered: false,
            lost_since_ms: None,
            looked_at: None,
            holds: TableReader::new(holds_table(name)?, NO_WAIT)?,
            held: None,
            told: TableWriter::new(assign_table(name)?),
            assigned: None,
            was_told: false,
        })
    }

    /// Whether it is there.
    pub(super) fn registered(&self) -> bool {
        self.registered
    }

    /// What it holds; `None` when that could not be read yet.
    pub(super) fn held(&self) -> Option<impl Iterator<Item = &HoldsRow>> {
        self.held.as_ref().map(|parts| parts.values().flatten())
    }

    /// What it was told.
    pub(super) fn assigned(&self) -> &[AssignRow] {
        self.assigned.as_deref().unwrap_or_default()
    }

    /// Whether it was ever told anything, as far as can be read.
    pub(super) fn was_told(&self) -> bool {
        self.was_told
    }

    /// How many it was told to drain.
    fn draining(&self) -> usize {
        let drains = |row: &&AssignRow| matches!(row.state, CopyState::Drain { .. });
        self.assigned().iter().filter(drains).count()
    }

    /// What it answers for of what it holds: what it was told to hold, and all while nothing was told. `None` is all.
    /// What it was told to drain may be gone at any moment once that line is gone.
    pub(super) fn answers_for(&self) -> Option<HashSet<&SegmentId>> {
        self.was_told.then(|| to_hold(self.assigned()))
    }

    /// Takes what the registry says of it; whether its holdings are to be looked at.
    fn take(&mut self, member: Member, now_ms: u64) -> bool {
        self.registered = member.registered && member.node.is_some();
        match self.registered {
            true => self.lost_since_ms = None,
            false => drop(self.lost_since_ms.get_or_insert(now_ms)),
        }
        if let Some(node) = member.node {
            self.node = node;
        }
        self.held.is_none() || self.looked_at != Some(member.modified)
    }

    fn state(&self, decommissioned: bool) -> NodeState {
        match (self.registered, self.lost_since_ms) {
            (true, _) if decommissioned => NodeState::Decommissioning,
            // one whose holdings cannot be read yet is like one that has not told them
            (true, _) if self.node.announced && self.held.is_some() => NodeState::Live,
            (true, _) => NodeState::Returning,
            // a person does not expect it back
            (false, _) if decommissioned => NodeState::Lost { since_ms: 0 },
            (false, since_ms) => NodeState::Lost { since_ms: since_ms.unwrap_or_default() },
        }
    }

    /// Reads what it holds and what it was told, as far as that is not known.
    async fn look(
        &mut self,
        kv: &dyn Kv,
        name: &NodeName,
        holdings_at: Option<Index>,
    ) -> Result<(), TableError> {
        if let Some(at) = holdings_at {
            match self.holds.look(kv).await {
                Ok(change) => {
                    self.looked_at = Some(at);
                    self.take_holdings(change);
                }
                Err(error @ (TableError::Undecodable { .. } | TableError::Older { .. })) => {
                    tracing::warn!(node = %name, %error, "what a node holds cannot be read");
                }
                Err(error) => return Err(error),
            }
        }
        if self.assigned.is_none() {
            self.assigned = Some(match self.told.load(kv).await {
                Ok(table) => {
                    self.was_told = table.is_some();
                    table.map(|(_, rows)| rows).unwrap_or_default()
                }
                Err(error @ TableError::Undecodable { .. }) => {
                    tracing::warn!(node = %name, %error, "what a node was told cannot be read; telling it anew");
                    Vec::new()
                }
                Err(error) => return Err(error),
            });
        }
        Ok(())
    }

    fn take_holdings(&mut self, change: Option<crate::table::Change<Vec<HoldsRow>>>) {
        // no table is not an empty one
        let Some(change) = change else { return };
        let held = self.held.get_or_insert_default();
        if change.whole {
            held.clear();
        }
        for (part, rows) in change.parts {
            match rows.is_empty() {
                true => drop(held.remove(&part)),
                false => drop(held.insert(part, rows)),
            }
        }
    }
}

/// The segments that `rows` say to hold.
pub(super) fn to_hold(rows: &[AssignRow]) -> HashSet<&SegmentId> {
    let hold = |row: &&AssignRow| matches!(row.state, CopyState::Hold | CopyState::Leave);
    rows.iter().filter(hold).map(|row| &row.id).collect()
}

impl Nodes {
    /// Looks at who is there, and reads what changed.
    pub(super) async fn look(&mut self, kv: &dyn Kv, now_ms: u64) -> Result<(), TableError> {
        let mut changed = BTreeMap::new();
        let mut absent: BTreeSet<NodeName> = self.0.keys().cloned().collect();
        for member in members(kv).await? {
            absent.remove(&member.name);
            if !self.0.contains_key(&member.name) {
                // one that never said anything that can be read has no quota to plan with
                let Some(node) = member.node.clone() else { continue };
                self.0.insert(member.name.clone(), Known::new(&member.name, node)?);
            }
            let (name, modified) = (member.name.clone(), member.modified);
            if let Some(known) = self.0.get_mut(&name)
                && known.take(member, now_ms)
            {
                changed.insert(name, modified);
            }
        }
        for name in absent {
            // somebody removed its key; it says so itself again, or it is lost
            if let Some(known) = self.0.get_mut(&name) {
                known.registered = false;
                known.lost_since_ms.get_or_insert(now_ms);
            }
        }
        let looks = self.0.iter_mut().map(|(name, known)| {
            let at = changed.get(name).copied();
            known.look(kv, name, at)
        });
        let looks: Vec<_> = looks.collect();
        futures::stream::iter(looks).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Every node, in order of name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeName, &Known)> {
        self.0.iter()
    }

    /// Takes every node that is not there, and each of `gone`, for one that nobody waits for any more.
    pub(super) fn give_up(&mut self, gone: &BTreeSet<NodeName>) {
        for (name, known) in &mut self.0 {
            known.registered &= !gone.contains(name);
            known.lost_since_ms = (!known.registered).then_some(0);
        }
    }

    /// The nodes as the planner takes them.
    pub(super) fn planned(&self, decommission: &BTreeSet<NodeName>) -> Vec<planner::Node> {
        let node = |(name, known): (&NodeName, &Known)| {
            let decommissioned = decommission.contains(name);
            let gone_for_good = decommissioned && !known.registered;
            planner::Node {
                name: name.as_str().to_owned(),
                // nobody waits for the room of a node that a person took away
                quota_bytes: if gone_for_good { 0 } else { known.node.quota_bytes },
                rack: known.node.rack.clone(),
                state: known.state(decommissioned),
            }
        };
        self.0.iter().map(node).collect()
    }

    /// Every node, for people.
    pub(super) fn report(&self, decommission: &BTreeSet<NodeName>) -> Vec<NodeReport> {
        let report = |(name, known): (&NodeName, &Known)| {
            let draining = known.draining();
            NodeReport {
                name: name.clone(),
                state: known.state(decommission.contains(name)),
                node: known.node.clone(),
                holds: known.held().map(|rows| rows.count() as u64),
                told: (known.assigned().len() - draining) as u64,
                draining: draining as u64,
            }
        };
        self.0.iter().map(report).collect()
    }

    /// Tells the planner what each node was told and holds.
    pub(super) fn tell(&self, world: &mut WorldBuilder) {
        for (name, known) in &self.0 {
            let Some(key) = world.node_key(name.as_str()) else { continue };
            for row in known.assigned() {
                world.assign(key, &row.id, row.version, row.state);
            }
            for row in known.held().into_iter().flatten() {
                world.holds(key, &row.id, row.version);
            }
        }
    }

    /// Tells each node of `rows` what it is to hold.
    pub(super) async fn write(
        &mut self,
        kv: &dyn Kv,
        fence: &Op,
        epoch: Epoch,
        mut rows: BTreeMap<NodeName, Vec<AssignRow>>,
    ) -> Result<Written, TableError> {
        let writes = self.0.iter_mut().filter_map(|(name, known)| {
            let rows = rows.remove(name)?;
            Some(async move {
                // not known until it was done: a write that fails may have been done in part
                known.assigned = None;
                let written = known.told.write(kv, fence, epoch, rows.clone()).await?;
                (known.assigned, known.was_told) = (Some(rows), true);
                Ok::<_, TableError>(written)
            })
        });
        let writes: Vec<_> = writes.collect();
        let all = futures::stream::iter(writes).buffer_unordered(AT_ONCE);
        all.try_fold(Written::default(), |sum, one| async move { Ok(sum + one) }).await
    }

    /// Believes nothing of what the nodes' tables say until they were looked at again.
    pub(super) fn doubt(&mut self) {
        for known in self.0.values_mut() {
            known.told.doubt();
        }
    }

    /// Forgets a node that is not there, and what the registry says of it. `false` when it came back meanwhile.
    pub(super) async fn forget(
        &mut self,
        kv: &dyn Kv,
        fence: &Op,
        name: &NodeName,
    ) -> Result<bool, TableError> {
        let key = name.key()?;
        let Some(entry) = kv.get(&key).await?.filter(|entry| entry.session.is_none()) else {
            return Ok(false);
        };
        // its key last: who finds it forgets the rest once more
        let mut steps = vec![vec![Op::DeleteCas { key, index: entry.modified }]];
        for table in [assign_table(name)?, holds_table(name)?] {
            let documents = kv.list(&table, Consistency::Consistent).await?;
            let delete = |entry: &Entry| Op::Delete { key: entry.key.clone() };
            let deletes = documents.chunks(TXN_OPS_MAX - 1);
            steps.extend(deletes.map(|some| some.iter().map(delete).collect()));
        }
        for mut ops in steps.into_iter().rev() {
            ops.insert(0, fence.clone());
            if let Txn::Refused(_) = kv.txn(&ops).await? {
                return Ok(false);
            }
        }
        self.0.remove(name);
        Ok(true)
    }
}
