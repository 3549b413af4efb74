//! Tests of the synchronizer's state machine: single steps, and random histories against its invariants.

use std::time::Duration;

use fsd::segment::{Stamp, Version};
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::cluster::AssignRow;
use crate::pool::guard;
use crate::quota::WholePool;
use crate::store::StorePath;

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

/// A world that a lead speaks to.
struct Told {
    world: World,
    wanted: std::collections::BTreeSet<usize>,
}

impl crate::quota::Assignment for std::collections::BTreeSet<usize> {
    fn wanted(&self, pool: &Pool, _: &HashMap<SegmentId, Stamp>, _: u64) -> crate::quota::Wanted {
        let hold = self.iter().map(|n| id(*n)).filter(|id| pool.contains_key(id)).collect();
        crate::quota::Wanted { hold, no_place: HashMap::new() }
    }
}

impl Told {
    fn new(holdings: Vec<Holding>) -> Self {
        let mut world = World::new(100);
        world.state = State::new(delays(), 100, Vec::new(), holdings);
        Self { world, wanted: std::collections::BTreeSet::new() }
    }

    fn hear(
        &mut self,
        hold: &[(usize, u64)],
        drain: &[(usize, u64)],
        dropped: &[(usize, u64)],
        kept: &[usize],
    ) {
        let line = |&(n, at): &(usize, u64), state| {
            AssignRow::new(id(n), stamp(at), &StorePath::published(&id(n)), state)
        };
        let drains = CopyState::Drain { since_ms: 1 };
        let lines = hold.iter().map(|one| line(one, CopyState::Hold));
        let lines = lines.chain(drain.iter().map(|one| line(one, drains))).collect();
        let dropped: Vec<_> = dropped.iter().map(|(n, at)| (id(*n), stamp(*at))).collect();
        self.wanted.extend(hold.iter().map(|(n, _)| *n));
        let not = |n: &usize| {
            drain.iter().any(|(d, _)| d == n)
                || dropped.iter().any(|(d, _)| *d == id(*n))
                || kept.contains(n)
        };
        self.wanted.retain(|n| !not(n));
        let kept = kept.iter().map(|n| id(*n)).collect();
        let told = crate::membership::Told { epoch: None, lines, dropped, kept };
        self.world.state.take_told(&told, &self.wanted);
    }

    fn serves(&self, n: usize) -> Option<u64> {
        self.world.state.served(&id(n)).map(|row| row.version.mtime_ms)
    }

    /// What goes once the registry was told and the time for draining has passed.
    fn goes(&mut self) -> Vec<Removal> {
        self.world.tell();
        self.world.now += DRAIN;
        self.world.state.due_removals(self.world.now)
    }
}

#[test]
fn what_the_lead_wants_is_pulled_and_told_when_the_mount_showed_it() {
    let mut told = Told::new(Vec::new());
    told.hear(&[(1, 5), (2, 5)], &[], &[], &[]);
    assert_eq!(told.world.next(), Some((id(1), 5)));
    told.world.state.published(holding(1, 5));
    assert_eq!(told.serves(1), None);
    told.world.state.seen(&id(1), digest(1, 5));
    assert_eq!(told.serves(1), Some(5));
    // the other is not wanted any more, before it came
    told.hear(&[], &[], &[], &[2]);
    assert_eq!(told.world.next(), None);
    assert!(!told.world.state.pool().contains_key(&id(2)));
    // a new version: the old one is served until it is here
    told.hear(&[(1, 6)], &[], &[], &[]);
    assert_eq!((told.serves(1), told.world.next()), (Some(5), Some((id(1), 6))));
    told.world.publish(1, 6);
    assert_eq!(told.serves(1), Some(6));
    // a lead that has not seen that version yet does not bring the old one back
    told.hear(&[(1, 5)], &[], &[], &[]);
    assert_eq!((told.serves(1), told.world.next()), (Some(6), None));
}

#[test]
fn a_changed_segment_is_held_all_the_while() {
    let mut state = State::new(delays(), 100, Vec::new(), vec![holding(1, 5)]);
    let serves = |state: &State| state.served(&id(1)).map(|row| row.version.mtime_ms);
    assert_eq!(serves(&state), Some(5));
    // the mount shows the one or the other
    state.published(holding(1, 6));
    assert_eq!((serves(&state), state.holds(&id(1))), (Some(5), true));
    state.published(holding(1, 7));
    state.seen(&id(1), digest(1, 6));
    assert_eq!((serves(&state), state.holds(&id(1))), (Some(5), true));
    state.seen(&id(1), digest(1, 7));
    assert_eq!((serves(&state), state.holds(&id(1))), (Some(7), true));
}

