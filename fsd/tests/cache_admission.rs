//! What is admitted, what is refused and why, and what the cache does with each.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::os::unix::fs::MetadataExt;

use fsd::cache::{Cache, CacheError, CacheSettings, Refusal, Rejected};
use fsd::header::HeaderError;
use fsd::ledger::LedgerReader;
use proptest::prelude::*;

#[path = "support/cache.rs"]
mod support;
use support::*;

#[test]
fn a_segment_is_published_replaced_withdrawn_returned_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _) = open(directory.path());
    let (ohio, v1, v2) = (id("ohio"), database(1), database(2));

    let published = publish(&cache, &ohio, &v1, 1000);
    assert_eq!((published.version.digest, published.replaced), (digest(&v1), None));
    assert_eq!(cache.layout().published(&ohio).unwrap(), Some(digest(&v1)));
    let object = std::fs::metadata(cache.layout().object(&digest(&v1))).unwrap();
    assert_eq!((object.mtime(), object.mode() & 0o777), (1, 0o444));
    let facts = LedgerReader::open(cache.layout()).facts(&ohio, &digest(&v1)).unwrap().unwrap();
    assert_eq!((facts.stamp, facts.source.as_str()), (source(&v1, 1000).stamp, "/store/1000"));
    assert_consistent(&cache);

    assert_eq!(publish(&cache, &ohio, &v2, 2000).replaced, Some(digest(&v1)));
    assert_consistent(&cache);
    assert_eq!(publish(&cache, &ohio, &v2, 2500).replaced, None);
    assert_consistent(&cache);

    assert!(cache.unpublish(&ohio).unwrap());
    assert!(!cache.unpublish(&ohio).unwrap());
    assert_consistent(&cache);
    assert_eq!(cache.republish(&ohio, &source(&v2, 2000)).unwrap(), None, "another stamp");
    assert!(cache.republish(&ohio, &source(&v2, 2500)).unwrap().is_some());
    assert!(cache.republish(&ohio, &source(&v2, 2500)).unwrap().is_some());
    assert_eq!(cache.republish(&id("iowa"), &source(&v2, 2500)).unwrap(), None);
    assert_consistent(&cache);

    assert!(cache.remove(&ohio).unwrap());
    assert!(!cache.remove(&ohio).unwrap());
    assert_consistent(&cache);
    assert_eq!(cache.usage(), fsd::cache::Usage::default());
}

/// S2: an object that was touched while it was withdrawn does not come back unread.
#[test]
fn s2_a_withdrawn_object_that_was_touched_is_not_republished() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _) = open(directory.path());
    let (ohio, bytes) = (id("ohio"), database(1));
    publish(&cache, &ohio, &bytes, 1000);
    cache.unpublish(&ohio).unwrap();
    std::fs::write(cache.layout().object(&digest(&bytes)), &bytes[..5000]).unwrap();
    assert_eq!(cache.republish(&ohio, &source(&bytes, 1000)).unwrap(), None);
    // a new pull puts a good object in its place
    publish(&cache, &ohio, &bytes, 1000);
    assert_consistent(&cache);
}

#[test]
fn two_ids_with_one_content_share_an_object_until_the_last_goes() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _) = open(directory.path());
    let bytes = database(1);
    publish(&cache, &id("a"), &bytes, 1);
    publish(&cache, &id("b"), &bytes, 2);
    publish(&cache, &id("c"), &bytes, 3);
    assert_eq!(cache.usage().objects_bytes, bytes.len() as u64);
    cache.unpublish(&id("c")).unwrap();
    assert!(cache.remove(&id("a")).unwrap());
    assert_consistent(&cache);
    publish(&cache, &id("b"), &database(2), 4);
    assert_consistent(&cache);
    assert!(cache.remove(&id("c")).unwrap());
    assert_consistent(&cache);
}

#[test]
fn in_a_batch_each_item_fails_alone_and_a_name_given_twice_ends_with_the_later() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _) = open(directory.path());
    // a directory where the symlink should be makes the rename over it fail
    std::fs::create_dir(cache.layout().link(&id("blocked"))).unwrap();
    let bytes: Vec<Vec<u8>> = (0..8).map(database).collect();
    let item =
        |name: &str, n: usize| (verified(&cache, &id(name), &bytes[n]), source(&bytes[n], 7));
    let mut wrong = item("wrong-stamp", 3);
    wrong.1.stamp.length += 1;
    let batch = vec![
        item("a", 0),
        item("blocked", 1),
        item("b", 2),
        wrong,
        item("twice", 4),
        item("twice", 5),
        item("same", 5),
    ];
    let results = cache.publish(batch);
    let good: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(good, [true, false, true, false, true, true, true]);
    assert_eq!(results[5].as_ref().unwrap().replaced, Some(digest(&bytes[4])));
    drop(results);
    std::fs::remove_dir(cache.layout().link(&id("blocked"))).unwrap();
    assert_eq!(cache.layout().published(&id("twice")).unwrap(), Some(digest(&bytes[5])));
    assert_consistent(&cache);
    assert!(cache.publish(Vec::new()).is_empty());
}

