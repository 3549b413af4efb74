//! S1, S2, S10: whatever is found at start, what is served after it is whole and right.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::os::unix::fs::symlink;

use fsd::cache::{CacheError, StartReport};
use fsd::layout::Layout;
use tempfile::TempDir;

#[path = "support/cache.rs"]
mod support;
use support::*;

/// A closed cache with segments a, b and c (withdrawn), of contents 1, 2 and 3.
fn filled() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (cache, report) = open(directory.path());
    assert_eq!(StartReport { took_ms: 0, ..report }, StartReport::default());
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        publish(&cache, &id(name), &database(seed), seed);
    }
    cache.unpublish(&id("c")).unwrap();
    directory
}

#[test]
fn s10_a_start_finds_what_was_there_and_reads_nothing_again() {
    let directory = filled();
    let (cache, report) = open(directory.path());
    let objects_bytes = 3 * database(1).len() as u64;
    let expected = StartReport { segments: 2, objects_bytes, ..StartReport::default() };
    assert_eq!(StartReport { took_ms: 0, ..report }, expected);
    let holding = cache.holding(&id("a")).unwrap().unwrap();
    assert_eq!((holding.version.stamp.mtime_ms, holding.source.as_str()), (1, "/store/1"));
    assert!(!cache.holding(&id("c")).unwrap().unwrap().published);
    assert!(cache.republish(&id("c"), &source(&database(3), 3)).unwrap().is_some());
    assert_consistent(&cache);
}

#[test]
fn s10_a_lost_or_damaged_ledger_is_rebuilt_from_the_objects() {
    for damage in ["lost", "text", "flipped"] {
        let directory = filled();
        let ledger = Layout::new(directory.path()).ledger();
        // all of it into the one file
        let connection = rusqlite::Connection::open(&ledger).unwrap();
        connection.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(())).unwrap();
        drop(connection);
        let mut bytes = std::fs::read(&ledger).unwrap();
        match damage {
            "lost" => std::fs::remove_file(&ledger).unwrap(),
            "text" => std::fs::write(
                &ledger,
                "not a database, but long enough to be read as one".repeat(200),
            )
            .unwrap(),
            _ => {
                bytes[4096..].fill(0xa5);
                std::fs::write(&ledger, bytes).unwrap();
            }
        }
        let (cache, report) = open(directory.path());
        assert_eq!(
            (report.rehashed, report.relearned, report.segments),
            (2, 2, 2),
            "{damage}: {report:?}"
        );
        assert_eq!(report.orphans_removed, 1, "the withdrawn one is forgotten");
        assert_eq!(report.ledger_rebuilt.is_some(), damage != "lost");
        // the version is known again from the object's mtime
        let version = cache.holding(&id("b")).unwrap().unwrap().version;
        assert_eq!(version.stamp, source(&database(2), 2).stamp);
        assert_consistent(&cache);
        drop(cache);
        let (_, report) = open(directory.path());
        assert_eq!((report.rehashed, report.segments, report.ledger_rebuilt), (0, 2, None));
    }
}

/// S2: a changed object is read; damaged it is withdrawn and kept in quarantine, sound it stays.
#[test]
fn s2_a_touched_object_is_read_at_start() {
    let directory = filled();
    let layout = Layout::new(directory.path());
    let (one, two) = (database(1), database(2));
    let mut damaged = one.clone();
    damaged[9000] ^= 1;
    std::fs::write(layout.object(&digest(&one)), &damaged).unwrap();
    std::fs::write(layout.object(&digest(&two)), &two).unwrap();
    let (cache, report) = open(directory.path());
    assert_eq!((report.rehashed, report.quarantined, report.withdrawn), (2, 1, vec![id("a")]));
    assert_eq!(cache.usage().quarantine_bytes, damaged.len() as u64);
    assert_consistent(&cache);
    publish(&cache, &id("a"), &one, 1);
    assert_consistent(&cache);
}