#[test]
fn what_drains_is_served_until_its_line_is_gone_and_then_goes() {
    let mut told = Told::new(vec![holding(1, 5), holding(2, 5)]);
    told.hear(&[(1, 5), (2, 5)], &[], &[], &[]);
    told.hear(&[], &[(1, 5)], &[], &[]);
    assert_eq!((told.serves(1), told.goes()), (Some(5), Vec::new()));
    told.hear(&[], &[], &[(1, 5)], &[]);
    assert_eq!((told.serves(1), told.serves(2)), (None, Some(5)));
    assert_eq!(told.world.state.due_removals(told.world.now + DRAIN), [], "nobody was told");
    assert_eq!(told.goes(), [Removal::Unpublish(id(1))]);
    // called back, it comes back without a pull
    let unpublished = Holding { published: false, withdrawn_at_ms: Some(1), ..holding(1, 5) };
    told.world.state.removal_ended(&id(1), Some(unpublished));
    told.hear(&[(1, 5)], &[], &[], &[]);
    assert_eq!(told.world.next(), Some((id(1), 5)));
    assert!(told.world.state.can_come_back(&id(1), stamp(5)));
}

#[test]
fn nothing_goes_that_was_not_told_to_drain_in_the_version_that_is_here() {
    let mut told = Told::new(vec![holding(1, 5), holding(2, 6), holding(3, 5)]);
    // a start knows of no lines: all of it is served
    assert_eq!([1, 2, 3].map(|n| told.serves(n)), [Some(5), Some(6), Some(5)]);
    told.hear(&[(1, 5), (3, 5)], &[], &[], &[]);
    told.hear(&[], &[], &[(2, 5)], &[1]);
    assert_eq!([1, 2, 3].map(|n| told.serves(n)), [Some(5), Some(6), Some(5)]);
    assert_eq!(told.goes(), Vec::new());
    // taken back before it went
    told.hear(&[], &[], &[(3, 5)], &[]);
    told.hear(&[(3, 5)], &[], &[], &[]);
    assert_eq!((told.serves(3), told.goes()), (Some(5), Vec::new()));
}

#[derive(Debug, Clone)]
enum Op {
    List(Vec<(usize, u64)>),
    Tell { fails: bool },
    Pull,
    Publish,
    Fail { refused: bool },
    See,
    Damage(usize),
    Wait(u64),
    Remove { fails: bool },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => prop::collection::btree_map(0_usize..6, 1_u64..4, 0..6)
            .prop_map(|map| Op::List(map.into_iter().collect())),
        3 => any::<bool>().prop_map(|fails| Op::Tell { fails }),
        4 => Just(Op::Pull),
        4 => Just(Op::Publish),
        1 => any::<bool>().prop_map(|refused| Op::Fail { refused }),
        4 => Just(Op::See),
        1 => (0_usize..6).prop_map(Op::Damage),
        2 => (0_u64..9).prop_map(Op::Wait),
        3 => any::<bool>().prop_map(|fails| Op::Remove { fails }),
    ]
}

/// What a cache would hold after the same steps, and what the registry was told.
#[derive(Default)]
struct Outer {
    cache: HashMap<SegmentId, Holding>,
    told: HashMap<SegmentId, PoolRow>,
    pulling: Vec<(SegmentId, PoolEntry)>,
}

