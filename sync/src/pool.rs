//! The pool: every segment that the deep store has, as the newest listings tell it.
//!
//! Invariant: a listing that could not see everything adds and changes, and removes nothing; see
//! [`guard`] for the removals that a person must agree to. A version that a tombstone names is none of the pool.
//!
//! Left out: what of the pool this node holds ([`crate::quota`]) and how far it is ([`crate::local`]).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use fsd::segment::{SegmentId, Stamp};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use crate::store::{ListItem, Listed, SkipReason, Store, StorePath};
use crate::tomb::Tombs;

pub mod guard;

/// How many skipped files, duplicates and unseen places are named; all are counted.
const EXAMPLES_MAX: usize = 20;

/// Where one segment of the pool lies, and which version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolEntry {
    /// Its path in the deep store.
    pub path: StorePath,
    /// Length and mtime there.
    pub stamp: Stamp,
}

/// Every segment by id.
pub type Pool = HashMap<SegmentId, PoolEntry>;

/// What one listing saw.
#[derive(Debug, Default)]
pub struct PoolListing {
    /// The segments, one entry for each id.
    pub pool: Pool,
    /// Segments whose file is there but cannot be taken as it is now: it is empty, has a side file, or is no
    /// regular file. Whoever writes it may be in the middle of that, so they have not left the pool.
    pub passed_over: HashSet<SegmentId>,
    /// What was passed over or odd.
    pub report: ListingReport,
    /// What was deleted, when it was looked at.
    pub tombs: Tombs,
    /// Segments that it showed in a version that was deleted, which are not in the pool.
    pub buried: HashSet<SegmentId>,
}

/// What a listing passed over, found twice or could not see.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListingReport {
    /// Files passed over, counted by reason.
    pub skipped: BTreeMap<SkipReason, u64>,
    /// The first of the files passed over.
    pub skipped_examples: Vec<String>,
    /// Ids found at more than one path, counted.
    pub duplicates: u64,
    /// The first of them: which path was taken and which was not.
    pub duplicate_examples: Vec<String>,
    /// Places that could not be seen, counted. Anything but 0 makes the listing incomplete.
    pub unseen: u64,
    /// Why, for the first of them.
    pub unseen_examples: Vec<String>,
}

impl ListingReport {
    /// Whether the listing saw everything.
    pub fn complete(&self) -> bool {
        self.unseen == 0
    }
}

/// Lists the deep store once.
pub async fn list(store: &dyn Store) -> PoolListing {
    let mut listing = PoolListing::default();
    let mut items = store.list();
    while let Some(item) = items.next().await {
        listing.take(item);
    }
    listing
}

impl PoolListing {
    fn take(&mut self, item: ListItem) {
        let report = &mut self.report;
        match item {
            ListItem::Segment(listed) => self.add(listed),
            ListItem::Skipped { path, reason } => {
                let name = Path::new(&path).file_name();
                if let Some(Ok(id)) = name.and_then(SegmentId::from_file_name) {
                    self.passed_over.insert(id);
                }
                *report.skipped.entry(reason).or_default() += 1;
                example(&mut report.skipped_examples, || format!("{path}: {}", explain(reason)));
            }
            ListItem::Unseen(error) => {
                report.unseen += 1;
                example(&mut report.unseen_examples, || error.to_string());
            }
        }
    }

    /// Passes over what `tombs` name: a listing that began before a deletion, or a deletion that was broken off half
    /// way, does not bring it back.
    pub fn bury(&mut self, tombs: Tombs) {
        for id in tombs.ids() {
            if self.pool.get(id).is_some_and(|entry| tombs.names(id, entry.stamp)) {
                self.pool.remove(id);
                self.buried.insert(id.clone());
            }
        }
        self.tombs = tombs;
    }

    /// The same id at two paths: the published path wins, else the first in byte order.
    fn add(&mut self, Listed { id, path, stamp }: Listed) {
        let new = PoolEntry { path, stamp };
        let Some(old) = self.pool.get(&id) else {
            self.pool.insert(id, new);
            return;
        };
        let published = StorePath::published(&id);
        let rank = |entry: &PoolEntry| (entry.path != published, entry.path.clone());
        let (taken, left) = if rank(&new) < rank(old) { (&new, old) } else { (old, &new) };
        let report = &mut self.report;
        report.duplicates += 1;
        example(&mut report.duplicate_examples, || {
            format!("{id}: {} is taken, {} is not", taken.path, left.path)
        });
        if taken.path == new.path {
            self.pool.insert(id, new);
        }
    }
}

fn example(examples: &mut Vec<String>, text: impl FnOnce() -> String) {
    if examples.len() < EXAMPLES_MAX {
        examples.push(text());
    }
}

/// Why a file was passed over and what to do, for people.
fn explain(reason: SkipReason) -> &'static str {
    match reason {
        SkipReason::InvalidId => {
            "the name is no segment id; rename it to letters, digits, `_`, `-` and `.` (200 at most)"
        }
        SkipReason::UnreadableName => "the name is not UTF-8; rename it",
        SkipReason::Empty => "the file is empty or still being written; publish with `trough put`",
        SkipReason::SideFile => {
            "a -wal or -journal lies beside it, so the file alone is not the database; \
             publish it with `trough put`, or checkpoint it and remove the side file"
        }
        SkipReason::NotAFile => "it is not a regular file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(path: &str, mtime_ms: u64) -> ListItem {
        let path = StorePath::new(path).unwrap();
        let id = SegmentId::from_file_name(path.file_name().as_ref()).unwrap().unwrap();
        ListItem::Segment(Listed { id, path, stamp: Stamp { length: 4096, mtime_ms } })
    }

    fn path_of(items: Vec<ListItem>) -> (String, u64) {
        let mut listing = PoolListing::default();
        for item in items {
            listing.take(item);
        }
        let id = SegmentId::new("nevada").unwrap();
        (listing.pool[&id].path.to_string(), listing.report.duplicates)
    }

    #[test]
    fn of_two_paths_the_published_one_wins_else_the_first_in_byte_order() {
        let (published, a, b) = ("nev/nevada.sqlite", "a/nevada.sqlite", "b/nevada.sqlite");
        for order in [[a, published], [published, a]] {
            let items = order.map(|path| listed(path, 1)).into();
            assert_eq!(path_of(items), (published.to_owned(), 1));
        }
        for order in [[a, b], [b, a]] {
            let items = order.map(|path| listed(path, 1)).into();
            assert_eq!(path_of(items), (a.to_owned(), 1));
        }
    }

    #[test]
    fn what_is_passed_over_is_counted_and_the_examples_are_bounded() {
        let mut listing = PoolListing::default();
        for n in 0..100 {
            listing.take(ListItem::Skipped { path: format!("f{n}"), reason: SkipReason::Empty });
        }
        assert_eq!(listing.report.skipped[&SkipReason::Empty], 100);
        assert_eq!(listing.report.skipped_examples.len(), EXAMPLES_MAX);
        assert!(listing.report.complete());
    }
}
