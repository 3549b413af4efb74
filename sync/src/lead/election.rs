//! Who leads: a lock in the registry, held by a session.
//!
//! Invariants: epochs grow, by the registry's incarnation first, which the deep store counts, and then by the
//! index of the acquire; what a [`Term`] writes begins with its fence, so a lead that was overtaken, or that slept,
//! changes nothing; [`Term::holds`] is over before another can lead.
//!
//! A lead that resigns hands over at once. One that dies is followed when its session has ended, at the latest after
//! twice its time to live, and the lock-delay is over.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SinceBoot};
use crate::incarnation::{self, IncarnationError};
use crate::kv::{
    Entry, InvalidSession, KeptSession, Key, Kv, KvError, Op, SessionId, SessionOptions, Watched,
    Watcher,
};
use crate::registry::Epoch;
use crate::store::Store;

/// Where the lock is.
pub const LEAD_KEY: &str = "trough/lead";
/// How long a candidate waits for a change of the lock before it asks again.
const WATCH_WAIT: Duration = Duration::from_secs(20);
/// The pause before a lock that nobody has is asked for again: its lock-delay is not over.
const FREE_PAUSE: Duration = Duration::from_millis(500);

/// How leading is decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeadSettings {
    /// How long a lead that nobody hears of goes on being taken for alive, in seconds; the registry may take twice as
    /// long.
    pub session_ttl_s: u64,
    /// How long the place stays empty after that, in seconds, so that a call of the old lead that is on its way ends.
    pub lock_delay_s: u64,
}

impl Default for LeadSettings {
    fn default() -> Self {
        Self { session_ttl_s: 10, lock_delay_s: 5 }
    }
}

/// What the registry says of who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Its node.
    pub node: String,
    /// Where its pages are, as `host:port`.
    pub address: String,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
}

impl Leader {
    /// What the lock's entry says; `None` when nobody has it, or a trough that says it otherwise.
    pub(super) fn read(entry: &Entry) -> Option<Self> {
        entry.session.as_ref()?;
        serde_json::from_slice(&entry.value).ok()
    }
}

/// Why somebody does not lead.
#[derive(Debug, thiserror::Error)]
pub enum ElectionError {
    /// The registry failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The settings are no session's.
    #[error("take the settings of the lead: {0}")]
    Settings(#[from] InvalidSession),
    /// There is no incarnation, and none could be begun: without one there is no epoch.
    #[error("begin an epoch")]
    Incarnation(#[from] IncarnationError),
    /// The session ended before it led.
    #[error("wait to lead: the session ended meanwhile; is the registry well?")]
    SessionEnded,
}

/// One that would lead.
#[derive(Clone)]
pub struct Candidate {
    kv: Arc<dyn Kv>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    since_boot: SinceBoot,
    options: SessionOptions,
    node: String,
    address: String,
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Candidate").field(&self.node).finish()
    }
}

impl Candidate {
    /// A candidate on `node`, whose pages are at `address` (`host:port`).
    pub fn new(
        kv: Arc<dyn Kv>,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        since_boot: SinceBoot,
        settings: &LeadSettings,
        node: &str,
        address: &str,
    ) -> Result<Self, ElectionError> {
        let ttl = Duration::from_secs(settings.session_ttl_s);
        let delay = Duration::from_secs(settings.lock_delay_s);
        let options = SessionOptions::new(format!("trough lead on {node}"), ttl, delay)?;
        let (node, address) = (node.to_owned(), address.to_owned());
        Ok(Self { kv, store, clock, since_boot, options, node, address })
    }

    /// Waits until this one leads; `None` once `shutdown` is asked for. After an error pause before the next call.
    pub async fn campaign(
        &self,
        shutdown: &CancellationToken,
    ) -> Result<Option<Term>, ElectionError> {
        let kept = KeptSession::create(self.kv.clone(), &self.options, self.since_boot.clone());
        let session = kept.await?;
        let acquired = tokio::select! {
            () = shutdown.cancelled() => Ok(false),
            () = session.ended() => Err(ElectionError::SessionEnded),
            acquired = self.acquire(&session) => acquired.map(|()| true),
        };
        let begun = match acquired {
            Ok(true) => self.begin(&session).await.map(Some),
            Ok(false) => Ok(None),
            Err(error) => Err(error),
        };
        match begun {
            Ok(Some(epoch)) => Ok(Some(Term { kv: self.kv.clone(), session, epoch })),
            other => {
                // it may have the lock all the same: its answer was lost, or it came as it was given up
                resign(&*self.kv, session).await;
                other.map(|_| None)
            }
        }
    }

