//! What goes wrong in a deep store, and what a user sees of it: a real `trough up` on a directory.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "support/segment.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod segment;
#[path = "support/trough.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use fsd::segment::{Digest, Stamp};
use segment::{in_wal_mode, lay, lay_at, now_ms, seal, set_mtime, sound, with_a_broken_page};
use support::{SHORT, Stop, Trough, run, text, until};
use sync::local::status::LocalStatus;
use sync::store::SkipReason;

/// A trough with short times whose log may have `allowed`.
fn short(allowed: &[&'static str], settings: &[&str]) -> Trough {
    let mut trough = Trough::new().with_settings(&SHORT).with_settings(settings);
    for part in allowed {
        trough = trough.allow(part);
    }
    trough.start();
    trough.wait_ready();
    trough
}

/// Files of the cache's objects.
fn objects(trough: &Trough) -> Vec<PathBuf> {
    let directories = std::fs::read_dir(trough.dir().join("cache/objects")).unwrap();
    let files = directories.flat_map(|entry| std::fs::read_dir(entry.unwrap().path()).unwrap());
    files.map(|entry| entry.unwrap().path()).collect()
}

/// S2: a file that is no sound segment is never served, whoever put it into the store: the status names the
/// remedy, the query says 503 with it (the file is in the pool), or 404 where the listing passes it over (an
/// empty file is not in the pool yet). What is put right is served.
#[test]
fn s2_a_broken_file_is_refused_with_its_remedy_until_a_good_one_lies_there() {
    let trough = short(&["is refused"], &[]);
    let good = sound(1, 8 * segment::PAGE);
    let cases = [
        ("cut", good[..good.len() - segment::PAGE].to_vec(), "publish it again"),
        ("cut-in-a-page", good[..good.len() - 100].to_vec(), "publish it again"),
        ("long", [&good[..], &[0; segment::PAGE]].concat(), "something appended"),
        ("wal", in_wal_mode(1), "PRAGMA journal_mode=DELETE"),
        ("notes", b"not a database at all, only some text\n".repeat(50), "publish a plain SQLite"),
        ("pages", with_a_broken_page(good.clone()), "sqlite3 FILE .recover"),
    ];
    lay(&trough.store().join("sound.sqlite"), &good);
    lay(&trough.store().join("empty.sqlite"), b"");
    for (id, bytes, _) in &cases {
        lay(&trough.store().join(format!("{id}.sqlite")), bytes);
    }
    trough.cycles(1);
    trough.wait_answer("sound", 1);
    for (id, _, remedy) in &cases {
        let reason = trough.wait_problem(id);
        assert!(reason.contains(remedy), "{id}: {reason}");
        let said = trough.wait_refusal(id, 503);
        assert!(said.contains(remedy), "{id}: {said}");
        assert!(trough.status_text().contains(remedy), "{id}: {}", trough.status_text());
    }
    let said = trough.wait_refusal("empty", 404);
    assert!(said.contains("not in the pool"), "{said}");
    let status = trough.status();
    assert_eq!((status.segments.refused, status.segments.held), (6, 1));
    assert_eq!(status.store.listing.skipped[&SkipReason::Empty], 1);
    assert!(trough.status_text().contains("empty.sqlite: the file is empty"));
    assert_eq!(trough.listed(), ["sound.sqlite"]);
    assert!(status.cache.quarantine_bytes > 0, "nothing is kept for a look");

    for (n, (id, _, _)) in (2..).zip(&cases) {
        lay(&trough.store().join(format!("{id}.sqlite")), &sound(n, 0));
    }
    lay(&trough.store().join("empty.sqlite"), &sound(9, 0));
    for (n, (id, _, _)) in (2..).zip(&cases) {
        trough.wait_answer(id, n);
    }
    trough.wait_answer("empty", 9);
    assert_eq!(trough.wait_status("all held", |s| s.segments.held == 8).problems, []);
}

/// S2, S9: a file with a `-journal` or `-wal` beside it is not the whole database: passed over and reported.
/// One that is served already goes on in the version that was verified, as it does when its file is
/// truncated for a moment by somebody who writes over it.
#[test]
fn s9_a_file_that_somebody_works_on_in_the_store_is_passed_over_and_its_last_version_goes_on() {
    let trough = short(&[], &[]);
    let file = |name: &str| trough.store().join(name);
    for (id, n) in [("held", 1), ("other", 2), ("untouched", 5)] {
        lay(&file(&format!("{id}.sqlite")), &sound(n, 0));
        trough.wait_answer(id, n);
    }
    for name in ["held.sqlite-journal", "new-a.sqlite-journal", "new-b.sqlite-wal"] {
        lay(&file(name), b"what the file lacks");
    }
    std::fs::write(file("other.sqlite"), b"").unwrap();
    for id in ["new-a", "new-b"] {
        lay(&file(&format!("{id}.sqlite")), &sound(3, 0));
    }
    trough.cycles(3);
    let status = trough.status();
    assert_eq!(status.store.listing.skipped[&SkipReason::SideFile], 3);
    assert!(trough.status_text().contains("checkpoint it and remove the side file"));
    assert_eq!((trough.answer("held"), trough.answer("other")), (Ok(1), Ok(2)));
    for id in ["new-a", "new-b"] {
        trough.wait_refusal(id, 404);
    }
    for name in ["held.sqlite-journal", "new-a.sqlite-journal", "new-b.sqlite-wal"] {
        std::fs::remove_file(file(name)).unwrap();
    }
    lay(&file("other.sqlite"), &sound(4, 0));
    for (id, n) in [("new-a", 3), ("new-b", 3), ("other", 4), ("held", 1)] {
        trough.wait_answer(id, n);
    }
}

/// S1, S2: whatever happens to a file while it is pulled (another is renamed over it, or somebody writes over
/// it in place), what the mount shows is always one whole version of it.
/// Limit: somebody who writes in place without a seal, and rests in the middle for longer than a pull waits.
#[test]
fn s2_a_file_replaced_while_it_is_pulled_is_never_a_mix() {
    const VERSIONS: i64 = 4;
    let trough = short(&["while it was read", "is refused"], &["scrub.disk_share=0.01"]);
    let versions: Vec<_> = (1..=VERSIONS).map(|n| sound(n, 12 << 20)).collect();
    assert!(versions.iter().all(|version| version.len() == versions[0].len()));
    let (renamed, in_place) =
        (trough.store().join("renamed.sqlite"), trough.store().join("in-place.sqlite"));
    lay(&renamed, &versions[0]);
    lay(&in_place, &versions[0]);
    let (stop, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            let all = versions.iter().cycle().zip(0_u64..);
            for (version, round) in all.take_while(|_| !stop.load(Ordering::Relaxed)) {
                lay(&renamed, version);
                // a pull begins when a file rests; some are overtaken while it rests or is read
                std::thread::sleep(std::time::Duration::from_millis(400 + 200 * (round % 3)));
            }
            lay(&renamed, &versions[0]);
        });
        scope.spawn(|| {
            let all = versions.iter().cycle().zip(0_u64..);
            for (version, round) in all.take_while(|_| !stop.load(Ordering::Relaxed)) {
                // whole for a while now and then, or it would never be pulled
                for version in versions.iter().chain([version]) {
                    write_over(&in_place, version);
                }
                std::thread::sleep(std::time::Duration::from_millis(400 + 200 * (round % 3)));
            }
            write_over(&in_place, &versions[1]);
            ended.store(true, Ordering::Relaxed);
        });
        // also when a look below fails: else the writers would go on for ever
        let _stop = Stop(&stop);
        let mut seen = 0;
        let looks = std::time::Instant::now();
        let mut last = Vec::new();
        while looks.elapsed() < std::time::Duration::from_secs(8) {
            let _ = trough.manager("POST", "/sync");
            for id in ["renamed", "in-place"] {
                let Ok(shown) = std::fs::read(trough.mounted(id)) else { continue };
                assert!(versions.contains(&shown), "{id} shows what nobody published");
                seen += usize::from(last != shown);
                last = shown;
            }
        }
        seen
    });
    assert!(seen > 1 && ended.load(Ordering::Relaxed), "too little came through: {seen}");
    trough.wait_answer("renamed", 1);
    trough.wait_answer("in-place", 2);
    assert_eq!(std::fs::read(trough.mounted("in-place")).unwrap(), versions[1]);
}

