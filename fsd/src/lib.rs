//! The verified segment cache and the read-only FUSE mount that shows it.

pub mod cache;
pub mod failpoint;
pub mod header;
pub mod layout;
pub mod ledger;
pub mod metrics;
pub mod scrub;
pub mod segment;
pub mod tranquilizer;
pub mod view;
pub mod worker;
