//! Processes that are stopped (SIGSTOP) and go on later, or never.

use rustix::process::Signal;

use crate::faults::{AGAIN, Stopped, Watch, ask, page, send, short, started, status, within};
use crate::support::until;

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
    watch.allow(2);
    // whatever it stands still in: the locks that a put takes are in a file of their own
    let stopped = Stopped::new(trough.child_pid("sync"));
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
