//! The fault matrix of a cluster: whoever dies, hangs or is cut off, no query fails and none is answered wrong, and
//! afterwards the cluster is by itself what it would be without the fault.
//!
//! Each fault comes while clients ask every segment at every reader that lives, while a hundred segments are added,
//! changed and deleted, and while a node writes one all the time. The parts are real: three Consul servers and an agent
//! on each node, HDFS, FUSE, and processes of the binary, on hosts with networks of their own.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "../support/clients.rs"]
mod clients;
#[path = "../support/machines.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod machines;
#[path = "../support/segment.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod segment;
#[path = "../support/steps.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod steps;
#[path = "../../fsd/tests/support/volume.rs"]
mod volume;
#[path = "../support/writes.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod writes;

mod consul;
mod disks;
mod documents;
mod leads;
mod stage;
mod stores;
mod workers;
mod written;
