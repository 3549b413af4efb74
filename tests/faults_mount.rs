//! The mount that is killed, taken away, missing or replaced under readers, on the real binary.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "support/faults.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod faults;
#[path = "support/trough.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::fs::File;
use std::process::{Child, Command, Stdio};

use faults::{AGAIN, Stopped, Watch, ask, database, page, put_file, send, short, started, within};
use rusqlite::{Connection, OpenFlags};
use rustix::process::{Pid, Signal};
use support::{BINARY, Trough, run, text, until};

/// Rows of a segment of some 8 MB: most of its pages are read for the first time after the fault.
const ROWS: u32 = 2000;

/// The mount's settings with neither passthrough nor a mount beneath another, as on an old kernel.
const OLD_KERNEL: &str = "\n[mount]\npassthrough = \"off\"\nbeneath = \"off\"\n";

fn open(trough: &Trough, id: &str) -> Connection {
    let connection =
        Connection::open_with_flags(trough.mounted(id), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let first: i64 = connection.query_row("SELECT n FROM t LIMIT 1", [], |row| row.get(0)).unwrap();
    assert_eq!(first, 1);
    connection
}

fn read_the_rest(connection: &Connection) -> rusqlite::Result<(u32, u64)> {
    let sql = "SELECT count(*), sum(length(filler)) FROM t";
    connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Fault: fsd killed under readers. Who has a file open reads on, pages never read before too; while nothing
/// starts it again, questions are 503 with the time to ask again, never 404; then new opens work (S5, S6).
#[test]
fn s5_s6_a_killed_mount_process_leaves_readers_reading_and_comes_back() {
    let trough = started(short(""));
    let source = database(&trough.dir().join("large.source"), ROWS);
    put_file(&trough, "large", &source);
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    until("large is mounted", || File::open(trough.mounted("large")).is_ok());
    let connection = open(&trough, "large");
    let watch = Watch::start(&trough, "ohio", 1);

    // while `up` is stopped nobody starts it again: the gap is as long as the test needs it
    let held = Stopped::new(trough.up_pid());
    let killed = trough.child_pid("fsd");
    send(killed, Signal::KILL);
    until("the mount is dead", || File::open(trough.mounted("large")).is_err());
    assert_eq!(read_the_rest(&connection), Ok((ROWS, u64::from(ROWS) * 4000)));
    let answer = ask(&trough, "utah", "SELECT 1");
    assert_eq!((answer.status, answer.retry_after.is_some()), (503, true), "{answer:?}");
    let answer = ask(&trough, "large", "SELECT count(*) AS n FROM t");
    assert_eq!((answer.status, answer.retry_after.is_some()), (503, true), "{answer:?}");
    assert_eq!(page(&trough, "health").status, 503);
    rig::soak::hold();
    drop(held);

    within(AGAIN, "new opens work again", || File::open(trough.mounted("large")).is_ok());
    assert_eq!(read_the_rest(&connection), Ok((ROWS, u64::from(ROWS) * 4000)));
    until("health", || page(&trough, "health").status == 200);
    watch.put(&trough, 2);
    assert_eq!(ask(&trough, "utah", "SELECT 1").status, 404);
    assert_eq!(trough.mounts(), 1);
    let (tally, failed_opens) = watch.end();
    assert_eq!(tally.away, 0, "{tally:?}");
    assert!(!failed_opens.is_empty(), "there was no gap at all");
}

/// Fault: fsd killed, with the time that a restart takes and no more. Questions are answered late: the reader
/// waits for the mount (S5, S6).
#[test]
fn s6_questions_wait_while_the_mount_process_starts_again() {
    let trough = started(short(""));
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    let watch = Watch::start(&trough, "ohio", 1);
    for n in 2..=4 {
        let before = trough.child_pid("fsd");
        send(before, Signal::KILL);
        within(AGAIN, "a new mount", || {
            trough.child_pid("fsd") != before && File::open(trough.mounted("ohio")).is_ok()
        });
        watch.put(&trough, n);
    }
    let (tally, failed_opens) = watch.end();
    assert_eq!((tally.later, tally.late, tally.away), (0, 0, 0), "{tally:?}");
    assert!(!failed_opens.is_empty(), "nothing was ever away");
}

/// Fault: somebody unmounts it by hand. It comes back by itself, and no question is ever 404 (S5, S6).
#[test]
fn s5_s6_a_mount_taken_away_by_hand_comes_back() {
    let trough = started(short("").allow("mount"));
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    let watch = Watch::start(&trough, "ohio", 1);
    let mount = trough.dir().join("mount");
    assert!(run("umount", ["-l", mount.to_str().unwrap()]).status.success());
    until("it is mounted again", || {
        trough.mounts() == 1 && File::open(trough.mounted("ohio")).is_ok()
    });
    watch.put(&trough, 2);
    let (tally, _) = watch.end();
    assert_eq!(tally.away, 0, "{tally:?}");
}

/// Fault: fsd gone and its dead mount taken away, so that readers meet the bare directory: it takes no file,
/// not even from root, and nothing is looked for in it (S6).
#[test]
fn s6_the_bare_directory_takes_nothing_and_says_nothing() {
    let trough = started(short(""));
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    let watch = Watch::start(&trough, "ohio", 1);
    let held = Stopped::new(trough.up_pid());
    send(trough.child_pid("fsd"), Signal::KILL);
    let mount = trough.dir().join("mount");
    until("the mount is dead", || File::open(trough.mounted("ohio")).is_err());
    rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(trough.mounts(), 0);

    // sqlite3 would create a file that it is told to open for writing
    let refused = File::create(mount.join("ohio.sqlite")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "{refused}");
    assert!(Connection::open(mount.join("ohio.sqlite")).is_err());
    for id in ["ohio", "utah"] {
        let answer = ask(&trough, id, "SELECT 1 AS n");
        assert_eq!((answer.status, answer.retry_after.is_some()), (503, true), "{id}: {answer:?}");
    }
    assert_eq!(page(&trough, "health").status, 503);
    rig::soak::hold();
    assert_eq!(std::fs::read_dir(&mount).unwrap().count(), 0, "something was made in it");
    drop(held);
    within(AGAIN, "it is mounted again", || File::open(trough.mounted("ohio")).is_ok());
    watch.put(&trough, 2);
    watch.end();
}

/// A child of the test that ends with it.
struct Process(Child);

impl Process {
    fn start(trough: &Trough, command: &[&str]) -> Self {
        let log = File::options().append(true).open(trough.dir().join("up.log")).unwrap();
        let mut process = Command::new(BINARY);
        process.env("FAILPOINTS", "mount.protected=sleep(300)");
        process.args(command).arg("--dir").arg(trough.dir()).stdin(Stdio::null()).stderr(log);
        Self(process.stdout(Stdio::null()).spawn().unwrap())
    }

    fn stop(&mut self) -> Option<i32> {
        let _ = rustix::process::kill_process(Pid::from_child(&self.0), Signal::TERM);
        self.0.wait().unwrap().code()
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Fault: a reader without any fsd. What is in the pool is 503, and so is everything else (S6).
#[test]
fn s6_without_a_mount_everything_is_503_and_nothing_is_created() {
    let mut trough = started(short(""));
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    trough.stop();
    let mut reader = Process::start(&trough, &["read"]);
    let port = trough.read_port();
    until("the reader listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    for id in ["ohio", "utah"] {
        let answer = ask(&trough, id, "SELECT 1");
        assert_eq!((answer.status, answer.retry_after.is_some()), (503, true), "{id}: {answer:?}");
    }
    assert_eq!(page(&trough, "health").status, 503);
    assert_eq!(page(&trough, "health/ohio").status, 500);
    assert_eq!(std::fs::read_dir(trough.dir().join("mount")).unwrap().count(), 0);
    assert_eq!(reader.stop(), Some(0));
}

/// SIGHUP to `up` replaces fsd without a failed open and without a question that is not answered.
#[test]
fn a_hot_upgrade_fails_no_open_and_no_question() {
    let trough = started(short(""));
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    let watch = Watch::start(&trough, "ohio", 1);
    upgrades(&trough, &watch);
    let (tally, failed_opens) = watch.end();
    assert_eq!((tally.later, tally.late, tally.away), (0, 0, 0), "{tally:?}");
    assert!(failed_opens.is_empty(), "{failed_opens:?}");
}

fn upgrades(trough: &Trough, watch: &Watch) {
    for n in 2..=4 {
        let before = trough.child_pid("fsd");
        send(trough.up_pid(), Signal::HUP);
        until("the old process ends", || !trough.processes().contains(&before));
        watch.put(trough, n);
        assert_ne!(trough.child_pid("fsd"), before);
        assert_eq!(trough.mounts(), 1);
    }
}

/// The same on a kernel that can do neither passthrough nor a mount beneath another: opens fail for a moment,
/// questions wait for it. Before it the whole story: put, answer, replace, remove.
#[test]
fn on_an_old_kernel_the_whole_story_and_an_upgrade_work() {
    let trough = started(short(OLD_KERNEL));
    let source = database(&trough.dir().join("large.source"), ROWS);
    put_file(&trough, "large", &source);
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    let watch = Watch::start(&trough, "ohio", 1);
    watch.put(&trough, 2);
    let shown = text(&trough.command(&["status"]).stdout);
    assert!(shown.contains("without passthrough"), "{shown}");
    until("large is mounted", || File::open(trough.mounted("large")).is_ok());
    assert_eq!(read_the_rest(&open(&trough, "large")), Ok((ROWS, u64::from(ROWS) * 4000)));
    let stored = std::fs::read(trough.dir().join("store/la/large.sqlite")).unwrap();
    let same = std::fs::read(trough.mounted("large")).unwrap() == stored;
    assert!(same, "the mount shows other bytes than were put");
    std::fs::remove_dir_all(trough.dir().join("store/la")).unwrap();
    until("large is gone", || ask(&trough, "large", "SELECT 1").status == 404);
    assert!(!trough.mounted("large").try_exists().unwrap());

    watch.allow(4);
    for n in 3..=4 {
        let before = trough.child_pid("fsd");
        send(trough.up_pid(), Signal::HUP);
        until("the old process ends", || !trough.processes().contains(&before));
        watch.put(&trough, n);
        assert_eq!(trough.mounts(), 1);
    }
    let (tally, _) = watch.end();
    assert_eq!((tally.later, tally.late, tally.away), (0, 0, 0), "{tally:?}");
}

/// Fault: two fsd started on one mount point in one instant. One takes over from the other, or is refused;
/// two mounts never lie on one another (S5). Each is held for a moment between its look at the mount point and
/// its mount.
#[test]
fn s5_two_mount_processes_at_once_leave_one_mount() {
    faults::needs_crash_points();
    let mut trough = started(short(""));
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    trough.stop();
    for _ in 0..3 {
        let mut both = [Process::start(&trough, &["fsd"]), Process::start(&trough, &["fsd"])];
        within(AGAIN, "one of the two is left, and its mount answers", || {
            both.iter_mut().map(Process::has_ended).filter(|ended| !ended).count() == 1
                && File::open(trough.mounted("ohio")).is_ok()
        });
        assert_eq!(trough.mounts(), 1);
        for process in &mut both {
            process.stop();
        }
        assert_eq!(trough.mounts(), 0, "the last one left a mount");
    }
}
