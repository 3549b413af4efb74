//! Tests of the synchronizer's state machine: single steps here, then a lead's words and random histories.

use std::time::Duration;

use fsd::segment::{Stamp, Version};
use tokio::time::Instant;

use super::*;
use crate::pool::guard;
use crate::quota::WholePool;
use crate::store::StorePath;

mod histories;
mod told;

const DRAIN: Duration = Duration::from_secs(2);
const FIRST: Duration = Duration::from_secs(1);

fn delays() -> Delays {
    let longest = Duration::from_secs(8);
    Delays { drain: DRAIN, failed: (FIRST, longest), refused: (FIRST * 4, longest) }
}

fn id(n: usize) -> SegmentId {
    SegmentId::new(&format!("segment-{n}")).unwrap()
}

fn stamp(mtime_ms: u64) -> Stamp {
    Stamp { length: 10, mtime_ms }
}

fn digest(n: usize, mtime_ms: u64) -> Digest {
    blake3::hash(format!("{n} {mtime_ms}").as_bytes()).into()
}

fn holding(n: usize, mtime_ms: u64) -> Holding {
    Holding {
        id: id(n),
        version: Version { stamp: stamp(mtime_ms), digest: digest(n, mtime_ms) },
        source: StorePath::published(&id(n)).to_string(),
        sealed: true,
        published: true,
        withdrawn_at_ms: None,
        verified_at_ms: 1,
    }
}

fn listing(entries: &[(usize, u64)]) -> PoolListing {
    let entry = |&(n, mtime_ms): &(usize, u64)| {
        (id(n), PoolEntry { path: StorePath::published(&id(n)), stamp: stamp(mtime_ms) })
    };
    PoolListing { pool: entries.iter().map(entry).collect(), ..PoolListing::default() }
}

/// A state and a clock of its own.
struct World {
    state: State,
    now: Instant,
    assignment: WholePool,
}

impl World {
    fn new(quota_bytes: u64) -> Self {
        let state = State::new(delays(), quota_bytes, Vec::new(), Vec::new());
        Self { state, now: Instant::now(), assignment: WholePool::default() }
    }

    fn list(&mut self, entries: &[(usize, u64)]) {
        let listing = listing(entries);
        let delta = guard::compare(self.state.pool(), &listing, 1.0, true, &HashSet::new());
        self.state.take_listing(delta, listing, &self.assignment);
    }

    fn tell(&mut self) {
        let (upsert, remove) = self.state.take_dirty(1_000);
        let ids: Vec<_> = upsert.iter().map(|row| row.id.clone()).chain(remove).collect();
        self.state.told(ids.iter(), self.now);
    }

    fn next(&mut self) -> Option<(SegmentId, u64)> {
        let (id, entry) = self.state.next_pull(self.now)?;
        Some((id, entry.stamp.mtime_ms))
    }

    fn publish(&mut self, n: usize, mtime_ms: u64) {
        self.state.published(holding(n, mtime_ms));
        self.state.seen(&id(n), digest(n, mtime_ms));
    }

    fn state_of(&self, n: usize) -> Option<SegmentState> {
        self.state.row(&id(n)).map(|row| row.state)
    }
}

#[test]
fn a_new_segment_is_pulled_once_and_held_only_when_the_mount_showed_it() {
    let mut world = World::new(100);
    world.list(&[(1, 5)]);
    assert_eq!(world.next(), Some((id(1), 5)));
    assert_eq!(world.next(), None);
    world.state.published(holding(1, 5));
    assert_eq!(world.state_of(1), Some(SegmentState::Pending));
    assert!(!world.state.holds(&id(1)));
    // an older version in the mount is not it
    world.state.seen(&id(1), digest(1, 4));
    assert_eq!(world.state_of(1), Some(SegmentState::Pending));
    world.state.seen(&id(1), digest(1, 5));
    assert_eq!(world.state_of(1), Some(SegmentState::Held));
    world.list(&[(1, 5)]);
    assert_eq!(world.next(), None);
    assert!(world.state.holds(&id(1)));
}

#[test]
fn a_changed_segment_is_pulled_again_while_the_old_one_is_served() {
    let mut world = World::new(100);
    world.list(&[(1, 5)]);
    world.next();
    world.publish(1, 5);
    world.list(&[(1, 6)]);
    assert_eq!(world.state_of(1), Some(SegmentState::Pending));
    assert!(world.state.row(&id(1)).unwrap().digest.is_some());
    assert_eq!(world.next(), Some((id(1), 6)));
}

