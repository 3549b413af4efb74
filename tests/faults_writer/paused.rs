//! Writers that stand still for longer than their locks last, and wake up beside the next owner.

use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::faults::{needs_crash_points, started};
use crate::stage::*;
use crate::support::{BINARY, Trough, free_port, until};
use crate::writes::{Client, judge};

/// A second writer on the same registry and deep store, of another name.
struct Second {
    child: Child,
    port: u16,
}

impl Second {
    fn start(trough: &Trough) -> Self {
        let port = free_port();
        let mut command = Command::new(BINARY);
        command.args(["write", "--dir"]).arg(trough.dir());
        for set in [
            "node.name=\"second\"".to_owned(),
            "write.dir=\"writable-second\"".to_owned(),
            format!("node.write_listen=\"127.0.0.1:{port}\""),
        ] {
            command.args(["--set", &set]);
        }
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self { child: child.unwrap(), port }
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fault: SIGSTOP of a writer past its lock at a step of a publication; another takes over and publishes; SIGCONT. The
/// late publication fails, its clients are told, and what only it had is an orphan (S4).
fn paused_at(root: &str, step: &str) {
    needs_crash_points();
    let hdfs = rig::hdfs::shared();
    // it stands there until the test ends it or the time is over: what comes after is late
    let trough = on(&hdfs, root)
        .with_environment("FAILPOINTS", &format!("{step}=1*sleep(14000)"))
        .allow("are an orphan")
        .allow("was lost");
    let trough = started(trough);
    provision(&trough, "ohio");
    let client = Client::start(write_url(&trough, "ohio"));
    until("something is written", || client.acknowledged() > 10);
    std::thread::scope(|scope| {
        let late = scope.spawn(|| promote(&trough, "ohio"));
        std::thread::sleep(std::time::Duration::from_secs(2));
        let writer: Pid = trough.child_pid("write");
        kill_process(writer, Signal::STOP).unwrap();
        let second = Second::start(&trough);
        let control = proxy::writer::control::Control::new(&trough.dir().join("writable-second"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ohio = fsd::segment::SegmentId::new("ohio").unwrap();
        until("another takes over", || runtime.block_on(control.provision(&ohio, None)).is_ok());
        let other = Client::start(format!("http://127.0.0.1:{}/?segment=ohio", second.port));
        until("it writes", || other.acknowledged() > 10);
        runtime.block_on(control.promote(&ohio)).unwrap();
        let (theirs, sent, _) = other.end();
        runtime.block_on(control.promote(&ohio)).unwrap();
        let before = published(&hdfs, &trough, root, "ohio");
        judge("what the second published", &before, &theirs, sent);

        kill_process(writer, Signal::CONT).unwrap();
        let said = late.join().unwrap();
        let error = said.expect_err("a late publication fails");
        let had = client.acknowledged();
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert_eq!(
            client.acknowledged(),
            had,
            "a writer without its lock acknowledges nothing: {error}"
        );
        assert_eq!(published(&hdfs, &trough, root, "ohio"), before, "{step}: {error}");
        let (ours, sent, refused) = client.end();
        assert!(refused.iter().all(|one| [0, 421, 503].contains(&one.status)), "{refused:?}");
        assert!(!refused.is_empty(), "its clients are told");

        // what it had acknowledged is kept, and stays where it is, until a person decides
        runtime.block_on(control.hand_back(&ohio)).unwrap();
        judge("the orphan", &rows_of(&an_orphan_in(&trough.dir().join("writable"))), &ours, sent);
        assert_eq!(published(&hdfs, &trough, root, "ohio"), before);
    });
}

#[test]
fn s4_a_writer_that_stands_still_before_it_stages() {
    paused_at("/paused-prepared", "promote.prepared");
}

#[test]
fn s4_a_writer_that_stands_still_with_its_version_staged() {
    paused_at("/paused-staged", "promote.staged-data");
}

#[test]
fn s4_a_writer_that_stands_still_right_before_the_rename() {
    paused_at("/paused-rename", "promote.before-rename");
}

#[test]
fn s4_a_writer_that_stands_still_between_its_renames() {
    paused_at("/paused-between", "promote.seal-renamed");
}
