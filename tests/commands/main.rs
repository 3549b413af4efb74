//! A cluster as people run it: the real commands, each process of its own, on a real Consul with a directory as deep
//! store.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "../support/clients.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod clients;
#[path = "../support/machines.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod machines;
#[path = "../support/segment.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod segment;
#[path = "../support/trough.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

// it has the steps for itself
use support as steps;

mod cluster;
mod leads;
mod orders;
mod orphans;
mod plan;
mod reads;
mod segments;
mod status;
mod up;
mod writing;
