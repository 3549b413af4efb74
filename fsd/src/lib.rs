//! The verified segment cache and the read-only FUSE mount that shows it.

pub mod daemon;
pub mod failpoint;
pub mod filesystem;
pub mod layout;
pub mod mount;
pub mod segment;
pub mod status;
pub mod view;
pub mod watch;
