//! What a lead says: what is held, told, drained and dropped.

use super::*;
use crate::cluster::AssignRow;

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
fn s9_a_changed_segment_is_held_all_the_while() {
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

#[test]
fn what_was_deleted_goes_at_once_and_no_late_line_brings_it_back() {
    let mut told = Told::new(vec![holding(1, 5), holding(2, 4), holding(3, 5)]);
    told.hear(&[(1, 5), (2, 5), (3, 5)], &[], &[], &[]);
    let tombs = Tombs::of([(id(1), stamp(5)), (id(2), stamp(5)), (id(3), stamp(4))]);
    let bury = |told: &mut Told| told.world.state.bury(&tombs, &told.wanted, told.world.now);
    assert_eq!(bury(&mut told), 2);
    // in whatever version, and before anybody was told
    assert_eq!([1, 2, 3].map(|n| told.serves(n)), [None, None, Some(5)]);
    let mut gone = told.world.state.due_removals(told.world.now);
    gone.sort_by_key(|removal| format!("{removal:?}"));
    assert_eq!(gone, [1, 2].map(|n| Removal::Unpublish(id(n))));
    let (told_rows, removed) = told.world.state.take_dirty(9);
    assert!(told_rows.iter().all(|row| row.id == id(3)), "{told_rows:?}");
    assert!(removed.contains(&id(1)) && removed.contains(&id(2)));
    for n in [1, 2] {
        told.world.state.removal_ended(&id(n), None);
    }
    // a lead that has not heard of it yet, and one that knows a newer version
    told.hear(&[(1, 5)], &[], &[], &[]);
    assert_eq!(bury(&mut told), 1);
    assert_eq!(told.world.next(), None);
    told.hear(&[(1, 6)], &[], &[], &[]);
    assert_eq!(bury(&mut told), 0);
    assert_eq!(told.world.next(), Some((id(1), 6)));
}
