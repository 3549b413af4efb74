//! Volumes that are full, read-only or lose power.

use std::fs::File;
use std::path::Path;

use rustix::process::Signal;

use crate::faults::{
    self, Watch, ask, incoming, put_with, send, short, started, status, wait_all_held,
};
use crate::support::{Trough, run, text, until};
use crate::volume::Volume;

/// A trough whose cache lies on a volume of its own.
fn on_volume(volume: &Volume, settings: &str) -> Trough {
    let cache = volume.path().join("cache");
    let registry = volume.path().join("registry.sqlite");
    short(&format!(
        "{settings}\n[cache]\ndir = {:?}\nquota_bytes = 1000000000\n\n[registry]\npath = {:?}\n",
        cache.to_str().unwrap(),
        registry.to_str().unwrap()
    ))
}

/// Fault: the cache's volume is full while segments are pulled. The status says so, what was there is
/// served, and all is pulled once there is room (S1, S10).
#[test]
fn s1_s10_a_full_cache_volume_is_said_and_heals_when_there_is_room() {
    let volume = Volume::new(64);
    let trough = started(on_volume(&volume, "").allow("the volume is full"));
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    let watch = Watch::start(&trough, "ohio", 1);
    let free = || {
        let stat = rustix::fs::statvfs(volume.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    // room for one of the three that are pulled side by side, and a bit
    let filler = volume.path().join("filler");
    File::create(&filler).unwrap();
    let keep = 6 << 20;
    rustix::fs::fallocate(
        File::options().write(true).open(&filler).unwrap(),
        rustix::fs::FallocateFlags::empty(),
        0,
        free() - keep,
    )
    .unwrap();
    for id in ["large-a", "large-b", "large-c"] {
        let file = faults::database(&trough.dir().join(format!("{id}.source")), 1000);
        faults::put_file(&trough, id, &file);
    }
    let problems = || status(&trough).map(|status| status["problems"].to_string());
    until("the status says that the volume is full", || {
        problems().is_some_and(|problems| problems.contains("the volume is full"))
    });
    let shown = text(&trough.command(&["status"]).stdout);
    assert!(shown.contains("the volume is full"), "{shown}");
    let answer = ask(&trough, "ohio", "SELECT n FROM t");
    assert_eq!(answer.status, 200, "{answer:?}");

    std::fs::remove_file(filler).unwrap();
    wait_all_held(&trough, 4);
    assert_eq!(incoming(&volume.path().join("cache")), 0);
    let (tally, _) = watch.end();
    assert_eq!((tally.later, tally.away), (0, 0), "{tally:?}");
}

/// Fault: somebody deletes all of the cache under a running trough. Nothing wrong is answered, and all of it comes
/// back by itself (S1, S10).
#[test]
fn s1_s10_a_cache_that_is_wiped_while_it_is_used_fills_again() {
    let mut trough = short("");
    for part in ["a request failed", "was moved, replaced or deleted", "No such file", "ended"] {
        trough = trough.allow(part);
    }
    let trough = started(trough);
    for (id, n) in [("ohio", 1), ("utah", 2)] {
        trough.put(id, n);
        trough.wait_answers(id, n);
    }
    let watch = Watch::start(&trough, "ohio", 1);
    let ended = trough.child_pid("sync");
    for entry in std::fs::read_dir(trough.dir().join("cache")).unwrap() {
        let path = entry.unwrap().path();
        // the ledger's own files go with its last connection
        let wiped = match path.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
        wiped.unwrap_or_else(|error| assert_eq!(error.kind(), std::io::ErrorKind::NotFound));
    }
    until("the synchronizer begins anew", || {
        !trough.processes().contains(&ended) && status(&trough).is_some()
    });
    wait_all_held(&trough, 2);
    watch.put(&trough, 3);
    trough.wait_answers("utah", 2);
    watch.end();
}

/// A directory that is read-only, for those who open something in it, until this goes.
struct ReadOnly<'a>(&'a Path);

impl<'a> ReadOnly<'a> {
    #[track_caller]
    fn new(path: &'a Path) -> Self {
        let text = path.to_str().unwrap();
        for arguments in [&["--bind", text, text][..], &["-o", "remount,bind,ro", text]] {
            let output = run("mount", arguments);
            assert!(output.status.success(), "{}", crate::support::text(&output.stderr));
        }
        Self(path)
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        assert!(run("umount", ["-l", self.0.to_str().unwrap()]).status.success());
    }
}

/// Fault: a cache, then a deep store, that are read-only. Both are said; answers go on; both heal (S9, S10).
#[test]
fn s9_s10_a_read_only_cache_or_store_is_said_and_heals() {
    let trough = started(short("").allow("Read-only file system"));
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    let watch = Watch::start(&trough, "ohio", 1);
    let (cache, store) = (trough.dir().join("cache"), trough.dir().join("store"));

    let read_only = ReadOnly::new(&cache);
    watch.allow(2);
    trough.put("ohio", 2);
    until("the status says that the cache is read-only", || {
        status(&trough)
            .is_some_and(|status| status["problems"].to_string().contains("Read-only file system"))
    });
    assert_eq!(ask(&trough, "ohio", "SELECT n FROM t").body, "[{\"n\":1}]\n");
    drop(read_only);
    watch.wait(&trough, 2);

    let read_only = ReadOnly::new(&store);
    let put = put_with(&trough, "ohio", &trough.dir().join("ohio.source"), &[]);
    drop(read_only);
    assert_eq!(put.status.code(), Some(1));
    assert!(text(&put.stderr).contains("Read-only file system"), "{}", text(&put.stderr));
    watch.put(&trough, 3);
    let (tally, _) = watch.end();
    assert_eq!((tally.later, tally.away), (0, 0), "{tally:?}");
}

/// Fault: a power cut under the cache of a running trough. What was announced as held before it is there
/// after it, whole, although the deep store is away (S1).
#[test]
fn s1_what_was_held_before_a_power_cut_is_there_after_it() {
    let volume = Volume::new(128);
    let mut trough = on_volume(&volume, "");
    // the children see the disk vanish under them
    for part in [
        "I/O",
        "i/o",
        "Input/output error",
        "malformed",
        "incomplete",
        "deep store",
        "Read-only",
        "os error",
    ] {
        trough = trough.allow(part);
    }
    let mut trough = started(trough);
    let names: Vec<String> = (1..=6).map(|n| format!("state-{n}")).collect();
    for (n, id) in (1..).zip(&names) {
        trough.put(id, n);
    }
    wait_all_held(&trough, 6);
    // a replacement is on its way when the power goes
    trough.put("state-1", 100);
    volume.cut_power();
    let children = ["fsd", "sync", "read", "write"].map(|name| trough.child_pid(name));
    send(trough.up_pid(), Signal::STOP);
    for pid in children {
        // the cut may have ended one before
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    trough.kill();
    until("all are gone", || trough.processes().is_empty());
    trough::up::leftover::detach(&trough.dir().join("mount")).unwrap();
    volume.unmount();
    volume.mount();

    std::fs::rename(trough.dir().join("store"), trough.dir().join("away")).unwrap();
    let said_before = trough.log().len();
    trough.start();
    trough.wait_ready();
    for (n, id) in (1..).zip(&names) {
        let answer = ask(&trough, id, "SELECT n FROM t");
        let right = [format!("[{{\"n\":{n}}}]\n"), "[{\"n\":100}]\n".to_owned()];
        let allowed = if n == 1 { &right[..] } else { &right[..1] };
        assert!(answer.status == 200 && allowed.contains(&answer.body), "{id}: {answer:?}");
    }
    std::fs::rename(trough.dir().join("away"), trough.dir().join("store")).unwrap();
    trough.wait_answers("state-1", 100);
    // ledger and registry are sound after a cut, whatever was seen of them while the disk vanished
    let said_after = trough.log().split_off(said_before);
    for bad in ["malformed", "ledger_rebuilt: Some", "I/O"] {
        assert!(!said_after.contains(bad), "{bad} after the cut:\n{said_after}");
    }
    trough.stop();
}
