//! What the local synchronizer knows and what follows from it: a state machine without I/O.
//!
//! Invariants: a segment's row is a function of this state; a segment is pulled only while it is wanted, its
//! version is not here, and its back-off has passed; nothing is unpublished before the registry was told so
//! and the drain time has passed, but for what was deleted.
//!
//! Left out: doing it ([`super::actor`]).

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use fsd::cache::Holding;
use fsd::segment::{Digest, SegmentId, Stamp, Version};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::status::SegmentCounts;
use crate::membership::Told;
use crate::planner::CopyState;
use crate::pool::guard::PoolDelta;
use crate::pool::{Pool, PoolEntry, PoolListing};
use crate::quota::Assignment;
use crate::registry::{PoolRow, SegmentState};
use crate::tomb::Tombs;

mod rows;

/// A version that did not come, and when it may be tried again.
#[derive(Debug)]
struct Attempt {
    stamp: Stamp,
    backoff: Backoff,
    refused: bool,
    reason: String,
    not_before: Instant,
}

/// A version that is published; the mount shows it, or still the one before.
#[derive(Debug)]
struct Unseen {
    digest: Digest,
    /// What the mount was seen to show before.
    before: Option<Version>,
}

/// How far a segment is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drain {
    /// The registry does not say so yet.
    Unannounced,
    /// Readers know; it may go then.
    Until(Instant),
}

/// What leaves the cache now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// It left the pool: the name goes, the bytes stay for a while.
    Unpublish(SegmentId),
    /// It has no place, or its grace has passed: everything goes.
    Remove(SegmentId),
}

/// The delays of one synchronizer.
#[derive(Debug, Clone, Copy)]
pub struct Delays {
    /// Between telling the registry and unpublishing.
    pub drain: Duration,
    /// First and longest wait after a pull that failed on the way.
    pub failed: (Duration, Duration),
    /// First and longest wait after a version that was refused.
    pub refused: (Duration, Duration),
}

/// The knowledge of one local synchronizer.
#[derive(Debug)]
pub struct State {
    delays: Delays,
    quota_bytes: u64,
    pool: Pool,
    /// Published in the cache.
    held: HashMap<SegmentId, Holding>,
    /// Published, but not yet seen through the mount.
    unseen: HashMap<SegmentId, Unseen>,
    /// In the cache, unpublished: left the pool and may come back.
    withdrawn: HashMap<SegmentId, Holding>,
    wanted: HashSet<SegmentId>,
    no_place: HashMap<SegmentId, String>,
    attempts: HashMap<SegmentId, Attempt>,
    /// To pull now, the most important first.
    queue: VecDeque<SegmentId>,
    /// To pull later.
    waiting: BTreeSet<(Instant, SegmentId)>,
    in_flight: HashSet<SegmentId>,
    draining: HashMap<SegmentId, Drain>,
    /// A removal of these is under way: until it ends they are not pulled again.
    leaving: HashSet<SegmentId>,
    /// What the registry was last told, or is being told.
    states: HashMap<SegmentId, SegmentState>,
    counts: SegmentCounts,
    /// Rows that the registry must be told.
    dirty: HashSet<SegmentId>,
}

impl State {
    /// Starts from what the registry and the cache say of earlier days.
    pub fn new(
        delays: Delays,
        quota_bytes: u64,
        rows: Vec<PoolRow>,
        holdings: Vec<Holding>,
    ) -> Self {
        let mut state = Self {
            delays,
            quota_bytes,
            pool: Pool::new(),
            held: HashMap::new(),
            unseen: HashMap::new(),
            withdrawn: HashMap::new(),
            wanted: HashSet::new(),
            no_place: HashMap::new(),
            attempts: HashMap::new(),
            queue: VecDeque::new(),
            waiting: BTreeSet::new(),
            in_flight: HashSet::new(),
            draining: HashMap::new(),
            leaving: HashSet::new(),
            states: HashMap::new(),
            counts: SegmentCounts::default(),
            dirty: HashSet::new(),
        };
        for holding in holdings {
            let place = if holding.published { &mut state.held } else { &mut state.withdrawn };
            place.insert(holding.id.clone(), holding);
        }
        for PoolRow { id, path, stamp, .. } in &rows {
            state.pool.insert(id.clone(), PoolEntry { path: path.clone(), stamp: *stamp });
        }
        // a registry that lost its rows does not make this node forget what its ledger proves
        for (id, holding) in &state.held {
            if let Ok(path) = crate::store::StorePath::new(&holding.source) {
                let entry = PoolEntry { path, stamp: holding.version.stamp };
                state.pool.entry(id.clone()).or_insert(entry);
            }
        }
        for row in rows {
            if state.row(&row.id).as_ref() == Some(&row) {
                *state.counts.of(row.state) += 1;
                state.states.insert(row.id, row.state);
            } else {
                // the process before died before it told, or the ledger proves something else by now
                state.mark(&row.id);
            }
        }
        let unknown: Vec<_> =
            state.pool.keys().filter(|id| !state.states.contains_key(*id)).cloned().collect();
        for id in unknown {
            state.mark(&id);
        }
        state
    }

