//! The lock of a segment for those who publish it: the key `trough/write/<label>`, held by a session.
//!
//! Invariants: nobody takes a lock before [`WriteLock::holds`] of the one before has become false, unless a person ended
//! its session or removed its key. A lock's epoch is greater than those of all locks of its segment before, over
//! releases, deaths and the loss of the registry: the incarnation and the index that it is made of come from the
//! transaction that took the lock, and without an incarnation nobody takes one. A document that is not understood is
//! left as it is. Where the key says that a node has rows which are acknowledged and not published, nobody passes over
//! that: see [`Takeover`].
//!
//! What is given back leaves no key, so that a million published segments leave none; only an owner that goes with rows
//! which are not published leaves one. A lock whose holder died is free when its session has ended: in a file after its
//! time to live, in Consul at the latest after twice that. Its key stays for the next who takes it. There is no
//! lock-delay: what the dead one sent and nobody has seen yet is stopped by the fence in the deep store
//! ([`crate::publish`]).
//!
//! Left out: that fence.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fsd::segment::SegmentId;

use crate::clock::{Clock, SinceBoot};
use crate::incarnation;
use crate::kv::{
    Consistency, Index, InvalidSession, Key, Kv, KvError, KvErrorKind, Op, SessionOptions, Txn,
};
use crate::node::NodeName;
use crate::registry::Epoch;
use crate::store::Store;

mod claimant;
mod document;
mod error;
mod held;
mod sessions;

pub use claimant::{Claimant, Takeover};
pub use document::Ownership;
pub use error::WriteLockError;
pub use held::WriteLock;

use claimant::{Purpose, Verdict};
#[cfg(test)]
pub(crate) use document::tests::ownership;
pub(crate) use document::understand;
use sessions::Sessions;

/// Below it is one key for each lock.
pub const LOCKS_KEY: &str = "trough/write";
/// How often a lock may change between two questions, or the session end, before that is told as an error.
const ATTEMPTS: u32 = 16;

/// Takes write locks for one process, all on one session.
pub struct WriteLocks {
    kv: Arc<dyn Kv>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
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

/// Who owns a segment, or did until it died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// What it says.
    pub ownership: Ownership,
    /// Whether it holds the lock; else it is gone, and its lock waits for the next.
    pub held: bool,
}

/// What came of asking.
enum Asked {
    Taken(Box<WriteLock>),
    /// The registry has no incarnation.
    NoIncarnation,
    /// The key is not as it was thought to be.
    Changed,
    /// The session ended.
    SessionGone,
    /// The key is as it was thought to be, but may not be locked yet.
    Closed,
}

/// What a holder that is gone left at the key.
struct Left {
    modified: Index,
    before: Option<Ownership>,
}

impl WriteLocks {
    /// Locks that last `ttl` beyond the death of this process, counted by `since_boot`. `holder` says to others who it
    /// is: host, process, purpose. The incarnation is counted in `store` where `kv` has none; `clock` is what nodes
    /// tell each other times by.
    pub fn new(
        kv: Arc<dyn Kv>,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        since_boot: SinceBoot,
        ttl: Duration,
        holder: String,
    ) -> Result<Self, InvalidSession> {
        let options = SessionOptions::new(format!("write locks of {holder}"), ttl, Duration::ZERO)?;
        let sessions = Arc::new(Sessions::new(kv.clone(), options, since_boot));
        Ok(Self { kv, store, clock, holder, sessions, beginning: tokio::sync::Mutex::default() })
    }

    /// Takes the lock of `id` for as long as one publication takes. Dropping the future, as dropping a lock, leaves it
    /// to the time to live.
    pub async fn acquire(&self, id: &SegmentId) -> Result<WriteLock, WriteLockError> {
        self.take(id, Purpose::Put).await
    }

    /// Takes the lock of `id` for the writer of a node, which then tells by it what it has at stake
    /// ([`WriteLock::tell`]). What another node left with rows that are not published is taken as `claimant` says.
    pub async fn own(
        &self,
        id: &SegmentId,
        claimant: &Claimant,
    ) -> Result<WriteLock, WriteLockError> {
        self.take(id, Purpose::Own(claimant)).await
    }

    /// Who owns `id`, or did until it died; `None` when nobody does, or none that this trough understands.
    pub async fn owner(&self, id: &SegmentId) -> Result<Option<Owned>, KvError> {
        let entry = self.kv.get(&key_of(id)?).await?;
        Ok(entry.and_then(|entry| {
            let (ownership, held) = (Ownership::read(&entry.value)?, entry.session.is_some());
            Some(Owned { ownership, held })
        }))
    }

    async fn take(
        &self,
        id: &SegmentId,
        purpose: Purpose<'_>,
    ) -> Result<WriteLock, WriteLockError> {
        let key = key_of(id)?;
        let mut left = None;
        for _ in 0..ATTEMPTS {
            match self.ask(&key, id, purpose, left.take()).await? {
                Asked::Taken(lock) => return Ok(*lock),
                Asked::NoIncarnation => {
                    let _one = self.beginning.lock().await;
                    incarnation::ensure(&*self.store, &*self.kv).await?;
                }
                Asked::Changed => left = self.look(&key, purpose).await?,
                Asked::SessionGone => {}
                Asked::Closed => {
                    let holder = "a session that ended, until its lock-delay is over".to_owned();
                    return Err(WriteLockError::HeldBy { holder, owner: None });
                }
            }
        }
        Err(WriteLockError::Contended)
    }

