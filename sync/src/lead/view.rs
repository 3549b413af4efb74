//! What a lead plans from: the pool, the nodes and the orders, as the registry and the deep store say.
//!
//! Invariants: nothing here writes, so who only wants to know what a lead would do looks through it as well; a listing
//! that did not see everything removes nothing (S9).

use std::collections::HashSet;
use std::sync::Arc;

use fsd::segment::SegmentId;

use super::cycle::CycleError;
use super::nodes::Nodes;
use super::orders::Orders;
use crate::cluster::PoolRow;
use crate::kv::{Index, Kv, KvErrorKind};
use crate::planner::{Plan, Rules, World, plan};
use crate::pool::guard::{self, HeldBack};
use crate::pool::{Pool, PoolEntry, PoolListing};
use crate::store::StorePath;
use crate::tomb::Tombs;

/// See the module.
#[derive(Debug)]
pub(super) struct View {
    /// What people want.
    pub(super) orders: Orders,
    /// When they said it last.
    pub(super) orders_at: Index,
    /// Who is there, and what each was told and holds.
    pub(super) nodes: Nodes,
    /// Every segment; what the guard keeps is among them.
    pub(super) pool: Pool,
    /// What vanished and stays until a person says so.
    pub(super) vanished: HashSet<SegmentId>,
    pub(super) held_back: Option<HeldBack>,
    /// Whether a complete listing of the deep store was taken.
    pub(super) listed: bool,
    /// What was deleted.
    pub(super) tombs: Tombs,
    /// Of that, what the newest listing still showed; `None` unless it saw everything.
    pub(super) buried: Option<HashSet<SegmentId>>,
}

impl View {
    /// Of a pool table; nodes and orders are not looked at yet.
    pub(super) fn new(table: &[PoolRow]) -> Self {
        let vanished = table.iter().filter(|row| row.vanished).map(|row| row.id.clone());
        Self {
            orders: Orders::default(),
            orders_at: Index::ABSENT,
            nodes: Nodes::default(),
            pool: table.iter().map(|row| (row.id.clone(), row.entry())).collect(),
            vanished: vanished.collect(),
            held_back: None,
            listed: false,
            tombs: Tombs::default(),
            buried: None,
        }
    }

    /// Looks at orders, tombstones and nodes; a document that cannot be read changes nothing.
    pub(super) async fn look(&mut self, kv: &dyn Kv, now_ms: u64) -> Result<(), CycleError> {
        match Orders::read(kv).await {
            Ok((orders, at)) => (self.orders, self.orders_at) = (orders, at),
            Err(error) if error.kind == KvErrorKind::Malformed => {
                tracing::warn!(%error, "going by the orders of before");
            }
            Err(error) => return Err(error.into()),
        }
        self.tombs.look(kv).await?;
        self.bury();
        Ok(self.nodes.look(kv, now_ms).await?)
    }

    /// Takes out of the pool what was deleted: that needs no listing.
    fn bury(&mut self) {
        for id in self.tombs.ids() {
            if self.pool.get(id).is_some_and(|entry| self.tombs.names(id, entry.stamp)) {
                self.pool.remove(id);
                self.vanished.remove(id);
            }
        }
    }

    /// Takes what the nodes hold and were told for the pool, where no table says what that is.
    pub(super) fn take_from_nodes(&mut self) {
        for (_, known) in self.nodes.iter() {
            for row in known.held().into_iter().flatten() {
                let path = StorePath::published(&row.id);
                let entry = PoolEntry { path, stamp: row.version };
                self.pool.entry(row.id.clone()).or_insert(entry);
            }
            for row in known.assigned() {
                let entry = PoolEntry { path: row.path(), stamp: row.version };
                self.pool.insert(row.id.clone(), entry);
            }
        }
        self.bury();
    }

    /// Takes a listing; `max_removed_ratio` and `accepted` as [`guard::compare`] has them. Says how many went.
    pub(super) fn take_listing(
        &mut self,
        mut listing: PoolListing,
        max_removed_ratio: f64,
        accepted: bool,
    ) -> usize {
        listing.bury(self.tombs.clone());
        let complete = listing.report.complete();
        self.buried = complete.then(|| std::mem::take(&mut listing.buried));
        let delta =
            guard::compare(&self.pool, &listing, max_removed_ratio, accepted, &self.vanished);
        for id in delta.changed {
            if let Some(entry) = listing.pool.remove(&id) {
                self.pool.insert(id, entry);
            }
        }
        for id in &delta.removed {
            self.pool.remove(id);
        }
        self.vanished = delta.waiting;
        self.held_back = delta.held_back;
        self.listed |= complete;
        delta.removed.len()
    }

    /// What is there for the planner, and what it does about it, or why it does nothing.
    pub(super) async fn plan(
        &self,
        now_ms: u64,
        rules: &Arc<Rules>,
    ) -> Result<(Arc<World>, Result<Plan, String>), CycleError> {
        let pool = self.pool.iter().map(|(id, entry)| (id.clone(), entry.stamp));
        let nodes = self.nodes.planned(&self.orders.decommission);
        let mut world = World::builder(now_ms, pool, nodes)?;
        self.nodes.tell(&mut world);
        let world = Arc::new(world.build());
        if self.orders.paused {
            return Ok((world, Err("paused; `trough sync resume` goes on".to_owned())));
        }
        let rules = match self.orders.accepted_quota_bytes {
            Some(bytes) => Arc::new(rules.accepting(bytes)),
            None => rules.clone(),
        };
        let planned = world.clone();
        // seconds of work in a large cluster, and a session must be renewed meanwhile
        let planning = tokio::task::spawn_blocking(move || plan(&planned, &rules));
        let plan = planning.await.map_err(|error| CycleError::Planner(error.to_string()))?;
        Ok((world, plan.map_err(|refusal| refusal.to_string())))
    }
}
