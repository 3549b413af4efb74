//! A segment that is open for writing (S3): what is acknowledged stays, what is not is not there, and nobody's request
//! does anything to another's; under refused statements, full queues, lost leases, failing disks, kills and power cuts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod copies;
mod faults;
mod power;
mod requests;
mod schema_changes;
mod support;
#[path = "../../../fsd/tests/support/volume.rs"]
mod volume;