/// Writes `bytes` over the file in small pieces; its length never changes.
fn write_over(path: &Path, bytes: &[u8]) {
    let mut file = File::options().write(true).open(path).unwrap();
    file.rewind().unwrap();
    for piece in bytes.chunks(16 << 10) {
        file.write_all(piece).unwrap();
    }
}

/// S2, S11: a seal that speaks of this version and says other bytes: refused and kept in quarantine. One that
/// speaks of another version, is broken or from a newer trough is no seal: the database itself is checked.
#[test]
fn s2_a_seal_that_lies_is_refused_and_one_that_does_not_count_is_not_believed() {
    let trough = short(&["is refused", "the segment counts as unsealed"], &[]);
    let (file, wrong) = (|name: &str| trough.store().join(name), "0".repeat(64));
    let wrong: Digest = wrong.parse().unwrap();
    let bytes = sound(1, 0);
    let stamp = Stamp { length: bytes.len() as u64, mtime_ms: now_ms() - 5_000 };
    let other = Stamp { mtime_ms: stamp.mtime_ms - 1, ..stamp };
    let broken = with_a_broken_page(bytes.clone());
    let newer = br#"{"format": 2, "of": "another form"}"#.to_vec();
    let cases = [
        ("lies", &bytes, seal("lies", stamp, wrong).to_bytes().unwrap()),
        ("older", &bytes, seal("older", other, wrong).to_bytes().unwrap()),
        ("not-mine", &bytes, seal("lies", stamp, wrong).to_bytes().unwrap()),
        ("garbled", &bytes, b"{\"format\": 1, ".to_vec()),
        ("newer", &bytes, newer),
        ("older-broken", &broken, seal("older-broken", other, wrong).to_bytes().unwrap()),
    ];
    for (id, bytes, seal) in &cases {
        // the seal first, as `trough put` does it
        lay(&file(&format!("{id}.sqlite.seal")), seal);
        lay_at(&file(&format!("{id}.sqlite")), bytes, Some(stamp.mtime_ms));
    }
    for id in ["older", "not-mine", "garbled", "newer"] {
        trough.wait_answer(id, 1);
    }
    for (id, remedy) in [("lies", "publish it again"), ("older-broken", ".recover")] {
        assert!(trough.wait_problem(id).contains(remedy), "{}", trough.wait_problem(id));
        let said = trough.wait_refusal(id, 503);
        assert!(said.contains(remedy), "{said}");
        assert!(!trough.mounted(id).try_exists().unwrap());
    }
    assert!(trough.wait_problem("lies").contains("the seal says"));
    let mut kept = std::fs::read_dir(trough.dir().join("cache/quarantine")).unwrap();
    let is_lie = |name: &OsStr| name.to_str().unwrap().contains(".lies.");
    assert!(kept.any(|entry| is_lie(&entry.unwrap().file_name())), "it is not in quarantine");
    // its publisher tells the truth
    trough.put("lies", 7);
    trough.wait_answer("lies", 7);
}

