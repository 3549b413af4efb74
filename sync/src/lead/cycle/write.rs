//! What a cycle writes: the pool table, what the nodes are told, and what is left of nodes that are gone for good.
//!
//! Invariant (make before break): readers are told first, so that nobody is asked for what it was told to drain.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use fsd::segment::SegmentId;
use tokio::time::Instant;

use super::super::nodes::Known;
use super::super::pool_rows::{Sources, pool_rows};
use super::{CycleError, Lead, Orders};
use crate::cluster::AssignRow;
use crate::node::NodeName;
use crate::planner::{Entry, NodeAssignment, Plan, Why, World};
use crate::store::StorePath;
use crate::table::Written;

impl Lead {
    /// Tells readers and nodes, in this order: nobody is asked for what it was told to drain.
    pub(super) async fn write(
        &mut self,
        world: &World,
        plan: Option<&Plan>,
    ) -> Result<Written, CycleError> {
        let planned: BTreeMap<_, _> =
            plan.into_iter().flat_map(|plan| self.assign_rows(world, plan)).collect();
        let unplaced = plan.into_iter().flat_map(|plan| &plan.unplaced);
        let unplaced =
            unplaced.map(|one| (world.segment_id(one.segment).clone(), one.why)).collect();
        let mut rewrite = BTreeMap::new();
        if self.doubted_at.elapsed() >= Duration::from_secs(self.settings.doubt_s) {
            self.doubted_at = Instant::now();
            self.view.nodes.doubt();
            self.table.doubt();
            let told =
                |(name, known): (&NodeName, &Known)| (name.clone(), known.assigned().to_vec());
            rewrite =
                self.view.nodes.iter().filter(|(_, known)| known.was_told()).map(told).collect();
        }
        let (mut written, more) = self.write_pool(&planned, &unplaced).await?;
        rewrite.extend(planned);
        let (kv, fence) = (&*self.outside.kv, &self.fence);
        written = written + self.view.nodes.write(kv, fence, self.epoch, rewrite).await?;
        if more {
            written = written + self.write_pool(&BTreeMap::new(), &unplaced).await?.0;
        }
        if self.view.nodes.iter().all(|(_, known)| known.held().is_some() || !known.registered()) {
            self.earlier = Vec::new();
        }
        Ok(written)
    }

    /// Writes the pool table, as it is when the nodes are about to be told `planned`; and whether there is more to say
    /// as soon as they were.
    async fn write_pool(
        &mut self,
        planned: &BTreeMap<NodeName, Vec<AssignRow>>,
        unplaced: &HashMap<SegmentId, Why>,
    ) -> Result<(Written, bool), CycleError> {
        // a pool of which no listing is known is no pool yet: readers would say 404 for what they cannot know
        if !self.view.listed && self.view.pool.is_empty() {
            return Ok((Written::default(), false));
        }
        let (pool, vanished, nodes) = (&self.view.pool, &self.view.vanished, &self.view.nodes);
        let earlier = &self.earlier;
        let sources = Sources { pool, vanished, nodes, planned, earlier, unplaced };
        let (rows, more) = pool_rows(&sources);
        let kv = &*self.outside.kv;
        Ok((self.table.write(kv, &self.fence, self.epoch, rows).await?, more))
    }

    /// The rows of each node to which the plan says something new.
    fn assign_rows(&self, world: &World, plan: &Plan) -> Vec<(NodeName, Vec<AssignRow>)> {
        let paths: BTreeMap<_, _> =
            self.view.nodes.iter().map(|(name, known)| (name.as_str(), (name, known))).collect();
        let changed = plan.assign.iter().filter(|node| node.changed);
        let rows = |assignment: &NodeAssignment| {
            let (name, known) = paths.get(world.node(assignment.node).name.as_str())?;
            let told: BTreeMap<&SegmentId, &AssignRow> =
                known.assigned().iter().map(|row| (&row.id, row)).collect();
            let row = |entry: &Entry| {
                let id = world.segment_id(entry.segment);
                let path = match (self.view.pool.get(id), told.get(id)) {
                    (Some(entry), _) => entry.path.clone(),
                    (None, Some(row)) => row.path(),
                    (None, None) => StorePath::published(id),
                };
                AssignRow::new(id.clone(), entry.version, &path, entry.state)
            };
            Some(((*name).clone(), assignment.entries.iter().map(row).collect()))
        };
        changed.filter_map(rows).collect()
    }

    /// Forgets nodes that a person took away, that are gone, and of which nothing is needed any more.
    pub(super) async fn forget_decommissioned(&mut self) -> Result<(), CycleError> {
        let gone: Vec<NodeName> = self
            .view
            .nodes
            .iter()
            .filter(|(name, known)| {
                self.view.orders.decommission.contains(*name)
                    && !known.registered()
                    && known.assigned().is_empty()
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            let kv = &*self.outside.kv;
            if self.view.nodes.forget(kv, &self.fence, &name).await? {
                Orders::change(kv, |orders| orders.decommission.retain(|other| *other != name))
                    .await?;
                tracing::info!(node = %name, "decommissioned and gone; forgotten");
            }
        }
        Ok(())
    }

    /// Takes away tombstones that are old, once a listing saw that nothing of what they name is there.
    pub(super) async fn forget_deleted(&mut self, now_ms: u64) -> Result<(), CycleError> {
        let Some(shown) = self.view.buried.take() else { return Ok(()) };
        let (kv, tombs) = (&*self.outside.kv, &self.view.tombs);
        let forgotten = tombs.prune(kv, &self.fence, now_ms, &shown).await?;
        if forgotten > 0 {
            tracing::info!(forgotten, "deletions of long ago");
        }
        Ok(())
    }
}
