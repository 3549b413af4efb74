//! The mount on real FUSE. Needs root, /dev/fuse, `sqlite3`, `getfattr`, `setpriv`, `mknod`: what is missing fails.
//!
//! Each daemon is this test program itself, started again with [`support::ROLE`] set: so every test runs the
//! real `daemon::run` in a process that can be killed.

// helpers outside #[test] functions are tests too
#![allow(clippy::unwrap_used)]

mod burst;
mod lifecycle;
mod notify;
mod places;
mod replacement;
mod semantics;
mod support;
mod upgrade;

/// Not a test: the daemon of the other tests.
#[test]
fn fsd_process() {
    support::serve_if_asked();
}
