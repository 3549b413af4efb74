//! The working table as a plan: every node's lines, what may be dropped, and the figures.
//!
//! Invariant: a draining copy's line is gone only after the drain grace, and not while a copy that was to take
//! its place is still being loaded.

use std::collections::HashMap;

use super::board::{Board, Copy, State, WAS_DRAIN};
use super::outcome::{NodeAssignment, NodeFigures, Plan, Retire, Unplaced, Why};
use super::world::{CopyState, Entry, NodeKey, NodeState};

impl Board<'_> {
    /// What is to become of copies that gave way for a smaller quota and found no other place.
    pub(super) fn give_up(&mut self) {
        for left in 0..self.unplaced.len() {
            let Unplaced { segment, why, .. } = self.unplaced[left];
            match why {
                Why::NoRoom | Why::TooLarge | Why::TooFewNodes => {}
                Why::RoomDrains | Why::Cap | Why::Later => continue,
            }
            let segment = segment.0 as usize;
            for at in 0..self.copies(segment).len() {
                let copy = self.copies(segment)[at];
                let load = &self.loads[usize::from(copy.node)];
                if copy.state == State::Leave && load.places && load.used > load.quota {
                    self.mark(segment, at, State::Drain);
                }
            }
        }
    }

    /// The plan.
    pub(super) fn write(mut self) -> Plan {
        let mut assign: Vec<_> = (0..self.loads.len())
            .map(|node| NodeAssignment {
                node: NodeKey(node as u16),
                changed: false,
                entries: Vec::with_capacity(self.world.nodes[node].entries.len()),
            })
            .collect();
        let mut retire = Vec::new();
        for segment in 0..self.rows.len() {
            let row = self.rows[segment];
            let may_retire = row.proven >= row.staying.min(u16::from(row.target));
            for copy in self.copies(segment) {
                let Some(version) = self.version(segment, copy) else { continue };
                let key = Self::key(segment);
                let node = NodeKey(copy.node);
                match self.line(copy) {
                    Some(CopyState::Drain { since_ms })
                        if may_retire && self.is_over(copy, since_ms) =>
                    {
                        retire.push(Retire { node, segment: key, version });
                    }
                    Some(state) => {
                        let entry = Entry { segment: key, version, state };
                        assign[usize::from(copy.node)].entries.push(entry);
                    }
                    None => {}
                }
            }
        }
        for (new, view) in assign.iter_mut().zip(&self.world.nodes) {
            new.changed = new.entries != view.entries;
        }
        self.sum_up();
        let moves = std::mem::take(&mut self.moves);
        Plan {
            assign,
            retire,
            bytes: moves.iter().map(|one| one.bytes).sum(),
            nodes: self.node_figures(&moves),
            moves,
            unplaced: std::mem::take(&mut self.unplaced),
            figures: self.figures,
        }
    }

    fn is_over(&self, copy: &Copy, since_ms: u64) -> bool {
        let grace_ms = self.rules.settings().drain_grace_ms;
        copy.has(WAS_DRAIN)
            && self.loads[usize::from(copy.node)].retires
            && self.world.now_ms >= since_ms.saturating_add(grace_ms)
    }

    /// What the node is told of a copy.
    fn line(&self, copy: &Copy) -> Option<CopyState> {
        match copy.state {
            State::Hold | State::Away => Some(CopyState::Hold),
            State::Leave => Some(CopyState::Leave),
            State::Drain => Some(CopyState::Drain { since_ms: self.drains_since(copy) }),
            // what an absent node said last may be long gone
            State::Stray if !self.loads[usize::from(copy.node)].reachable => None,
            State::Stray => Some(CopyState::Leave),
        }
    }

    fn sum_up(&mut self) {
        let world = self.world;
        let registered = |view: &&super::world::NodeView| match view.node.state {
            NodeState::Live | NodeState::Returning | NodeState::Decommissioning => true,
            NodeState::Lost { .. } => false,
        };
        let figures = &mut self.figures;
        figures.segments = world.in_pool as u64;
        figures.registered_quota_bytes =
            world.nodes.iter().filter(registered).map(|view| view.node.quota_bytes).sum();
        for row in &self.rows {
            figures.copies_wanted += u64::from(row.target);
            figures.copies_missing += u64::from(u16::from(row.target).saturating_sub(row.proven));
        }
        figures.copies_unplaced = self.unplaced.iter().map(|left| u64::from(left.copies)).sum();
        let average = self.average();
        let places = self.loads.iter().filter(|load| load.places);
        let most = places.map(super::load::Load::ratio).fold(0.0, f64::max);
        self.figures.max_over_average = if average > 0.0 { most / average } else { 0.0 };
    }

    fn node_figures(&self, moves: &[super::outcome::Move]) -> Vec<NodeFigures> {
        let mut pull: HashMap<NodeKey, u64> = HashMap::new();
        let mut leave: HashMap<NodeKey, u64> = HashMap::new();
        for one in moves {
            *pull.entry(one.to).or_default() += one.bytes;
            if let Some(from) = one.from {
                *leave.entry(from).or_default() += one.bytes;
            }
        }
        let figures = |(at, load): (usize, &super::load::Load)| {
            let node = NodeKey(at as u16);
            NodeFigures {
                node,
                used_bytes: load.before,
                future_bytes: load.future,
                pull_bytes: pull.get(&node).copied().unwrap_or(0),
                leave_bytes: leave.get(&node).copied().unwrap_or(0),
            }
        };
        self.loads.iter().enumerate().map(figures).collect()
    }
}
