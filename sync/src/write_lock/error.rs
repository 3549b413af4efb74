//! Why a write lock was not taken, or is no more.

use std::time::Duration;

use super::{ATTEMPTS, Ownership};
use crate::incarnation::IncarnationError;
use crate::kv::{Key, KvError};

/// Why a lock was not taken, or is no more.
#[derive(Debug, thiserror::Error)]
pub enum WriteLockError {
    /// Somebody else has it.
    #[error("it is locked by {holder}")]
    HeldBy {
        /// Who, for people.
        holder: String,
        /// Who, if it is a node's writer of a trough that this one understands.
        owner: Option<Box<Ownership>>,
    },
    /// The node that had it last acknowledged rows and did not publish them, and is gone.
    #[error(
        "node {node} has rows of it that were acknowledged and are not published, for {}s now; start trough on that \
         node again{wait}",
        unpublished.as_secs(),
        node = owner.node,
        wait = or_wait(*left)
    )]
    Dirty {
        /// What that node left.
        owner: Box<Ownership>,
        /// How long there have been such rows.
        unpublished: Duration,
        /// When the lock may be taken all the same; `None` is never.
        left: Option<Duration>,
    },
    /// A holder that is gone left something that this trough does not understand.
    #[error(
        "what its last holder left at {key} in {address} is not understood ({reason}); upgrade trough, or remove that \
         key if what it says is not needed"
    )]
    NotUnderstood {
        /// Where it lies.
        key: Key,
        /// In which registry.
        address: String,
        /// What is not understood.
        reason: String,
    },
    /// It was held, and is not any more.
    #[error(
        "the lock at {key} was lost: its session ended, or somebody removed it; acknowledge nothing more, and take it \
         again"
    )]
    Lost {
        /// Where it lay.
        key: Key,
    },
    /// It was changed by another each time.
    #[error("it was changed by others at each of {ATTEMPTS} attempts; try again")]
    Contended,
    /// There is no incarnation, and none could be begun: without one there is no epoch.
    #[error(transparent)]
    Incarnation(#[from] IncarnationError),
    /// The registry failed.
    #[error(transparent)]
    Kv(#[from] KvError),
}

/// The rest of the advice of [`WriteLockError::Dirty`].
fn or_wait(left: Option<Duration>) -> String {
    left.map_or_else(String::new, |left| format!(", or wait {}s", left.as_secs() + 1))
}