fn apply(world: &mut World, outer: &mut Outer, op: Op) {
    match op {
        Op::List(entries) => world.list(&entries),
        Op::Tell { fails } => {
            let (upsert, remove) = world.state.take_dirty(3);
            let ids: Vec<_> =
                upsert.iter().map(|row| row.id.clone()).chain(remove.iter().cloned()).collect();
            if fails {
                world.state.tell_failed(ids.into_iter());
                return;
            }
            outer.told.extend(upsert.into_iter().map(|row| (row.id.clone(), row)));
            outer.told.retain(|id, _| !remove.contains(id));
            world.state.told(ids.iter(), world.now);
        }
        Op::Pull => outer.pulling.extend(world.state.next_pull(world.now)),
        Op::Publish => {
            let Some((id, entry)) = outer.pulling.pop() else { return };
            let mut new = holding(0, entry.stamp.mtime_ms);
            new.version.digest = blake3::hash(format!("{id} {entry:?}").as_bytes()).into();
            new.id = id.clone();
            outer.cache.insert(id, new.clone());
            world.state.published(new);
        }
        Op::Fail { refused } => {
            let Some((id, entry)) = outer.pulling.pop() else { return };
            world.state.failed(&id, entry.stamp, refused, "reason".into(), world.now);
        }
        Op::See => {
            for (id, digest) in world.state.unseen() {
                world.state.seen(&id, digest);
            }
        }
        Op::Damage(n) => {
            if outer.cache.get(&id(n)).is_some_and(|holding| holding.published) {
                outer.cache.remove(&id(n));
                world.state.damaged(&[id(n)]);
            }
        }
        Op::Wait(seconds) => world.now += Duration::from_secs(seconds),
        Op::Remove { fails } => {
            for removal in world.state.due_removals(world.now) {
                let (Removal::Unpublish(id) | Removal::Remove(id)) = &removal;
                match (&removal, fails) {
                    (_, true) => {}
                    (Removal::Remove(_), false) => drop(outer.cache.remove(id)),
                    (Removal::Unpublish(_), false) => {
                        if let Some(holding) = outer.cache.get_mut(id) {
                            holding.published = false;
                        }
                    }
                }
                world.state.removal_ended(id, outer.cache.get(id).cloned());
            }
            world.state.assign(&world.assignment);
        }
    }
}

fn check(world: &World, outer: &Outer) -> Result<(), TestCaseError> {
    let state = &world.state;
    let mut counts = SegmentCounts { pool: state.pool.len() as u64, ..SegmentCounts::default() };
    for id in state.pool.keys() {
        *counts.of(state.judge(id).0) += 1;
    }
    counts.withdrawn = state.withdrawn.len() as u64;
    prop_assert_eq!(state.counts(), counts, "a count is off");
    for (id, row) in &outer.told {
        let now = state.row(id);
        prop_assert!(now.as_ref() == Some(row) || state.dirty.contains(id), "{} is stale", id);
    }
    let published = outer.cache.values().filter(|holding| holding.published);
    for holding in published {
        prop_assert_eq!(
            state.held.get(&holding.id),
            Some(holding),
            "the cache has what is not known"
        );
    }
    prop_assert_eq!(state.held.len(), outer.cache.values().filter(|h| h.published).count());
    // nothing that the registry calls held has left the cache
    for row in outer.told.values().filter(|row| row.state == SegmentState::Held) {
        let held = outer.cache.get(&row.id).is_some_and(|holding| holding.published);
        prop_assert!(held || state.dirty.contains(&row.id), "{} is announced and gone", row.id);
    }
    Ok(())
}

/// Does all that is left to do; a state that never comes to rest is a defect.
fn settle(world: &mut World, outer: &mut Outer) {
    for _ in 0..50 {
        world.now += Duration::from_secs(100);
        while let Some(pull) = world.state.next_pull(world.now) {
            outer.pulling.push(pull);
        }
        while !outer.pulling.is_empty() {
            apply(world, outer, Op::Publish);
        }
        apply(world, outer, Op::See);
        apply(world, outer, Op::Tell { fails: false });
        apply(world, outer, Op::Tell { fails: false });
        apply(world, outer, Op::Remove { fails: false });
    }
}

proptest! {
    /// After any history the state agrees with the cache and the registry, and comes to rest with
    /// everything held that has a place.
    #[test]
    fn any_history_agrees_with_cache_and_registry_and_comes_to_rest(
        ops in prop::collection::vec(op(), 0..60),
        quota in prop_oneof![Just(1_000_u64), Just(35)],
    ) {
        let mut world = World::new(quota);
        let mut outer = Outer::default();
        for op in ops {
            apply(&mut world, &mut outer, op);
            check(&world, &outer)?;
        }
        settle(&mut world, &mut outer);
        check(&world, &outer)?;
        prop_assert!(world.state.settled());
        let counts = world.state.counts();
        prop_assert_eq!(counts.held, counts.pool.min(quota / 10));
        prop_assert_eq!(counts.pool - counts.held, counts.no_place);
        for id in world.state.pool().keys() {
            prop_assert_eq!(&outer.told[id], &world.state.row(id).unwrap());
        }
    }
}
