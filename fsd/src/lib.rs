//! The verified segment cache and the read-only FUSE mount that shows it.

pub mod failpoint;
pub mod layout;
pub mod segment;
pub mod view;
