//! A lock that this process took, and what its owner says there.
//!
//! Invariants: the epoch is that of the transaction which took it, however often the key is written since; of all that
//! an owner tells, what it told last is what stays, also when an earlier one arrives late: each is written only over
//! the one that it was meant for. What is told under a lock that was lost changes nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::sessions::Claim;
use super::{ATTEMPTS, Ownership, WriteLockError};
use crate::clock::Clock;
use crate::kv::{Index, Key, Kv, KvError, Op, Txn};
use crate::registry::Epoch;

/// A lock that this process took.
pub struct WriteLock {
    kv: Arc<dyn Kv>,
    clock: Arc<dyn Clock>,
    key: Key,
    claim: Claim,
    epoch: Epoch,
    /// Whether the registry said that it is another's.
    lost: AtomicBool,
    before: Option<Ownership>,
    /// What lies there when it is put back; `None` is nothing.
    restored: Option<Ownership>,
    /// `None` for one that only holds it.
    told: Option<tokio::sync::Mutex<Told>>,
}

/// What an owner told last.
struct Told {
    document: Ownership,
    /// When the key was changed by that; `None` while that is not certain.
    index: Option<Index>,
}

impl fmt::Debug for WriteLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WriteLock").field(&self.key).field(&self.epoch).finish()
    }
}

impl WriteLock {
    /// The lock at `key` of `kv` that was taken at `epoch` on the session of `claim`, with `document`, after what
    /// `before` says; `restored` lies there when it is put back.
    pub(super) fn new(
        (kv, clock): (Arc<dyn Kv>, Arc<dyn Clock>),
        (key, claim, epoch): (Key, Claim, Epoch),
        document: Option<Ownership>,
        (before, restored): (Option<Ownership>, Option<Ownership>),
    ) -> Self {
        let told = document.map(|document| {
            let document = Ownership { epoch: Some(epoch), ..document };
            tokio::sync::Mutex::new(Told { document, index: Some(Index(epoch.index)) })
        });
        Self { kv, clock, key, claim, epoch, lost: AtomicBool::new(false), before, restored, told }
    }

    /// Its place among all locks of its segment.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What the owner before left there, if one did. An owner that gave it back clean left nothing.
    pub fn before(&self) -> Option<&Ownership> {
        self.before.as_ref()
    }

    /// Since when rows are told to be acknowledged and not published, for now.
    pub async fn told_since_ms(&self) -> Option<u64> {
        self.told.as_ref()?.lock().await.document.dirty_since_ms
    }

    /// Whether it is held, by this machine's clock.
    pub fn holds(&self) -> bool {
        !self.lost.load(Ordering::Relaxed) && self.claim.session().holds()
    }

    /// Until when it is held if nothing is heard of the registry any more; time since boot.
    pub fn holds_until(&self) -> Duration {
        match self.holds() {
            true => self.claim.session().holds_until(),
            false => Duration::ZERO,
        }
    }

    /// What a transaction begins with that is to be done only while it is held.
    pub(crate) fn fence(&self) -> Op {
        fence(&self.key, &self.claim)
    }

    /// Asks the registry whether it is held. A registry that does not answer has not said yes.
    pub async fn confirm(&self) -> Result<bool, KvError> {
        match self.kv.txn(&[fence(&self.key, &self.claim)]).await? {
            Txn::Committed(_) => Ok(self.holds()),
            Txn::Refused(_) => {
                self.lose().await;
                Ok(false)
            }
        }
    }

    /// Tells everybody since when rows are acknowledged that are not published (milliseconds since 1970), and whether
    /// they are being published. After an error other than [`WriteLockError::Lost`] it may have been told; what is
    /// told next holds in any case. A lock that [`super::WriteLocks::acquire`] took has nothing to tell.
    pub async fn tell(
        &self,
        dirty_since_ms: Option<u64>,
        promoting: bool,
    ) -> Result<(), WriteLockError> {
        self.change(|document| {
            document.dirty_since_ms = dirty_since_ms;
            document.promoting = promoting;
            // what is published had none in the end
            document.problem = document.problem.take().filter(|_| dirty_since_ms.is_some());
            true
        })
        .await
    }

    /// The same when publishing ended, and what came of it: why it failed, for people.
    pub async fn tell_outcome(
        &self,
        dirty_since_ms: Option<u64>,
        problem: Option<String>,
    ) -> Result<(), WriteLockError> {
        self.change(|document| {
            let before = document.clone();
            document.dirty_since_ms = dirty_since_ms;
            document.promoting = false;
            document.problem = problem;
            *document != before
        })
        .await
    }

