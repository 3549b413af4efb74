//! Who carries out orders about segments: a node with its own writer, and the lead with nodes that a test scripts. Locks
//! are real, on a registry in a file.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod choosing;
mod deleting;
mod local;
mod nodes;
mod opening;
mod promoting;
#[path = "../writer/support.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;