/// Names that are no segment ids are passed over, counted and said; nothing else suffers from them. In a
/// request they are refused, and no path is made of them.
#[test]
fn odd_names_are_passed_over_and_never_become_a_path() {
    let trough = short(&[], &[]);
    let bytes = sound(1, 0);
    let odd = ["a b.sqlite", "-dash.sqlite", "a..b.sqlite", &format!("{}.sqlite", "x".repeat(201))];
    for name in odd {
        lay(&trough.store().join(name), &bytes);
    }
    lay(&trough.store().join(OsStr::from_bytes(b"\xff\xfe.sqlite")), &bytes);
    lay(&trough.store().join("deep/er/fine.sqlite"), &bytes);
    trough.wait_answer("fine", 1);
    let counted = |s: &LocalStatus| s.store.listing.skipped.len() == 2;
    let skipped = trough.wait_status("what is passed over", counted).store.listing.skipped;
    assert_eq!((skipped[&SkipReason::InvalidId], skipped[&SkipReason::UnreadableName]), (4, 1));
    assert!(trough.status_text().contains("-dash.sqlite: the name is no segment id; rename it"));
    assert_eq!(trough.listed(), ["fine.sqlite"]);

    let source = trough.dir().join("source.sqlite");
    lay(&source, &bytes);
    let long = "x".repeat(300);
    for id in ["a/b", "..", "../x", "a b", "--", &long] {
        let id = format!("--id={id}");
        let put = trough.command(&["put", &id, source.to_str().unwrap()]);
        let said = text(&put.stderr);
        assert!(!put.status.success() && said.contains("segment id"), "{id}: {said}");
    }
    assert_eq!(trough.status().segments.pool, 1);
    // a file that a path made of the id would find
    lay(&trough.dir().join("x.sqlite"), &bytes);
    for id in ["../x", "..%2Fx", "..", "a%20b", "%FF", "mount/fine", "%00", &long] {
        let (status, said) = trough.ask(id, "SELECT n FROM t");
        assert_eq!(status, 400, "{id}: {said}");
        let (status, _) = trough.manager("GET", &format!("/health/{}", id.replace('/', "%2F")));
        assert_ne!(status, 200, "{id}");
    }
}

