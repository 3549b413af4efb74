//! When one request's query must stop: its deadline, its limits, and its client's leaving.
//!
//! Invariant: the token belongs to the request, not to the connection that it happens to run on, so a late
//! cancel can never hit the next request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::QueryError;

/// The limits of one query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the request's head to the last byte handed on, in milliseconds.
    pub query_ms: u64,
    /// How long the client may take nothing, in milliseconds.
    pub stall_ms: u64,
    /// The longest answer, in bytes.
    pub answer_bytes_max: u64,
    /// The most temporary data written, in bytes.
    pub temp_bytes_max: u64,
}

/// One request's stop switch.
#[derive(Debug)]
pub struct Control {
    cancelled: Arc<AtomicBool>,
    started: Instant,
    deadline: Instant,
    limits: Limits,
}

impl Control {
    /// For a request that began at `started`.
    pub fn new(started: Instant, limits: Limits) -> Self {
        let deadline = started + Duration::from_millis(limits.query_ms);
        Self { cancelled: Arc::default(), started, deadline, limits }
    }

    /// The same, with `query_ms` at most; what stops one stops the other.
    pub fn within(&self, query_ms: u64) -> Self {
        let limits = Limits { query_ms: query_ms.min(self.limits.query_ms), ..self.limits };
        let cancelled = Arc::clone(&self.cancelled);
        Self { cancelled, ..Self::new(self.started, limits) }
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// When the time is up.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether the query may go on.
    pub fn check(&self, now: Instant) -> Result<(), QueryError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(QueryError::Cancelled);
        }
        match now < self.deadline {
            true => Ok(()),
            false => Err(QueryError::TimeLimit { limit_ms: self.limits.query_ms }),
        }
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// Stops the query when dropped: it lives in the request's future, then in the answer's body, and either is
/// dropped as soon as the connection is gone.
#[derive(Debug)]
pub struct CancelGuard(Arc<Control>);

impl CancelGuard {
    /// The guard of `control`.
    pub fn new(control: Arc<Control>) -> Self {
        Self(control)
    }
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
