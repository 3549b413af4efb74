//! A small store of keys with compare-and-set, sessions, locks, fenced transactions and watches: what the
//! registry of a cluster is built on.
//!
//! Invariants, the same in every implementation: a transaction is done whole or not at all; a session that
//! ended holds nothing, and a transaction that checks for it changes nothing; [`Entry::modified`] of a
//! key grows with every acquire by another holder, for as long as the store lives, so it is a fence; every
//! call ends, by its answer or by its time-out.
//!
//! A holder must count its own time: a session may end as soon as its time to live has passed since the last
//! renewal was sent, and ends at the latest after twice that time (Consul doubles it).
//!
//! Left out: what the keys mean. Two implementations pass one contract suite (`sync/tests/kv_contract/`):
//! [`consul`] for a cluster, [`sqlite`] for the processes of one machine.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub mod consul;
mod kept;
mod key;
mod limits;
mod session;
pub mod sqlite;
mod watcher;

pub use kept::KeptSession;
pub use key::{Index, InvalidKey, Key};
pub use limits::{
    ANSWER_BYTES_MAX, LOCK_DELAY_MAX, SESSION_TTL_MAX, SESSION_TTL_MIN, TXN_BYTES_MAX, TXN_OPS_MAX,
    VALUE_BYTES_MAX, WATCH_WAIT_MAX,
};
pub use session::{InvalidSession, SessionId, SessionInfo, SessionOptions};
pub(crate) use watcher::follow;
pub use watcher::{Watcher, notify_changes};

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: Key,
    /// Its value; empty in what a transaction returns of any operation but [`Op::Get`].
    pub value: Bytes,
    /// When it was made.
    pub created: Index,
    /// When it was last changed, an acquire, a release and the end of its session included. Read once after an
    /// acquire it is the holder's fence; a later change by the holder itself makes it grow again. A write or a
    /// re-acquire that says what was there already leaves it alone.
    pub modified: Index,
    /// Who holds its lock.
    pub session: Option<SessionId>,
}

/// What a watch looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// One key.
    Key(Key),
    /// Every key below this one, as [`Kv::list`] sees them.
    Below(Key),
}

/// What a watch saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Where the next watch goes on. Lower than the one before when the store came back empty: [`Watcher`]
    /// starts over then.
    pub index: Index,
    /// All that is there, in order of key. It may be what was there before: a watch may wake for nothing.
    pub entries: Vec<Entry>,
}

/// How fresh a reading must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// What nobody can have replaced already when the question was asked. For decisions.
    Consistent,
    /// May be a moment old while the cluster changes its leader. For those who only follow.
    Default,
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes the value, whatever is there.
    Set {
        /// Where.
        key: Key,
        /// What.
        value: Bytes,
    },
    /// Writes the value if the key was last changed at `index`; [`Index::ABSENT`] creates it and only that.
    Cas {
        /// Where.
        key: Key,
        /// What.
        value: Bytes,
        /// When it must have been changed last.
        index: Index,
    },
    /// Removes the key; one that is not there is no refusal.
    Delete {
        /// Which.
        key: Key,
    },
    /// Removes the key if it was last changed at `index`; one that is not there is no refusal.
    DeleteCas {
        /// Which.
        key: Key,
        /// When it must have been changed last.
        index: Index,
    },
    /// Takes the lock of the key for `session` and writes the value, as [`Kv::acquire`] does: refuses while somebody
    /// else has it or its lock-delay is not over, and fails with [`KvErrorKind::SessionGone`].
    Acquire {
        /// Whose lock.
        key: Key,
        /// What.
        value: Bytes,
        /// Who is to hold it.
        session: SessionId,
    },
    /// Reads the key; refuses when it is not there.
    Get {
        /// Which.
        key: Key,
    },
    /// Refuses unless `session` holds the lock of `key`.
    CheckSession {
        /// Whose lock.
        key: Key,
        /// Who must hold it.
        session: SessionId,
    },
    /// Refuses unless the key is there and was last changed at `index`.
    CheckIndex {
        /// Which.
        key: Key,
        /// When it must have been changed last.
        index: Index,
    },
    /// Refuses if the key is there.
    CheckNotExists {
        /// Which.
        key: Key,
    },
}

impl Op {
    /// The key it is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Set { key, .. }
            | Self::Cas { key, .. }
            | Self::Delete { key }
            | Self::DeleteCas { key, .. }
            | Self::Acquire { key, .. }
            | Self::Get { key }
            | Self::CheckSession { key, .. }
            | Self::CheckIndex { key, .. }
            | Self::CheckNotExists { key } => key,
        }
    }

    /// The value it writes.
    pub fn value(&self) -> Option<&Bytes> {
        match self {
            Self::Set { value, .. } | Self::Cas { value, .. } | Self::Acquire { value, .. } => {
                Some(value)
            }
            Self::Delete { .. }
            | Self::DeleteCas { .. }
            | Self::Get { .. }
            | Self::CheckSession { .. }
            | Self::CheckIndex { .. }
            | Self::CheckNotExists { .. } => None,
        }
    }

    /// Whether the state of the store can refuse it; what is unconditional fails only with the call.
    fn is_conditional(&self) -> bool {
        match self {
            Self::Cas { .. }
            | Self::DeleteCas { .. }
            | Self::Acquire { .. }
            | Self::Get { .. }
            | Self::CheckSession { .. }
            | Self::CheckIndex { .. }
            | Self::CheckNotExists { .. } => true,
            Self::Set { .. } | Self::Delete { .. } => false,
        }
    }

    /// Whether it leaves the store as it is, whatever comes of it.
    fn only_reads(&self) -> bool {
        match self {
            Self::Get { .. }
            | Self::CheckSession { .. }
            | Self::CheckIndex { .. }
            | Self::CheckNotExists { .. } => true,
            Self::Set { .. }
            | Self::Cas { .. }
            | Self::Delete { .. }
            | Self::DeleteCas { .. }
            | Self::Acquire { .. } => false,
        }
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Txn {
    /// All of it was done. One entry for each operation that left or read one, in order: none for deletes and
    /// for [`Op::CheckNotExists`]. Only [`Op::Get`] brings a value.
    Committed(Vec<Entry>),
    /// None of it was done.
    Refused(Vec<Refusal>),
}

/// An operation that refused a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its place among the operations, from 0.
    pub op: usize,
    /// Why, for people.
    pub reason: String,
}

