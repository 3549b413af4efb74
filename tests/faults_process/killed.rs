//! Processes that are killed, one at a time and all at once.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::faults::{
    self, AGAIN, Watch, ask, incoming, put_with, send, short, started, wait_all_held, within,
};
use crate::support::{Trough, text, until};

/// Kills the synchronizer once at each of `steps`, which `round` leads it to and waits out.
fn sync_killed(steps: &[&str], mut round: impl FnMut(&Trough, &Watch, i64, &str)) {
    faults::needs_crash_points();
    let armed = tempfile::tempdir().unwrap();
    let trough = short("").with_environment("FAILPOINTS_DIR", armed.path().to_str().unwrap());
    let trough = started(trough);
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    let watch = Watch::start(&trough, "ohio", 1);
    for (n, step) in (2..).zip(steps) {
        let before = trough.child_pid("sync");
        let point = armed.path().join(step);
        File::create(&point).unwrap();
        round(&trough, &watch, n, step);
        // the last steps come after the new version shows
        until(&format!("{step}: it dies there and is started again"), || {
            !point.try_exists().unwrap() && trough.child_pid("sync") != before
        });
    }
    wait_all_held(&trough, 1);
    assert_eq!(incoming(&trough.dir().join("cache")), 0, "a part file was left");
    let (tally, failed_opens) = watch.end();
    assert_eq!((tally.later, tally.late, tally.away), (0, 0, 0), "{tally:?}");
    assert!(failed_opens.is_empty(), "{failed_opens:?}");
}

fn admission(trough: &Trough, watch: &Watch, n: i64, _step: &str) {
    watch.put(trough, n);
}

/// Fault: kill -9 of the synchronizer while it stages, verifies and syncs a new version (S1, S10).
#[test]
fn s1_s10_the_synchronizer_killed_at_the_first_steps_of_admission() {
    let steps =
        ["admission.staged", "admission.verified", "admission.fsynced", "admission.renamed"];
    sync_killed(&steps, admission);
}

/// Fault: kill -9 of the synchronizer while it publishes a new version and writes it down (S1, S10).
#[test]
fn s1_s10_the_synchronizer_killed_at_the_last_steps_of_admission() {
    let steps = [
        "admission.object-dir-synced",
        "admission.linked",
        "admission.segments-dir-synced",
        "admission.ledgered",
    ];
    sync_killed(&steps, admission);
}

/// Fault: kill -9 of the synchronizer at each step of a removal (S10).
#[test]
fn s10_the_synchronizer_killed_at_each_step_of_removal() {
    let steps = [
        "removal.segments-dir-synced",
        "removal.unlinked",
        "removal.object-removed",
        "removal.ledgered",
    ];
    sync_killed(&steps, |trough, _, n, step| {
        let id = format!("gone-{n}");
        trough.put(&id, n);
        // the point may lie on the way of the replacement of an older version too: there is none
        trough.wait_answers(&id, n);
        std::fs::remove_dir_all(trough.dir().join(format!("store/{}", &id[..id.len() - 3])))
            .unwrap();
        until(&format!("{step}: {id} is gone"), || {
            ask(trough, &id, "SELECT n FROM t").status == 404
        });
        until(&format!("{step}: nothing of {id} is left"), || {
            let cache = trough.dir().join("cache");
            let objects = walk(&cache.join("objects"));
            !cache.join(format!("segments/{id}.sqlite")).is_symlink() && objects == 1
        });
    });
}

fn walk(dir: &Path) -> usize {
    let inside = |entry: std::fs::DirEntry| std::fs::read_dir(entry.path()).unwrap().count();
    std::fs::read_dir(dir).unwrap().map(|entry| inside(entry.unwrap())).sum()
}

/// Fault: kill -9 of `trough put` at three of its steps; the second one publishes (S4, S10).
#[test]
fn s4_s10_a_killed_put_changes_nothing_wrong_and_the_next_one_succeeds() {
    faults::needs_crash_points();
    let trough = started(short(""));
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    let watch = Watch::start(&trough, "ohio", 1);
    for (n, step) in (2..).zip(["put.staged-data", "put.seal-renamed", "put.data-renamed"]) {
        watch.allow(n);
        let file = trough.dir().join("next.sqlite");
        let _ = std::fs::remove_file(&file);
        let connection = rusqlite::Connection::open(&file).unwrap();
        let sql = format!("CREATE TABLE t (n); INSERT INTO t VALUES ({n})");
        connection.execute_batch(&sql).unwrap();
        let killed = put_with(&trough, "ohio", &file, &[("FAILPOINTS", &format!("{step}=return"))]);
        assert_eq!(killed.status.code(), None, "{step}: it was not killed");
        // five times the time to live of the killed one's lock
        within(Duration::from_secs(50), &format!("{step}: a put after the killed one"), || {
            let output = put_with(&trough, "ohio", &file, &[]);
            println!("{step}: {}", text(&output.stderr));
            output.status.success()
        });
        watch.wait(&trough, n);
    }
    let (tally, failed_opens) = watch.end();
    assert_eq!((tally.later, tally.away, failed_opens.len()), (0, 0, 0), "{tally:?}");
}

/// Fault: everything killed at once, as by the kernel when memory is out: a dead mount stays. The next start
/// repairs it, reads no object again and answers at once, with the deep store away (S5, S9, S10).
#[test]
fn s5_s9_s10_all_processes_killed_at_once_leave_what_the_next_start_repairs() {
    let mut trough = started(short("").allow("incomplete").allow("deep store"));
    for (n, id) in (1..).zip(["ohio", "utah", "iowa"]) {
        trough.put(id, n);
    }
    wait_all_held(&trough, 3);
    let up = trough.up_pid();
    let children = ["fsd", "sync", "read", "write"].map(|name| trough.child_pid(name));
    send(up, Signal::STOP);
    for pid in children {
        send(pid, Signal::KILL);
    }
    trough.kill();
    until("all are gone", || trough.processes().is_empty());
    assert_eq!(trough.mounts(), 1, "a dead mount was expected");
    // a `stat` may still be answered from the kernel's memory
    assert!(File::open(trough.mounted("ohio")).is_err(), "the dead mount answers");

    std::fs::rename(trough.dir().join("store"), trough.dir().join("away")).unwrap();
    trough.start();
    trough.wait_ready();
    assert_eq!(trough.mounts(), 1);
    for (n, id) in (1..).zip(["ohio", "utah", "iowa"]) {
        let answer = ask(&trough, id, "SELECT n FROM t");
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, format!("[{{\"n\":{n}}}]\n").as_str())
        );
    }
    let log = trough.log();
    let report = log.lines().rfind(|line| line.contains("the cache is open")).unwrap();
    assert!(report.contains("segments: 3") && report.contains("rehashed: 0"), "{report}");
    std::fs::rename(trough.dir().join("away"), trough.dir().join("store")).unwrap();
    trough.put("ohio", 7);
    trough.wait_answers("ohio", 7);
}

/// Fault: a reader that is killed. A client sees a broken connection for a moment and nothing wrong (S10).
#[test]
fn s10_a_killed_reader_comes_back() {
    let trough = started(short(""));
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    let watch = Watch::start(&trough, "ohio", 1);
    for _ in 0..2 {
        let before = trough.child_pid("read");
        send(before, Signal::KILL);
        within(AGAIN, "the reader answers again", || {
            trough.child_pid("read") != before && trough.query("ohio", "SELECT n FROM t").is_ok()
        });
    }
    let (tally, failed_opens) = watch.end();
    assert_eq!((tally.later, failed_opens.len()), (0, 0), "the mount was not touched: {tally:?}");
}
