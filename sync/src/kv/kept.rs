//! A session that is kept alive, and the moment until which its holder may believe in it.
//!
//! Invariant: [`KeptSession::holds`] says yes only while the time to live, counted on this machine's clock from
//! when the newest successful renewal was *sent*, has not passed. The store ends a session no sooner, so whoever acts
//! only while it holds never acts beside the next holder.
//!
//! Left out: what the session holds.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::{Deadline, SinceBoot};

use super::{Kv, KvError, KvErrorKind, SessionId, SessionOptions};

/// Renewals within one time to live.
const RENEWALS: u32 = 3;
/// The pause before a renewal that failed is tried again, as a part of the time to live.
const RETRIES: u32 = 20;

/// A session that is renewed until this is dropped; then it ends when its time is over.
pub struct KeptSession {
    kv: Arc<dyn Kv>,
    id: SessionId,
    until: Deadline,
    ended: CancellationToken,
    _renewing: DropGuard,
}

impl fmt::Debug for KeptSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeptSession").field(&self.id).finish()
    }
}

impl KeptSession {
    /// Makes a session in `kv` and keeps it.
    pub async fn create(
        kv: Arc<dyn Kv>,
        options: &SessionOptions,
        since_boot: SinceBoot,
    ) -> Result<Self, KvError> {
        let until = Deadline::new(since_boot);
        let asked = until.now();
        let id = kv.create_session(options).await?;
        until.extend(asked, options.ttl());
        let (ended, stop) = (CancellationToken::new(), CancellationToken::new());
        let renewing = keep(kv.clone(), id.clone(), options.ttl(), until.clone());
        tokio::spawn({
            let (ended, stop) = (ended.clone(), stop.clone());
            async move {
                stop.run_until_cancelled(renewing).await;
                ended.cancel();
            }
        });
        Ok(Self { kv, id, until, ended, _renewing: stop.drop_guard() })
    }

    /// Which it is.
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// Whether it may still be believed in.
    pub fn holds(&self) -> bool {
        self.until.holds()
    }

    /// Until when it may if it is not renewed again; time since boot.
    pub fn holds_until(&self) -> Duration {
        self.until.until()
    }

    /// Returns when it may not any more.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Is cancelled when it may not any more; for who must not keep the session itself.
    pub fn ending(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Believes in it no more: the store said that it ended.
    pub fn gone(&self) {
        self.until.end();
        self.ended.cancel();
    }

    /// Asks at once whether it is there, for somebody who was told something that speaks against it. Without an
    /// answer it stays what it was.
    pub async fn check(&self) {
        match self.kv.renew_session(&self.id).await {
            Err(error) if error.kind == KvErrorKind::SessionGone => self.gone(),
            _ => {}
        }
    }

    /// Ends it; its locks stay closed for their lock-delay, so release first what another may have at once.
    pub async fn destroy(self) {
        if let Err(error) = self.kv.destroy_session(&self.id).await {
            tracing::warn!(session = %self.id, %error, "a session stays until its time is over");
        }
    }
}

/// Renews `id` until it is lost.
async fn keep(kv: Arc<dyn Kv>, id: SessionId, ttl: Duration, until: Deadline) {
    let mut pause = ttl / RENEWALS;
    loop {
        tokio::time::sleep(pause).await;
        let asked = until.now();
        match kv.renew_session(&id).await {
            Ok(lives) => {
                until.extend(asked, lives.min(ttl));
                pause = ttl / RENEWALS;
            }
            Err(error) if error.kind == KvErrorKind::SessionGone => return until.end(),
            Err(error) => {
                tracing::warn!(session = %id, %error, "a session could not be renewed");
                pause = ttl / RETRIES;
            }
        }
        if !until.holds() {
            return until.end();
        }
    }
}
