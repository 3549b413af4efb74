//! A fault that is said once in the log, however often what failed is tried again.

use std::time::Duration;

use crate::local::Backoff;
use crate::services::Name;

/// What goes wrong with one instance.
#[derive(Debug)]
pub(super) struct Trouble {
    id: Name,
    /// What comes to nothing, as a verb and its object.
    what: &'static str,
    backoff: Backoff,
    lasts: bool,
}

impl Trouble {
    pub(super) fn new(id: Name, what: &'static str, first: Duration, longest: Duration) -> Self {
        Self { id, what, backoff: Backoff::new(first, longest), lasts: false }
    }

    /// It failed again; says how long to wait.
    pub(super) fn failed(&mut self, error: &dyn std::error::Error) -> Duration {
        if !std::mem::replace(&mut self.lasts, true) {
            tracing::warn!(service = %self.id, %error, "cannot {} now; trying again until it is done", self.what);
        }
        self.backoff.failed()
    }

    /// It was done.
    pub(super) fn over(&mut self) {
        if std::mem::take(&mut self.lasts) {
            tracing::info!(service = %self.id, "can {} again", self.what);
        }
        self.backoff.succeeded();
    }
}
