//! The reader's HTTP contract (DESIGN.md 8) and what a hostile statement gets.

#[path = "../rig/rig.rs"]
mod rig;

mod contract;
mod hostile;
mod manager;
mod routes;
