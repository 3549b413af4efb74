//! The reader's HTTP contract (DESIGN.md 8) and what a hostile statement gets.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "../rig/rig.rs"]
mod rig;

mod contract;
mod hostile;
mod lead;
mod manager;
mod routes;
