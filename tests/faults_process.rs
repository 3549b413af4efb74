//! Processes that are killed, hang or cannot start, on the real binary: nothing wrong is ever answered, and all of
//! it heals by itself.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "support/faults.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod faults;
#[path = "support/trough.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;
#[path = "../fsd/tests/support/volume.rs"]
mod volume;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use faults::{
    AGAIN, Asker, Stopped, Watch, ask, incoming, page, put_with, send, short, started, status,
    wait_all_held, within,
};
use rustix::process::{Pid, Signal};
use support::{BINARY, Trough, run, text, until};
use volume::Volume;

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
        let mut said = String::new();
        within(AGAIN, &format!("{step}: a put after the killed one"), || {
            let output = put_with(&trough, "ohio", &file, &[]);
            said = text(&output.stderr);
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
    let children = ["fsd", "sync", "read"].map(|name| trough.child_pid(name));
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

/// Fault: fsd hangs (SIGSTOP). Every question ends within its time, health says so, and all goes on with it
/// (S8, S10).
#[test]
fn s8_s10_a_hung_mount_process_holds_nobody_for_ever() {
    let trough = started(short("").allow("mount"));
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    let watch = Watch::start(&trough, "ohio", 1);
    let stopped = Stopped::new(trough.child_pid("fsd"));
    // nobody has asked for this one before: only fsd can say what it is
    let answer = ask(&trough, "utah", "SELECT 1");
    assert!([408, 503].contains(&answer.status), "{answer:?}");
    assert_eq!(page(&trough, "health").status, 503, "a hung mount is not healthy");
    until("the synchronizer says that the mount does not answer", || {
        status(&trough).is_some_and(|status| status["mount"]["live"] == false)
    });
    rig::soak::hold();
    drop(stopped);
    within(AGAIN, "health is well again", || page(&trough, "health").status == 200);
    watch.put(&trough, 2);
    let (tally, _) = watch.end();
    assert_eq!(tally.away, 0, "{tally:?}");
}

/// Fault: the synchronizer hangs (SIGSTOP). Answers go on; what was put meanwhile is there afterwards (S9).
#[test]
fn s9_a_hung_synchronizer_stops_no_answer() {
    let trough = started(short(""));
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    let watch = Watch::start(&trough, "ohio", 1);
    let stopped = Stopped::new(trough.child_pid("sync"));
    watch.allow(2);
    trough.put("ohio", 2);
    assert!(status(&trough).is_none(), "a stopped process answered");
    assert_eq!(page(&trough, "health").status, 200);
    assert_eq!(ask(&trough, "ohio", "SELECT n FROM t").body, "[{\"n\":1}]\n");
    rig::soak::hold();
    drop(stopped);
    watch.wait(&trough, 2);
    let (tally, failed_opens) = watch.end();
    assert_eq!(
        (tally.later, tally.late, tally.away, failed_opens.len()),
        (0, 0, 0, 0),
        "{tally:?}"
    );
}

/// Fault: children that hang when `trough up` is stopped are killed within their bound, and nothing stays
/// mounted (S5, S10).
#[test]
fn s5_s10_hung_children_are_killed_at_the_stop() {
    let mut trough =
        short("").allow("it does not stop; killing it").allow("detached what the mount");
    trough = started(trough);
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    for name in ["fsd", "read"] {
        send(trough.child_pid(name), Signal::STOP);
    }
    assert_eq!(trough.stop(), Some(0));
    assert_eq!(trough.mounts(), 0, "something is still mounted");
    assert_eq!(trough.processes(), [], "a process is left");
}

/// Fault: two `trough up` on one port. The second says so, and starts and mounts nothing.
#[test]
fn a_second_up_on_one_port_is_refused_and_starts_nothing() {
    let trough = started(short(""));
    let other = tempfile::tempdir().unwrap();
    let dir = other.path().to_str().unwrap();
    let port = trough.read_port().to_string();
    let output = run(BINARY, ["up", "--dir", dir, "--read-port", &port, "--manager-port", "0"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("choose another port with --read-port"), "{said}");
    assert!(!Path::new(dir).join("mount").try_exists().unwrap(), "a mount point was made");
}

/// Fault: a client that goes away while its query runs. The query ends, and the gauges go back to 0 (S8).
#[test]
fn s8_a_client_that_goes_away_leaves_no_query_behind() {
    let patient = faults::SHORT.replace("query_ms = 2000", "query_ms = 60000");
    let trough = started(Trough::new().with_settings_file(&patient));
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    let endless =
        "WITH RECURSIVE c(n) AS (VALUES(1) UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c";
    let gauge = |name: &str| {
        let page = page(&trough, "metrics").body;
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.map(|value| value.parse::<f64>().unwrap())
    };
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = std::net::TcpStream::connect(("127.0.0.1", trough.read_port())).unwrap();
        let length = endless.len();
        write!(
            client,
            "POST /?segment=ohio HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{endless}"
        )
        .unwrap();
        clients.push(client);
    }
    until("the queries run", || gauge("trough_read_queries_in_flight") == Some(3.0));
    drop(clients);
    within(AGAIN, "the queries end", || {
        gauge("trough_read_queries_in_flight") == Some(0.0)
            && gauge("trough_read_queries_admitted") == Some(0.0)
    });
}

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

/// A directory that is read-only, for those who open something in it, until this goes.
struct ReadOnly<'a>(&'a Path);

impl<'a> ReadOnly<'a> {
    #[track_caller]
    fn new(path: &'a Path) -> Self {
        let text = path.to_str().unwrap();
        for arguments in [&["--bind", text, text][..], &["-o", "remount,bind,ro", text]] {
            let output = run("mount", arguments);
            assert!(output.status.success(), "{}", support::text(&output.stderr));
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
    let children = ["fsd", "sync", "read"].map(|name| trough.child_pid(name));
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

/// As a user with no right but CAP_SYS_ADMIN, on a FUSE device of its own: up, put, query, stop.
#[test]
fn a_user_with_cap_sys_admin_alone_runs_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("fuse");
    let (uid, gid) = ("65432", "65432");
    for arguments in [
        &["mknod", device.to_str().unwrap(), "c", "10", "229"][..],
        &["chown", "-R", "65432:65432", dir.path().to_str().unwrap()],
    ] {
        let output = run(arguments[0], &arguments[1..]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    // the built binary may lie where that user may not go
    let binary = dir.path().join("trough");
    std::fs::copy(BINARY, &binary).unwrap();
    let work = dir.path().join("work");
    let as_user = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", uid, "--regid", gid, "--clear-groups"]);
        command.args(["--inh-caps", "-all,+sys_admin", "--ambient-caps", "+sys_admin"]);
        command.args(["--bounding-set", "-all,+sys_admin"]).arg(&binary).args(arguments);
        command.arg("--dir").arg(&work).env("TMPDIR", dir.path()).stdin(Stdio::null());
        command
    };
    let (read, manager) = (support::free_port(), support::free_port());
    let log = dir.path().join("log");
    let mut up = as_user(&[
        "up",
        "--read-port",
        &read.to_string(),
        "--manager-port",
        &manager.to_string(),
        "--set",
        &format!("mount.fuse_device={:?}", device.to_str().unwrap()),
    ])
    .stdout(File::create(dir.path().join("ready")).unwrap())
    .stderr(File::create(&log).unwrap())
    .spawn()
    .unwrap();
    let log = || std::fs::read_to_string(&log).unwrap();
    let mut story = || {
        let deadline = Instant::now() + support::PATIENCE;
        while !std::fs::read_to_string(dir.path().join("ready")).unwrap().contains("is ready") {
            if up.try_wait().unwrap().is_some() || Instant::now() > deadline {
                return Err("not ready".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let source = faults::database(&dir.path().join("ohio.sqlite"), 3);
        let put = as_user(&["put", source.to_str().unwrap()]).output().unwrap();
        if !put.status.success() {
            return Err(text(&put.stderr));
        }
        let url = format!("http://127.0.0.1:{read}/?segment=ohio");
        let asker = Asker::new(Duration::from_secs(30));
        let mut last = None;
        while Instant::now() < deadline {
            last = Some(asker.ask(&url, "SELECT count(*) AS n FROM t"));
            if matches!(&last, Some(Ok(answer)) if answer.body == "[{\"n\":3}]\n") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("{last:?}"))
    };
    let told = story();
    let _ = rustix::process::kill_process(Pid::from_child(&up), Signal::INT);
    let code = up.wait().unwrap().code();
    let left = trough::up::leftover::detach(&work.join("mount")).unwrap();
    assert_eq!((told, code, left), (Ok(()), Some(0), 0), "{}", log());
    let bad = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
    let log = log();
    assert_eq!(log.lines().filter(bad).collect::<Vec<_>>(), Vec::<&str>::new());
}

/// Faults at random for a while: each child killed or stopped for a moment under puts and queries. No answer
/// is ever wrong, and it converges (S10). Ten minutes with `TROUGH_SOAK=1`; the seed is printed, and
/// `TROUGH_SEED` sets it.
#[test]
fn s10_random_kills_and_hangs_heal() {
    let length = Duration::from_secs(if rig::soak::is_on() { 600 } else { 15 });
    let seed = std::env::var("TROUGH_SEED").ok().map(|text| text.parse().unwrap());
    let mut random = Random(seed.unwrap_or_else(|| std::process::id().into()));
    println!("TROUGH_SEED={}", random.0);
    let trough = started(short("").allow("mount"));
    let ids = ["ohio", "utah", "iowa"];
    for id in ids {
        trough.put(id, 1);
        trough.wait_answers(id, 1);
    }
    let watches = ids.map(|id| Watch::start(&trough, id, 1));
    let mut versions = [1; 3];
    let end = Instant::now() + length;
    while Instant::now() < end {
        let name = ["fsd", "sync", "read"][random.below(3)];
        // by the log it is the newest one; it may have ended a moment ago
        let pid = trough.child_pid(name);
        let at = random.below(3);
        versions[at] += 1;
        watches[at].allow(versions[at]);
        match random.below(3) {
            0 => {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                trough.put(ids[at], versions[at]);
            }
            1 => {
                trough.put(ids[at], versions[at]);
                std::thread::sleep(Duration::from_millis(random.below(300) as u64));
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            _ => {
                let _ = rustix::process::kill_process(pid, Signal::STOP);
                trough.put(ids[at], versions[at]);
                std::thread::sleep(Duration::from_millis(random.below(1500) as u64));
                let _ = rustix::process::kill_process(pid, Signal::CONT);
            }
        }
        if random.below(2) == 0 {
            watches[at].wait(&trough, versions[at]);
        }
        std::thread::sleep(Duration::from_millis(random.below(1000) as u64));
    }
    for (watch, n) in watches.iter().zip(versions) {
        watch.wait(&trough, n);
    }
    wait_all_held(&trough, 3);
    until("one mount", || trough.mounts() == 1);
    assert_eq!(incoming(&trough.dir().join("cache")), 0);
    for watch in watches {
        watch.end();
    }
}

/// A small generator whose runs can be repeated (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}
