//! The lock of a segment for those who publish it: the key `trough/write/<label>`, held by a session.
//!
//! Invariants: nobody takes a lock before [`WriteLock::holds`] of the one before has become false, unless a person ended
//! its session or removed its key. A lock's epoch is greater than those of all locks of its segment before, over
//! releases, deaths and the loss of the registry: the incarnation and the index that it is made of come from the
//! transaction that took the lock, and without an incarnation nobody takes one. A document that is not understood is
//! left as it is.
//!
//! What is given back leaves no key, so that a million published segments leave none. A lock whose holder died is free
//! when its session has ended: in a file after its time to live, in Consul at the latest after twice that. Its key
//! stays for the next who takes it. There is no lock-delay: what the dead one sent and nobody has seen yet is stopped
//! by the fence in the deep store ([`crate::publish`]).
//!
//! Left out: that fence.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fsd::segment::SegmentId;

use crate::clock::SinceBoot;
use crate::incarnation::{self, IncarnationError};
use crate::kv::{Index, InvalidSession, Key, Kv, KvError, KvErrorKind, Op, SessionOptions, Txn};
use crate::registry::Epoch;
use crate::store::Store;

mod document;
mod sessions;

use sessions::{Claim, Sessions};

/// Below it is one key for each lock.
const LOCKS_KEY: &str = "trough/write";
/// How often a lock may change between two questions, or the session end, before that is told as an error.
const ATTEMPTS: u32 = 16;

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum WriteLockError {
    /// Somebody else has it.
    #[error("it is locked by {0}")]
    HeldBy(String),
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
    /// It was taken or given back by another each time.
    #[error("it was free and taken again at each of {ATTEMPTS} attempts; try again")]
    Contended,
    /// There is no incarnation, and none could be begun: without one there is no epoch.
    #[error(transparent)]
    Incarnation(#[from] IncarnationError),
    /// The registry failed.
    #[error(transparent)]
    Kv(#[from] KvError),
}

/// Takes write locks for one process, all on one session.
pub struct WriteLocks {
    kv: Arc<dyn Kv>,
    store: Arc<dyn Store>,
    holder: String,
    sessions: Arc<Sessions>,
    /// Held by who begins an incarnation: each try takes a number, and all locks of this process find none at once.
    beginning: tokio::sync::Mutex<()>,
}

impl fmt::Debug for WriteLocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WriteLocks").field(&self.holder).finish()
    }
}

/// What came of asking.
enum Asked {
    Taken(WriteLock),
    /// The registry has no incarnation.
    NoIncarnation,
    /// The key is not as it was thought to be.
    Changed,
    /// The session ended.
    SessionGone,
    /// The key is as it was thought to be, but may not be locked yet.
    Closed,
}

impl WriteLocks {
    /// Locks that last `ttl` beyond the death of this process. `holder` says to others who it is: host, process,
    /// purpose. The incarnation is counted in `store` where `kv` has none.
    pub fn new(
        kv: Arc<dyn Kv>,
        store: Arc<dyn Store>,
        since_boot: SinceBoot,
        ttl: Duration,
        holder: String,
    ) -> Result<Self, InvalidSession> {
        let options = SessionOptions::new(format!("write locks of {holder}"), ttl, Duration::ZERO)?;
        let sessions = Arc::new(Sessions::new(kv.clone(), options, since_boot));
        Ok(Self { kv, store, holder, sessions, beginning: tokio::sync::Mutex::default() })
    }

    /// Takes the lock of `id`. Dropping the future, as dropping a lock, leaves it to the time to live.
    pub async fn acquire(&self, id: &SegmentId) -> Result<WriteLock, WriteLockError> {
        let key = crate::kv::key(&format!("{LOCKS_KEY}/{}", id.label()))?;
        // when the last change was of what a holder that is gone left there
        let mut left = None;
        for _ in 0..ATTEMPTS {
            match self.ask(&key, left).await? {
                Asked::Taken(lock) => return Ok(lock),
                Asked::NoIncarnation => {
                    let _one = self.beginning.lock().await;
                    incarnation::ensure(&*self.store, &*self.kv).await?;
                }
                Asked::Changed => left = self.look(&key).await?,
                Asked::SessionGone => {}
                Asked::Closed => {
                    let holder = "a session that ended, until its lock-delay is over";
                    return Err(WriteLockError::HeldBy(holder.to_owned()));
                }
            }
        }
        Err(WriteLockError::Contended)
    }

