//! Files that are no sound segments, or change under the pull.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fsd::segment::{Digest, Stamp};
use sync::local::status::LocalStatus;
use sync::store::SkipReason;

use crate::segment::{in_wal_mode, lay, lay_at, now_ms, seal, sound, with_a_broken_page};
use crate::support::{Stop, text, until};
use crate::{objects, segment, short};

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
    /// Long enough for many versions.
    const LOOK: Duration = Duration::from_secs(8);
    /// Something must come through by then, however slow everything is.
    const LOOK_MOST: Duration = Duration::from_secs(120);
    // longer and longer, so that a pull comes to its end once on any machine
    let rest = |round: u64| Duration::from_millis(400 + 200 * (round % 3) + 40 * round);
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
                std::thread::sleep(rest(round));
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
                std::thread::sleep(rest(round));
            }
            write_over(&in_place, &versions[1]);
            ended.store(true, Ordering::Relaxed);
        });
        // also when a look below fails: else the writers would go on for ever
        let _stop = Stop(&stop);
        let mut seen = 0;
        let looks = Instant::now();
        let mut last = Vec::new();
        while looks.elapsed() < LOOK || (seen <= 1 && looks.elapsed() < LOOK_MOST) {
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