    /// The pool known so far.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Takes what a listing changed, and decides anew what to hold.
    pub fn take_listing(
        &mut self,
        delta: PoolDelta,
        mut listing: PoolListing,
        assignment: &dyn Assignment,
    ) {
        for id in &delta.changed {
            if let Some(entry) = listing.pool.remove(id) {
                self.pool.insert(id.clone(), entry);
            }
            self.draining.remove(id);
        }
        for id in &delta.removed {
            self.pool.remove(id);
            self.attempts.remove(id);
            if self.held.contains_key(id) {
                self.draining.insert(id.clone(), Drain::Unannounced);
            }
        }
        self.assign(assignment);
        for id in delta.changed.iter().chain(&delta.removed) {
            self.mark(id);
        }
    }

    /// Takes what the lead says that is new, and decides anew what to hold.
    pub fn take_told(&mut self, told: &Told, assignment: &dyn Assignment) {
        for line in &told.lines {
            if let CopyState::Drain { .. } = line.state {
                continue;
            }
            let entry = PoolEntry { path: line.path(), stamp: line.version };
            // what was pulled may be newer already than what the lead has listed
            let newer = self.held.get(&line.id).is_some_and(|holding| {
                holding.source == entry.path.as_str()
                    && holding.version.stamp.mtime_ms > entry.stamp.mtime_ms
            });
            if !newer {
                self.pool.insert(line.id.clone(), entry);
            }
            self.mark(&line.id);
        }
        let dropped = told.dropped.iter().map(|(id, version)| (id, Some(*version)));
        for (id, drained) in dropped.chain(told.kept.iter().map(|id| (id, None))) {
            match self.held.get(id).map(|holding| holding.version.stamp) {
                Some(held) if Some(held) == drained => {
                    self.draining.insert(id.clone(), Drain::Unannounced);
                }
                // another version than the one that drained: nobody said that it may go
                Some(_) => continue,
                None => {}
            }
            self.pool.remove(id);
            self.attempts.remove(id);
            self.mark(id);
        }
        self.assign(assignment);
    }

    /// Takes out of the pool what `tombs` name, and says how much that was. A copy of it goes at once, whatever version
    /// it is of: who still asks for it is to hear that there is none.
    pub fn bury(&mut self, tombs: &Tombs, assignment: &dyn Assignment, now: Instant) -> usize {
        let named =
            |id: &&SegmentId| self.pool.get(*id).is_some_and(|at| tombs.names(id, at.stamp));
        let deleted: Vec<SegmentId> = tombs.ids().filter(named).cloned().collect();
        if deleted.is_empty() {
            return 0;
        }
        for id in &deleted {
            self.pool.remove(id);
            self.attempts.remove(id);
            if self.held.contains_key(id) {
                self.draining.insert(id.clone(), Drain::Until(now));
            }
        }
        self.assign(assignment);
        for id in &deleted {
            self.mark(id);
        }
        deleted.len()
    }

    /// What may be held in all, in bytes; the next decision goes by it.
    pub fn set_quota(&mut self, quota_bytes: u64) {
        self.quota_bytes = quota_bytes;
    }

    /// Decides anew what to hold, and queues what is missing.
    pub fn assign(&mut self, assignment: &dyn Assignment) {
        let held = self.held.iter().map(|(id, h)| (id.clone(), h.version.stamp)).collect();
        let wanted = assignment.wanted(&self.pool, &held, self.quota_bytes);
        let before = std::mem::replace(&mut self.no_place, wanted.no_place);
        let mut moved: Vec<_> = before
            .keys()
            .filter(|id| !self.no_place.contains_key(*id))
            .chain(self.no_place.keys().filter(|id| !before.contains_key(*id)))
            .cloned()
            .collect();
        self.wanted = wanted.hold.iter().cloned().collect();
        for id in self.no_place.keys() {
            // one that was in flight when it lost its place comes to be held only now
            if self.held.contains_key(id) && !self.draining.contains_key(id) {
                self.draining.insert(id.clone(), Drain::Unannounced);
                moved.push(id.clone());
            }
        }
        self.draining.retain(|id, _| !self.wanted.contains(id));
        self.queue.clear();
        self.waiting.clear();
        for id in &wanted.hold {
            if !self.is_current(id) && !self.in_flight.contains(id) {
                self.enqueue(id.clone());
            }
        }
        for id in moved {
            self.mark(&id);
        }
    }

