//! The verified segment cache and the read-only FUSE mount that shows it.

pub mod cache;
pub mod daemon;
mod direct;
pub mod failpoint;
pub mod filesystem;
pub mod header;
pub mod layout;
pub mod ledger;
pub mod metrics;
pub mod mount;
pub mod scrub;
pub mod segment;
pub mod status;
pub mod tranquilizer;
pub mod view;
pub mod watch;
pub mod worker;
