//! The session that all locks of a process rest on.
//!
//! Invariant: a session that may hold a lock which nobody gives back takes no further one, and ends when the last of
//! its other locks is given back. So a call whose outcome is not known, and a lock that was dropped, close their
//! segment for the time to live and no longer, whatever else the process does.

use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

use crate::clock::SinceBoot;
use crate::kv::{KeptSession, Kv, KvError, SessionOptions};

/// A session that is being made, or was.
type Made = Shared<BoxFuture<'static, Result<Arc<KeptSession>, KvError>>>;

/// Makes a session when one is needed and there is none that holds.
pub(super) struct Sessions {
    kv: Arc<dyn Kv>,
    options: SessionOptions,
    since_boot: SinceBoot,
    /// That of the next lock.
    current: Mutex<Option<Made>>,
}

impl Sessions {
    pub(super) fn new(kv: Arc<dyn Kv>, options: SessionOptions, since_boot: SinceBoot) -> Self {
        Self { kv, options, since_boot, current: Mutex::new(None) }
    }

    /// A session for a lock; those who ask while one is being made wait for that one.
    pub(super) async fn claim(self: &Arc<Self>) -> Result<Claim, KvError> {
        let session = self.made().await?;
        Ok(Claim { session, sessions: self.clone(), settled: false })
    }

    fn made(&self) -> Made {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = |made: &&Made| match made.peek() {
            None => true,
            Some(Ok(session)) => session.holds(),
            Some(Err(_)) => false,
        };
        if let Some(made) = current.as_ref().filter(usable) {
            return made.clone();
        }
        let (kv, options, clock) = (self.kv.clone(), self.options.clone(), self.since_boot.clone());
        let made = async move { KeptSession::create(kv, &options, clock).await.map(Arc::new) };
        let made = made.boxed().shared();
        *current = Some(made.clone());
        made
    }

    /// Takes `session` for no further lock.
    fn retire(&self, session: &Arc<KeptSession>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |made: &Made| matches!(made.peek(), Some(Ok(one)) if Arc::ptr_eq(one, session));
        if current.as_ref().is_some_and(is_it) {
            *current = None;
        }
    }

    /// Ends the session at once, unless a lock rests on it.
    pub(super) async fn close(&self) {
        let made = self.current.lock().unwrap_or_else(PoisonError::into_inner).take();
        let session = made.as_ref().and_then(|made| made.peek()?.clone().ok());
        drop(made);
        if let Some(session) = session.and_then(Arc::into_inner) {
            session.destroy().await;
        }
    }
}

/// A session while a lock may rest on it. Dropped without [`Self::settle`] it retires the session.
pub(super) struct Claim {
    session: Arc<KeptSession>,
    sessions: Arc<Sessions>,
    settled: bool,
}

impl Claim {
    pub(super) fn session(&self) -> &KeptSession {
        &self.session
    }

    /// No lock rests on it any more, and that is certain.
    pub(super) fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.settled {
            self.sessions.retire(&self.session);
        }
    }
}
