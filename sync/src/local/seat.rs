//! Where a local synchronizer learns what to hold, and whom it tells what it holds.
//!
//! Invariant: the synchronizer does not know whether it is alone. What differs between a machine on its own
//! ([`alone`]) and a node of a cluster ([`member`]) stands below this trait and in the
//! [`Assignment`](crate::quota::Assignment) that comes with it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fsd::segment::SegmentId;

use crate::cluster::HoldsRow;
use crate::membership::{MembershipError, Told};
use crate::pool::PoolListing;
use crate::registry::{PoolChange, PoolRow, RegistryError};
use crate::tomb::Tombs;

pub mod alone;
pub mod member;

/// What was known before this process began.
#[derive(Debug, Default)]
pub struct Earlier {
    /// The pool's rows as they were told last.
    pub rows: Vec<PoolRow>,
    /// When the newest complete listing ended, milliseconds since 1970.
    pub complete_at_ms: Option<u64>,
}

/// What one look saw.
#[derive(Debug)]
pub enum Seen {
    /// The deep store: all of it is to be held, as far as it goes.
    Listing {
        /// What is there.
        listing: Box<PoolListing>,
        /// How long it took.
        took: Duration,
    },
    /// What the lead wants.
    Lead {
        /// What is new of it; `None` when nothing is.
        told: Option<Told>,
        /// Whether the others count on this node.
        registered: bool,
        /// What was deleted.
        tombs: Arc<Tombs>,
    },
    /// The lead cannot be heard now; what it said last still holds.
    Nothing(SeatError),
}

/// What changed here.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// For people, and for the readers of a machine on its own.
    pub change: PoolChange,
    /// For the lead: each segment of `change`, as it is served here, or not at all any more.
    pub holds: Vec<(SegmentId, Option<HoldsRow>)>,
    /// Whether this is the last of all that there is to tell now.
    pub all: bool,
}

/// Why nothing was heard or told. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum SeatError {
    /// The registry of a machine on its own.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The cluster's.
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

/// See the module.
#[async_trait]
pub trait Seat: Send + Sync + fmt::Debug {
    /// What was known before.
    async fn earlier(&self) -> Result<Earlier, SeatError>;

    /// Looks at what is to be held. Ends within its own time-outs.
    async fn look(&self) -> Seen;

    /// Returns when there may be something new to look at.
    async fn changed(&self);

    /// Tells what changed here.
    async fn tell(&self, report: &Report) -> Result<(), SeatError>;

    /// Whether others count on this node by what is told, and are sent here: then it is told also when it is nothing,
    /// and not before a live mount was seen.
    fn announces(&self) -> bool;
}
