//! A node's writer (S3, S4): on a deep store in a directory and a registry in a file, with several nodes in one process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod alone;
mod conflicts;
mod orphans;
mod pages;
mod power;
mod support;
#[path = "../../../fsd/tests/support/volume.rs"]
mod volume;
