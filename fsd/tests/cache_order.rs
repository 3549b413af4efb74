//! S1: the order of the system calls of publication and removal, as strace(1) shows it.
//!
//! The power cut of `cache_power.rs` cannot show every one of them. The ledger's own sync, the last step, commits the
//! whole journal of ext4 and brings all renames before it to the disk; nor does ext4 need a sync of `objects/` for a
//! directory made in it. So a sync of `segments/` or `objects/<aa>` that is missing goes unnoticed there. Other file
//! systems promise nothing of the kind: what is promised is the order, and this is a test of it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use fsd::cache::Cache;
use fsd::layout::Layout;
use fsd::scrub::{Scrub, ScrubSettings};

#[path = "support/strace.rs"]
mod strace;
#[path = "support/cache.rs"]
mod support;
use strace::{Call, Trace};
use support::*;

const CHILD_DIR: &str = "CACHE_ORDER_CHILD_DIR";
const CHILD_DOES: &str = "CACHE_ORDER_CHILD_DOES";
/// The batch is larger than a publication has threads to sync with.
const BATCH: u64 = 40;

/// What the child does to a cache with a (content 1), b (content 2), its twin (content 2) and c (withdrawn, content 3).
fn act(cache: &Cache, what: &str) {
    let item = |name: &str, seed: u64| {
        let bytes = database(seed);
        (verified(cache, &id(name), &bytes), source(&bytes, seed))
    };
    let publish = |batch: Vec<_>| {
        mark(cache.layout(), "begin");
        cache.publish(batch).into_iter().for_each(|result| drop(result.unwrap()));
    };
    match what {
        "publish" => publish(vec![item("new", 4)]),
        "twin" => publish(vec![item("a2", 1)]),
        "publish again" => {
            let error = cache.publish(vec![item("new", 4)]).remove(0).unwrap_err();
            assert!(error.to_string().contains("sync"), "{error}");
            assert!(cache.holding(&id("new")).unwrap().is_none());
            publish(vec![item("new", 4)]);
        }
        "replace" => publish(vec![item("a", 5)]),
        "batch" => {
            let new = (0..BATCH).map(|n| item(&format!("n{n}"), 100 + n));
            publish(new.chain([item("a", 5), item("c", 6), item("b", 7), item("b2", 7)]).collect());
        }
        "unpublish" => {
            mark(cache.layout(), "begin");
            assert!(cache.unpublish(&id("a")).unwrap());
        }
        "republish" => {
            mark(cache.layout(), "begin");
            cache.republish(&id("c"), &source(&database(3), 3)).unwrap().unwrap();
        }
        "remove" => {
            mark(cache.layout(), "begin");
            assert!(cache.remove(&id("a")).unwrap());
        }
        "condemn" => {
            let object = cache.layout().object(&digest(&database(2)));
            std::fs::write(object, &database(2)[..5000]).unwrap();
            let mut scrub = Scrub::new(cache.clone(), ScrubSettings::default(), drop).unwrap();
            mark(cache.layout(), "begin");
            scrub.run_once(&AtomicBool::new(false)).unwrap();
        }
        _ => panic!("{what} is not known"),
    }
    mark(cache.layout(), "end");
}

/// Leaves a line in the trace: the removal of a file that is not there.
fn mark(layout: &Layout, name: &str) {
    std::fs::remove_file(layout.dir().join(name)).unwrap_err();
}

/// Not a test of its own: the body of the child process.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let layout = Layout::new(dir);
    match std::env::var(CHILD_DOES).unwrap().as_str() {
        "open" => {
            mark(&layout, "begin");
            drop(open(layout.dir()));
            mark(&layout, "end");
        }
        what => act(&open(layout.dir()).0, what),
    }
}

/// A cache, and the trace of what a child did to it.
struct Case {
    layout: Layout,
    trace: Trace,
    /// When the child was called, and when it had its answer.
    begin: Call,
    end: Call,
    _directory: tempfile::TempDir,
}

