//! The HTTP contract of the segment manager (DESIGN.md 8).

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod orders;
mod pages;
mod rights;
mod schemas;
