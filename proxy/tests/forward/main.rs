//! Any reader answers for any segment: what is forwarded, to whom, and what becomes of it when readers fail.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "../rig/rig.rs"]
mod rig;

mod answers;
mod cluster;
mod faults;
mod rights;
mod scripted;