/// S1: two segments with the same bytes are one object; it stays while one of them is there, and goes when
/// none is.
#[test]
fn two_segments_of_one_content_share_an_object_until_the_last_is_gone() {
    let trough = short(&[], &["sync.withdraw_grace_s=1"]);
    let bytes = sound(1, 0);
    for id in ["one", "two"] {
        lay(&trough.store().join(format!("{id}.sqlite")), &bytes);
    }
    lay(&trough.store().join("stays.sqlite"), &sound(2, 0));
    for (id, n) in [("one", 1), ("two", 1), ("stays", 2)] {
        trough.wait_answer(id, n);
    }
    assert_eq!(objects(&trough).len(), 2);
    std::fs::remove_file(trough.store().join("one.sqlite")).unwrap();
    trough.wait_refusal("one", 404);
    let gone = |left: usize| {
        move |s: &sync::local::status::LocalStatus| {
            s.segments.withdrawn == 0 && s.segments.pool == left as u64 && s.work.draining == 0
        }
    };
    trough.wait_status("its grace passes", gone(2));
    assert_eq!((objects(&trough).len(), trough.answer("two")), (2, Ok(1)));
    std::fs::remove_file(trough.store().join("two.sqlite")).unwrap();
    trough.wait_refusal("two", 404);
    trough.wait_status("its grace passes", gone(1));
    until("the object goes", || objects(&trough).len() == 1);
    assert_eq!(trough.answer("stays"), Ok(2));
}

/// The store of the removal tests: `count` segments, `s00` and on, the first five in a directory of their own.
fn many(trough: &Trough, count: i64) {
    for n in 0..count {
        let directory = if n < 5 { "first" } else { "rest" };
        let path = trough.store().join(format!("{directory}/s{n:02}.sqlite"));
        lay(&path, &sound(n, 0));
    }
    trough.wait_status("all held", |s| s.segments.held == count as u64);
}

#[track_caller]
fn all_answer(trough: &Trough, numbers: impl Iterator<Item = i64>) {
    for n in numbers {
        assert_eq!(trough.answer(&format!("s{n:02}")), Ok(n), "s{n:02}");
    }
}

