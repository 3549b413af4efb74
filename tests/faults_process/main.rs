//! Processes that are killed, hang or cannot start, on the real binary: nothing wrong is ever answered, and all of
//! it heals by itself.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "../support/faults.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod faults;
#[path = "../support/trough.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;
#[path = "../../fsd/tests/support/volume.rs"]
mod volume;
#[path = "../support/writes.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod writes;
#[path = "../faults_writer/stage.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod writing;

mod hung;
mod killed;
mod random;
mod users;
mod volumes;