#[test]
fn every_refusal_is_its_own_and_names_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _) = open(directory.path());
    let good = database(1);
    let mut wal = good.clone();
    wal[18..20].copy_from_slice(&[2, 2]);
    let mut torn = good.clone();
    // the first byte of the second page is its type: 0x0d is a leaf of a table
    assert_eq!(torn[4096], 0x0d);
    torn[4096] = 0x77;
    let cases: [(&[u8], bool, &str, &str); 7] = [
        (&[], true, "header", "create at least one table"),
        (b"hello", true, "header", "cut off: publish it again"),
        (&[b'x'; 5000], true, "header", "plain SQLite database"),
        (&good[..good.len() - 4096], true, "header", "cut off or has something appended"),
        (&[&good[..], b"more"].concat(), true, "header", "cut off or has something appended"),
        (&wal, true, "header", "PRAGMA journal_mode=DELETE"),
        (&torn, false, "quick_check", ".recover"),
    ];
    for (bytes, sealed, step, remedy) in cases {
        let staged = stage(&cache, &id("x"), bytes).unwrap();
        let rejected = staged.verify(sealed.then(|| digest(bytes))).unwrap_err();
        let text = rejected.refusal.to_string();
        assert_eq!(rejected.refusal.step(), step, "{text}");
        assert!(text.contains(remedy), "{text}");
    }
    let rejected = stage(&cache, &id("x"), &good).unwrap().verify(Some(digest(&wal))).unwrap_err();
    assert_eq!(rejected.refusal, Refusal::Seal { sealed: digest(&wal), got: digest(&good) });
    let empty = stage(&cache, &id("x"), &[]).unwrap().verify(None).unwrap_err();
    assert_eq!(empty.refusal, Refusal::Header(HeaderError::Empty));
    drop((rejected, empty));
    // sound and unsealed is admitted; so is a torn page that a seal vouches for: whoever sealed it looked
    assert!(stage(&cache, &id("x"), &good).unwrap().verify(None).is_ok());
    assert_consistent(&cache);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// S2: one flipped bit anywhere, and a sealed file is refused.
    #[test]
    fn s2_a_flipped_bit_is_never_admitted(at in any::<prop::sample::Index>(), bit in 0..8) {
        let directory = tempfile::tempdir().unwrap();
        let (cache, _) = open(directory.path());
        let good = database(1);
        let mut flipped = good.clone();
        flipped[at.index(good.len())] ^= 1_u8 << bit;
        let rejected = stage(&cache, &id("x"), &flipped).unwrap().verify(Some(digest(&good))).unwrap_err();
        let is_seal = matches!(rejected.refusal, Refusal::Seal { .. });
        prop_assert!(is_seal);
    }
}

#[test]
fn more_or_fewer_bytes_than_announced_are_refused_and_leave_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _) = open(directory.path());
    let mut staging = cache.stage(&id("x"), 10).unwrap();
    staging.write(&[0; 6]).unwrap();
    assert_eq!(cache.usage().incoming_bytes, 10);
    let error = staging.write(&[0; 5]).unwrap_err();
    assert!(matches!(error, CacheError::LengthDiffers { expected_bytes: 10, got_bytes: 11, .. }));
    let error = staging.finish().unwrap_err();
    assert!(matches!(error, CacheError::LengthDiffers { expected_bytes: 10, got_bytes: 6, .. }));
    assert_consistent(&cache);
}

#[test]
fn the_longest_id_can_be_staged_published_and_quarantined() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _) = open(directory.path());
    let (long, bytes) = (id(&"a".repeat(200)), database(1));
    publish(&cache, &long, &bytes, 1);
    let rejected = stage(&cache, &long, b"bad").unwrap().verify(None).unwrap_err();
    cache.quarantine_staged(rejected, &source(b"bad", 2)).unwrap();
    assert_eq!(cache.usage().quarantine_bytes, 3);
    assert_consistent(&cache);
}

