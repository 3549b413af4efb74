//! What a lead would do with other rules, or with other nodes: a look, a plan, and figures for people.
//!
//! Invariant: nothing is written, and no term is needed, so it may be asked for anywhere and at any time. While the
//! cluster is paused the deep store is left alone here, too.
//!
//! It is planned as if there were no cap on what one cycle begins to move, and as if nodes that are not there were not
//! waited for any more: what there is to be done in all, however long the lead may take for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fsd::segment::SegmentId;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::cycle::{CycleError, LeadOutside, ms};
use super::orders::Orders;
use super::view::View;
use crate::cluster::{PoolRow, pool_table};
use crate::kv::Kv;
use crate::node::NodeName;
use crate::planner::{
    CopyState, Figures, MoveReason, NodeKey, NodeState, Plan, Rules, SegmentKey, Why, World,
};
use crate::pool::guard::HeldBack;
use crate::pool::{self, ListingReport};
use crate::table::{TableError, TableReader};

/// How many segments without a place are named; all are counted.
const UNPLACED_MAX: usize = 100;

/// What is to be taken for granted besides what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WhatIf {
    /// Nodes that a person wants empty.
    pub decommission: BTreeSet<NodeName>,
    /// Nodes that are gone for good.
    pub without: BTreeSet<NodeName>,
}

/// Why nothing can be foretold.
#[derive(Debug, thiserror::Error)]
pub enum DryRunError {
    /// Looking or planning failed.
    #[error(transparent)]
    Cycle(#[from] CycleError),
    /// Nobody is called so.
    #[error("no node is called {name}; there are {known}")]
    UnknownNode {
        /// As asked.
        name: NodeName,
        /// Those that are known.
        known: String,
    },
}

/// Pulls, or copies, summed up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveSum {
    /// How many segments.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl MoveSum {
    fn of(lengths: impl Iterator<Item = u64>) -> Self {
        let mut sum = Self::default();
        lengths.for_each(|bytes| sum.add(bytes));
        sum
    }

    fn add(&mut self, bytes: u64) {
        self.segments += 1;
        self.bytes += bytes;
    }
}

/// What becomes of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeForecast {
    /// Its name.
    pub name: String,
    /// As what it was planned for.
    pub state: NodeState,
    /// What its cache may take, in bytes.
    pub quota_bytes: u64,
    /// What it holds, as it says, or said last.
    pub before: MoveSum,
    /// What is to stay there.
    pub after: MoveSum,
    /// What it pulls.
    pub pull: MoveSum,
}

/// A segment of which copies have no place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnplacedForecast {
    /// Which.
    pub id: SegmentId,
    /// How many copies of it.
    pub copies: u16,
    /// Why.
    pub why: Why,
}

/// What a lead would do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// The orders that hold, with what was to be taken for granted.
    pub orders: Orders,
    /// How long listing the deep store took, in milliseconds; `None` when it was not listed.
    pub list_ms: Option<u64>,
    /// What the listing passed over or could not see.
    pub listing: Option<ListingReport>,
    /// Removals that would wait for a person.
    pub held_back: Option<HeldBack>,
    /// How long planning took, in milliseconds.
    pub plan_ms: u64,
    /// Why nothing would be planned.
    pub refused: Option<String>,
    /// Figures of the whole.
    pub figures: Figures,
    /// Everything that would be pulled.
    pub pulls: MoveSum,
    /// The same by reason.
    pub reasons: BTreeMap<MoveReason, MoveSum>,
    /// Every node, in order of name.
    pub nodes: Vec<NodeForecast>,
    /// How many segments have copies without a place.
    pub unplaced_segments: u64,
    /// The most important of them.
    pub unplaced: Vec<UnplacedForecast>,
}

