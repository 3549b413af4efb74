//! Which removals a listing may cause by itself, and which wait for a person.
//!
//! Invariant (S9): a wrong root, an emptied root, an unreadable directory or a freshly formatted NameNode
//! removes nothing. Additions and changes always go on.

use fsd::segment::SegmentId;
use serde::{Deserialize, Serialize};

use super::{Pool, PoolListing};

/// So few may vanish at once whatever their share: deleting a handful by hand needs nobody's consent.
const ALWAYS_REMOVABLE: usize = 20;

/// What a listing changes in the pool.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PoolDelta {
    /// New ids, and ids whose path or stamp is another.
    pub changed: Vec<SegmentId>,
    /// Ids that are gone and may go.
    pub removed: Vec<SegmentId>,
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
pub fn compare(
    known: &Pool,
    listing: &PoolListing,
    max_removed_ratio: f64,
    accepted: bool,
) -> PoolDelta {
    let new = &listing.pool;
    let mut changed: Vec<_> = new
        .iter()
        .filter(|(id, entry)| known.get(id) != Some(entry))
        .map(|(id, _)| id.clone())
        .collect();
    let mut missing: Vec<_> = known.keys().filter(|id| !new.contains_key(id)).cloned().collect();
    changed.sort();
    missing.sort();
    let held_back =
        reason_to_wait(known.len(), missing.len(), listing, max_removed_ratio, accepted).map(
            |reason| HeldBack { missing: missing.len() as u64, of: known.len() as u64, reason },
        );
    if held_back.is_some() {
        missing.clear();
    }
    PoolDelta { changed, removed: missing, held_back }
}

fn reason_to_wait(
    known: usize,
    missing: usize,
    listing: &PoolListing,
    max_removed_ratio: f64,
    accepted: bool,
) -> Option<String> {
    if missing == 0 {
        return None;
    }
    if !listing.report.complete() {
        let why = listing.report.unseen_examples.first().map_or("", String::as_str);
        return Some(format!("the listing is incomplete, so nothing is removed: {why}"));
    }
    if accepted {
        return None;
    }
    if missing == known {
        return Some(
            "the deep store shows none of the segments known so far (a wrong root, or an emptied or newly \
             formatted store?); if they are meant to go, run `trough sync accept-removals`"
                .to_owned(),
        );
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
            let delta = compare(&pool(0..100, 1), &listing(pool(0..99, 2), 1), 0.1, accepted);
            assert_eq!((delta.changed.len(), delta.removed.len()), (99, 0));
            assert_eq!(delta.held_back.unwrap().missing, 1);
        }
    }

    #[test]
    fn s9_an_emptied_store_removes_nothing_until_a_person_says_so() {
        for size in [1, 5, 100] {
            let known = pool(0..size, 1);
            let delta = compare(&known, &listing(Pool::new(), 0), 0.1, false);
            assert!(delta.removed.is_empty() && delta.held_back.is_some());
            let delta = compare(&known, &listing(Pool::new(), 0), 0.1, true);
            assert_eq!((delta.removed.len() as u64, delta.held_back), (size, None));
        }
    }

    #[test]
    fn a_few_may_go_and_a_large_share_may_not() {
        let removed = |known: u64, left: u64| {
            compare(&pool(0..known, 1), &listing(pool(0..left, 1), 0), 0.1, false).removed.len()
        };
        assert_eq!(removed(30, 10), 20);
        assert_eq!(removed(31, 10), 0);
        assert_eq!(removed(1000, 900), 100);
        assert_eq!(removed(1000, 899), 0);
    }

    #[test]
    fn an_unchanged_store_changes_nothing_and_a_new_stamp_is_a_change() {
        let known = pool(0..10, 1);
        assert_eq!(compare(&known, &listing(known.clone(), 0), 0.1, false), PoolDelta::default());
        assert_eq!(compare(&known, &listing(pool(0..10, 2), 0), 0.1, false).changed.len(), 10);
    }
}
