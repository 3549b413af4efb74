//! A write lock that is renewed while it is needed.
//!
//! Invariant: [`Lease::holds`] says yes only while the time to live, counted on this machine's clock from the
//! moment the newest successful question was *sent*, has not passed. An answer that is late proves nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::clock::{Deadline, since_boot};
use crate::registry::{Registry, WriteLock};

/// Renewals within one time to live.
const RENEWALS: u32 = 3;

pub(super) struct Lease {
    registry: Arc<dyn Registry>,
    lock: WriteLock,
    ttl: Duration,
    until: Deadline,
    renewing: JoinHandle<()>,
}

impl Lease {
    /// Keeps `lock`, which was asked for at `asked` (since boot).
    pub(super) fn new(
        registry: Arc<dyn Registry>,
        lock: WriteLock,
        ttl: Duration,
        asked: Duration,
    ) -> Self {
        let until = Deadline::new(Arc::new(since_boot));
        until.extend(asked, ttl);
        let renewing = tokio::spawn({
            let (registry, lock, until) = (registry.clone(), lock.clone(), until.clone());
            async move {
                loop {
                    tokio::time::sleep(ttl / RENEWALS).await;
                    if renew(registry.as_ref(), &lock, ttl, &until).await == Some(false) {
                        return;
                    }
                }
            }
        });
        Self { registry, lock, ttl, until, renewing }
    }

    pub(super) fn lock(&self) -> &WriteLock {
        &self.lock
    }

    /// Whether the lock is held by this machine's clock.
    pub(super) fn holds(&self) -> bool {
        self.until.holds()
    }

    /// Whether the registry says so now; one that does not answer has not said yes.
    pub(super) async fn confirm(&self) -> bool {
        let said = renew(self.registry.as_ref(), &self.lock, self.ttl, &self.until).await;
        said == Some(true) && self.holds()
    }

    /// Gives the lock back.
    pub(super) async fn release(self) {
        self.renewing.abort();
        if let Err(error) = self.registry.release_write(&self.lock).await {
            tracing::warn!(segment = %self.lock.id, %error, "a write lock stays until its time is over");
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

/// What the registry says; `None` when it is away, which leaves the deadline as it is.
async fn renew(
    registry: &dyn Registry,
    lock: &WriteLock,
    ttl: Duration,
    until: &Deadline,
) -> Option<bool> {
    let asked = until.now();
    match registry.renew_write(lock, ttl).await {
        Ok(true) => {
            until.extend(asked, ttl);
            Some(true)
        }
        Ok(false) => {
            until.end();
            Some(false)
        }
        Err(error) => {
            tracing::warn!(segment = %lock.id, %error, "a write lock could not be renewed");
            None
        }
    }
}
