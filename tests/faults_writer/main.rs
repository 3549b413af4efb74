//! What befalls a real writer under a client that keeps a list of what was acknowledged (S3, S4): all of it is found
//! afterwards, and nothing twice that was sent once. On the rig's HDFS.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "../support/faults.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod faults;
#[path = "../support/machines.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod machines;
#[path = "../support/trough.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;
#[path = "../../fsd/tests/support/volume.rs"]
mod volume;
#[path = "../support/writes.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod writes;

// which those of a cluster have by itself
use support as steps;

mod consul;
mod disk;
mod killed;
mod paused;
mod stage;
mod stores;
