//! What goes wrong in a real HDFS, and what a user sees of it: a real `trough up` on the rig's NameNode and three
//! DataNodes.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "support/segment.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod segment;
#[path = "support/trough.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::future::Future;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fsd::segment::SegmentId;
use rig::hdfs::{DATANODES, Exclusive, Hdfs, Process, exclusive, shared};
use support::{SHORT, Stop, Trough, run, text, until};
use sync::store::{Store, StorePath, StoreTimeouts};

/// A trough with short times that keeps its segments in the directory `root` of this HDFS; nothing runs yet.
fn on(hdfs: &Hdfs, root: &str, allowed: &[&'static str]) -> Trough {
    let url = hdfs.url(root);
    with_store(&url, |store| async move { store.mkdir(&StorePath::root()).await }).unwrap();
    // a third of it is for one DataNode, which may be slow on a busy machine
    let patient = "store.timeouts={ call_ms = 1000, io_ms = 6000 }";
    let mut trough = Trough::new().with_settings(&SHORT).with_settings(&[patient]).with_store(&url);
    for part in allowed {
        trough = trough.allow(part);
    }
    trough
}

/// What the log says while HDFS is away.
const AWAY: [&str; 2] =
    ["listing of the deep store is incomplete", "sync::local::actor::events: read"];

fn started(mut trough: Trough) -> Trough {
    trough.start();
    trough.wait_ready();
    trough
}

/// The directory of HDFS that `trough` uses, for a test that does what a person with Hadoop's tools would.
fn with_store<T, F: Future<Output = T>>(url: &str, act: impl FnOnce(Arc<dyn Store>) -> F) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { act(sync::store::open(url, StoreTimeouts::default()).unwrap()).await })
}

fn path_of(id: &str) -> StorePath {
    StorePath::published(&SegmentId::new(id).unwrap())
}

/// Publishes so that no synchronizer hears of it: its own period has to find it.
#[track_caller]
fn put_unheard(trough: &Trough, id: &str, n: i64, padding: usize) {
    let file = trough.dir().join(format!("{id}.source"));
    std::fs::write(&file, segment::sound(n, padding)).unwrap();
    let quiet = "node.manager_listen=127.0.0.1:9";
    let put = trough.command(&["put", "--set", quiet, "--id", id, file.to_str().unwrap()]);
    assert!(put.status.success(), "put {id}: {}", text(&put.stderr));
}

fn delete(hdfs: &Hdfs, root: &str, id: &str) {
    let gone = with_store(&hdfs.url(root), |store| async move { store.delete(&path_of(id)).await });
    assert!(gone.unwrap(), "{id} was not there");
}