#[test]
fn the_quota_holds_objects_and_what_is_being_staged() {
    let directory = tempfile::tempdir().unwrap();
    let bytes = database(1);
    let length = bytes.len() as u64;
    let settings = CacheSettings { quota_bytes: Some(2 * length), ..settings(directory.path()) };
    let (cache, _) = Cache::open(&settings).unwrap();
    publish(&cache, &id("a"), &bytes, 1);
    let staging = cache.stage(&id("b"), length).unwrap();
    let error = cache.stage(&id("c"), 1).unwrap_err();
    assert!(matches!(error, CacheError::OverQuota { needed_bytes: 1, .. }), "{error}");
    drop(staging);
    assert!(cache.stage(&id("c"), length + 1).is_err());
    publish(&cache, &id("c"), &database(2), 1);
    assert!(cache.stage(&id("d"), 1).is_err());
    cache.remove(&id("a")).unwrap();
    assert!(cache.stage(&id("d"), length).is_ok());
    // what lies beside the cache takes of it, and pushes nothing out
    cache.take(length);
    assert_eq!((cache.quota_bytes(), cache.taken_bytes()), (length, length));
    let error = cache.stage(&id("d"), 1).unwrap_err();
    assert!(matches!(error, CacheError::OverQuota { quota_bytes, .. } if quota_bytes == length));
    assert_eq!(cache.usage().objects_bytes, length);
    cache.take(u64::MAX);
    assert_eq!(cache.quota_bytes(), 0);
    cache.take(0);
    assert!(cache.stage(&id("d"), length).is_ok());
    assert_consistent(&cache);
}

#[test]
fn without_a_setting_the_quota_is_four_fifths_of_the_volume() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _) = open(directory.path());
    let stat = rustix::fs::statvfs(directory.path()).unwrap();
    assert_eq!(cache.quota_bytes(), stat.f_blocks * stat.f_frsize / 100 * 80);
}

#[test]
fn quarantine_is_bounded_and_the_oldest_leaves_first() {
    let directory = tempfile::tempdir().unwrap();
    let settings = CacheSettings {
        quarantine_bytes_max: 100,
        quarantine_files_max: 3,
        ..settings(directory.path())
    };
    let (cache, _) = Cache::open(&settings).unwrap();
    let refuse = |name: &str, bytes: &[u8]| -> Rejected {
        stage(&cache, &id(name), bytes).unwrap().verify(None).unwrap_err()
    };
    let names = || {
        let entries = std::fs::read_dir(cache.layout().quarantine()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    for name in ["a", "b", "c", "d"] {
        cache.quarantine_staged(refuse(name, &[b'x'; 20]), &source(b"", 5)).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let kept = names();
    assert_eq!(kept.len(), 6, "{kept:?}");
    assert!(kept[0].contains(".b.") && kept[5].contains(".d."), "{kept:?}");
    let record = std::fs::read_to_string(cache.layout().quarantine().join(&kept[1])).unwrap();
    for part in ["\"b\"", "/store/5", &digest(&[b'x'; 20]).to_hex(), "cut off", "at_ms"] {
        assert!(record.contains(part), "{record} does not tell {part}");
    }
    cache.quarantine_staged(refuse("e", &[b'x'; 70]), &source(b"", 6)).unwrap();
    assert_eq!((cache.usage().quarantine_bytes, names().len()), (90, 4));
    assert_consistent(&cache);
    // the bounds hold over a restart
    drop(cache);
    let (cache, _) = Cache::open(&CacheSettings { quarantine_files_max: 1, ..settings }).unwrap();
    assert_eq!(cache.usage().quarantine_bytes, 70);
    assert_consistent(&cache);
}

#[test]
fn a_second_opener_is_refused_and_told_who_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _) = open(directory.path());
    let error = Cache::open(&settings(directory.path())).unwrap_err().to_string();
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    drop(cache);
    open(directory.path());
}

/// Needs CAP_LINUX_IMMUTABLE and a file system with the flag: the target directory's.
#[test]
fn immutable_objects_cannot_be_written_and_are_removed_all_the_same() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let settings = CacheSettings { immutable_flag: true, ..settings(directory.path()) };
    let (cache, _) = Cache::open(&settings).unwrap();
    let (v1, v2, v3) = (database(1), database(2), database(3));
    publish(&cache, &id("a"), &v1, 1);
    let error = std::fs::write(cache.layout().object(&digest(&v1)), b"x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    publish(&cache, &id("a"), &v2, 2);
    publish(&cache, &id("b"), &v3, 3);
    assert!(cache.remove(&id("b")).unwrap());
    assert_consistent(&cache);
    drop(cache);
    let (cache, report) = Cache::open(&settings).unwrap();
    assert_eq!((report.rehashed, report.segments), (0, 1));
    cache.remove(&id("a")).unwrap();
    assert_consistent(&cache);
}
