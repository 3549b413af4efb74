//! A store of keys that fails when a test wants it: at a transaction of its choice, before or after that was done, at
//! every reading of one key, or altogether, as for a holder that is cut off.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sync::kv::{
    Consistency, Entry, Index, Key, Kv, KvError, KvErrorKind, Op, SessionId, SessionInfo,
    SessionOptions, Snapshot, Txn, Watched,
};

/// How a transaction fails.
#[derive(Debug, Clone, Copy)]
pub enum Break {
    /// It is not done.
    Refused,
    /// It is done, and nobody hears of it.
    AnswerLost,
    /// It is done when the test says so, and nobody hears of it: see [`BreakingKv::arrive`].
    Late,
}

pub struct BreakingKv {
    inner: Arc<dyn Kv>,
    /// How many transactions pass, and what becomes of the next.
    left: Mutex<Option<(usize, Break)>>,
    late: Mutex<Vec<Op>>,
    reads_fail: AtomicBool,
    cut: AtomicBool,
    /// Is called when a renewal was done and before its answer comes.
    renewed: Box<dyn Fn() + Send + Sync>,
    pub reads: AtomicUsize,
    pub renewals: AtomicUsize,
    pub acquires: AtomicUsize,
    pub sessions: AtomicUsize,
}

impl BreakingKv {
    pub fn new(inner: Arc<dyn Kv>) -> Arc<Self> {
        Self::with_renewal(inner, || ())
    }

    /// `renewed` is called when a renewal was done and before its answer comes.
    pub fn with_renewal(
        inner: Arc<dyn Kv>,
        renewed: impl Fn() + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner,
            left: Mutex::new(None),
            late: Mutex::default(),
            reads_fail: false.into(),
            cut: false.into(),
            renewed: Box::new(renewed),
            reads: 0.into(),
            renewals: 0.into(),
            acquires: 0.into(),
            sessions: 0.into(),
        })
    }

    /// Nothing reaches it until it is mended.
    pub fn cut_off(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    fn reach(&self) -> Result<&dyn Kv, KvError> {
        match self.cut.load(Ordering::SeqCst) {
            false => Ok(&*self.inner),
            true => Err(self.error("reach")),
        }
    }

    pub fn break_at(&self, transaction: usize, how: Break) {
        *self.left.lock().unwrap() = Some((transaction, how));
    }

    /// The transaction that is late is done now, if it still can be.
    pub async fn arrive(&self) -> Txn {
        let ops = std::mem::take(&mut *self.late.lock().unwrap());
        self.inner.txn(&ops).await.unwrap()
    }

    pub fn break_reads(&self) {
        self.reads_fail.store(true, Ordering::SeqCst);
    }

    pub fn mend(&self) {
        *self.left.lock().unwrap() = None;
        self.reads_fail.store(false, Ordering::SeqCst);
        self.cut.store(false, Ordering::SeqCst);
    }

    fn error(&self, attempted: &'static str) -> KvError {
        KvError {
            kind: KvErrorKind::TimedOut,
            attempted,
            target: self.address(),
            reason: "the test wants it".to_owned(),
        }
    }
}

impl fmt::Debug for BreakingKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BreakingKv").field(&self.inner).finish()
    }
}

#[async_trait]
impl Kv for BreakingKv {
    fn address(&self) -> String {
        self.inner.address()
    }
    async fn get(&self, key: &Key) -> Result<Option<Entry>, KvError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        match self.reads_fail.load(Ordering::SeqCst) {
            false => self.reach()?.get(key).await,
            true => Err(self.error("read")),
        }
    }
    async fn list(&self, below: &Key, how: Consistency) -> Result<Vec<Entry>, KvError> {
        self.reach()?.list(below, how).await
    }
    async fn watch(
        &self,
        what: &Watched,
        after: Option<Index>,
        wait: Duration,
    ) -> Result<Snapshot, KvError> {
        self.reach()?.watch(what, after, wait).await
    }
    async fn txn(&self, ops: &[Op]) -> Result<Txn, KvError> {
        let now = {
            let mut left = self.left.lock().unwrap();
            match &mut *left {
                Some((0, how)) => Some(*how),
                Some((passing, _)) => {
                    *passing -= 1;
                    None
                }
                None => None,
            }
        };
        let Some(how) = now else { return self.reach()?.txn(ops).await };
        match how {
            Break::Refused => {}
            Break::AnswerLost => drop(self.reach()?.txn(ops).await?),
            Break::Late => *self.late.lock().unwrap() = ops.to_vec(),
        }
        Err(self.error("commit"))
    }
    async fn create_session(&self, options: &SessionOptions) -> Result<SessionId, KvError> {
        self.sessions.fetch_add(1, Ordering::SeqCst);
        self.reach()?.create_session(options).await
    }
    async fn renew_session(&self, session: &SessionId) -> Result<Duration, KvError> {
        let lives = self.reach()?.renew_session(session).await?;
        (self.renewed)();
        self.renewals.fetch_add(1, Ordering::SeqCst);
        Ok(lives)
    }
    async fn destroy_session(&self, session: &SessionId) -> Result<(), KvError> {
        self.reach()?.destroy_session(session).await
    }
    async fn session(&self, session: &SessionId) -> Result<Option<SessionInfo>, KvError> {
        self.reach()?.session(session).await
    }
    async fn acquire(&self, key: &Key, value: Bytes, session: &SessionId) -> Result<bool, KvError> {
        self.acquires.fetch_add(1, Ordering::SeqCst);
        self.reach()?.acquire(key, value, session).await
    }
    async fn release(&self, key: &Key, value: Bytes, session: &SessionId) -> Result<bool, KvError> {
        self.reach()?.release(key, value, session).await
    }
}
