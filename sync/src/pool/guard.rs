//! Which removals a listing may cause by itself, and which wait for a person.
//!
//! Invariant (S9): a wrong root, an emptied root, an unreadable directory or a freshly formatted NameNode
//! removes nothing. Additions and changes always go on. What once waits for a person waits until that person
//! spoke or it is back: a store that fills again, segment by segment, does not bring the removals about. What a
//! tombstone explains is not missing: the very version goes whatever the listing could see, and does not count.
//!
//! Limit: which segments wait is not kept over a restart; then the next listing is judged as a whole.

use std::collections::HashSet;

use fsd::segment::SegmentId;
use serde::{Deserialize, Serialize};

use super::{Pool, PoolListing};

/// So few may vanish at once whatever their share: deleting a handful by hand needs nobody's consent.
const ALWAYS_REMOVABLE: usize = 20;

/// Why a store that shows nothing of what is known removes nothing.
const NONE_LEFT: &str = "the deep store shows none of the segments known so far (a wrong root, or an emptied or newly \
     formatted store?); if they are meant to go, run `trough sync accept-removals`";

/// What a listing changes in the pool.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PoolDelta {
    /// New ids, and ids whose path or stamp is another.
    pub changed: Vec<SegmentId>,
    /// Ids that are gone and may go.
    pub removed: Vec<SegmentId>,
    /// Ids that are gone and stay until a person says so.
    pub waiting: HashSet<SegmentId>,
    /// Why removals wait, when they do.
    pub held_back: Option<HeldBack>,
}

/// Removals that wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    /// How many segments the listing did not have.
    pub missing: u64,
    /// Of how many.
    pub of: u64,
    /// Why they stay, and what to do.
    pub reason: String,
}

/// Compares `listing` with the pool known so far.
///
/// `max_removed_ratio` is the share of the pool that may vanish in one listing; `accepted` is a person's
/// word that this listing's removals are meant. Even that does not make an incomplete listing remove.
/// `waiting` is [`PoolDelta::waiting`] of the comparison before.
pub fn compare(
    known: &Pool,
    listing: &PoolListing,
    max_removed_ratio: f64,
    accepted: bool,
    waiting: &HashSet<SegmentId>,
) -> PoolDelta {
    let new = &listing.pool;
    let mut changed: Vec<_> = new
        .iter()
        .filter(|(id, entry)| known.get(id) != Some(entry))
        .map(|(id, _)| id.clone())
        .collect();
    changed.sort();
    let (complete, tombs) = (listing.report.complete(), &listing.tombs);
    let (mut deleted, mut missing) = (HashSet::new(), Vec::new());
    for (id, entry) in known.iter().filter(|(id, _)| !new.contains_key(*id)) {
        let passed_over = listing.passed_over.contains(id);
        // the very version is certain; that it was replaced before, only a listing that saw everything makes likely
        if tombs.names(id, entry.stamp)
            || (complete && !passed_over && tombs.explain(id, entry.stamp))
        {
            deleted.insert(id.clone());
        } else if !passed_over {
            missing.push(id.clone());
        }
    }
    missing.sort();
    let waiting = waiting.difference(&deleted).cloned().collect();
    let known = known.len() - deleted.len();
    let mut delta = judge(known, missing, listing, max_removed_ratio, accepted, &waiting);
    delta.changed = changed;
    delta.removed.extend(deleted);
    delta.removed.sort();
    delta
}