    /// Has everybody see the document after `change`, which says whether that is another.
    async fn change(
        &self,
        change: impl FnOnce(&mut Ownership) -> bool,
    ) -> Result<(), WriteLockError> {
        let Some(told) = &self.told else { return Ok(()) };
        let mut told = told.lock().await;
        if !change(&mut told.document) && told.index.is_some() {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            if !self.holds() {
                return Err(self.is_lost());
            }
            // nothing is certain from here until the answer is there, also if nobody waits for it any more
            let index = match told.index.take() {
                Some(index) => index,
                None => self.index().await?,
            };
            told.document.revision += 1;
            let (key, value) = (self.key.clone(), told.document.to_bytes());
            let ops = [fence(&self.key, &self.claim), Op::Cas { key, value, index }];
            match self.kv.txn(&ops).await? {
                Txn::Committed(entries) => {
                    let written = entries.iter().rfind(|entry| entry.key == self.key);
                    told.index = written.map(|entry| entry.modified);
                    return if self.holds() { Ok(()) } else { Err(self.is_lost()) };
                }
                Txn::Refused(refusals) if refusals.iter().any(|refusal| refusal.op == 0) => {
                    self.lose().await;
                    return Err(self.is_lost());
                }
                // an earlier one has arrived meanwhile
                Txn::Refused(_) => {}
            }
        }
        Err(WriteLockError::Contended)
    }

    /// When the key was changed last.
    async fn index(&self) -> Result<Index, WriteLockError> {
        match self.kv.get(&self.key).await? {
            Some(entry) => Ok(entry.modified),
            None => {
                self.lose().await;
                Err(self.is_lost())
            }
        }
    }

    async fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
        // most likely the session is over, and with it every other lock of this process
        self.claim.session().check().await;
    }

    fn is_lost(&self) -> WriteLockError {
        WriteLockError::Lost { key: self.key.clone() }
    }

    /// Gives it back: another may take it at once, and finds nothing. One that was lost is left to who has it now.
    pub async fn release(self) {
        give_back(&*self.kv, self.key, self.claim).await;
    }

    /// Gives it back in good order: as [`Self::release`] if all that was acknowledged is published; with rows that are
    /// not since `dirty_since_ms` the key stays and says so, and other nodes count their time from now.
    pub async fn leave(self, dirty_since_ms: Option<u64>) {
        let (Some(_), Some(told)) = (dirty_since_ms, self.told) else {
            return give_back(&*self.kv, self.key, self.claim).await;
        };
        let document = told.into_inner().document;
        let left = Ownership {
            dirty_since_ms,
            promoting: false,
            abandoned_ms: Some(self.clock.now_ms()),
            revision: document.revision + 1,
            ..document
        };
        leave_behind(&*self.kv, &self.key, self.claim, left.to_bytes()).await;
    }

    /// Gives it back as it was found, for who could not begin: rows that the owner before did not publish are not
    /// given up, and its time goes on. What its own node has stays told where the registry had forgotten it.
    pub async fn put_back(self) {
        put_back(&*self.kv, self.key, self.claim, self.restored).await;
    }
}

/// Passes while the session behind `claim` holds `key`.
fn fence(key: &Key, claim: &Claim) -> Op {
    Op::CheckSession { key: key.clone(), session: claim.session().id().clone() }
}

/// Gives the lock of `key` back with `restored` left there.
pub(super) async fn put_back(kv: &dyn Kv, key: Key, claim: Claim, restored: Option<Ownership>) {
    match restored {
        Some(restored) => leave_behind(kv, &key, claim, restored.to_bytes()).await,
        None => give_back(kv, key, claim).await,
    }
}

/// Gives the lock of `key` back with nothing left there.
async fn give_back(kv: &dyn Kv, key: Key, claim: Claim) {
    let ops = [fence(&key, &claim), Op::Delete { key }];
    match kv.txn(&ops).await {
        Ok(Txn::Committed(_) | Txn::Refused(_)) => claim.settle(),
        Err(error) => stays(ops[1].key(), &error),
    }
}

/// Gives the lock of `key` back with `value` left there.
async fn leave_behind(kv: &dyn Kv, key: &Key, claim: Claim, value: Bytes) {
    match kv.release(key, value, claim.session().id()).await {
        Ok(_) => claim.settle(),
        Err(error) => stays(key, &error),
    }
}

fn stays(key: &Key, error: &KvError) {
    tracing::warn!(%key, %error, "a write lock stays until its session's time is over");
}
