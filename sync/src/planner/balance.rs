//! What moves although nothing is missing: towards the nodes and racks that the rules ask for, and from nodes
//! with more than their share to nodes with less.
//!
//! Invariants: nothing moves while every node's stored/quota is within the dead band of the average, and every
//! move for balance lowers the sum of stored²/quota, so moves come to an end. Only segments move whose copies
//! are all held; the old copy stays until the new one is held. A copy that still lies where it drains is held
//! again before another is pulled: a node that returns has its share of what it had.

use std::collections::BTreeSet;

use super::board::{Board, State};
use super::outcome::MoveReason;

/// How many receivers are looked at for one copy: the first nearly always takes it.
const RECEIVERS_MAX: usize = 4;

/// Which nodes a copy may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takers {
    /// Those that still hold it, draining: nothing is pulled.
    Holders,
    /// Any.
    All,
}

/// Which copies a pass may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Those that bring both nodes nearer to the average and neither past it: the least bytes.
    Fitting,
    /// Any that makes the nodes more alike: where only large segments are left.
    Improving,
}

impl Board<'_> {
    /// Moves copies to racks and nodes that the rules would rather have.
    pub(super) fn spread(&mut self) {
        let racks_differ = self.racks < usize::from(self.places);
        let preferring = self.preferred.iter().any(|nodes| !nodes.is_empty());
        if !racks_differ && !preferring {
            return;
        }
        for segment in 0..self.world.in_pool {
            if !self.at_rest(segment) {
                continue;
            }
            let found = self.towards_preferred(segment).or_else(|| self.towards_racks(segment));
            let Some((at, to)) = found else { continue };
            if !self.shift(segment, at, to, MoveReason::Spread) {
                return;
            }
        }
    }

    /// Whether all copies of a segment are where they are to stay.
    fn at_rest(&self, segment: usize) -> bool {
        let row = &self.rows[segment];
        row.target > 0
            && row.staying == u16::from(row.target)
            && row.proven == row.staying
            && self.can_add(segment)
            && self.copies(segment).iter().all(|copy| match copy.state {
                State::Hold | State::Drain => true,
                // an absent node's that nobody speaks of
                State::Stray => !self.loads[usize::from(copy.node)].reachable,
                State::Away | State::Leave => false,
            })
    }

    /// Moves a copy; `false` when the cap on moved bytes does not allow the pull.
    fn shift(&mut self, segment: usize, at: usize, to: u16, reason: MoveReason) -> bool {
        let from = self.copies(segment)[at].node;
        let spare = self.spare_at(segment, to);
        if spare.is_none() && !self.within_cap(self.size(segment)) {
            return false;
        }
        self.release(segment, at, State::Leave);
        match spare {
            Some(spare) => self.keep(segment, spare, 0),
            None => self.add(segment, to, Some(from), reason),
        }
        true
    }

    fn towards_preferred(&self, segment: usize) -> Option<(usize, u16)> {
        let preferred = self.preferred_nodes(segment);
        let to = preferred.iter().copied().find(|&node| self.fits(segment, node))?;
        let ratio = |at: &usize| {
            let node = self.copies(segment)[*at].node;
            (self.loads[usize::from(node)].ratio().to_bits(), node)
        };
        let staying = |at: &usize| {
            let copy = &self.copies(segment)[*at];
            copy.state == State::Hold && !preferred.contains(&copy.node)
        };
        let at = (0..self.copies(segment).len()).filter(staying).max_by_key(ratio)?;
        Some((at, to))
    }

    fn towards_racks(&self, segment: usize) -> Option<(usize, u16)> {
        let preferred = self.preferred_nodes(segment);
        let at = self.copies(segment).iter().position(|copy| {
            copy.state == State::Hold
                && !preferred.contains(&copy.node)
                && self.shares_rack(segment, copy.node, Some(copy.node))
        })?;
        let from = self.copies(segment)[at].node;
        let apart = |node: &u16| !self.shares_rack(segment, *node, Some(from));
        let spare = self.spares(segment).into_iter().find(apart);
        let to = spare.or_else(|| self.choose(segment, Some(from)).filter(apart))?;
        Some((at, to))
    }

    /// Moves copies until every node is within the dead band, as far as that can be done.
    pub(super) fn balance(&mut self) {
        let average = self.average();
        let low = average * (1.0 - self.rules.settings().dead_band);
        let out = |&(bits, node): &(u64, u16)| {
            let ratio = f64::from_bits(bits);
            ratio < low || ratio > self.high(average, node)
        };
        if !self.by_ratio.iter().any(out) {
            return;
        }
        let mut lists = vec![Vec::new(); self.loads.len()];
        let mut held_elsewhere = lists.clone();
        for segment in 0..self.world.in_pool {
            if !self.at_rest(segment) {
                continue;
            }
            let spare = self.copies(segment).iter().any(|copy| copy.state == State::Drain);
            for copy in self.copies(segment) {
                let load = &self.loads[usize::from(copy.node)];
                if copy.state == State::Hold && load.places && load.ratio() > average {
                    lists[usize::from(copy.node)].push(segment as u32);
                    if spare {
                        held_elsewhere[usize::from(copy.node)].push(segment as u32);
                    }
                }
            }
        }
        for (takers, lists) in [(Takers::Holders, held_elsewhere), (Takers::All, lists)] {
            let mut shifted = false;
            for pass in [Pass::Fitting, Pass::Improving] {
                shifted |= self.level(pass, takers, average, &lists);
            }
            // what drains from now on may be held again in the next cycle: that is used up before anything is pulled
            if shifted {
                return;
            }
        }
    }

    /// Above this stored/quota a node gives copies away: the dead band, or as much as its largest segment is, for
    /// whoever has that must have less of the rest and moves would go on for one segment's sake.
    fn high(&self, average: f64, node: u16) -> f64 {
        let load = &self.loads[usize::from(node)];
        let grain = load.largest as f64 / load.quota.max(1) as f64;
        average * (1.0 + f64::max(self.rules.settings().dead_band, grain))
    }

    /// Goes once through the lists of all nodes above the average, always at the fullest. Says whether anything moved.
    fn level(&mut self, pass: Pass, takers: Takers, average: f64, lists: &[Vec<u32>]) -> bool {
        let mut shifted = false;
        let low = average * (1.0 - self.rules.settings().dead_band);
        let mut cursors = vec![0_usize; lists.len()];
        let above = |&(bits, _): &(u64, u16)| f64::from_bits(bits) > average;
        let mut donors: BTreeSet<(u64, u16)> =
            self.by_ratio.iter().copied().filter(above).collect();
        while let Some((bits, donor)) = donors.pop_last() {
            let least = self.by_ratio.first().map_or(average, |&(bits, _)| f64::from_bits(bits));
            let over = f64::from_bits(bits) > self.high(average, donor);
            // a donor within its bound gives only to those below the band, and only what fits; but what is not pulled
            // costs nothing
            let free = takers == Takers::Holders;
            let gives = over || (free || pass == Pass::Fitting) && least < low;
            if f64::from_bits(bits) <= average || !gives {
                continue;
            }
            let bounds = Bounds { average, limit: if over || free { average } else { low } };
            let cursor = &mut cursors[usize::from(donor)];
            let Some(&segment) = lists[usize::from(donor)].get(*cursor) else { continue };
            *cursor += 1;
            let segment = segment as usize;
            // it may have moved from another of its nodes
            if self.at_rest(segment)
                && let Some((at, to)) = self.receiver(pass, takers, bounds, segment, donor)
            {
                if !self.shift(segment, at, to, MoveReason::Balance) {
                    return shifted;
                }
                shifted = true;
            }
            donors.insert((self.loads[usize::from(donor)].ratio().to_bits(), donor));
        }
        shifted
    }

    /// Where the copy of `segment` on `donor` may go.
    fn receiver(
        &self,
        pass: Pass,
        takers: Takers,
        bounds: Bounds,
        segment: usize,
        donor: u16,
    ) -> Option<(usize, u16)> {
        let size = self.size(segment) as f64;
        let from = &self.loads[usize::from(donor)];
        let surplus = from.future as f64 - bounds.average * from.quota as f64;
        if size == 0.0 || (pass == Pass::Fitting && size > surplus) {
            return None;
        }
        let preferred = self.preferred_nodes(segment);
        let takes = |node: u16| {
            let load = &self.loads[usize::from(node)];
            let quota = load.quota as f64;
            let helps = match pass {
                Pass::Fitting => size <= bounds.average * quota - load.future as f64,
                // the sum of stored²/quota falls just when this holds
                Pass::Improving => {
                    let after = 2.0 * load.ratio() + size / quota;
                    after < 2.0 * from.ratio() - size / from.quota as f64
                }
            };
            helps
                && self.fits(segment, node)
                && (!preferred.contains(&donor) || preferred.contains(&node))
                && (!self.shares_rack(segment, node, Some(donor))
                    || self.shares_rack(segment, donor, Some(donor)))
        };
        let to = match takers {
            Takers::Holders => {
                let below = |&node: &u16| self.loads[usize::from(node)].ratio() < bounds.limit;
                self.spares(segment).into_iter().filter(below).find(|&node| takes(node))?
            }
            Takers::All => {
                let below = |&&(bits, _): &&(u64, u16)| f64::from_bits(bits) < bounds.limit;
                let nodes = self.by_ratio.iter().take_while(below).take(RECEIVERS_MAX);
                nodes.map(|&(_, node)| node).find(|&node| takes(node))?
            }
        };
        let at = self.copies(segment).iter().position(|copy| copy.node == donor)?;
        Some((at, to))
    }
}

/// Stored/quota: the average, and below what a node may receive.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    average: f64,
    limit: f64,
}