    /// Takes the lock if nothing is at `key`, or if that was last changed when `left` was seen: the key is there while
    /// anybody holds it, this process among them.
    async fn ask(
        &self,
        key: &Key,
        id: &SegmentId,
        purpose: Purpose<'_>,
        left: Option<Left>,
    ) -> Result<Asked, WriteLockError> {
        let claim = self.sessions.claim().await?;
        let found = match &left {
            None => Op::CheckNotExists { key: key.clone() },
            Some(left) => Op::CheckIndex { key: key.clone(), index: left.modified },
        };
        let before = left.and_then(|left| left.before);
        let document = match purpose {
            Purpose::Put => None,
            Purpose::Own(claimant) => {
                let dirty_since_ms = purpose.inherits(before.as_ref());
                let epoch = claimant.epoch_for_now(before.as_ref());
                let document = Ownership::new(&self.holder, id, claimant, dirty_since_ms);
                Some(Ownership { epoch, ..document })
            }
        };
        // what lies there when the lock is put back: rows that are not published stay told
        let at_stake = |said: &&Ownership| said.dirty_since_ms.is_some();
        let restored = before.as_ref().filter(at_stake).or(document.as_ref().filter(at_stake));
        let restored = restored.cloned();
        let holding = || document::holding(&self.holder);
        let value = document.as_ref().map_or_else(holding, Ownership::to_bytes);
        let session = claim.session().id().clone();
        let ops = [
            Op::Get { key: incarnation::key()? },
            found,
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
                        let with = (self.kv.clone(), self.clock.clone());
                        let lock = WriteLock::new(
                            with,
                            (key.clone(), claim, epoch),
                            document,
                            (before, restored),
                        );
                        Ok(Asked::Taken(Box::new(lock)))
                    }
                    _ => {
                        held::put_back(&*self.kv, key.clone(), claim, restored).await;
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

    /// What lies at `key` without a holder and may be taken; `None` when nothing lies there.
    async fn look(&self, key: &Key, purpose: Purpose<'_>) -> Result<Option<Left>, WriteLockError> {
        let Some(entry) = self.kv.get(key).await? else { return Ok(None) };
        if entry.session.is_some() {
            let holder = document::holder(&entry.value);
            let holder = holder.unwrap_or_else(|| "somebody who does not say a name".to_owned());
            let owner = Ownership::read(&entry.value).map(Box::new);
            return Err(WriteLockError::HeldBy { holder, owner });
        }
        let modified = entry.modified;
        let before = document::understand(&entry.value).map_err(|reason| {
            let (key, address) = (key.clone(), self.kv.address());
            WriteLockError::NotUnderstood { key, address, reason }
        })?;
        let Some(owner) = before else { return Ok(Some(Left { modified, before: None })) };
        let now_ms = self.clock.now_ms();
        let (owner, left) = match purpose.judge(&owner, now_ms) {
            Verdict::Take => return Ok(Some(Left { modified, before: Some(owner) })),
            Verdict::Wait(left) => (owner, left),
            Verdict::Count(left) => {
                let owner = Ownership { abandoned_ms: Some(now_ms), ..owner };
                if !self.count(key, modified, &owner).await? {
                    // what is there is not what was judged, so it is asked for as if nothing were, and seen anew
                    return Ok(None);
                }
                (owner, Some(left))
            }
        };
        let since_ms = owner.dirty_since_ms.unwrap_or(now_ms);
        let unpublished = Duration::from_millis(now_ms.saturating_sub(since_ms));
        Err(WriteLockError::Dirty { owner: Box::new(owner), unpublished, left })
    }

    /// Writes down that `owner` is gone, where it was seen when the key was last changed at `index`. `false`: it
    /// changed.
    async fn count(&self, key: &Key, index: Index, owner: &Ownership) -> Result<bool, KvError> {
        let (key, value) = (key.clone(), owner.to_bytes());
        let ops = [Op::CheckIndex { key: key.clone(), index }, Op::Set { key, value }];
        Ok(matches!(self.kv.txn(&ops).await?, Txn::Committed(_)))
    }

    /// Ends the sessions of the locks that `node` owns: those of its life before this one, which nobody can hold any
    /// more. How many there were. Only who knows that no other process of that node holds one may call it.
    pub async fn end_former(&self, node: &NodeName) -> Result<usize, KvError> {
        let below = crate::kv::key(LOCKS_KEY)?;
        let mut ended = BTreeSet::new();
        for entry in self.kv.list(&below, Consistency::Consistent).await? {
            let of_node = Ownership::read(&entry.value).is_some_and(|owner| owner.node == *node);
            let Some(session) = entry.session.filter(|_| of_node) else { continue };
            if ended.insert(session.clone()) {
                self.kv.destroy_session(&session).await?;
            }
        }
        Ok(ended.len())
    }

    /// Ends the session, unless a lock still rests on it. The next lock has a new one.
    pub async fn close(&self) {
        self.sessions.close().await;
    }
}

/// Where the lock of `id` lies.
fn key_of(id: &SegmentId) -> Result<Key, KvError> {
    crate::kv::key(&format!("{LOCKS_KEY}/{}", id.label()))
}
