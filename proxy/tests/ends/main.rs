//! S8: every query ends, and nothing of it stays. The figures are the process's, so one test runs at a time.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "../rig/rig.rs"]
mod rig;

mod connections;
mod limits;

/// Held by each test.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
