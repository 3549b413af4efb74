//! The real parts that tests run against: started here, and gone with the process that started them.
//!
//! Everything panics on failure with what was missing: this is test support, and a test that cannot have its
//! real part has failed.

pub mod consul;
pub mod hdfs;
pub mod net;
mod script;
pub mod soak;
