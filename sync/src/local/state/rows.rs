//! What follows from the state for others: the registry's rows, the counts, the problems.
//!
//! Invariant: a row is a function of the state, and every change of a row's state is marked, so that the counts
//! agree and the registry is told.

use fsd::segment::{SegmentId, Version};
use tokio::time::Instant;

use super::{Drain, State};
use crate::cluster::HoldsRow;
use crate::local::status::{Problem, SegmentCounts};
use crate::registry::{PoolRow, SegmentState};

impl State {
    /// Rows to tell the registry: what is there now, and what is gone. They count as told until
    /// [`Self::tell_failed`].
    pub fn take_dirty(&mut self, limit: usize) -> (Vec<PoolRow>, Vec<SegmentId>) {
        let ids: Vec<_> = self.dirty.iter().take(limit).cloned().collect();
        let (mut upsert, mut remove) = (Vec::new(), Vec::new());
        for id in ids {
            self.dirty.remove(&id);
            match self.row(&id) {
                Some(row) => upsert.push(row),
                None => remove.push(id),
            }
        }
        (upsert, remove)
    }

    /// The registry was told of `ids`: what is on its way out may go after the drain time.
    pub fn told<'a>(&mut self, ids: impl Iterator<Item = &'a SegmentId>, now: Instant) {
        for id in ids {
            if let Some(drain @ Drain::Unannounced) = self.draining.get_mut(id)
                && !self.dirty.contains(id)
            {
                *drain = Drain::Until(now + self.delays.drain);
            }
        }
    }

    /// The registry could not be told of `ids`.
    pub fn tell_failed(&mut self, ids: impl Iterator<Item = SegmentId>) {
        self.dirty.extend(ids);
    }

    /// Whether the registry has something to be told.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Segments by state.
    pub fn counts(&self) -> SegmentCounts {
        SegmentCounts {
            pool: self.pool.len() as u64,
            withdrawn: self.withdrawn.len() as u64,
            ..self.counts
        }
    }

    /// How many wait for a pull, for the mount, for their drain time.
    pub fn work(&self) -> (u64, u64, u64) {
        let queued = self.queue.len() + self.waiting.len();
        (queued as u64, self.unseen.len() as u64, self.draining.len() as u64)
    }

    /// Segments with a problem, at most `limit`, in order of id.
    pub fn problems(&self, limit: usize) -> Vec<Problem> {
        let mut ids: Vec<_> = self.attempts.keys().chain(self.no_place.keys()).collect();
        ids.sort();
        ids.dedup();
        let problem = |id: &SegmentId| {
            let row = self.row(id)?;
            let served = self.held.contains_key(id);
            Some(Problem { id: row.id, state: row.state, reason: row.reason?, served })
        };
        ids.into_iter().filter_map(problem).take(limit).collect()
    }

    /// Whether `id` is served here, in whatever version.
    pub fn holds(&self, id: &SegmentId) -> bool {
        self.shown(id).is_some()
    }

    /// The version that the mount was seen to show last. Where a newer one is published and not seen yet it shows that
    /// or this, and answers all the while (S9).
    pub(super) fn shown(&self, id: &SegmentId) -> Option<Version> {
        let held = self.held.get(id)?;
        match self.unseen.get(id) {
            None => Some(held.version),
            Some(unseen) => unseen.before,
        }
    }

    /// What the lead is told of `id`; `None` when others must not be sent here for it.
    pub fn served(&self, id: &SegmentId) -> Option<HoldsRow> {
        if self.draining.contains_key(id) {
            return None;
        }
        let Version { stamp, digest } = self.shown(id)?;
        Some(HoldsRow { id: id.clone(), version: stamp, tag: digest.into() })
    }

    /// The registry's row for `id`; `None` when it is not in the pool.
    pub(super) fn row(&self, id: &SegmentId) -> Option<PoolRow> {
        let entry = self.pool.get(id)?;
        let (state, reason) = self.judge(id);
        Some(PoolRow {
            id: id.clone(),
            path: entry.path.clone(),
            stamp: entry.stamp,
            state,
            digest: self.shown(id).map(|version| version.digest),
            reason,
        })
    }

    pub(super) fn judge(&self, id: &SegmentId) -> (SegmentState, Option<String>) {
        if let Some(reason) = self.no_place.get(id) {
            return (SegmentState::NoPlace, Some(reason.clone()));
        }
        let current = self.is_current(id);
        let newest = self.pool.get(id).map(|entry| entry.stamp);
        if let Some(attempt) = self.attempts.get(id)
            && Some(attempt.stamp) == newest
            && !current
        {
            let state = if attempt.refused { SegmentState::Refused } else { SegmentState::Pending };
            return (state, Some(attempt.reason.clone()));
        }
        match (current, self.unseen.contains_key(id)) {
            (true, false) => (SegmentState::Held, None),
            (true, true) => (
                SegmentState::Pending,
                Some("published; the mount does not show it yet".to_owned()),
            ),
            (false, _) => (SegmentState::Pending, None),
        }
    }

    /// Counts a segment under its state of now and has the registry told.
    pub(super) fn mark(&mut self, id: &SegmentId) {
        let state = self.pool.contains_key(id).then(|| self.judge(id).0);
        let before = match state {
            Some(state) => self.states.insert(id.clone(), state),
            None => self.states.remove(id),
        };
        if let Some(before) = before {
            *self.counts.of(before) -= 1;
        }
        if let Some(state) = state {
            *self.counts.of(state) += 1;
        }
        self.dirty.insert(id.clone());
    }
}
