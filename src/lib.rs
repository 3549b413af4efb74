//! Big data, small databases: the one binary `trough`, as a library so that tests can reach its parts.
//!
//! This is the right-most layer: it reads the command line and the settings, sets up logging and signals,
//! and hands each subsystem its settings and its outside world. What a command does is said in its file;
//! how the layers are joined is said in [`wiring`] alone.

pub mod cli;
mod columns;
pub mod config;
mod http;
pub mod logging;
mod orders;
pub mod orphans;
mod plan;
pub mod put;
pub mod query;
pub mod resolve;
pub mod rows;
mod run;
mod segments;
pub mod signals;
pub mod status;
pub mod up;
pub mod wiring;

pub use run::run;
