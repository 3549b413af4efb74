//! What is known of the pool: on a machine of its own from the registry's file ([`one_machine`]), in a cluster from the
//! table that the lead writes ([`cluster`]).
//!
//! Invariant (S6): only the pool table, once a listing was complete, says that a segment does not exist.

use std::fmt;

use async_trait::async_trait;
use fsd::segment::SegmentId;
use sync::node::NodeName;

use crate::error::QueryError;

pub mod cluster;
pub mod one_machine;

/// What is known of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// The pool was never listed: nothing can be said.
    Unknown,
    /// The pool does not have it.
    Absent,
    /// It is in the pool.
    Listed {
        /// Who has it.
        holders: Holders,
        /// Why it may not be here, for people.
        reason: String,
    },
}

/// The nodes that have a segment, in order of name; nobody on a machine of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// Those of the newest version that anybody has.
    pub newest: Vec<NodeName>,
    /// Those who have an older one, asked when none of the others answers.
    pub older: Vec<NodeName>,
}

/// See the module.
#[async_trait]
pub trait Catalogue: Send + Sync + fmt::Debug {
    /// What is known of `id`.
    async fn find(&self, id: &SegmentId) -> Result<Known, QueryError>;

    /// The segment behind a host's first label: the label itself, or what it is the hash of. `None` when it is
    /// neither. The segment need not exist.
    async fn id_of(&self, label: &str) -> Result<Option<SegmentId>, QueryError>;

    /// How much is known, and how old that is, for `/health`.
    async fn page(&self) -> serde_json::Value;
}

/// Why a segment that a live mount does not have cannot be answered from.
pub async fn why_absent(catalogue: &dyn Catalogue, id: &SegmentId) -> QueryError {
    match catalogue.find(id).await {
        Ok(Known::Absent) => QueryError::NotInPool(id.clone()),
        Ok(Known::Unknown) => QueryError::PoolUnknown(id.clone()),
        Ok(Known::Listed { reason, .. }) => QueryError::NotHeld { id: id.clone(), reason },
        Err(error) => error,
    }
}

/// Whether the pool has it, as far as anybody knows.
pub async fn knows(catalogue: &dyn Catalogue, id: &SegmentId) -> Result<bool, QueryError> {
    match catalogue.find(id).await? {
        Known::Listed { .. } => Ok(true),
        Known::Absent => Ok(false),
        Known::Unknown => Err(QueryError::PoolUnknown(id.clone())),
    }
}

/// Who has it, as far as anybody knows.
pub async fn holders(catalogue: &dyn Catalogue, id: &SegmentId) -> Holders {
    match catalogue.find(id).await {
        Ok(Known::Listed { holders, .. }) => holders,
        Ok(Known::Unknown | Known::Absent) | Err(_) => Holders::default(),
    }
}