/// S9: a directory that cannot be read makes the listing incomplete, and an incomplete listing removes
/// nothing, not even what a person agreed to; additions go on. When all can be read again, what was agreed to
/// goes.
#[test]
fn s9_an_unreadable_directory_removes_nothing_and_stops_no_addition() {
    let mut trough = Trough::new()
        .with_settings(&SHORT)
        .bound_by_permissions()
        .allow("listing of the deep store is incomplete")
        .allow("vanished in one listing");
    trough.start();
    trough.wait_ready();
    many(&trough, 30);
    let set_mode = |mode: u32| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(trough.store().join("first"), permissions).unwrap();
    };
    set_mode(0);
    let status = trough.wait_status("it is noticed", |s| s.store.reachable == Some(false));
    assert!(status.store.listing.unseen_examples[0].contains("this user needs read permission"));
    assert!(trough.status_text().contains("NOT WHOLLY REACHABLE"));
    let reason = status.removals_held_back.unwrap().reason;
    assert!(reason.contains("incomplete"), "{reason}");
    trough.put("new", 77);
    trough.wait_answer("new", 77);
    for n in 5..27 {
        std::fs::remove_file(trough.store().join(format!("rest/s{n:02}.sqlite"))).unwrap();
    }
    trough.cycles(2);
    let accepted = trough.command(&["sync", "accept-removals"]);
    assert!(accepted.status.success(), "{}", text(&accepted.stderr));
    trough.cycles(3);
    all_answer(&trough, 0..30);
    set_mode(0o755);
    trough.wait_status("what was agreed to goes", |s| s.segments.pool == 9);
    for n in 5..27 {
        trough.wait_refusal(&format!("s{n:02}"), 404);
    }
    all_answer(&trough, (0..5).chain(27..30));
    assert_eq!(trough.status().removals_held_back, None);
}

/// S9: a root that is away for several periods, another root, an emptied root: nothing is removed, queries go on, the
/// status says what is the matter, also while the wrong root fills; a person's word lets the segments go. A few
/// removed files go by themselves.
#[test]
fn s9_a_root_that_is_away_wrong_or_emptied_removes_nothing_until_a_person_says_so() {
    let mut trough = short(
        &["listing of the deep store is incomplete", "the deep store shows none", "are kept"],
        &[],
    );
    many(&trough, 8);
    let (store, aside) = (trough.store(), trough.dir().join("aside"));

    // away, and back
    std::fs::rename(&store, &aside).unwrap();
    let before = trough.wait_status("it is noticed", |s| s.store.reachable == Some(false));
    trough.cycles(3);
    all_answer(&trough, 0..8);
    let away = trough.status();
    assert_eq!(away.store.complete_listing_at_ms, before.store.complete_listing_at_ms);
    let said = trough.status_text();
    assert!(
        said.contains("NOT WHOLLY REACHABLE") && said.contains("last complete listing was"),
        "{said}"
    );
    assert!(said.contains("not seen"), "{said}");
    std::fs::rename(&aside, &store).unwrap();
    trough.wait_status("it is back", |s| s.store.reachable == Some(true));
    lay(&store.join("s08.sqlite"), &sound(8, 0));
    trough.wait_answer("s08", 8);
    // a few
    for name in ["rest/s07.sqlite", "s08.sqlite"] {
        std::fs::remove_file(store.join(name)).unwrap();
    }
    for id in ["s07", "s08"] {
        trough.wait_refusal(id, 404);
    }

    // another root: the settings say so after a restart
    let wrong = trough.dir().join("wrong");
    std::fs::create_dir(&wrong).unwrap();
    assert_eq!(trough.stop(), Some(0));
    trough.move_store(wrong.to_str().unwrap());
    trough.start();
    trough.wait_ready();
    let status = trough.wait_status("it is noticed", |s| s.removals_held_back.is_some());
    let reason = status.removals_held_back.unwrap().reason;
    assert!(reason.contains("wrong root") && reason.contains("accept-removals"), "{reason}");
    lay(&wrong.join("added.sqlite"), &sound(50, 0));
    trough.wait_answer("added", 50);
    trough.cycles(3);
    all_answer(&trough, 0..7);
    assert!(trough.status_text().contains("attention   7 segments that vanished at once are kept"));

    // back, and then emptied
    assert_eq!(trough.stop(), Some(0));
    trough.move_store(store.to_str().unwrap());
    trough.start();
    trough.wait_ready();
    trough.wait_refusal("added", 404);
    std::fs::rename(&store, &aside).unwrap();
    std::fs::create_dir(&store).unwrap();
    trough.wait_status("it is noticed", |s| s.removals_held_back.is_some());
    for n in 60..62 {
        lay(&store.join(format!("s{n}.sqlite")), &sound(n, 0));
        trough.wait_answer(&format!("s{n}"), n);
    }
    trough.cycles(2);
    all_answer(&trough, (0..7).chain(60..62));
    assert!(trough.command(&["sync", "accept-removals"]).status.success());
    for n in 0..7 {
        trough.wait_refusal(&format!("s{n:02}"), 404);
    }
    all_answer(&trough, 60..62);
}

