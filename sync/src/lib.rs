//! The deep store, the registry, and the synchronizer that keeps the cache what it should be.

pub mod pool;
pub mod quota;
pub mod registry;
pub mod store;