    /// Takes the lock if nothing is at `key`, or if that was last changed at `left`: the key is there while anybody
    /// holds it, this process among them.
    async fn ask(&self, key: &Key, left: Option<Index>) -> Result<Asked, WriteLockError> {
        let claim = self.sessions.claim().await?;
        let (value, session) = (document::write(&self.holder), claim.session().id().clone());
        let ops = [
            Op::Get { key: incarnation::key()? },
            match left {
                None => Op::CheckNotExists { key: key.clone() },
                Some(index) => Op::CheckIndex { key: key.clone(), index },
            },
            Op::Acquire { key: key.clone(), value, session },
        ];
        match self.kv.txn(&ops).await {
            Ok(Txn::Committed(entries)) => {
                let incarnation = entries.iter().find(|entry| entry.key == *ops[0].key());
                let incarnation = incarnation.and_then(incarnation::number);
                // a check leaves an entry, too: as it was before
                let taken = entries.iter().rfind(|entry| entry.key == *key);
                let taken = taken.map(|entry| entry.modified.0);
                match (incarnation, taken) {
                    (Some(incarnation), Some(index)) => {
                        let epoch = Epoch { incarnation, index };
                        let (kv, key) = (self.kv.clone(), key.clone());
                        let lost = AtomicBool::new(false);
                        Ok(Asked::Taken(WriteLock { kv, key, claim, epoch, lost }))
                    }
                    _ => {
                        give_back(&*self.kv, key.clone(), claim).await;
                        Ok(Asked::NoIncarnation)
                    }
                }
            }
            Ok(Txn::Refused(refusals)) => {
                claim.settle();
                let first = refusals.iter().map(|refusal| refusal.op).min();
                Ok(match first {
                    Some(0) => Asked::NoIncarnation,
                    Some(1) => Asked::Changed,
                    _ => Asked::Closed,
                })
            }
            Err(error) if error.kind == KvErrorKind::SessionGone => {
                claim.session().gone();
                Ok(Asked::SessionGone)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// When what lies at `key` without a holder was changed last; `None` when nothing lies there.
    async fn look(&self, key: &Key) -> Result<Option<Index>, WriteLockError> {
        let Some(entry) = self.kv.get(key).await? else { return Ok(None) };
        if entry.session.is_some() {
            let holder = document::holder(&entry.value);
            let holder = holder.unwrap_or_else(|| "somebody who does not say a name".to_owned());
            return Err(WriteLockError::HeldBy(holder));
        }
        match document::understand(&entry.value) {
            Ok(()) => Ok(Some(entry.modified)),
            Err(reason) => {
                let (key, address) = (key.clone(), self.kv.address());
                Err(WriteLockError::NotUnderstood { key, address, reason })
            }
        }
    }

    /// Ends the session, unless a lock still rests on it. The next lock has a new one.
    pub async fn close(&self) {
        self.sessions.close().await;
    }
}

/// A lock that this process took.
pub struct WriteLock {
    kv: Arc<dyn Kv>,
    key: Key,
    claim: Claim,
    epoch: Epoch,
    /// Whether the registry said that it is another's.
    lost: AtomicBool,
}

impl fmt::Debug for WriteLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WriteLock").field(&self.key).field(&self.epoch).finish()
    }
}

impl WriteLock {
    /// Its place among all locks of its segment.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether it is held, by this machine's clock.
    pub fn holds(&self) -> bool {
        !self.lost.load(Ordering::Relaxed) && self.claim.session().holds()
    }

    /// Asks the registry whether it is held. A registry that does not answer has not said yes.
    pub async fn confirm(&self) -> Result<bool, KvError> {
        match self.kv.txn(&[fence(&self.key, &self.claim)]).await? {
            Txn::Committed(_) => Ok(self.holds()),
            Txn::Refused(_) => {
                self.lost.store(true, Ordering::Relaxed);
                // most likely the session is over, and with it every other lock of this process
                self.claim.session().check().await;
                Ok(false)
            }
        }
    }

    /// Gives it back: another may take it at once. One that was lost is left to who has it now.
    pub async fn release(self) {
        give_back(&*self.kv, self.key, self.claim).await;
    }
}

/// Passes while the session behind `claim` holds `key`.
fn fence(key: &Key, claim: &Claim) -> Op {
    Op::CheckSession { key: key.clone(), session: claim.session().id().clone() }
}

async fn give_back(kv: &dyn Kv, key: Key, claim: Claim) {
    let ops = [fence(&key, &claim), Op::Delete { key }];
    match kv.txn(&ops).await {
        Ok(Txn::Committed(_) | Txn::Refused(_)) => claim.settle(),
        Err(error) => {
            let key = ops[1].key();
            tracing::warn!(%key, %error, "a write lock stays until its session's time is over");
        }
    }
}
