//! S2: damage that comes after admission is found by scrub, withdrawn, kept and told of; and nothing else is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use fsd::cache::Cache;
use fsd::scrub::{Damaged, Scrub, ScrubSettings};
use fsd::segment::Digest;
use fsd::worker::{self, Worker};
use tempfile::TempDir;

#[path = "support/cache.rs"]
mod support;
#[path = "support/volume.rs"]
mod volume;
use support::*;
use volume::Volume;

const BOUND: Duration = Duration::from_secs(60);

fn scrub(cache: &Cache, settings: ScrubSettings) -> (Scrub, Receiver<Damaged>) {
    let (report, damaged) = mpsc::channel();
    let tell = move |one| report.send(one).unwrap();
    (Scrub::new(cache.clone(), settings, tell).unwrap(), damaged)
}

/// A cache with segments s0, s1, ... of contents 0, 1, ..., on a disk (not a tmpfs).
fn filled(segments: u64) -> (TempDir, Cache) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (cache, _) = open(directory.path());
    for seed in 0..segments {
        publish(&cache, &id(&format!("s{seed}")), &database(seed), 1);
    }
    (directory, cache)
}

fn flip(cache: &Cache, digest: &Digest, at: u64) {
    let file =
        OpenOptions::new().read(true).write(true).open(cache.layout().object(digest)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[test]
fn s2_a_flipped_byte_is_found_withdrawn_kept_and_healed() {
    let (_directory, cache) = filled(5);
    publish(&cache, &id("twin"), &database(3), 1);
    let (mut scrub, damaged) = scrub(&cache, ScrubSettings::default());
    let status = scrub.run_once(&AtomicBool::new(false)).unwrap();
    assert_eq!((status.corruptions, status.read_bytes), (0, cache.usage().objects_bytes));
    assert!(damaged.try_recv().is_err());

    let bytes = database(3);
    flip(&cache, &digest(&bytes), 8200);
    let status = scrub.run_once(&AtomicBool::new(false)).unwrap();
    assert_eq!((status.corruptions, status.damaged.len()), (1, 1));
    assert!(!status.running && status.completed_at_ms.is_some() && status.next_at_ms.is_some());
    let found = damaged.try_recv().unwrap();
    assert_eq!(found.digest, digest(&bytes));
    assert_eq!(
        found.ids.into_iter().collect::<HashSet<_>>(),
        HashSet::from([id("s3"), id("twin")])
    );
    assert!(found.error.contains("hashes to"), "{}", found.error);
    assert_eq!(cache.holding(&id("twin")).unwrap(), None);
    assert_eq!(cache.usage().quarantine_bytes, bytes.len() as u64);
    assert_consistent(&cache);

    publish(&cache, &id("s3"), &bytes, 1);
    assert_eq!(scrub.run_once(&AtomicBool::new(false)).unwrap().corruptions, 1);
    assert_consistent(&cache);
}

#[test]
fn s2_a_missing_object_is_damage() {
    let (_directory, cache) = filled(2);
    std::fs::remove_file(cache.layout().object(&digest(&database(1)))).unwrap();
    let (mut scrub, damaged) = scrub(&cache, ScrubSettings::default());
    scrub.run_once(&AtomicBool::new(false)).unwrap();
    assert_eq!(damaged.try_recv().unwrap().ids, [id("s1")]);
    assert_consistent(&cache);
}

/// An object of two reads is replaced or removed between them: no damage is reported, and the run goes on.
#[test]
fn an_object_that_goes_while_it_is_read_is_no_damage() {
    let (_directory, cache) = filled(0);
    let mut large = database(1);
    large.resize(12 << 20, 7);
    // the header's page count no longer counts
    large[92] ^= 1;
    publish(&cache, &id("large"), &large, 1);
    for put_back in [false, true] {
        let (mut scrub, damaged) = scrub(&cache, ScrubSettings { period_s: 0, disk_share: 0.5 });
        scrub.work().unwrap();
        // the same bytes under the same name, but another file; the one being read is damaged before it goes
        flip(&cache, &digest(&large), 10 << 20);
        cache.remove(&id("large")).unwrap();
        if put_back {
            publish(&cache, &id("large"), &large, 1);
        }
        while scrub.handle().status().running {
            scrub.work().unwrap();
        }
        assert!(damaged.try_recv().is_err(), "put back: {put_back}");
        assert_consistent(&cache);
        if !put_back {
            publish(&cache, &id("large"), &large, 1);
        }
    }
}

/// S10: a run that was stopped goes on where it was; every object is read once.
#[test]
fn s10_a_run_is_resumed_after_a_restart() {
    let (directory, cache) = filled(6);
    let settings = ScrubSettings { period_s: 0, disk_share: 0.5 };
    let (mut scrub, _damaged) = self::scrub(&cache, settings.clone());
    for _ in 0..3 {
        scrub.work().unwrap();
    }
    let status = scrub.handle().status();
    assert!(status.running && status.progress > 0.4 && status.progress < 0.6, "{status:?}");
    // writes the checkpoint as a stop does
    drop((scrub, cache));
    let (cache, _) = open(directory.path());
    let (mut scrub, _damaged) = self::scrub(&cache, settings);
    let mut units = 0;
    while {
        scrub.work().unwrap();
        scrub.handle().status().running
    } {
        units += 1;
    }
    assert_eq!(units, 3, "the rest was to be read, and only that");
    assert_eq!(scrub.handle().status().read_bytes, cache.usage().objects_bytes);
}

#[test]
fn s12_the_worker_scrubs_when_it_is_due_and_when_it_is_asked() {
    let (_directory, cache) = filled(3);
    let (scrub, damaged) = scrub(&cache, ScrubSettings { period_s: 3600, disk_share: 0.5 });
    let handle = scrub.handle();
    let running = worker::spawn(scrub).unwrap();
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let started = Instant::now();
        while !done() {
            assert!(started.elapsed() < BOUND, "{what} did not come");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait("the first run", &|| handle.status().completed_at_ms.is_some());
    flip(&cache, &digest(&database(2)), 5000);
    handle.scrub_now();
    assert_eq!(damaged.recv_timeout(BOUND).unwrap().ids, [id("s2")]);
    wait("the end", &|| !handle.status().running);
    assert_eq!(running.status().errors, 0);
    running.stop();
}

/// The page cache has the good bytes, the disk has not: scrub must say so. Needs root and loop devices.
#[test]
fn s2_scrub_reads_the_disk_and_not_the_page_cache() {
    let volume = Volume::new(64);
    let (cache, _) = open(&volume.path().join("cache"));
    // a pattern of its own to find it by in the volume's image
    let mut bytes = database(1);
    bytes[9000..9016].copy_from_slice(b"only-here-934817");
    publish(&cache, &id("x"), &bytes, 1);
    let link = cache.layout().link(&id("x"));
    assert_eq!(std::fs::read(&link).unwrap(), bytes);

    let image = std::fs::read(volume.image()).unwrap();
    let found: Vec<usize> = memchr(&image, b"only-here-934817");
    assert_eq!(found.len(), 1);
    volume.write_to_disk(found[0] as u64, b"ONLY-HERE-934817");

    assert_eq!(
        std::fs::read(&link).unwrap(),
        bytes,
        "the page cache must still have the good bytes"
    );
    let (mut scrub, damaged) = scrub(&cache, ScrubSettings::default());
    scrub.run_once(&AtomicBool::new(false)).unwrap();
    assert_eq!(damaged.try_recv().unwrap().ids, [id("x")]);
    assert_consistent(&cache);
}

fn memchr(haystack: &[u8], needle: &[u8]) -> Vec<usize> {
    let windows = haystack.windows(needle.len()).enumerate();
    windows.filter(|(_, window)| *window == needle).map(|(at, _)| at).collect()
}