/// Looks, and plans by `rules`; of `outside` nothing is changed. `max_removed_ratio` as the lead has it.
pub async fn dry_run(
    outside: &LeadOutside,
    max_removed_ratio: f64,
    rules: &Rules,
    what_if: WhatIf,
) -> Result<Forecast, DryRunError> {
    let kv = &*outside.kv;
    let now_ms = outside.clock.now_ms();
    // a lead goes by the orders of before where they cannot be read; here are none of before
    Orders::read(kv).await.map_err(CycleError::from)?;
    let table = pool_rows(kv).await?;
    let mut view = View::new(table.as_deref().unwrap_or_default());
    view.look(kv, now_ms).await?;
    check(&view, &what_if)?;
    if table.is_none() {
        view.take_from_nodes();
    }
    let mut forecast = Forecast::default();
    if !view.orders.paused {
        let begun = Instant::now();
        let listing = pool::list(&*outside.store).await;
        forecast.list_ms = Some(ms(begun.elapsed()));
        forecast.listing = Some(listing.report.clone());
        let accepted = view.orders.accept_removals && listing.report.complete();
        view.take_listing(listing, max_removed_ratio, accepted);
    }
    forecast.held_back = view.held_back.clone();
    view.orders.decommission.extend(what_if.decommission);
    forecast.orders = view.orders.clone();
    // what would be done as soon as it goes on
    view.orders.paused = false;
    view.nodes.give_up(&what_if.without);
    let begun = Instant::now();
    let (world, planned) = view.plan(now_ms, &Arc::new(rules.uncapped())).await?;
    forecast.plan_ms = ms(begun.elapsed());
    match planned {
        Ok(plan) => forecast.take(&view, &world, &plan),
        Err(refusal) => forecast.refused = Some(refusal),
    }
    Ok(forecast)
}

/// The pool table; one that cannot be read is none, as for a lead.
async fn pool_rows(kv: &dyn Kv) -> Result<Option<Vec<PoolRow>>, CycleError> {
    let mut reader = TableReader::<PoolRow>::new(pool_table()?, Duration::ZERO)?;
    match reader.look(kv).await {
        Ok(change) => Ok(change
            .map(|change| change.parts.into_iter().flat_map(|(_, rows)| rows).collect::<Vec<_>>())),
        Err(TableError::Undecodable { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn check(view: &View, what_if: &WhatIf) -> Result<(), DryRunError> {
    let known: BTreeSet<&NodeName> = view.nodes.iter().map(|(name, _)| name).collect();
    let mut asked = what_if.decommission.iter().chain(&what_if.without);
    match asked.find(|name| !known.contains(name)) {
        None => Ok(()),
        Some(name) => {
            let known: Vec<_> = known.into_iter().map(NodeName::as_str).collect();
            Err(DryRunError::UnknownNode { name: name.clone(), known: known.join(", ") })
        }
    }
}

impl Forecast {
    fn take(&mut self, view: &View, world: &World, plan: &Plan) {
        self.figures = plan.figures;
        let mut pulled: BTreeMap<NodeKey, MoveSum> = BTreeMap::new();
        for one in &plan.moves {
            self.pulls.add(one.bytes);
            self.reasons.entry(one.reason).or_default().add(one.bytes);
            pulled.entry(one.to).or_default().add(one.bytes);
        }
        let held = view.nodes.iter().map(|(name, known)| {
            let lengths = known.held().into_iter().flatten().map(|row| row.version.length);
            (name.as_str(), MoveSum::of(lengths))
        });
        let held: HashMap<&str, MoveSum> = held.collect();
        let unplaced: HashSet<SegmentKey> = plan.unplaced.iter().map(|one| one.segment).collect();
        let nodes = plan.assign.iter().map(|assigned| {
            let node = world.node(assigned.node);
            let stays = assigned.entries.iter().filter(|entry| {
                entry.state == CopyState::Hold
                    && match node.state {
                        NodeState::Live | NodeState::Returning => true,
                        // until others can have it
                        NodeState::Decommissioning => unplaced.contains(&entry.segment),
                        NodeState::Lost { .. } => false,
                    }
            });
            NodeForecast {
                name: node.name.clone(),
                state: node.state,
                quota_bytes: node.quota_bytes,
                before: held.get(node.name.as_str()).copied().unwrap_or_default(),
                after: MoveSum::of(stays.map(|entry| entry.version.length)),
                pull: pulled.get(&assigned.node).copied().unwrap_or_default(),
            }
        });
        self.nodes = nodes.collect();
        self.unplaced_segments = plan.unplaced.len() as u64;
        let unplaced = plan.unplaced.iter().take(UNPLACED_MAX).map(|left| UnplacedForecast {
            id: world.segment_id(left.segment).clone(),
            copies: left.copies,
            why: left.why,
        });
        self.unplaced = unplaced.collect();
    }
}
