//! One cycle of the lead: look at the deep store and the nodes, plan, and write what changed.
//!
//! ```text
//!   deep store --list--> guard --> pool --+
//!   orders, nodes, what they hold --------+--> plan --1.--> trough/pool ----------> readers
//!                                                       2.--> trough/assign/<node> --> nodes
//! ```
//!
//! Invariants: everything that is written is fenced by the term, so a lead that was overtaken, or that slept, changes
//! nothing; a listing that did not see everything removes nothing (S9); a registry that came back empty is not
//! written to before `settle_s`, in which the nodes say what they hold, so that nothing moves (S10); the order is
//! such that a cycle that is cut off anywhere is gone on with by the next, of this lead or of another.
//!
//! Left out: when there is a cycle ([`super::run`]), and who leads ([`super::election`]).

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::election::Term;
use super::nodes::{Known, NodeReport};
use super::orders::Orders;
use super::view::View;
use crate::clock::Clock;
use crate::cluster::{PoolRow, pool_table};
use crate::kv::{Kv, KvError, Op};
use crate::node::NodeName;
use crate::planner::{Figures, Rules, WorldError};
use crate::pool::guard::HeldBack;
use crate::pool::{self, ListingReport, PoolListing};
use crate::registry::Epoch;
use crate::store::Store;
use crate::table::{TableError, TableWriter, Written};

mod write;

/// So many times `settle_s` a node that is there is waited for, but has not said what it holds.
const SETTLE_MOST: u32 = 4;
/// Between two looks whether it has.
const SETTLE_AGAIN: Duration = Duration::from_secs(1);

/// How the lead goes about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CycleSettings {
    /// Time between the starts of two listings of the deep store, in seconds.
    pub period_s: u64,
    /// How long a lead that finds the registry empty waits for the nodes to say what they hold, in seconds; four times
    /// as long for one that is there and has not said it.
    pub settle_s: u64,
    /// The share of the pool that may vanish in one listing before removals wait for
    /// `trough sync accept-removals`; 20 segments may always.
    pub max_removed_ratio: f64,
    /// How often the lead looks whether the tables are still what it wrote, in seconds, and mends them.
    pub doubt_s: u64,
}

impl Default for CycleSettings {
    fn default() -> Self {
        Self { period_s: 30, settle_s: 30, max_removed_ratio: 0.1, doubt_s: 60 }
    }
}

/// The outside world of a lead.
#[derive(Clone)]
pub struct LeadOutside {
    /// The registry.
    pub kv: Arc<dyn Kv>,
    /// The deep store.
    pub store: Arc<dyn Store>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for LeadOutside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeadOutside").field("kv", &self.kv.address()).finish_non_exhaustive()
    }
}

/// Why a cycle came to nothing. What was written before still holds.
#[derive(Debug, thiserror::Error)]
pub enum CycleError {
    /// The registry failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A table could not be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// What is there cannot be planned for.
    #[error(transparent)]
    World(#[from] WorldError),
    /// The planner stopped without an answer, which is a defect.
    #[error("plan the assignment: {0}; please report it")]
    Planner(String),
}

/// What one cycle did, for people.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CycleReport {
    /// When it began, milliseconds since 1970.
    pub begun_at_ms: u64,
    /// How long looking at orders and nodes took, in milliseconds.
    pub look_ms: u64,
    /// How long listing the deep store took, in milliseconds; `None` when it was not listed.
    pub list_ms: Option<u64>,
    /// How long planning took, in milliseconds.
    pub plan_ms: u64,
    /// How long writing took, in milliseconds.
    pub write_ms: u64,
    /// What was written.
    pub written: Written,
    /// What the listing passed over or could not see.
    pub listing: Option<ListingReport>,
    /// Removals that wait for a person.
    pub held_back: Option<HeldBack>,
    /// Why nothing was planned: the orders, an empty registry, or the planner's refusal.
    pub unplanned: Option<String>,
    /// What the plan says of the whole.
    pub figures: Option<Figures>,
    /// Pulls that it began.
    pub moves: u64,
    /// Lines that it took away.
    pub retired: u64,
    /// Every node, in order of name.
    pub nodes: Vec<NodeReport>,
}

/// One that leads.
#[derive(Debug)]
pub struct Lead {
    outside: LeadOutside,
    settings: CycleSettings,
    rules: Arc<Rules>,
    fence: Op,
    epoch: Epoch,
    view: View,
    table: TableWriter<PoolRow>,
    /// What the table said when the term began, in order of id: for nodes whose holdings cannot be read yet.
    earlier: Vec<PoolRow>,
    /// Before this the registry, which was empty, is not written to.
    settled_at: Option<Instant>,
    /// Nor before this, while a node that is there has not said what it holds.
    settled_latest: Instant,
    /// Nodes that were there before the registry was lost, as far as this process knows.
    remembered: BTreeSet<NodeName>,
    doubted_at: Instant,
}

