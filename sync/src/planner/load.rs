//! One node's part of the working table: what it has, what it will have, and what it may be counted on for.
//!
//! Invariant: what a node's state means for the plan is said here and nowhere else.

use std::collections::HashMap;

use super::rules::Rules;
use super::world::{NodeState, NodeView, World};

/// One node.
#[derive(Debug)]
pub(super) struct Load {
    /// What its cache may take, in bytes.
    pub(super) quota: u64,
    /// What lies or may come to lie there, in bytes: held, loading and draining.
    pub(super) used: u64,
    /// What is to stay there and what room is promised, in bytes.
    pub(super) future: u64,
    /// `used` before the plan.
    pub(super) before: u64,
    /// The largest segment that stays there, in bytes.
    pub(super) largest: u64,
    /// Its rack as a number.
    pub(super) rack: u16,
    /// New copies may go there.
    pub(super) places: bool,
    /// Its copies count towards those asked for.
    pub(super) counts: bool,
    /// It answers now: what it reports can be relied on.
    pub(super) reachable: bool,
    /// Lines of what has drained may go. What a returning node holds is looked through first: it may have it back.
    pub(super) retires: bool,
}

impl Load {
    /// Stored/quota, as it will be.
    pub(super) fn ratio(&self) -> f64 {
        if self.quota == 0 { 0.0 } else { self.future as f64 / self.quota as f64 }
    }

    /// Bytes that may still be promised, whether or not something must drain first.
    pub(super) fn room_later(&self) -> u64 {
        self.quota.saturating_sub(self.future)
    }

    /// Bytes by which what is to stay is above the quota.
    pub(super) fn room_over(&self) -> u64 {
        self.future.saturating_sub(self.quota)
    }

    /// Bytes that may be loaded now.
    pub(super) fn room_now(&self) -> u64 {
        self.quota.saturating_sub(self.used.max(self.future))
    }
}

/// All nodes, with nothing on them yet.
pub(super) fn all(world: &World, rules: &Rules) -> Vec<Load> {
    let mut racks: HashMap<&str, u16> = HashMap::new();
    let named = world.nodes.len() as u16;
    let load = |(at, view): (usize, &NodeView)| {
        let (places, counts, reachable, retires) = match view.node.state {
            NodeState::Live => (true, true, true, true),
            NodeState::Returning => (false, true, true, false),
            NodeState::Decommissioning => (false, false, true, true),
            NodeState::Lost { since_ms } => {
                let lost_ms = world.now_ms.saturating_sub(since_ms);
                (false, lost_ms < rules.settings().lost_grace_ms, false, true)
            }
        };
        Load {
            quota: view.node.quota_bytes,
            used: 0,
            future: 0,
            before: 0,
            largest: 0,
            // a node without a rack is one of its own, numbered above all named ones
            rack: named + at as u16,
            places,
            counts,
            reachable,
            retires,
        }
    };
    let mut loads: Vec<_> = world.nodes.iter().enumerate().map(load).collect();
    for (load, view) in loads.iter_mut().zip(&world.nodes) {
        if let Some(rack) = view.node.rack.as_deref() {
            let next = racks.len() as u16;
            load.rack = *racks.entry(rack).or_insert(next);
        }
    }
    loads
}