/// A filled cache, and a child process that is to do `what` to it.
fn filled(what: &str) -> (tempfile::TempDir, Layout, Command) {
    let directory = tempfile::tempdir().unwrap();
    // strace shows descriptors by their real paths
    let layout = Layout::new(directory.path().canonicalize().unwrap().join("cache"));
    let (cache, _) = open(layout.dir());
    for (name, seed) in [("a", 1), ("b", 2), ("twin", 2), ("c", 3)] {
        publish(&cache, &id(name), &database(seed), seed);
    }
    cache.unpublish(&id("c")).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child", "--nocapture"]);
    child.env(CHILD_DIR, layout.dir()).env(CHILD_DOES, what);
    (directory, layout, child)
}

impl Case {
    fn of(what: &str) -> Self {
        let (directory, layout, child) = filled(what);
        let trace = Trace::of(&child, &directory.path().join("trace"));
        let mark = |name| trace.failed_unlink(&layout.dir().join(name));
        let (begin, end) = (mark("begin"), mark("end"));
        assert_consistent(&open(layout.dir()).0);
        Self { layout, trace, begin, end, _directory: directory }
    }

    fn object(&self, seed: u64) -> PathBuf {
        self.layout.object(&digest(&database(seed)))
    }

    /// The sync of `segments/` that made `change` durable, before `before`.
    fn segments_synced(&self, change: &Call, before: &Call) -> Call {
        self.trace.synced_between(change, &self.layout.segments(), before)
    }

    /// The ledger's sync after `change` and before the answer.
    fn ledgered(&self, change: &Call) -> Call {
        self.trace.synced_between(change, &self.layout.ledger(), &self.end)
    }

    /// Everything that must stand before `id` is acknowledged as content `seed`; returns the sync of `segments/`.
    fn assert_published(&self, name: &str, seed: u64) -> Call {
        let (trace, object) = (&self.trace, self.object(seed));
        let linked = trace.rename_to(&self.layout.link(&id(name)));
        // two names of one content share an object, staged twice
        let placed = trace.rename_to(&object);
        let staged = placed.from();
        assert_eq!(staged.parent(), Some(self.layout.incoming().as_path()));
        trace.synced_between(&Call::start(), staged, &placed);
        let directory = object.parent().unwrap();
        let placed = match trace.mkdir(directory) {
            // the content's first two digits are new
            Some(made) => {
                trace.synced_between(&made, &self.layout.objects(), &linked);
                assert!(made.is_before(&placed));
                placed
            }
            None => placed,
        };
        let object_synced = trace.synced_between(&placed, directory, &linked);
        let beside = trace.symlink_at(linked.from());
        assert!(object_synced.is_before(&beside) && beside.is_before(&linked));
        let synced = self.segments_synced(&linked, &self.end);
        self.ledgered(&synced);
        assert!(self.begin.is_before(&placed), "{name} was placed before it was published");
        synced
    }
}

#[test]
fn s1_a_segment_is_published_in_order() {
    let case = Case::of("publish");
    assert!(
        case.trace.mkdir(case.object(4).parent().unwrap()).is_some(),
        "a new directory is in the test"
    );
    case.assert_published("new", 4);
}

/// It may be there because a publication could not sync its directory, and then not remove it.
#[test]
fn s1_an_object_that_is_there_already_is_on_the_disk_before_another_name_leads_to_it() {
    let case = Case::of("twin");
    let linked = case.trace.rename_to(&case.layout.link(&id("a2")));
    case.trace.synced_between(&case.begin, case.object(1).parent().unwrap(), &linked);
    case.ledgered(&case.segments_synced(&linked, &case.end));
}