    /// Whether the version in the pool is the one published here.
    fn is_current(&self, id: &SegmentId) -> bool {
        match (self.pool.get(id), self.held.get(id)) {
            (Some(entry), Some(holding)) => holding.version.stamp == entry.stamp,
            (None | Some(_), _) => false,
        }
    }

    /// Puts a segment where its back-off says: to pull now, or later.
    fn enqueue(&mut self, id: SegmentId) {
        let Some(entry) = self.pool.get(&id) else { return };
        match self.attempts.get(&id) {
            Some(attempt) if attempt.stamp == entry.stamp => {
                self.waiting.insert((attempt.not_before, id));
            }
            Some(_) => {
                self.attempts.remove(&id);
                self.queue.push_back(id);
            }
            None => self.queue.push_back(id),
        }
    }

    /// The next segment to pull, when one is due.
    pub fn next_pull(&mut self, now: Instant) -> Option<(SegmentId, PoolEntry)> {
        while let Some((at, _)) = self.waiting.first()
            && *at <= now
        {
            if let Some((_, id)) = self.waiting.pop_first() {
                self.queue.push_back(id);
            }
        }
        while let Some(id) = self.queue.pop_front() {
            if let Some(entry) = self.pool.get(&id)
                && self.wanted.contains(&id)
                && !self.leaving.contains(&id)
            {
                let entry = entry.clone();
                self.in_flight.insert(id.clone());
                return Some((id, entry));
            }
        }
        None
    }

    /// Gives a segment back that [`Self::next_pull`] handed out, untried.
    pub fn put_back(&mut self, id: SegmentId) {
        self.in_flight.remove(&id);
        self.queue.push_front(id);
    }

    /// A pull or a publish came to nothing.
    pub fn failed(
        &mut self,
        id: &SegmentId,
        stamp: Stamp,
        refused: bool,
        reason: String,
        now: Instant,
    ) {
        self.in_flight.remove(id);
        if !self.is_newest(id, stamp) {
            if self.wanted.contains(id) {
                self.enqueue(id.clone());
            }
            return;
        }
        let (first, longest) = if refused { self.delays.refused } else { self.delays.failed };
        let attempt = self.attempts.entry(id.clone()).or_insert_with(|| Attempt {
            stamp,
            backoff: Backoff::new(first, longest),
            refused,
            reason: String::new(),
            not_before: now,
        });
        if attempt.stamp != stamp || attempt.refused != refused {
            attempt.backoff = Backoff::new(first, longest);
        }
        attempt.stamp = stamp;
        attempt.refused = refused;
        attempt.reason = reason;
        attempt.not_before = now + attempt.backoff.failed();
        let due = attempt.not_before;
        if self.wanted.contains(id) {
            self.waiting.insert((due, id.clone()));
        }
        self.mark(id);
    }

    /// The cache published `holding`; readers may not see it yet.
    pub fn published(&mut self, holding: Holding) {
        let id = holding.id.clone();
        self.in_flight.remove(&id);
        self.attempts.remove(&id);
        self.withdrawn.remove(&id);
        let unseen = Unseen { digest: holding.version.digest, before: self.shown(&id) };
        self.unseen.insert(id.clone(), unseen);
        let stamp = holding.version.stamp;
        self.held.insert(id.clone(), holding);
        if !self.pool.contains_key(&id) {
            // it left the pool meanwhile
            self.draining.insert(id.clone(), Drain::Unannounced);
        } else if !self.is_newest(&id, stamp) {
            self.enqueue(id.clone());
        }
        self.mark(&id);
    }

    /// Whether `stamp` is the newest known of `id`: a pull takes what lies there now, which may be newer than
    /// the listing, and then the pool learns of it here.
    fn is_newest(&mut self, id: &SegmentId, stamp: Stamp) -> bool {
        match self.pool.get_mut(id) {
            Some(entry) if stamp.mtime_ms >= entry.stamp.mtime_ms => {
                entry.stamp = stamp;
                true
            }
            Some(_) | None => false,
        }
    }

