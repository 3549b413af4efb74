//! Where missing copies go: back to where they still lie, else to the node with the least stored/quota.
//!
//! Invariants: copies lie on distinct nodes, and on distinct racks where there is room; nodes whose ratios are
//! nearly equal are chosen among by weighted rendezvous hash, so the choice is spread and reproducible.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::board::{Board, Copy, HELD, HELD_WANTED, State, TOLD_WANTED};
use super::hash;
use super::load::Load;
use super::outcome::{MoveReason, Why};
use super::settle::Demand;
use super::shortage::Shortage;

/// How many nearly equal nodes the hash chooses among: enough to spread, few enough to be cheap.
const CANDIDATES_MAX: usize = 4;

/// Ratios within this share of the dead band are taken as equal: small against what is balanced away later.
const EQUAL_SHARE: f64 = 0.1;

/// With this share of the free room missing at most, all is taken to fit, however it is cut up.
const ROOMY_SHARE: f64 = 0.9;

/// Missing copies: by size where there is room for all, then the most important on top.
pub(super) type Demands = BinaryHeap<Reverse<(Reverse<u64>, Demand)>>;

impl Board<'_> {
    /// Places what is missing.
    pub(super) fn place_all(&mut self, missing: Vec<Demand>) {
        let sizes = || missing.iter().map(|demand| self.size(demand.segment));
        let places = || self.loads.iter().filter(|load| load.places);
        let room: u64 = places().map(Load::room_now).sum();
        let roomy = sizes().sum::<u64>() as f64 <= room as f64 * ROOMY_SHARE;
        // where all find room, importance does not matter, and the largest first leaves the least to balance
        let first = |demand: &Demand| if roomy { self.size(demand.segment) } else { 0 };
        let turn = |demand: Demand| Reverse((Reverse(first(&demand)), demand));
        let mut missing: Demands = missing.into_iter().map(turn).collect();
        let mut shortage = Shortage::new();
        while let Some(Reverse((_, demand))) = missing.pop() {
            if let Err(why) = self.place(&demand, &mut shortage, &mut missing) {
                self.report(demand.segment, why);
            }
        }
    }

    fn report(&mut self, segment: usize, why: Why) {
        if why == Why::Cap {
            self.figures.postponed_bytes += self.size(segment);
        }
        self.note_unplaced(segment, why);
    }

    fn place(
        &mut self,
        demand: &Demand,
        shortage: &mut Shortage,
        missing: &mut Demands,
    ) -> Result<(), Why> {
        let segment = demand.segment;
        if self.take_back(segment) {
            return Ok(());
        }
        let live = |copy: &&Copy| self.loads[usize::from(copy.node)].places;
        if self.copies(segment).iter().filter(live).count() >= usize::from(self.places) {
            return Err(Why::TooFewNodes);
        }
        let size = self.size(segment);
        let (reason, from) = self.reason(segment);
        if reason.capped() && !self.within_cap(size) {
            return Err(Why::Cap);
        }
        if !self.can_add(segment) {
            return Err(Why::Later);
        }
        let found = if size > shortage.room_now_max { None } else { self.choose(segment, None) };
        if let Some(node) = found {
            self.add(segment, node, from, reason);
            return Ok(());
        }
        Err(shortage.make_room(self, demand, missing))
    }

    /// Keeps a copy that was to go, or lies there unasked, when the segment lacks one. Moves nothing but a
    /// newer version over an older one.
    fn take_back(&mut self, segment: usize) -> bool {
        let size = self.size(segment);
        let preferred = self.preferred_nodes(segment);
        let usable = |at: &usize| {
            let copy = &self.copies(segment)[*at];
            let load = &self.loads[usize::from(copy.node)];
            let extra = self.extra(segment, copy);
            matches!(copy.state, State::Leave | State::Drain | State::Stray)
                && load.counts
                && load.reachable
                && (extra == 0 || load.used + extra <= load.quota)
                && size <= load.room_later()
        };
        let cost = |at: &usize| {
            let copy = &self.copies(segment)[*at];
            let ratio = self.loads[usize::from(copy.node)].ratio().to_bits();
            (self.pulls(copy), !preferred.contains(&copy.node), ratio, copy.node)
        };
        let Some(at) = (0..self.copies(segment).len()).filter(usable).min_by_key(cost) else {
            return false;
        };
        let copy = self.copies(segment)[at];
        let extra = self.extra(segment, &copy);
        self.keep(segment, at, extra);
        if self.pulls(&copy) {
            self.note_move(segment, copy.node, None, MoveReason::Update);
        }
        true
    }

    /// Whether keeping `copy` means a pull that nobody asked for yet.
    fn pulls(&self, copy: &Copy) -> bool {
        let loading = copy.has(TOLD_WANTED) && copy.state == State::Leave;
        !copy.has(HELD_WANTED) && !loading
    }

    /// Bytes of disk that keeping `copy` takes beyond what is counted.
    fn extra(&self, segment: usize, copy: &Copy) -> u64 {
        let size = self.size(segment);
        if copy.has(HELD_WANTED) || copy.has(TOLD_WANTED) {
            return 0;
        }
        if copy.has(HELD) || !Self::was_told(copy) {
            return size;
        }
        // an older version was to be loaded there and will not be
        let old = self.version(segment, copy).map_or(0, |stamp| stamp.length);
        size.saturating_sub(old)
    }

    /// Why a copy is pulled, and which node it replaces if one is to be emptied.
    fn reason(&self, segment: usize) -> (MoveReason, Option<u16>) {
        if !self.rows[segment].copied {
            return (MoveReason::New, None);
        }
        let leaves = |copy: &&Copy| {
            copy.state == State::Away && self.loads[usize::from(copy.node)].reachable
        };
        match self.copies(segment).iter().find(leaves) {
            Some(copy) => (MoveReason::Decommission, Some(copy.node)),
            None => (MoveReason::Repair, None),
        }
    }

    /// The best node with room for another copy; with `replacing`, for one that takes that copy's place.
    pub(super) fn choose(&self, segment: usize, replacing: Option<u16>) -> Option<u16> {
        let fits = |node: u16| self.fits(segment, node);
        let preferred = self.preferred_nodes(segment).iter().copied().find(|&node| fits(node));
        if preferred.is_some() {
            return preferred;
        }
        if let Some(node) =
            self.least(segment, |node| fits(node) && !self.shares_rack(segment, node, replacing))
        {
            return Some(node);
        }
        // the same rack is better than no copy, but no reason to move one
        if replacing.is_some() { None } else { self.least(segment, fits) }
    }

    /// Of the nodes that `fits`, the one with the least ratio; among nearly equal ones the hash chooses.
    fn least(&self, segment: usize, fits: impl Fn(u16) -> bool) -> Option<u16> {
        let near = self.rules.settings().dead_band * EQUAL_SHARE;
        let hash = self.world.segments[segment].hash;
        let mut best: Option<(f64, u16)> = None;
        let (mut seen, mut limit) = (0, f64::INFINITY);
        for &(bits, node) in &self.by_ratio {
            let ratio = f64::from_bits(bits);
            if ratio > limit || seen == CANDIDATES_MAX {
                break;
            }
            if !fits(node) {
                continue;
            }
            if seen == 0 {
                limit = ratio * (1.0 + near);
            }
            seen += 1;
            let view = &self.world.nodes[usize::from(node)];
            let score = hash::score(hash, view.hash, view.node.quota_bytes);
            if best.is_none_or(|(highest, _)| score > highest) {
                best = Some((score, node));
            }
        }
        best.map(|(_, node)| node)
    }

    /// Whether `node` can take another copy of the segment: has it yet, or has room to pull it.
    pub(super) fn fits(&self, segment: usize, node: u16) -> bool {
        let load = &self.loads[usize::from(node)];
        let pulls = || load.room_now() >= self.size(segment) && !self.has_copy(segment, node);
        load.places && (self.spare_at(segment, node).is_some() || pulls())
    }

    /// Which copy of the segment on `node` drains, and can be held again without a pull.
    pub(super) fn spare_at(&self, segment: usize, node: u16) -> Option<usize> {
        let load = &self.loads[usize::from(node)];
        let spare =
            |copy: &Copy| copy.node == node && copy.state == State::Drain && copy.has(HELD_WANTED);
        let room = load.places && load.room_later() >= self.size(segment);
        if room { self.copies(segment).iter().position(spare) } else { None }
    }

    /// The nodes that have such a copy, the least stored/quota first.
    pub(super) fn spares(&self, segment: usize) -> Vec<u16> {
        let nodes = self.copies(segment).iter().map(|copy| copy.node);
        let mut nodes: Vec<_> =
            nodes.filter(|&node| self.spare_at(segment, node).is_some()).collect();
        nodes.sort_by_key(|&node| (self.loads[usize::from(node)].ratio().to_bits(), node));
        nodes
    }

    /// Whether the segment lies, or is to lie, on `node` in any version.
    pub(super) fn has_copy(&self, segment: usize, node: u16) -> bool {
        self.copies(segment).iter().any(|copy| copy.node == node)
    }

    /// Whether a copy that stays, other than the one `replacing` names, is in the rack of `node`.
    pub(super) fn shares_rack(&self, segment: usize, node: u16, replacing: Option<u16>) -> bool {
        let rack = self.loads[usize::from(node)].rack;
        self.copies(segment).iter().any(|copy| {
            copy.state == State::Hold
                && Some(copy.node) != replacing
                && self.loads[usize::from(copy.node)].rack == rack
        })
    }
}