/// S6: a pool larger than the quota settles: the newest are held and nothing is pulled and evicted in turn; a
/// query for what has no place is 503 and says why. What leaves makes room for the next one.
#[test]
fn s6_a_pool_larger_than_the_quota_settles() {
    let version = |n: i64| sound(n, 60 << 10);
    let length = version(1).len() as u64;
    let quota = format!("cache.quota_bytes={}", length * 4 + length / 2);
    let trough = short(&[], &[&quota]);
    let base = now_ms() - 1_000_000;
    let path = |n: u64| trough.store().join(format!("q{n}.sqlite"));
    // the newer, the higher its number
    for n in 0..8 {
        lay_at(&path(n), &version(n as i64), Some(base + n * 1000));
    }
    let settled = |held: &[u64]| {
        let held = held.to_vec();
        move |s: &sync::local::status::LocalStatus| {
            let problem = |n: u64| s.problems.iter().any(|p| p.id.as_str() == format!("q{n}"));
            s.segments.held == held.len() as u64
                && s.segments.held + s.segments.no_place == s.segments.pool
                && held.iter().all(|&n| !problem(n))
                && s.work.draining == 0
        }
    };
    trough.wait_status("it settles", settled(&[4, 5, 6, 7]));
    let before = trough.status().work.published_total;
    trough.cycles(4);
    let after = trough.wait_status("it is settled", settled(&[4, 5, 6, 7]));
    assert_eq!((before, after.work.published_total, after.segments.no_place), (4, 4, 4));
    assert!(after.cache.objects_bytes <= after.cache.quota_bytes);
    for n in 0..4 {
        let said = trough.wait_refusal(&format!("q{n}"), 503);
        assert!(said.contains("no place within the quota"), "{said}");
    }
    assert!(trough.status_text().contains("4 without a place in the quota"));

    std::fs::remove_file(path(6)).unwrap();
    trough.wait_status("the next has a place", settled(&[3, 4, 5, 7]));
    trough.wait_answer("q3", 3);
    trough.wait_refusal("q6", 404);
    // for a moment the new version and the old one lie side by side
    lay_at(&path(7), &version(70), Some(base + 100_000));
    trough.wait_answer("q7", 70);
    trough.wait_status("it settles", settled(&[3, 4, 5, 7]));
    for (id, n) in [("q3", 3), ("q4", 4), ("q5", 5), ("q7", 70)] {
        trough.wait_answer(id, n);
    }
    let before = trough.status().work.published_total;
    trough.cycles(3);
    assert_eq!(trough.status().work.published_total, before);
}

/// A segment that leaves the store and comes back within its grace is served again without a pull: what lies in
/// the store then is not even read.
#[test]
fn a_segment_that_comes_back_within_its_grace_is_not_pulled_again() {
    let trough = short(&[], &[]);
    let (path, aside) = (trough.store().join("back.sqlite"), trough.dir().join("aside"));
    lay(&trough.store().join("other.sqlite"), &sound(2, 0));
    lay(&path, &sound(1, 0));
    trough.wait_answer("back", 1);
    trough.wait_answer("other", 2);
    std::fs::rename(&path, &aside).unwrap();
    trough.wait_refusal("back", 404);
    trough.wait_status("it is withdrawn", |s| s.segments.withdrawn == 1);
    // the same length and time, and bytes that would be refused if anybody looked at them
    let metadata = std::fs::metadata(&aside).unwrap();
    let mtime_ms = metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000;
    std::fs::write(&aside, vec![0; metadata.len() as usize]).unwrap();
    set_mtime(&File::open(&aside).unwrap(), mtime_ms as u64);
    std::fs::rename(&aside, &path).unwrap();
    trough.wait_answer("back", 1);
    let status = trough.wait_status("it is held", |s| s.segments.held == 2);
    assert_eq!((status.work.refused_total, status.segments.withdrawn), (0, 0));
    let checked =
        run("sqlite3", [trough.mounted("back").to_str().unwrap(), "PRAGMA integrity_check"]);
    assert_eq!(text(&checked.stdout), "ok\n");
}
