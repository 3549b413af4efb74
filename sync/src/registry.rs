//! The pool table of one machine: which segments the deep store has, and how far this machine is with each.
//!
//! Invariant: a table that was never written is [`Lookup::Unknown`], never "not there".
//!
//! Left out: where it is kept. [`sqlite`] keeps it in a file for the processes of the machine. Locks and whatever
//! else holds between processes are keys ([`crate::kv`]), on one machine as in a cluster.

use std::fmt;

use async_trait::async_trait;
use fsd::segment::{Digest, SegmentId, Stamp};
use serde::{Deserialize, Serialize};

use crate::store::StorePath;

pub mod sqlite;

/// How far this machine is with a segment of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentState {
    /// Wanted here, not yet pulled.
    Pending,
    /// Verified, published and seen through the mount.
    Held,
    /// The quota has no place for it.
    NoPlace,
    /// Its current version was refused; an older one may still be served.
    Refused,
}

/// One segment of the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRow {
    /// Which segment.
    pub id: SegmentId,
    /// Where it lies in the deep store.
    pub path: StorePath,
    /// Its length and mtime there.
    pub stamp: Stamp,
    /// How far it is.
    pub state: SegmentState,
    /// What is served now, when something is.
    pub digest: Option<Digest>,
    /// Why it is not held, for people; with what to do about it.
    pub reason: Option<String>,
}

/// What the pool table says of one id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// No complete listing was ever written: nothing can be said.
    Unknown,
    /// The last complete listing did not have it.
    Absent,
    /// It is in the pool.
    Listed(PoolRow),
}

/// When and how the pool table was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolMeta {
    /// When the newest complete listing ended, milliseconds since 1970.
    pub complete_at_ms: u64,
    /// How many segments the pool has.
    pub segments: u64,
}

/// A change to the pool table, written in one step.
#[derive(Debug, Clone, Default)]
pub struct PoolChange {
    /// Rows that are new or say something else now.
    pub upsert: Vec<PoolRow>,
    /// Ids that are no longer in the pool.
    pub remove: Vec<SegmentId>,
    /// When the listing behind this ended, if it was complete (milliseconds since 1970).
    pub complete_at_ms: Option<u64>,
}

/// A number that orders the holders of one lock: by incarnation of the registry, then by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Which life of the registry; counted in the deep store.
    pub incarnation: u64,
    /// Grows with every acquire within one incarnation.
    pub index: u64,
}

impl fmt::Display for Epoch {
    /// Twice 20 digits, so that names sort as the epochs do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}-{:020}", self.incarnation, self.index)
    }
}

/// A call to the registry that failed.
#[derive(Debug, thiserror::Error)]
#[error("{attempted} in the registry at {target}: {reason}")]
pub struct RegistryError {
    /// What was attempted.
    pub attempted: &'static str,
    /// Where the registry is.
    pub target: String,
    /// What came back, and what to do.
    pub reason: String,
}

/// The registry. Every call has a time limit of its own.
#[async_trait]
pub trait Registry: Send + Sync + fmt::Debug {
    /// Writes `change` in one step.
    async fn change_pool(&self, change: PoolChange) -> Result<(), RegistryError>;

    /// When the pool table was last complete; `None` when it never was.
    async fn pool_meta(&self) -> Result<Option<PoolMeta>, RegistryError>;

    /// What is known of one id.
    async fn lookup(&self, id: &SegmentId) -> Result<Lookup, RegistryError>;

    /// At most `limit` rows with ids after `after`, in order of id.
    async fn pool_page(
        &self,
        after: Option<&SegmentId>,
        limit: usize,
    ) -> Result<Vec<PoolRow>, RegistryError>;
}
