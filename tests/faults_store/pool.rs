//! A pool that shrinks, vanishes or does not fit.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::segment::{lay, lay_at, now_ms, set_mtime, sound};
use crate::short;
use crate::support::{SHORT, Trough, run, text};

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