/// Asks for every number again and again while `act` runs; fails on any answer but the right one. Says how often.
fn while_answering<T>(trough: &Trough, numbers: &[(&str, i64)], act: impl FnOnce() -> T) -> T {
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for &(id, n) in numbers {
                    assert_eq!(trough.answer(id), Ok(n), "{id}");
                    let file = trough.mounted(id);
                    assert!(std::fs::read(&file).is_ok(), "{id} cannot be read");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        stop.store(true, Ordering::Relaxed);
        let asked_well = asking.join();
        match done {
            Ok(done) => {
                asked_well.expect("every answer was right");
                assert!(asked.load(Ordering::Relaxed) > 0, "nothing was asked");
                done
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The whole file, as anybody's SQLite reads it from the mount.
#[track_caller]
fn assert_sound(trough: &Trough, id: &str) {
    let file = trough.mounted(id);
    let output = run("sqlite3", [file.to_str().unwrap(), "PRAGMA integrity_check"]);
    assert_eq!(text(&output.stdout), "ok\n", "{}", text(&output.stderr));
}

/// A new, a changed and a removed segment are noticed within one period, and at once where somebody says so.
#[test]
fn what_changes_in_hdfs_is_noticed_by_itself_and_on_demand() {
    let hdfs = shared();
    let trough = started(on(&hdfs, "/noticed", &[]));
    put_unheard(&trough, "stays", 1, 0);
    put_unheard(&trough, "new", 1, 0);
    trough.wait_answer("new", 1);
    put_unheard(&trough, "new", 2, 0);
    trough.wait_answer("new", 2);
    delete(&hdfs, "/noticed", "new");
    let said = trough.wait_refusal("new", 404);
    assert!(said.contains("not in the pool"), "{said}");
    assert_eq!(trough.answer("stays"), Ok(1));
    drop(trough);

    let trough = on(&hdfs, "/demand", &[]).with_settings(&["sync.period_s=3600"]);
    let trough = started(trough);
    trough.put("stays", 1);
    trough.put("new", 1);
    trough.wait_answer("new", 1);
    trough.put("new", 2);
    trough.wait_answer("new", 2);
    put_unheard(&trough, "unheard", 3, 0);
    delete(&hdfs, "/demand", "new");
    trough.cycles(1);
    // the end of a cycle is the end of its pulls and announcements
    assert_eq!(trough.answer("unheard"), Ok(3));
    trough.wait_refusal("new", 404);
}

/// S2: a byte that flipped on one DataNode is not noticed by anybody: another one has the bytes. Flipped on all of
/// them: never served, said with what to do, in the way of no other segment, and healed by publishing it again.
#[test]
fn s2_a_byte_flipped_in_hdfs_is_served_right_or_not_at_all() {
    let hdfs = exclusive();
    let mut trough = on(&hdfs, "/flipped", &["bad-everywhere"]);
    trough.start();
    trough.wait_ready();
    assert_eq!(trough.stop(), Some(0));
    for id in ["bad-on-one", "bad-everywhere"] {
        put_unheard(&trough, id, 1, 1 << 20);
    }
    let path = |id: &str| format!("/flipped/{}", path_of(id));
    hdfs.flip_byte(&path("bad-on-one"), &[1]);
    let all: Vec<u8> = (1..=DATANODES).collect();
    hdfs.flip_byte(&path("bad-everywhere"), &all);
    trough.start();
    trough.wait_ready();
    trough.wait_answer("bad-on-one", 1);
    assert_sound(&trough, "bad-on-one");

    let remedy = "all replicas are away or damaged";
    let reason = trough.wait_problem("bad-everywhere");
    assert!(reason.contains(remedy), "{reason}");
    let said = trough.wait_refusal("bad-everywhere", 503);
    assert!(said.contains(remedy), "{said}");
    assert!(trough.status_text().contains(remedy));
    // it fails again and again, and nothing else waits for it
    let failures = || trough.log().matches("bad-everywhere").count();
    let before = failures();
    until("it is tried again", || failures() >= before + 5);
    assert_eq!(trough.status().store.pulls_paused, None);
    trough.put("other", 5);
    trough.wait_answer("other", 5);
    assert_eq!(trough.listed(), ["bad-on-one.sqlite", "other.sqlite"]);

    put_unheard(&trough, "bad-everywhere", 2, 1 << 20);
    trough.wait_answer("bad-everywhere", 2);
}

/// S2: bytes that are damaged on this node's disk are found by the scrub, withdrawn, kept in quarantine and
/// pulled again. A reader gets right answers or an error before that, and right answers after.
/// Limit: until the scrub comes by, damage inside a value that breaks no page may be served.
#[test]
fn s2_a_damaged_object_is_found_by_the_scrub_and_healed_from_hdfs() {
    let hdfs = shared();
    let trough = on(&hdfs, "/damaged", &["damaged object found", "is damaged"]);
    let trough = started(trough.with_settings(&["scrub.disk_share=0.5"]));
    for (id, n) in [("damaged", 1), ("sound", 2)] {
        put_unheard(&trough, id, n, 1 << 20);
        trough.wait_answer(id, n);
    }
    let link = trough.dir().join("cache/segments/damaged.sqlite");
    let object: PathBuf = std::fs::canonicalize(link).unwrap();
    let (stop, damaged) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let (mut right, mut errors) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(trough.answer("sound"), Ok(2));
                match trough.answer("damaged") {
                    Ok(n) => {
                        assert_eq!(n, 1, "a wrong answer");
                        right += 1;
                    }
                    // 500: its pages are broken; 503: withdrawn, on its way here again
                    Err((status, said)) => {
                        assert!(damaged.load(Ordering::Relaxed), "{status}: {said}");
                        assert!(status == 500 || status == 503, "{status}: {said}");
                        errors += 1;
                    }
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            (right, errors)
        });
        let stopping = Stop(&stop);
        damaged.store(true, Ordering::Relaxed);
        std::fs::set_permissions(&object, std::fs::Permissions::from_mode(0o644)).unwrap();
        let file = std::fs::File::options().write(true).open(&object).unwrap();
        file.write_all_at(&[0xff; segment::PAGE], segment::PAGE as u64).unwrap();
        drop(file);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(trough.manager("POST", "/scrub").0, 202);
        trough.wait_status("it is found", |s| s.work.damaged_total == 1);
        trough.wait_status("it is healed", |s| s.segments.held == 2);
        trough.wait_answer("damaged", 1);
        for _ in 0..50 {
            assert_eq!(trough.answer("damaged"), Ok(1), "after it was healed");
        }
        drop(stopping);
        let (right, errors) = reading.join().expect("no wrong answer");
        assert!(right > 0, "{right} right, {errors} errors");
    });
    assert!(trough.status().cache.quarantine_bytes >= 1 << 20);
    assert!(trough.status_text().contains("1 damaged file found"));
    assert_sound(&trough, "damaged");
}

const DATA_NODES: [Process; 3] = [Process::DataNode(1), Process::DataNode(2), Process::DataNode(3)];
const ALL: [Process; 4] = [DATA_NODES[0], DATA_NODES[1], DATA_NODES[2], Process::NameNode];

/// S9, S10: HDFS hangs in the middle of pulls, then is killed, then comes back: what was served goes on being served
/// without one error, the status says what is the matter, and afterwards everything arrives by itself. A
/// trough that starts while HDFS is away serves what its ledger proves.
#[test]
fn s9_an_hdfs_that_hangs_dies_and_comes_back_costs_no_answer() {
    const COUNT: i64 = 8;
    let hdfs = exclusive();
    let mut trough = on(&hdfs, "/outage", &AWAY);
    trough = started(trough.with_settings(&["sync.pulls=1"]));
    let served = [("one", 1), ("two", 2)];
    for (id, n) in served {
        trough.put(id, n);
        trough.wait_answer(id, n);
    }
    assert_eq!(trough.stop(), Some(0));
    for n in 0..COUNT {
        put_unheard(&trough, &format!("large-{n}"), n, 4 << 20);
    }
    let restored = Restored(hdfs);
    // who holds the bytes hangs first, so that no pull is over before all do; that they hang in the middle of a stream
    // is in the contract of the stores
    for process in DATA_NODES {
        restored.0.pause(process);
    }
    trough.start();
    trough.wait_ready();
    while_answering(&trough, &served, || {
        let all = COUNT as u64 + 2;
        trough.wait_status("a pull is under way", |s| s.segments.pool == all && s.work.pulls > 0);
        restored.0.pause(Process::NameNode);
        let status = trough.wait_status("it is noticed", |s| s.store.reachable == Some(false));
        assert_eq!(status.segments.held, 2);
        let said = trough.status_text();
        assert!(said.contains("NOT WHOLLY REACHABLE"), "{said}");
        trough.wait_status("the pull is given up", |s| s.work.pulls == 0);
        assert_eq!(trough.status().cache.incoming_bytes, 0);
        rig::soak::hold();
        let waits = trough.wait_refusal("large-0", 503);
        assert!(waits.contains("in the pool"), "{waits}");
        for process in ALL {
            restored.0.resume(process);
        }
        trough.wait_status("all arrive", |s| s.segments.held == COUNT as u64 + 2);
        for process in ALL {
            restored.0.kill(process);
        }
        trough.wait_status("it is noticed", |s| s.store.reachable == Some(false));
        trough.cycles(2);
    });
    assert_eq!(trough.stop(), Some(0));
    trough.start();
    trough.wait_ready();
    for (id, n) in served {
        trough.wait_answer(id, n);
    }
    trough.wait_status("HDFS is away", |s| s.store.reachable == Some(false));
    while_answering(&trough, &[("one", 1), ("large-3", 3)], || {
        assert_eq!(trough.status().segments.held, COUNT as u64 + 2);
        drop(restored);
        trough.wait_status("it is back", |s| s.store.reachable == Some(true));
    });
    trough.put("later", 9);
    trough.wait_answer("later", 9);
}

/// Everything runs again, also after a failed test: the next one has the same HDFS.
struct Restored(Exclusive);

impl Drop for Restored {
    fn drop(&mut self) {
        self.0.restart_all();
    }
}

/// S9: the NameNode was formatted anew, so HDFS is empty: nothing is removed and queries go on, also while it fills
/// again, until a person says that they are meant to go.
#[test]
fn s9_a_freshly_formatted_namenode_removes_nothing() {
    let hdfs = exclusive();
    let allowed =
        ["listing of the deep store is incomplete", "the deep store shows none", "are kept"];
    let trough = started(on(&hdfs, "/formatted", &allowed));
    let held = [("one", 1), ("two", 2), ("three", 3)];
    for (id, n) in held {
        trough.put(id, n);
        trough.wait_answer(id, n);
    }
    while_answering(&trough, &held, || {
        hdfs.reformat();
        trough.wait_status("it is noticed", |s| s.store.reachable == Some(false));
        // the root is not there, until somebody publishes into it
        trough.put("new", 4);
        trough.wait_answer("new", 4);
        trough.cycles(3);
        let reason = trough.status().removals_held_back.unwrap().reason;
        assert!(reason.contains("accept-removals"), "{reason}");
        assert!(trough.status_text().contains("attention"));
    });
    let accepted = trough.command(&["sync", "accept-removals"]);
    assert!(accepted.status.success(), "{}", text(&accepted.stderr));
    for (id, _) in held {
        trough.wait_refusal(id, 404);
    }
    assert_eq!(trough.answer("new"), Ok(4));
}
