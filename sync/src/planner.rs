//! What every node should hold: a pure function of the pool, the nodes, what they were told and what they hold.
//!
//! Invariants:
//! - Make before break: a copy begins to drain only when enough others were told to be held and are reported
//!   held in the wanted version, and its line is dropped only after the drain grace. Only shortage, where
//!   something of higher order has no place, takes a copy away without another in its place.
//! - Nothing is told to load where what is held, loading and draining would go above the node's quota.
//! - An unchanged world gives an empty plan once its moves are done; two leads with the same view, the same plan.
//! - The work grows with segments times the logarithm of nodes.
//!
//! The scheme is the least stored/quota ratio, made sticky: copies stay where they are while every ratio is
//! within a dead band of the average, and copies that drain but still lie there are held again before others are
//! pulled. Weighted rendezvous hashing chooses among nearly equal nodes.
//!
//! Left out: looking and acting. The lead tells the [`World`], writes the plan's lines into the registry, and
//! keeps the figure of registered capacity that the next sudden drop is measured against. Whether a listing of
//! the pool may remove anything is decided before ([`crate::pool::guard`]).

mod balance;
mod board;
mod hash;
mod load;
mod outcome;
mod place;
mod rules;
mod settle;
mod shortage;
mod world;
mod write;

pub use outcome::{
    Figures, Move, MoveReason, NodeAssignment, NodeFigures, Plan, Retire, Summary, Unplaced, Why,
};
pub use rules::{COPIES_MAX, PlanSettings, RULES_MAX, Rule, Rules, RulesError};
pub use world::{
    CopyState, Entry, NODES_MAX, Node, NodeKey, NodeState, SegmentKey, World, WorldBuilder,
    WorldError,
};

use board::Board;

/// Why nothing is planned. What was assigned stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanRefusal {
    /// Nowhere to put anything.
    #[error(
        "plan the assignment: none of {0} known nodes is live; start a node or wait for one to return"
    )]
    NoLiveNode(usize),
    /// Much of the cluster vanished at once: the registry may be new, or a network is cut.
    #[error(
        "plan the assignment: {registered_bytes} bytes of quota are registered where {expected_bytes} are \
         expected; bring the nodes back, or accept the smaller cluster with `trough sync accept-quota`"
    )]
    CapacityDropped {
        /// What was registered when all was well, or is by all known nodes together, in bytes.
        expected_bytes: u64,
        /// What is registered now, in bytes.
        registered_bytes: u64,
    },
}

/// Plans once. The same arguments give the same plan.
pub fn plan(world: &World, rules: &Rules) -> Result<Plan, PlanRefusal> {
    refuse(world, rules)?;
    let mut board = Board::new(world, rules);
    let mut missing = board.settle();
    board.shed(&mut missing);
    board.place_all(missing);
    board.give_up();
    board.spread();
    board.balance();
    Ok(board.write())
}

fn refuse(world: &World, rules: &Rules) -> Result<(), PlanRefusal> {
    let nodes = || world.nodes.iter().map(|view| &view.node);
    if !nodes().any(|node| node.state == NodeState::Live) {
        return Err(PlanRefusal::NoLiveNode(world.nodes.len()));
    }
    let registered = |node: &&Node| !matches!(node.state, NodeState::Lost { .. });
    let registered_bytes: u64 = nodes().filter(registered).map(|node| node.quota_bytes).sum();
    let known_bytes: u64 = nodes().map(|node| node.quota_bytes).sum();
    let expected_bytes = known_bytes.max(world.expected_quota_bytes);
    let settings = rules.settings();
    let least = expected_bytes as f64 * (1.0 - settings.capacity_drop_ratio_max);
    let accepted = settings.accepted_quota_bytes.is_some_and(|least| registered_bytes >= least);
    if (registered_bytes as f64) < least && !accepted {
        return Err(PlanRefusal::CapacityDropped { expected_bytes, registered_bytes });
    }
    Ok(())
}