/// A directory whose sync failed is synced by the next attempt, and only that one is acknowledged.
#[test]
fn s1_what_could_not_be_synced_is_not_published_and_synced_at_the_next_attempt() {
    let after_a_failed_sync = |path: fn(&Layout) -> PathBuf, nth| {
        let (directory, layout, child) = filled("publish again");
        let path = path(&layout);
        let trace = Trace::of_failing(&child, &directory.path().join("trace"), &path, nth);
        assert_consistent(&open(layout.dir()).0);
        trace.sync_results(&path)
    };
    let of_four = |layout: &Layout| layout.object_dir(&digest(&database(4)));
    assert_eq!(after_a_failed_sync(of_four, 1), [false, true]);
    // the first is that of the start
    assert_eq!(after_a_failed_sync(Layout::objects, 2), [true, false, true]);
}

/// A process that dies between making or renaming something and its sync leaves the sync to the next one.
#[test]
fn s1_a_start_syncs_what_the_last_process_did_not_live_to_sync() {
    let case = Case::of("open");
    for directory in [case.layout.objects(), case.layout.segments()] {
        case.trace.synced_between(&case.begin, &directory, &case.end);
    }
}

#[test]
fn s1_a_replaced_object_goes_after_its_last_name_is_gone_from_the_disk() {
    let case = Case::of("replace");
    let synced = case.assert_published("a", 5);
    let unlinked = case.trace.unlink(&case.object(1));
    assert!(synced.is_before(&unlinked), "{synced:?}\n{unlinked:?}");
}

/// The files and directories of a batch are synced by several threads.
#[test]
fn s1_every_segment_of_a_batch_is_published_in_order() {
    let case = Case::of("batch");
    let new = (0..BATCH).map(|n| (format!("n{n}"), 100 + n));
    let others =
        [("a", 5), ("c", 6), ("b", 7), ("b2", 7)].map(|(name, seed)| (name.to_owned(), seed));
    let mut threads = BTreeSet::new();
    for (name, seed) in new.chain(others) {
        case.assert_published(&name, seed);
        let placed = case.trace.rename_to(&case.object(seed));
        threads.insert(case.trace.synced_between(&Call::start(), placed.from(), &placed).thread);
    }
    assert!(
        threads.len() > 1,
        "one thread synced all of it: this test would show nothing of several"
    );
    for old in [1, 3] {
        let unlinked = case.trace.unlink(&case.object(old));
        let last = case.trace.syncs_of(&case.layout.segments()).last().unwrap().clone();
        assert!(last.is_before(&unlinked));
    }
    assert!(case.trace.find_unlink(&case.object(2)).is_none(), "twin is this object still");
}

#[test]
fn s1_a_removed_object_goes_after_its_name_is_gone_from_the_disk() {
    let case = Case::of("remove");
    let withdrawn = case.trace.unlink(&case.layout.link(&id("a")));
    let removed = case.trace.unlink(&case.object(1));
    case.segments_synced(&withdrawn, &removed);
    case.ledgered(&removed);
}

#[test]
fn s1_a_withdrawn_name_is_gone_from_the_disk_before_the_ledger_says_so() {
    let case = Case::of("unpublish");
    let withdrawn = case.trace.unlink(&case.layout.link(&id("a")));
    let synced = case.segments_synced(&withdrawn, &case.end);
    case.ledgered(&synced);
}

#[test]
fn s1_a_name_that_comes_back_is_on_the_disk_before_the_ledger_says_so() {
    let case = Case::of("republish");
    let linked = case.trace.rename_to(&case.layout.link(&id("c")));
    let synced = case.segments_synced(&linked, &case.end);
    case.ledgered(&synced);
}

#[test]
fn s1_a_damaged_object_goes_after_its_names_are_gone_from_the_disk() {
    let case = Case::of("condemn");
    let moved = case.trace.rename_from(&case.object(2));
    for name in ["b", "twin"] {
        let withdrawn = case.trace.unlink(&case.layout.link(&id(name)));
        case.segments_synced(&withdrawn, &moved);
    }
    let kept = case.trace.synced_between(&moved, &case.layout.quarantine(), &case.end);
    case.ledgered(&kept);
}
