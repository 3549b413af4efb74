//! The deep store, the registry, and the synchronizer that keeps the cache what it should be.

pub mod clock;
pub mod cluster;
pub mod discovery;
pub mod incarnation;
pub mod kv;
pub mod lead;
pub mod local;
pub mod membership;
pub mod metrics;
pub mod node;
pub mod nodes_view;
pub mod planner;
pub mod pool;
pub mod pool_view;
pub mod publish;
pub mod pull;
pub mod quota;
pub mod registry;
pub mod schemas;
pub mod seal;
pub mod services;
mod sqlite_file;
pub mod store;
pub mod table;
pub mod tag;
pub mod verb;
pub mod write_lock;