#[test]
fn a_refused_version_is_left_alone_until_its_back_off_or_a_new_version() {
    let mut world = World::new(100);
    world.list(&[(1, 5)]);
    world.next();
    world.state.failed(&id(1), stamp(5), true, "not SQLite".into(), world.now);
    assert_eq!(world.state_of(1), Some(SegmentState::Refused));
    // neither a listing that says nothing new nor a new assignment brings it back early
    world.list(&[(1, 5)]);
    assert_eq!(world.next(), None);
    world.now += FIRST * 4;
    assert_eq!(world.next(), Some((id(1), 5)));
    world.state.failed(&id(1), stamp(5), true, "not SQLite".into(), world.now);
    assert_eq!(world.next(), None);
    world.list(&[(1, 6)]);
    assert_eq!(world.next(), Some((id(1), 6)));
}

#[test]
fn a_removed_segment_goes_only_after_the_registry_was_told_and_the_drain_time_passed() {
    let mut world = World::new(100);
    world.list(&[(1, 5), (2, 5)]);
    for n in [1, 2] {
        world.next();
        world.publish(n, 5);
    }
    world.tell();
    world.list(&[(2, 5)]);
    world.now += DRAIN * 10;
    assert_eq!(world.state.due_removals(world.now), []);
    world.tell();
    assert_eq!(world.state.due_removals(world.now), []);
    world.now += DRAIN;
    assert_eq!(world.state.due_removals(world.now), [Removal::Unpublish(id(1))]);
    assert_eq!(world.state.due_removals(world.now), []);
    // it comes back while the removal is under way: not before that has ended
    world.list(&[(1, 5), (2, 5)]);
    assert_eq!(world.next(), None);
    let unpublished = Holding { published: false, withdrawn_at_ms: Some(1), ..holding(1, 5) };
    world.state.removal_ended(&id(1), Some(unpublished));
    world.state.assign(&world.assignment);
    assert!(world.state.can_come_back(&id(1), stamp(5)));
    assert_eq!(world.next(), Some((id(1), 5)));
}

#[test]
fn one_that_comes_back_before_it_went_stays() {
    let mut world = World::new(100);
    world.list(&[(1, 5), (2, 5)]);
    for n in [1, 2] {
        world.next();
        world.publish(n, 5);
    }
    world.list(&[(2, 5)]);
    world.tell();
    world.list(&[(1, 5), (2, 5)]);
    world.now += DRAIN * 2;
    assert_eq!(world.state.due_removals(world.now), []);
    assert_eq!(world.state_of(1), Some(SegmentState::Held));
}

#[test]
fn s9_a_registry_that_lost_its_rows_is_told_what_the_ledger_proves() {
    let mut state = State::new(delays(), 100, Vec::new(), vec![holding(1, 5)]);
    let (rows, gone) = state.take_dirty(10);
    assert!(gone.is_empty());
    assert_eq!(rows[0].state, SegmentState::Held);
    assert_eq!(rows[0].digest, Some(digest(1, 5)));
}

#[test]
fn a_row_that_the_cache_does_not_bear_out_is_corrected() {
    let row = State::new(delays(), 100, Vec::new(), vec![holding(1, 5)]).row(&id(1)).unwrap();
    let mut state = State::new(delays(), 100, vec![row.clone()], Vec::new());
    assert_eq!(state.take_dirty(10).0[0].state, SegmentState::Pending);
    let mut state = State::new(delays(), 100, vec![row], vec![holding(1, 5)]);
    assert!(!state.is_dirty());
    assert_eq!(state.take_dirty(10).0, []);
}

#[test]
fn s10_one_published_but_not_told_before_a_crash_counts_as_held_after_it() {
    let mut row = State::new(delays(), 100, Vec::new(), vec![holding(1, 5)]).row(&id(1)).unwrap();
    row.state = SegmentState::Pending;
    row.digest = None;
    let state = State::new(delays(), 100, vec![row], vec![holding(1, 5)]);
    assert_eq!((state.counts().held, state.counts().pending), (1, 0));
    assert!(state.is_dirty());
}

#[test]
fn s2_a_damaged_segment_is_pulled_again_at_once() {
    let mut world = World::new(100);
    world.list(&[(1, 5)]);
    world.next();
    world.publish(1, 5);
    world.state.damaged(&[id(1)]);
    assert_eq!(world.state_of(1), Some(SegmentState::Pending));
    assert_eq!(world.next(), Some((id(1), 5)));
}