    async fn acquire(&self, session: &KeptSession) -> Result<(), ElectionError> {
        let key = lead_key()?;
        let mut watcher = Watcher::new(Watched::Key(key.clone()), WATCH_WAIT);
        loop {
            let (node, address) = (self.node.clone(), self.address.clone());
            let leader = Leader { node, address, since_ms: self.clock.now_ms() };
            // text and numbers: this cannot fail
            let value = serde_json::to_vec(&leader).unwrap_or_default();
            if self.kv.acquire(&key, value.into(), session.id()).await? {
                return Ok(());
            }
            // the end of a lock-delay changes nothing that could be watched
            match self.kv.get(&key).await?.and_then(|entry| entry.session) {
                Some(_) => drop(watcher.next(&*self.kv).await?),
                None => tokio::time::sleep(FREE_PAUSE).await,
            }
        }
    }

    /// The epoch of a lock that was taken.
    async fn begin(&self, session: &KeptSession) -> Result<Epoch, ElectionError> {
        let incarnation = incarnation::ensure(&*self.store, &*self.kv).await?;
        let entry = self.kv.get(&lead_key()?).await?;
        match entry.filter(|entry| entry.session.as_ref() == Some(session.id())) {
            Some(entry) if session.holds() => Ok(Epoch { incarnation, index: entry.modified.0 }),
            _ => Err(ElectionError::SessionEnded),
        }
    }
}

/// The time during which one leads.
#[derive(Debug)]
pub struct Term {
    kv: Arc<dyn Kv>,
    session: KeptSession,
    epoch: Epoch,
}

impl Term {
    /// Its place among all terms.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The session that holds it.
    pub fn session(&self) -> &SessionId {
        self.session.id()
    }

    /// What everything that it writes begins with.
    pub fn fence(&self) -> Result<Op, KvError> {
        Ok(Op::CheckSession { key: lead_key()?, session: self.session.id().clone() })
    }

    /// Whether it goes on, by this machine's clock. Ask before anything that is not fenced.
    pub fn holds(&self) -> bool {
        self.session.holds()
    }

    /// Returns when it is over.
    pub async fn over(&self) {
        self.session.ended().await;
    }

    /// Gives it up, so that another leads at once.
    pub async fn resign(self) {
        resign(&*self.kv, self.session).await;
    }
}

async fn resign(kv: &dyn Kv, session: KeptSession) {
    let released = match lead_key() {
        Ok(key) => kv.release(&key, "".into(), session.id()).await.map(|_| ()),
        Err(error) => Err(error),
    };
    if let Err(error) = released {
        tracing::warn!(%error, "the lead's lock stays until its session's time is over");
    }
    session.destroy().await;
}

/// Who leads now; `None` when nobody does.
pub async fn leader(kv: &dyn Kv) -> Result<Option<Leader>, KvError> {
    Ok(leading(kv).await?.map(|(leader, _)| leader))
}

/// Who leads now, and in which epoch as far as that has begun; `None` when nobody does.
pub async fn leading(kv: &dyn Kv) -> Result<Option<(Leader, Option<Epoch>)>, KvError> {
    let Some(entry) = kv.get(&lead_key()?).await? else { return Ok(None) };
    let Some(leader) = Leader::read(&entry) else { return Ok(None) };
    let incarnation = incarnation::read(kv).await?;
    let epoch = incarnation.map(|incarnation| Epoch { incarnation, index: entry.modified.0 });
    Ok(Some((leader, epoch)))
}

pub(super) fn lead_key() -> Result<Key, KvError> {
    crate::kv::key(LEAD_KEY)
}