impl Lead {
    /// Takes up where the lead before left off. `remembered` are nodes that were there in an earlier term of this
    /// process: a registry that was empty is not written to before they had their time.
    pub async fn begin(
        outside: LeadOutside,
        settings: CycleSettings,
        rules: Arc<Rules>,
        remembered: BTreeSet<NodeName>,
        term: &Term,
    ) -> Result<Self, CycleError> {
        let mut table = TableWriter::<PoolRow>::new(pool_table()?);
        let earlier = match table.load(&*outside.kv).await {
            Ok(table) => table.map(|(_, rows)| rows),
            Err(error @ TableError::Undecodable { .. }) => {
                tracing::warn!(%error, "the pool table cannot be read; the nodes say what there was");
                None
            }
            Err(error) => return Err(error.into()),
        };
        let now = Instant::now();
        let settle = Duration::from_secs(settings.settle_s);
        let settled_at = earlier.is_none().then(|| now + settle);
        let mut earlier = earlier.unwrap_or_default();
        earlier.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Ok(Self {
            view: View::new(&earlier),
            fence: term.fence()?,
            epoch: term.epoch(),
            table,
            earlier,
            settled_at,
            remembered,
            settled_latest: now + settle * SETTLE_MOST,
            doubted_at: now,
            outside,
            settings,
            rules,
        })
    }

    /// When the registry, which was empty, is written to; `None` when that needs no waiting any more.
    pub fn settled_at(&self) -> Option<Instant> {
        self.settled_at
    }

    /// Goes once around; `list` says whether to list the deep store, too.
    pub async fn cycle(&mut self, list: bool) -> Result<CycleReport, CycleError> {
        let begun_at_ms = self.outside.clock.now_ms();
        let mut report = CycleReport { begun_at_ms, ..CycleReport::default() };
        let begun = Instant::now();
        self.view.look(&*self.outside.kv, begun_at_ms).await?;
        report.look_ms = ms(begun.elapsed());
        if !self.settle() {
            report.unplanned = Some(
                "the registry was empty; waiting for the nodes to say what they hold".to_owned(),
            );
            return Ok(report);
        }
        if list && !self.view.orders.paused {
            let begun = Instant::now();
            let listing = pool::list(&*self.outside.store).await;
            report.list_ms = Some(ms(begun.elapsed()));
            report.listing = Some(listing.report.clone());
            self.take_listing(listing).await?;
        }
        report.held_back = self.view.held_back.clone();

        let begun = Instant::now();
        let (world, planned) = self.view.plan(begun_at_ms, &self.rules).await?;
        report.plan_ms = ms(begun.elapsed());
        let planned = match planned {
            Ok(plan) => Some(plan),
            Err(reason) => {
                report.unplanned = Some(reason);
                None
            }
        };
        if let Some(plan) = &planned {
            report.figures = Some(plan.figures);
            (report.moves, report.retired) = (plan.moves.len() as u64, plan.retire.len() as u64);
        }

        let begun = Instant::now();
        report.written = self.write(&world, planned.as_ref()).await?;
        self.forget_decommissioned().await?;
        self.forget_deleted(begun_at_ms).await?;
        report.nodes = self.view.nodes.report(&self.view.orders.decommission);
        report.write_ms = ms(begun.elapsed());
        Ok(report)
    }

    /// Whether the registry may be written to. One that was empty says nothing of what there was, but the nodes do.
    fn settle(&mut self) -> bool {
        let Some(at) = self.settled_at else { return true };
        let now = Instant::now();
        if now < at {
            return false;
        }
        let said = |(name, known): (&NodeName, &Known)| {
            (known.registered() && known.held().is_some()).then(|| name.clone())
        };
        let said: BTreeSet<NodeName> = self.view.nodes.iter().filter_map(said).collect();
        let silent =
            self.view.nodes.iter().any(|(name, known)| known.registered() && !said.contains(name));
        if (silent || !self.remembered.is_subset(&said)) && now < self.settled_latest {
            self.settled_at = Some(now + SETTLE_AGAIN);
            return false;
        }
        self.settled_at = None;
        self.view.take_from_nodes();
        true
    }

    async fn take_listing(&mut self, listing: PoolListing) -> Result<(), KvError> {
        let accepted = self.view.orders.accept_removals
            && listing.report.complete()
            && self.take_back_accepted().await?;
        let waited = self.view.held_back.is_some();
        let removed = self.view.take_listing(listing, self.settings.max_removed_ratio, accepted);
        if accepted {
            tracing::info!(segments = removed, "removals that a person accepted");
        }
        if let (false, Some(held_back)) = (waited, &self.view.held_back) {
            tracing::warn!(reason = %held_back.reason, "removals wait");
        }
        Ok(())
    }

    /// Takes back that removals are accepted, before they are carried out: what vanishes later, no person has seen.
    /// `false` when others gave orders at this moment, and it must be read anew.
    async fn take_back_accepted(&mut self) -> Result<bool, KvError> {
        let mut orders = self.view.orders.clone();
        orders.accept_removals = false;
        let (kv, fence) = (&*self.outside.kv, Some(&self.fence));
        orders.write(kv, self.view.orders_at, fence).await
    }
}

pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
