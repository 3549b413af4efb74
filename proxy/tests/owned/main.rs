//! Every reader sees what was acknowledged of a segment that is being written.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "../forward/cluster.rs"]
mod cluster;
#[path = "../rig/rig.rs"]
mod rig;
#[path = "../forward/scripted.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod scripted;

mod away;
mod guarded;
mod seen;
mod support;
mod told;