/// What failed, for code that decides what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvErrorKind {
    /// The store is away or has no leader; the call may have happened.
    Unavailable,
    /// No answer within the time-out; the call may have happened.
    TimedOut,
    /// The token does not allow it.
    Denied,
    /// More than a limit of this module allows; nothing was done.
    TooLarge,
    /// The session ended. Make a new one, and believe nothing that rested on the old one.
    SessionGone,
    /// The answer is not what the store promises, or it did not understand the question.
    Malformed,
}

/// A call that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{attempted} in the registry at {target}: {reason}")]
pub struct KvError {
    /// What kind of failure.
    pub kind: KvErrorKind,
    /// What was attempted: "read", "commit ..." .
    pub attempted: &'static str,
    /// On what: the store's address, and the key if it was one.
    pub target: String,
    /// What came back, and what to do.
    pub reason: String,
}

/// How long calls may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KvTimeouts {
    /// Until a connection has come about.
    pub connect_ms: u64,
    /// One call in all; a watch may take its wait and a sixteenth of it more.
    pub call_ms: u64,
}

impl Default for KvTimeouts {
    fn default() -> Self {
        // a third of the shortest session's time to live, so that a renewal that hangs leaves time for another
        Self { connect_ms: 1_000, call_ms: 3_000 }
    }
}

impl KvTimeouts {
    /// [`Self::connect_ms`] as a duration.
    pub fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_ms)
    }

    /// [`Self::call_ms`] as a duration.
    pub fn call(&self) -> Duration {
        Duration::from_millis(self.call_ms)
    }
}

/// The store of keys.
#[async_trait]
pub trait Kv: Send + Sync + fmt::Debug {
    /// Where it is, as an operator would write it.
    fn address(&self) -> String;

    /// The key as it is now (consistent), `None` when it is not there.
    async fn get(&self, key: &Key) -> Result<Option<Entry>, KvError>;

    /// Every key that starts with `below` and a `/`, in order of key; `below` itself is not among them.
    async fn list(&self, below: &Key, consistency: Consistency) -> Result<Vec<Entry>, KvError>;

    /// Waits until `what` changed after `after`, at most `wait` (cut to [`WATCH_WAIT_MAX`]), and says what is
    /// there then. Without `after` it answers at once. Use [`Watcher`] to follow something.
    async fn watch(
        &self,
        what: &Watched,
        after: Option<Index>,
        wait: Duration,
    ) -> Result<Snapshot, KvError>;

    /// Does all of `ops` in one step, or none. At most [`TXN_OPS_MAX`] operations and [`TXN_BYTES_MAX`] bytes.
    async fn txn(&self, ops: &[Op]) -> Result<Txn, KvError>;

    /// Makes a session that ends when it is not renewed within its time to live, and only then; its end
    /// releases its locks and keeps their keys.
    async fn create_session(&self, options: &SessionOptions) -> Result<SessionId, KvError>;

    /// Renews `session`, and says how long it lives from now at least: count from before the call.
    async fn renew_session(&self, session: &SessionId) -> Result<Duration, KvError>;

    /// Ends `session`, if it is there. Its locks stay closed for its lock-delay: release first what another
    /// may have at once.
    async fn destroy_session(&self, session: &SessionId) -> Result<(), KvError>;

    /// What is known of `session`, `None` when it ended.
    async fn session(&self, session: &SessionId) -> Result<Option<SessionInfo>, KvError>;

    /// Takes the lock of `key` for `session` and writes `value`. `false`: somebody else has it, or its
    /// lock-delay is not over. A holder that asks again gets `true`.
    async fn acquire(&self, key: &Key, value: Bytes, session: &SessionId) -> Result<bool, KvError>;

    /// Gives the lock of `key` back and writes `value`; another may take it at once. `false`: `session` did
    /// not have it, and nothing was changed.
    async fn release(&self, key: &Key, value: Bytes, session: &SessionId) -> Result<bool, KvError>;
}

/// The key called `text`; that it is none is a defect of trough's own, told as a failed call.
pub(crate) fn key(text: &str) -> Result<Key, KvError> {
    Key::new(text).map_err(|error| KvError {
        kind: KvErrorKind::Malformed,
        attempted: "name a key",
        target: text.to_owned(),
        reason: error.to_string(),
    })
}