    /// What is published but was not yet seen through the mount.
    pub fn unseen(&self) -> Vec<(SegmentId, Digest)> {
        self.unseen.iter().map(|(id, unseen)| (id.clone(), unseen.digest)).collect()
    }

    /// The mount showed `id` at `digest`.
    pub fn seen(&mut self, id: &SegmentId, digest: Digest) {
        if self.unseen.get(id).is_some_and(|unseen| unseen.digest == digest) {
            self.unseen.remove(id);
            self.mark(id);
        }
    }

    /// The bytes of these segments were found damaged; the cache has withdrawn them.
    pub fn damaged(&mut self, ids: &[SegmentId]) {
        for id in ids {
            self.held.remove(id);
            self.unseen.remove(id);
            self.withdrawn.remove(id);
            if self.wanted.contains(id) && !self.in_flight.contains(id) {
                self.queue.push_front(id.clone());
            }
            self.draining.remove(id);
            self.mark(id);
        }
    }

    /// What may leave the cache now.
    pub fn due_removals(&mut self, now: Instant) -> Vec<Removal> {
        let due: Vec<_> = self
            .draining
            .iter()
            .filter(|(id, drain)| {
                matches!(drain, Drain::Until(at) if *at <= now) && !self.in_flight.contains(*id)
            })
            .map(|(id, _)| id.clone())
            .collect();
        due.into_iter()
            .map(|id| {
                self.draining.remove(&id);
                self.unseen.remove(&id);
                self.held.remove(&id);
                self.leaving.insert(id.clone());
                match self.pool.contains_key(&id) {
                    true => Removal::Remove(id),
                    false => Removal::Unpublish(id),
                }
            })
            .collect()
    }

    /// Has a withdrawn segment leave for good.
    pub fn remove_withdrawn(&mut self, id: SegmentId) -> Removal {
        self.withdrawn.remove(&id);
        self.leaving.insert(id.clone());
        Removal::Remove(id)
    }

    /// A removal ended; `left` is what the cache still has of the segment.
    pub fn removal_ended(&mut self, id: &SegmentId, left: Option<Holding>) {
        self.leaving.remove(id);
        match left {
            Some(holding) if holding.published => {
                self.held.insert(id.clone(), holding);
                self.draining.insert(id.clone(), Drain::Unannounced);
            }
            Some(holding) => {
                self.withdrawn.insert(id.clone(), holding);
            }
            None => {}
        }
        self.mark(id);
    }

    /// Whether something of the pool has no place: then what leaves or shrinks may give it one.
    pub fn is_short_of_space(&self) -> bool {
        !self.no_place.is_empty()
    }

    /// The unpublished segments, the longest withdrawn first.
    pub fn withdrawn(&self) -> Vec<&Holding> {
        let mut all: Vec<_> = self.withdrawn.values().collect();
        all.sort_by_key(|holding| (holding.withdrawn_at_ms, holding.id.clone()));
        all
    }

    /// A withdrawn segment did not come back without a pull: pull it.
    pub fn not_back(&mut self, id: SegmentId) {
        self.withdrawn.remove(&id);
        self.put_back(id);
    }

    /// Whether the cache has exactly this version of `id`, unpublished.
    pub fn can_come_back(&self, id: &SegmentId, stamp: Stamp) -> bool {
        self.withdrawn.get(id).is_some_and(|holding| holding.version.stamp == stamp)
    }

    /// When something is due by itself: the end of a back-off or of a drain.
    pub fn next_due(&self) -> Option<Instant> {
        let drains = self.draining.values().filter_map(|drain| match drain {
            Drain::Until(at) => Some(*at),
            Drain::Unannounced => None,
        });
        drains.chain(self.waiting.first().map(|(at, _)| *at)).min()
    }

    /// Whether nothing is left to do now; what failed, and waits for its next try or is being tried again, counts
    /// as done: else a version that is refused for ever would never let anybody hear that the rest is there.
    pub fn settled(&self) -> bool {
        let tried = |id: &SegmentId| {
            let stamp = self.pool.get(id).map(|entry| entry.stamp);
            self.attempts.get(id).is_some_and(|attempt| Some(attempt.stamp) == stamp)
        };
        self.in_flight.iter().all(tried) && self.queue.iter().all(tried) && self.dirty.is_empty()
    }
}

#[cfg(test)]
mod tests;
