//! S1: what `publish` acknowledged survives a power cut, and nothing half is there after it. The volume is an ext4 of its
//! own that is cut off without a flush of its journal: unlike a kill, this shows an fsync that is missing.
//! And a volume that is full.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use fsd::cache::{Cache, CacheError, CacheSettings};

#[path = "support/cache.rs"]
mod support;
#[path = "support/volume.rs"]
mod volume;
use support::*;
use volume::Volume;

const CHILD_DIR: &str = "CACHE_POWER_CHILD_DIR";
const CHILD_ROUNDS: &str = "CACHE_POWER_CHILD_ROUNDS";

/// Ids that are published over and over.
const IDS: u64 = 6;

fn name(round: u64, item: u64) -> String {
    format!("s{}", (round + item) % IDS)
}

/// The content of an item: of its own, some blocks that are written past the page cache, and an end of less than a
/// block, which the kernel holds back for a while.
fn content(round: u64, item: u64) -> Vec<u8> {
    const PAGE_BYTES: u16 = 512;
    let mut bytes = database(1000 * round + item);
    bytes.resize(bytes.len() + 4096 * 40 + usize::from(PAGE_BYTES), item as u8);
    bytes[16..18].copy_from_slice(&PAGE_BYTES.to_be_bytes());
    let pages = u32::try_from(bytes.len() / usize::from(PAGE_BYTES)).unwrap();
    bytes[28..32].copy_from_slice(&pages.to_be_bytes());
    bytes
}

/// Not a test of its own: the body of the child process. It publishes batches and tells of each that was acknowledged.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    fsd::failpoint::setup();
    let rounds: u64 = std::env::var(CHILD_ROUNDS).unwrap().parse().unwrap();
    let (cache, _) = open(Path::new(&dir));
    for round in 1..=rounds {
        let batch = (0..3).map(|item| {
            let bytes = content(round, item);
            (verified(&cache, &id(&name(round, item)), &bytes), source(&bytes, round))
        });
        let results = cache.publish(batch.collect());
        let mut out = std::io::stdout().lock();
        for (item, result) in results.into_iter().enumerate() {
            if result.is_ok() {
                writeln!(out, "\nacknowledged {round} {item}").unwrap();
            }
        }
        out.flush().unwrap();
    }
}

/// Lets a child publish, cuts the power when it dies at `point` or has acknowledged `rounds`, and looks.
fn cut(point: Option<(&str, u64)>, rounds: u64) {
    let case = format!("{point:?}, {rounds} rounds");
    let volume = Volume::new(64);
    let dir = volume.path().join("cache");
    drop(open(&dir));
    let failpoints =
        point.map_or(String::new(), |(point, nth)| format!("{point}={nth}*off->return"));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD_DIR, &dir)
        // without a point to die at it goes on until it is cut off
        .env(CHILD_ROUNDS, if point.is_some() { rounds } else { 100_000 }.to_string())
        .env("FAILPOINTS", failpoints)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut acknowledged = BTreeMap::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some(text) = line.strip_prefix("acknowledged ") else { continue };
        let (round, item) = text.split_once(' ').unwrap();
        let (round, item): (u64, u64) = (round.parse().unwrap(), item.parse().unwrap());
        acknowledged.insert(name(round, item), (round, item));
        if point.is_none() && round == rounds {
            // somewhere in the round after
            std::thread::sleep(Duration::from_millis(rounds * 7 % 23));
            break;
        }
    }
    volume.cut_power();
    let _ = child.kill();
    child.wait().unwrap();
    volume.unmount();
    volume.mount();

    let (cache, report) = open(&dir);
    assert_consistent(&cache);
    assert_eq!((report.quarantined, report.withdrawn.len()), (0, 0), "{case}: {report:?}");
    let names = visible(&dir);
    assert!(point.is_some() || !acknowledged.is_empty(), "{case}: nothing was acknowledged");
    for (name, (round, item)) in acknowledged {
        let shown =
            names.get(&id(&name)).unwrap_or_else(|| panic!("{case}: {name} is lost, {report:?}"));
        // the acknowledged version, or one that was on its way when the power went
        let later = (round..round + 8).flat_map(|round| (0..3).map(move |item| (round, item)));
        let mut later = later.filter(|&(r, i)| self::name(r, i) == name && (r, i) >= (round, item));
        assert!(
            later.any(|(r, i)| digest(&content(r, i)) == *shown),
            "{case}: {name} is an older version"
        );
    }
}

#[test]
fn s1_a_power_cut_at_every_step_of_admission() {
    for step in [
        "verified",
        "fsynced",
        "renamed",
        "object-dir-synced",
        "linked",
        "segments-dir-synced",
        "ledgered",
    ] {
        let per_item = matches!(step, "verified" | "renamed" | "linked");
        for rounds in [1, 4] {
            let passings = if per_item { 3 * (rounds - 1) + 1 } else { rounds - 1 };
            cut(Some((&format!("admission.{step}"), passings)), rounds + 1);
        }
    }
}

/// While the ledger's log grows, its sync commits ext4's whole journal and hides a missing sync of `segments/`; once the
/// log is written over from its start (after 1000 pages) it does not.
#[test]
fn s1_a_power_cut_after_the_ledgers_log_was_reset() {
    cut(Some(("admission.verified", 3 * 300)), 302);
}

#[test]
fn s1_a_power_cut_at_any_moment() {
    for rounds in [1, 2, 3, 5, 9, 14, 20, 33] {
        cut(None, rounds);
    }
}

#[test]
fn a_full_volume_is_a_clear_error_and_what_was_there_stays() {
    let volume = Volume::new(16);
    let settings =
        CacheSettings { quota_bytes: Some(u64::MAX), ..settings(&volume.path().join("cache")) };
    let (cache, _) = Cache::open(&settings).unwrap();
    let bytes = database(1);
    publish(&cache, &id("kept"), &bytes, 1);

    // known before the first byte is pulled
    let error = cache.stage(&id("large"), 1 << 30).unwrap_err();
    assert!(matches!(error, CacheError::DiskFull { needed_bytes: 0x4000_0000, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("the volume is full") && text.contains("free some space"), "{text}");

    // each of two has room, both have not: the second hears of it before its first byte too
    let free = || {
        let stat = rustix::fs::statvfs(volume.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    let length = free() * 2 / 3;
    let first = cache.stage(&id("one"), length).unwrap();
    let error = cache.stage(&id("two"), length).unwrap_err();
    assert!(matches!(error, CacheError::DiskFull { .. }), "{error}");
    drop(first);
    assert_consistent(&cache);

    // hardly a block is left for symlink, directory and ledger (ext4 keeps a few for itself, so it may go well)
    let waiting = verified(&cache, &id("kept"), &database(2));
    let filler = volume.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).and_then(|()| file.sync_all()).is_ok() {}
    match cache.publish(vec![(waiting, source(&database(2), 2))]).remove(0) {
        Ok(_) | Err(CacheError::DiskFull { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    assert_eq!(visible(cache.layout().dir()).len(), 1);
    drop(file);
    std::fs::remove_file(filler).unwrap();
    publish(&cache, &id("kept"), &database(2), 2);
    assert_consistent(&cache);
    drop(cache);
    let (cache, report) = Cache::open(&settings).unwrap();
    assert_eq!(report.segments, 1);
    assert_consistent(&cache);
}
