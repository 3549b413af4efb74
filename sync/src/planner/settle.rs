//! What changes without moving anything: which copies stay, which are one too many, which may drain now; and
//! what is missing after that.
//!
//! Invariant (S13, make before break): a copy begins to drain only when enough other copies were told to be held
//! before this plan and are reported held, in the version that the pool has, by nodes that answer.

use std::cmp::Reverse;

use fsd::segment::SegmentId;

use super::board::{Board, NO_RULE, PROVEN, State, TOLD_WANTED};

/// A copy that is missing. The least is the most important: first copies of everything before any second copy,
/// then pinned, then the newest, then by id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Demand {
    /// 1 for the first copy.
    pub(super) copy: u16,
    unpinned: bool,
    mtime_ms: Reverse<u64>,
    id: SegmentId,
    pub(super) segment: usize,
}

impl Board<'_> {
    /// The order of the `copy`-th copy of a segment.
    pub(super) fn demand(&self, segment: usize, copy: u16) -> Demand {
        let of = &self.world.segments[segment];
        let pinned = |rule: usize| {
            let rule = &self.rules.rules()[rule];
            rule.pinned || !rule.nodes.is_empty()
        };
        let rule = self.rows[segment].rule;
        Demand {
            copy,
            unpinned: rule == NO_RULE || !pinned(usize::from(rule)),
            mtime_ms: Reverse(of.wanted.map_or(0, |stamp| stamp.mtime_ms)),
            id: of.id.clone(),
            segment,
        }
    }

    /// Sorts all copies into those that stay and those that go, and says what is missing.
    pub(super) fn settle(&mut self) -> Vec<Demand> {
        for segment in 0..self.rows.len() {
            self.sort_out(segment);
        }
        let mut missing = Vec::new();
        for segment in 0..self.rows.len() {
            let row = self.rows[segment];
            if row.target == 0 {
                continue;
            }
            for _ in u16::from(row.target)..row.staying {
                self.release_one(segment);
            }
            self.let_drain(segment);
            for copy in row.staying..u16::from(row.target) {
                missing.push(self.demand(segment, copy + 1));
            }
        }
        self.order_nodes();
        missing
    }

    fn sort_out(&mut self, segment: usize) {
        let wanted = self.world.segments[segment].wanted;
        let size = self.size(segment);
        for at in 0..self.copies(segment).len() {
            let copy = self.copies(segment)[at];
            let load = &mut self.loads[usize::from(copy.node)];
            if wanted.is_none() {
                self.mark(segment, at, State::Drain);
            } else if copy.state != State::Hold {
                // as it is
            } else if !load.counts {
                self.mark(segment, at, State::Away);
            } else if !copy.has(TOLD_WANTED) {
                self.mark(segment, at, State::Leave);
            } else {
                load.future += size;
                load.largest = load.largest.max(size);
                let row = &mut self.rows[segment];
                row.staying += 1;
                row.proven += u16::from(copy.has(PROVEN));
            }
        }
    }

    /// One copy too many: the one that is missed least goes.
    fn release_one(&mut self, segment: usize) {
        let copies = self.copies(segment);
        let preferred = self.preferred_nodes(segment);
        let cost = |at: usize| {
            let copy = &copies[at];
            let load = &self.loads[usize::from(copy.node)];
            let same_rack = copies.iter().enumerate().any(|(other, c)| {
                other != at
                    && c.state == State::Hold
                    && self.loads[usize::from(c.node)].rack == load.rack
            });
            // what is not held yet costs nothing to call off; then what the rules care least about
            (
                copy.has(PROVEN),
                preferred.contains(&copy.node),
                !same_rack,
                Reverse(load.ratio().to_bits()),
                copy.node,
            )
        };
        let staying = (0..copies.len()).filter(|&at| copies[at].state == State::Hold);
        if let Some(at) = staying.min_by_key(|&at| cost(at)) {
            self.release(segment, at, State::Leave);
        }
    }

    fn let_drain(&mut self, segment: usize) {
        let enough = self.rows[segment].proven >= self.enough(segment);
        if !enough {
            return;
        }
        for at in 0..self.copies(segment).len() {
            let copy = self.copies(segment)[at];
            match copy.state {
                State::Leave | State::Away => self.mark(segment, at, State::Drain),
                State::Stray if self.loads[usize::from(copy.node)].reachable => {
                    self.mark(segment, at, State::Drain);
                }
                State::Stray | State::Hold | State::Drain => {}
            }
        }
    }

    /// The nodes that the segment's rule prefers.
    pub(super) fn preferred_nodes(&self, segment: usize) -> &[u16] {
        let rule = self.rows[segment].rule;
        if rule == NO_RULE { &[] } else { &self.preferred[usize::from(rule)] }
    }
}