/// What becomes of those of `known` segments that are `missing`, and not because somebody deleted them.
fn judge(
    known: usize,
    missing: Vec<SegmentId>,
    listing: &PoolListing,
    max_removed_ratio: f64,
    accepted: bool,
    waiting: &HashSet<SegmentId>,
) -> PoolDelta {
    if missing.is_empty() {
        return PoolDelta::default();
    }
    let held_back = |reason| HeldBack { missing: missing.len() as u64, of: known as u64, reason };
    if !listing.report.complete() {
        let why = listing.report.unseen_examples.first().map_or("", String::as_str);
        let reason = format!("the listing is incomplete, so nothing is removed: {why}");
        let held_back = Some(held_back(reason));
        return PoolDelta { waiting: waiting.clone(), held_back, ..PoolDelta::default() };
    }
    if accepted {
        return PoolDelta { removed: missing, ..PoolDelta::default() };
    }
    let (still, fresh): (Vec<_>, Vec<_>) =
        missing.iter().cloned().partition(|id| waiting.contains(id));
    let others = known - still.len();
    if let Some(reason) = too_many(others, fresh.len(), max_removed_ratio) {
        let held_back = Some(held_back(reason));
        let waiting = missing.into_iter().collect();
        return PoolDelta { waiting, held_back, ..PoolDelta::default() };
    }
    let none_left = still.len() == known;
    let held_back = (!still.is_empty()).then(|| HeldBack {
        missing: still.len() as u64,
        ..held_back(match none_left {
            true => NONE_LEFT.to_owned(),
            false => format!(
                "{} segments that vanished at once are kept; if they are meant to go, run \
                 `trough sync accept-removals`",
                still.len()
            ),
        })
    });
    let waiting = still.into_iter().collect();
    PoolDelta { removed: fresh, waiting, held_back, ..PoolDelta::default() }
}

