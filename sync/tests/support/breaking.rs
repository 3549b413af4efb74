//! A store of keys that fails at a transaction of one's choice, before or after it was done, or at every reading of one
//! key.

use std::sync::atomic::{AtomicBool, Ordering};
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
}

#[derive(Debug)]
pub struct BreakingKv {
    inner: Arc<dyn Kv>,
    /// How many transactions pass, and what becomes of the next.
    left: Mutex<Option<(usize, Break)>>,
    reads_fail: AtomicBool,
}

impl BreakingKv {
    pub fn new(inner: Arc<dyn Kv>) -> Arc<Self> {
        Arc::new(Self { inner, left: Mutex::new(None), reads_fail: false.into() })
    }

    pub fn break_at(&self, transaction: usize, how: Break) {
        *self.left.lock().unwrap() = Some((transaction, how));
    }

    pub fn break_reads(&self) {
        self.reads_fail.store(true, Ordering::SeqCst);
    }

    pub fn mend(&self) {
        *self.left.lock().unwrap() = None;
        self.reads_fail.store(false, Ordering::SeqCst);
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

#[async_trait]
impl Kv for BreakingKv {
    fn address(&self) -> String {
        self.inner.address()
    }
    async fn get(&self, key: &Key) -> Result<Option<Entry>, KvError> {
        match self.reads_fail.load(Ordering::SeqCst) {
            false => self.inner.get(key).await,
            true => Err(self.error("read")),
        }
    }
    async fn list(&self, below: &Key, how: Consistency) -> Result<Vec<Entry>, KvError> {
        self.inner.list(below, how).await
    }
    async fn watch(
        &self,
        what: &Watched,
        after: Option<Index>,
        wait: Duration,
    ) -> Result<Snapshot, KvError> {
        self.inner.watch(what, after, wait).await
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
        let Some(how) = now else { return self.inner.txn(ops).await };
        if let Break::AnswerLost = how {
            self.inner.txn(ops).await?;
        }
        Err(self.error("commit"))
    }
    async fn create_session(&self, options: &SessionOptions) -> Result<SessionId, KvError> {
        self.inner.create_session(options).await
    }
    async fn renew_session(&self, session: &SessionId) -> Result<Duration, KvError> {
        self.inner.renew_session(session).await
    }
    async fn destroy_session(&self, session: &SessionId) -> Result<(), KvError> {
        self.inner.destroy_session(session).await
    }
    async fn session(&self, session: &SessionId) -> Result<Option<SessionInfo>, KvError> {
        self.inner.session(session).await
    }
    async fn acquire(&self, key: &Key, value: Bytes, session: &SessionId) -> Result<bool, KvError> {
        self.inner.acquire(key, value, session).await
    }
    async fn release(&self, key: &Key, value: Bytes, session: &SessionId) -> Result<bool, KvError> {
        self.inner.release(key, value, session).await
    }
}
