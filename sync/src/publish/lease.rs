//! A write lock that is renewed while it is needed.
//!
//! Invariant: [`Lease::holds`] says yes only while the time to live, counted on this machine's clock from the
//! moment the newest successful question was *sent*, has not passed. An answer that is late proves nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::clock::since_boot;
use crate::registry::{Registry, WriteLock};

/// Renewals within one time to live.
const RENEWALS: u32 = 3;

pub(super) struct Lease {
    registry: Arc<dyn Registry>,
    lock: WriteLock,
    ttl: Duration,
    /// Milliseconds since boot; 0 once the lock is known to be lost.
    until_ms: Arc<AtomicU64>,
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
        let until_ms = Arc::new(AtomicU64::new(ms(asked + ttl)));
        let renewing = tokio::spawn({
            let (registry, lock, until_ms) = (registry.clone(), lock.clone(), until_ms.clone());
            async move {
                loop {
                    tokio::time::sleep(ttl / RENEWALS).await;
                    if renew(registry.as_ref(), &lock, ttl, &until_ms).await == Some(false) {
                        return;
                    }
                }
            }
        });
        Self { registry, lock, ttl, until_ms, renewing }
    }

    pub(super) fn lock(&self) -> &WriteLock {
        &self.lock
    }

    /// Whether the lock is held by this machine's clock.
    pub(super) fn holds(&self) -> bool {
        ms(since_boot()) < self.until_ms.load(Ordering::Relaxed)
    }

    /// Whether the registry says so now; one that does not answer has not said yes.
    pub(super) async fn confirm(&self) -> bool {
        let said = renew(self.registry.as_ref(), &self.lock, self.ttl, &self.until_ms).await;
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
    until_ms: &AtomicU64,
) -> Option<bool> {
    let asked = since_boot();
    match registry.renew_write(lock, ttl).await {
        Ok(true) => {
            until_ms.fetch_max(ms(asked + ttl), Ordering::Relaxed);
            Some(true)
        }
        Ok(false) => {
            until_ms.store(0, Ordering::Relaxed);
            Some(false)
        }
        Err(error) => {
            tracing::warn!(segment = %lock.id, %error, "a write lock could not be renewed");
            None
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