/// Why `missing` of `known` segments are more than may go by themselves.
fn too_many(known: usize, missing: usize, max_removed_ratio: f64) -> Option<String> {
    if missing == 0 {
        return None;
    }
    if missing == known {
        return Some(NONE_LEFT.to_owned());
    }
    if missing > ALWAYS_REMOVABLE && missing as f64 > known as f64 * max_removed_ratio {
        return Some(format!(
            "{missing} of {known} segments vanished in one listing, more than max_removed_ratio = \
             {max_removed_ratio} allows; if they are meant to go, run `trough sync accept-removals`"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::PoolEntry;
    use crate::store::StorePath;
    use crate::tomb::Tombs;
    use fsd::segment::Stamp;

    fn pool(ids: std::ops::Range<u64>, mtime_ms: u64) -> Pool {
        let entry = |n: u64| {
            let id = SegmentId::new(&format!("segment-{n}")).unwrap();
            let path = StorePath::published(&id);
            (id, PoolEntry { path, stamp: Stamp { length: 4096, mtime_ms } })
        };
        ids.map(entry).collect()
    }

    fn listing(pool: Pool, unseen: u64) -> PoolListing {
        let mut listing = PoolListing { pool, ..PoolListing::default() };
        listing.report.unseen = unseen;
        listing
    }

    #[test]
    fn s9_an_incomplete_listing_removes_nothing_even_when_accepted() {
        for accepted in [false, true] {
            let delta = compare(
                &pool(0..100, 1),
                &listing(pool(0..99, 2), 1),
                0.1,
                accepted,
                &HashSet::new(),
            );
            assert_eq!((delta.changed.len(), delta.removed.len()), (99, 0));
            assert_eq!(delta.held_back.unwrap().missing, 1);
        }
    }

    #[test]
    fn s9_an_emptied_store_removes_nothing_until_a_person_says_so() {
        for size in [1, 5, 100] {
            let known = pool(0..size, 1);
            let delta = compare(&known, &listing(Pool::new(), 0), 0.1, false, &HashSet::new());
            assert!(delta.removed.is_empty() && delta.held_back.is_some());
            let delta = compare(&known, &listing(Pool::new(), 0), 0.1, true, &HashSet::new());
            assert_eq!((delta.removed.len() as u64, delta.held_back), (size, None));
        }
    }

    #[test]
    fn a_few_may_go_and_a_large_share_may_not() {
        let removed = |known: u64, left: u64| {
            compare(&pool(0..known, 1), &listing(pool(0..left, 1), 0), 0.1, false, &HashSet::new())
                .removed
                .len()
        };
        assert_eq!(removed(30, 10), 20);
        assert_eq!(removed(31, 10), 0);
        assert_eq!(removed(1000, 900), 100);
        assert_eq!(removed(1000, 899), 0);
    }

    #[test]
    fn an_unchanged_store_changes_nothing_and_a_new_stamp_is_a_change() {
        let known = pool(0..10, 1);
        assert_eq!(
            compare(&known, &listing(known.clone(), 0), 0.1, false, &HashSet::new()),
            PoolDelta::default()
        );
        assert_eq!(
            compare(&known, &listing(pool(0..10, 2), 0), 0.1, false, &HashSet::new()).changed.len(),
            10
        );
    }

    #[test]
    fn s9_what_waits_goes_on_waiting_while_the_store_fills_again() {
        let mut known = pool(0..5, 1);
        let first = compare(&known, &listing(Pool::new(), 0), 0.1, false, &HashSet::new());
        assert_eq!((first.removed.len(), first.waiting.len()), (0, 5));
        // an empty store gets a new segment: the five are few now, and still nobody said that they may go
        known.extend(pool(5..6, 2));
        let now = listing(pool(5..6, 2), 0);
        let second = compare(&known, &now, 0.1, false, &first.waiting);
        assert_eq!((second.removed.len(), second.waiting.len()), (0, 5));
        assert!(second.held_back.unwrap().reason.contains("accept-removals"));
        assert_eq!(compare(&known, &now, 0.1, true, &first.waiting).removed.len(), 5);
        // one that is back and goes again is one of a few
        let back = compare(&known, &listing(pool(0..1, 1), 0), 0.1, false, &second.waiting);
        assert_eq!((back.removed.len(), back.waiting.len()), (1, 4));
    }

    fn deleted(ids: std::ops::Range<u64>, mtime_ms: u64) -> Tombs {
        Tombs::of(pool(ids, mtime_ms).into_iter().map(|(id, entry)| (id, entry.stamp)))
    }

    #[test]
    fn what_was_deleted_goes_and_does_not_count() {
        let compare = |known: Pool, listing: &PoolListing, waiting: &HashSet<SegmentId>| {
            let delta = compare(&known, listing, 0.1, false, waiting);
            (delta.removed.len(), delta.waiting.len(), delta.held_back.map(|held| held.missing))
        };
        let none = HashSet::new();
        // all of it, and many beside those that vanished
        let mut now = listing(Pool::new(), 0);
        now.bury(deleted(0..100, 1));
        assert_eq!(compare(pool(0..100, 1), &now, &none), (100, 0, None));
        assert_eq!(compare(pool(0..130, 1), &now, &none), (100, 30, Some(30)));
        // what was replaced by the version that was deleted, and not what came after it
        assert_eq!(compare(pool(0..100, 0), &now, &none), (100, 0, None));
        assert_eq!(compare(pool(0..100, 2), &now, &none), (0, 100, Some(100)));
        // also what waited
        let waiting = pool(0..5, 1).into_keys().collect();
        assert_eq!(compare(pool(0..6, 1), &now, &waiting), (6, 0, None));
        // the very version needs no listing that saw everything
        let mut unseen = listing(Pool::new(), 1);
        unseen.bury(deleted(0..2, 1));
        assert_eq!(compare(pool(0..3, 1), &unseen, &none), (2, 0, Some(1)));
        assert_eq!(compare(pool(0..2, 0), &unseen, &none), (0, 0, Some(2)));
    }

    #[test]
    fn a_listing_that_still_shows_what_was_deleted_is_passed_over_there_and_a_newer_file_lives() {
        let mut now = listing(pool(0..2, 1), 0);
        now.pool.extend(pool(2..3, 7));
        now.bury(deleted(0..3, 1));
        assert_eq!(now.pool, pool(2..3, 7));
        assert_eq!(now.buried.len(), 2);
        let delta = compare(&pool(0..3, 1), &now, 0.1, false, &HashSet::new());
        assert_eq!((delta.changed.len(), delta.removed.len(), delta.held_back), (1, 2, None));
    }

    #[test]
    fn what_is_there_and_cannot_be_taken_now_has_not_gone() {
        let known = pool(0..3, 1);
        let mut now = listing(pool(0..2, 1), 0);
        now.passed_over.insert(SegmentId::new("segment-2").unwrap());
        assert_eq!(compare(&known, &now, 0.1, false, &HashSet::new()), PoolDelta::default());
    }
}
