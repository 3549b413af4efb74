//! Points at which a test can make the process die as if by power or `kill -9`.
//!
//! Built only with the feature `failpoints`; else every call compiles to nothing. A test names the point in
//! the environment of the real binary: `FAILPOINTS="admission.before-rename=return"` ends the process there
//! with SIGKILL, `=pause` holds it there, `=sleep(500)` delays it by that many milliseconds. A count
//! before the action (`3*off->return`) lets the first ones pass.
//!
//! For a process that a supervisor starts again, with the same environment, there is `FAILPOINTS_DIR`: the
//! first process that reaches the point `NAME` and finds a file `NAME` in that directory takes it away and
//! dies. The one after it goes through.
//!
//! Left out: points that inject an error instead of a death; those take the error they need at their place.

/// Reads `FAILPOINTS` from the environment. Call once, first thing in `main`.
pub fn setup() {
    #[cfg(feature = "failpoints")]
    std::mem::forget(fail::FailScenario::setup());
}

/// Dies here when the test has armed `name`.
pub fn crash_point(name: &str) {
    #[cfg(feature = "failpoints")]
    {
        fail::fail_point!(name, |_| die(name));
        if let Some(directory) = std::env::var_os(ONCE_DIR)
            && std::fs::remove_file(std::path::Path::new(&directory).join(name)).is_ok()
        {
            die(name);
        }
    }
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}

/// As [`crash_point`] at `OF.STEP`, for a step that several kinds of work have in common.
pub fn crash_step(of: &str, step: &str) {
    #[cfg(feature = "failpoints")]
    crash_point(&format!("{of}.{step}"));
    #[cfg(not(feature = "failpoints"))]
    let _ = (of, step);
}

/// Names the directory of the points at which one process dies.
#[cfg(feature = "failpoints")]
const ONCE_DIR: &str = "FAILPOINTS_DIR";

#[cfg(feature = "failpoints")]
fn die(name: &str) {
    eprintln!("failpoint {name}: the process ends here");
    let this = rustix::process::getpid();
    let _ = rustix::process::kill_process(this, rustix::process::Signal::KILL);
}
