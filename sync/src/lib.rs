//! The deep store, the registry, and the synchronizer that keeps the cache what it should be.

pub mod clock;
pub mod incarnation;
pub mod metrics;
pub mod publish;
pub mod registry;
pub mod seal;
pub mod store;