#[test]
fn s1_a_name_without_its_object_is_withdrawn() {
    let directory = filled();
    let layout = Layout::new(directory.path());
    std::fs::remove_file(layout.object(&digest(&database(1)))).unwrap();
    std::fs::remove_file(layout.object(&digest(&database(3)))).unwrap();
    let (cache, report) = open(directory.path());
    assert_eq!((report.withdrawn, report.segments), (vec![id("a")], 1));
    assert_eq!(cache.holding(&id("c")).unwrap(), None);
    assert_consistent(&cache);
}

#[test]
fn s10_what_a_crash_left_is_swept() {
    let directory = filled();
    let layout = Layout::new(directory.path());
    std::fs::write(layout.incoming().join("x.0123.part"), b"half").unwrap();
    symlink("../objects/x", layout.incoming().join("x.0123.link")).unwrap();
    // placed, but not linked
    let orphan = digest(b"orphan");
    std::fs::create_dir_all(layout.object_dir(&orphan)).unwrap();
    std::fs::write(layout.object(&orphan), b"orphan").unwrap();
    // unlinked, but still in the ledger
    std::fs::remove_file(layout.link(&id("b"))).unwrap();
    // a record whose file did not follow
    std::fs::write(layout.quarantine().join("0000000000001.x.0.json"), b"{}").unwrap();
    let (cache, report) = open(directory.path());
    assert_eq!((report.swept, report.orphans_removed, report.segments), (2, 1, 1));
    assert!(!cache.holding(&id("b")).unwrap().unwrap().published);
    assert_eq!(count(&layout.quarantine()), 0);
    assert_consistent(&cache);
}

#[test]
fn what_trough_did_not_make_is_never_served() {
    let directory = filled();
    let layout = Layout::new(directory.path());
    std::fs::write(layout.segments().join("plain.sqlite"), database(9)).unwrap();
    symlink("/etc/passwd", layout.segments().join("outside.sqlite")).unwrap();
    symlink(Layout::link_target(&digest(&database(1))), layout.segments().join("a b.sqlite"))
        .unwrap();
    std::fs::create_dir(layout.segments().join("directory.sqlite")).unwrap();
    std::fs::write(layout.objects().join("README"), b"x").unwrap();
    std::fs::write(layout.object_dir(&digest(&database(1))).join("core"), b"x").unwrap();
    let (cache, report) = open(directory.path());
    assert_eq!((report.foreign.len(), report.segments), (6, 2), "{report:?}");
    assert_eq!(visible(directory.path()).len(), 2);
    assert_eq!(count(&layout.quarantine()), 12);
    assert_eq!(cache.holdings().unwrap().len(), 3);
}

#[test]
fn s10_a_cache_that_is_taken_away_while_it_is_open_says_so() {
    type Taken = fn(&Layout);
    let cases: [(&str, Taken); 4] = [
        ("the whole", |layout| std::fs::remove_dir_all(layout.dir()).unwrap()),
        ("a directory", |layout| std::fs::remove_dir_all(layout.incoming()).unwrap()),
        ("the lock", |layout| std::fs::remove_file(layout.lock()).unwrap()),
        ("moved, and another in its place", |layout| {
            let aside = layout.dir().with_extension("aside");
            std::fs::rename(layout.dir(), &aside).unwrap();
            for name in ["objects", "segments", "incoming", "quarantine"] {
                std::fs::create_dir_all(layout.dir().join(name)).unwrap();
            }
            std::fs::write(layout.lock(), "").unwrap();
            std::fs::remove_dir_all(aside).unwrap();
        }),
    ];
    for (case, take) in cases {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().join("cache");
        let (cache, _) = open(&dir);
        publish(&cache, &id("a"), &database(1), 1);
        cache.check().unwrap();
        take(cache.layout());
        let error = cache.check().unwrap_err();
        assert!(matches!(error, CacheError::Gone { .. }), "{case}: {error}");
        drop(cache);
        let (cache, report) = open(&dir);
        cache.check().unwrap();
        assert!(report.segments <= 1, "{case}: {report:?}");
    }
}
