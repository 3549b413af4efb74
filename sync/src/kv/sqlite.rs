//! The store of keys in one SQLite file, for the processes of one machine.
//!
//! Invariants: every change is one IMMEDIATE transaction that is on the disk when it is acknowledged
//! (`synchronous=FULL`), so an index that was handed out is not handed out again after a power cut; a session's
//! time is counted on the clock since boot, with the boot it was made in, so a session of an earlier boot is over;
//! whatever is asked, sessions whose time is over are ended first; a file that was removed or replaced is opened
//! anew, and its emptiness is seen as a Consul's would be.
//!
//! Left out: more than one machine (SQLite's locks do not hold over network file systems).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::limits::{check_txn, check_value, too_large};
use super::{
    ANSWER_BYTES_MAX, Consistency, Entry, Index, Key, Kv, KvError, KvErrorKind, KvTimeouts, Op,
    SessionId, SessionInfo, SessionOptions, Snapshot, Txn, WATCH_WAIT_MAX, Watched,
};
use crate::clock::SinceBoot;
use crate::sqlite_file::SqliteFileError;

mod file;
mod keys;
mod schema;
mod sessions;
mod shared;
mod transaction;

use file::File;
pub(crate) use shared::SharedFile;

/// How often a watch looks: a quarter of what a person notices, and 20 short reads a second.
const WATCH_POLL: Duration = Duration::from_millis(50);

/// How long calls may take on a machine's own file: many wait for one disk, and none of them would be faster elsewhere.
pub const FILE_TIMEOUTS: KvTimeouts = KvTimeouts { connect_ms: 20_000, call_ms: 20_000 };

/// Where the keys of a machine are whose pool table is at `registry`: beside it, `registry.keys.sqlite` for
/// `registry.sqlite`. A file of their own, for the change of a large pool holds its file for seconds, and a renewal must
/// not wait that long.
pub fn keys_path(registry: &Path) -> PathBuf {
    let extension = match registry.extension() {
        Some(extension) => format!("keys.{}", extension.display()),
        None => "keys".to_owned(),
    };
    registry.with_extension(extension)
}

/// The store of keys in a file. Cloning is cheap.
#[derive(Clone)]
pub struct SqliteKv {
    file: SharedFile,
    since_boot: SinceBoot,
}

impl std::fmt::Debug for SqliteKv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SqliteKv").field(&self.file.address()).finish()
    }
}

/// What failed inside a call; becomes a [`KvError`] with its address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Sqlite(#[from] SqliteFileError),
    #[error("{0}")]
    Io(String),
    #[error("{0}")]
    Malformed(String),
    #[error("session {0} ended; make a new one")]
    SessionGone(SessionId),
    #[error("the answer has more than {ANSWER_BYTES_MAX} bytes; ask for less at once")]
    TooLarge,
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error.into())
    }
}

impl Failure {
    fn kind(&self) -> KvErrorKind {
        match self {
            Self::Sqlite(SqliteFileError::Busy(_)) => KvErrorKind::TimedOut,
            Self::Sqlite(SqliteFileError::Newer { .. }) => KvErrorKind::Malformed,
            Self::Sqlite(SqliteFileError::Sqlite(error)) => match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                    KvErrorKind::Malformed
                }
                Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => KvErrorKind::Denied,
                _ => KvErrorKind::Unavailable,
            },
            Self::Io(_) => KvErrorKind::Unavailable,
            Self::Malformed(_) => KvErrorKind::Malformed,
            Self::SessionGone(_) => KvErrorKind::SessionGone,
            Self::TooLarge => KvErrorKind::TooLarge,
        }
    }
}

/// When a call runs, for what it says of sessions.
struct Now {
    boot: Arc<str>,
    ms: u64,
}

impl SqliteKv {
    /// Opens the store at `path`, or makes it, and brings its schema up to date. `since_boot` is the clock of
    /// the sessions: [`crate::clock::since_boot`], the same for every process.
    pub fn open(
        path: impl Into<PathBuf>,
        since_boot: impl Fn() -> Duration + Send + Sync + 'static,
        timeouts: KvTimeouts,
    ) -> Result<Self, KvError> {
        let file = SharedFile::open(path.into(), timeouts)?;
        Ok(Self { file, since_boot: Arc::new(since_boot) })
    }

    async fn on<T: Send + 'static>(
        &self,
        attempted: &'static str,
        call: impl FnOnce(&mut File, &Now) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, KvError> {
        let since_boot = self.since_boot.clone();
        let call = move |file: &mut File| {
            // the time is told when the file is ours: waiting for it must not make a session live longer
            let now = Now { boot: file.boot(), ms: ms(since_boot()) };
            call(file, &now)
        };
        self.file.on(attempted, call).await
    }

    /// Runs `call` on one snapshot, with sessions whose time is over ended before.
    async fn read<T: Send + 'static>(
        &self,
        attempted: &'static str,
        call: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, KvError> {
        self.on(attempted, move |file, now| snapshot(file.connection()?, now, call)).await
    }

    /// Runs `call` in an IMMEDIATE transaction, with sessions whose time is over ended before, and commits it.
    async fn write<T: Send + 'static>(
        &self,
        attempted: &'static str,
        call: impl FnOnce(&Transaction<'_>, &Now) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, KvError> {
        self.on(attempted, move |file, now| {
            let connection = file.connection()?;
            sessions::end_expired(connection, now)?;
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = call(&transaction, now)?;
            transaction.commit()?;
            Ok(value)
        })
        .await
    }
}

fn snapshot<T>(
    connection: &mut Connection,
    now: &Now,
    call: impl FnOnce(&Connection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    if sessions::any_expired(connection, now)? {
        sessions::end_expired(connection, now)?;
    }
    let transaction = connection.transaction()?;
    call(&transaction)
}

fn look(connection: &Connection, what: &Watched) -> Result<Snapshot, Failure> {
    let index = keys::index_of(connection, what)?;
    let entries = match what {
        Watched::Key(key) => keys::get(connection, key)?.into_iter().collect(),
        Watched::Below(key) => keys::list(connection, key)?,
    };
    Ok(Snapshot { index, entries })
}

/// A duration in whole milliseconds, cut to what SQLite keeps.
fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(i64::MAX as u64)
}

#[async_trait]
impl Kv for SqliteKv {
    fn address(&self) -> String {
        self.file.address()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, KvError> {
        let key = key.clone();
        self.read("read a key", move |connection| keys::get(connection, &key)).await
    }

    async fn list(&self, below: &Key, _: Consistency) -> Result<Vec<Entry>, KvError> {
        let below = below.clone();
        self.read("list keys", move |connection| keys::list(connection, &below)).await
    }

    async fn watch(
        &self,
        what: &Watched,
        after: Option<Index>,
        wait: Duration,
    ) -> Result<Snapshot, KvError> {
        let deadline = tokio::time::Instant::now() + wait.min(WATCH_WAIT_MAX);
        let mut since = None;
        loop {
            let over = after.is_none() || tokio::time::Instant::now() >= deadline;
            let what = what.clone();
            let (opened, found) = self
                .on("watch keys", move |file, now| {
                    let opened = file.opened()?;
                    // another file is news, whatever its index; so is an index that went back
                    let replaced = since.is_some_and(|since| since != opened);
                    let found = snapshot(file.connection()?, now, |connection| {
                        let changed = Some(keys::index_of(connection, &what)?) != after;
                        let news = over || replaced || changed;
                        news.then(|| look(connection, &what)).transpose()
                    })?;
                    Ok((opened, found))
                })
                .await?;
            if let Some(snapshot) = found {
                return Ok(snapshot);
            }
            since = Some(opened);
            tokio::time::sleep_until(deadline.min(tokio::time::Instant::now() + WATCH_POLL)).await;
        }
    }

    async fn txn(&self, ops: &[Op]) -> Result<Txn, KvError> {
        let attempted = "commit a transaction";
        check_txn(ops).map_err(|reason| too_large(attempted, self.address(), reason))?;
        let ops = ops.to_vec();
        self.on(attempted, move |file, now| {
            let connection = file.connection()?;
            sessions::end_expired(connection, now)?;
            // what only asks waits for nobody, and for no disk
            let behavior = match ops.iter().all(Op::only_reads) {
                true => TransactionBehavior::Deferred,
                false => TransactionBehavior::Immediate,
            };
            let transaction = connection.transaction_with_behavior(behavior)?;
            let outcome = transaction::run(&transaction, now, &ops)?;
            match outcome {
                Txn::Committed(_) => transaction.commit()?,
                Txn::Refused(_) => transaction.rollback()?,
            }
            Ok(outcome)
        })
        .await
    }

    async fn create_session(&self, options: &SessionOptions) -> Result<SessionId, KvError> {
        let options = options.clone();
        self.write("make a session", move |t, now| sessions::create(t, now, &options)).await
    }

    async fn renew_session(&self, session: &SessionId) -> Result<Duration, KvError> {
        let session = session.clone();
        self.write("renew a session", move |t, now| sessions::renew(t, now, &session)).await
    }

    async fn destroy_session(&self, session: &SessionId) -> Result<(), KvError> {
        let session = session.clone();
        self.write("end a session", move |t, now| sessions::destroy(t, now, &session)).await
    }

    async fn session(&self, session: &SessionId) -> Result<Option<SessionInfo>, KvError> {
        let session = session.clone();
        self.read("read a session", move |connection| sessions::info(connection, &session)).await
    }

    async fn acquire(&self, key: &Key, value: Bytes, session: &SessionId) -> Result<bool, KvError> {
        let attempted = "take a lock";
        check_value(&value).map_err(|reason| too_large(attempted, self.address(), reason))?;
        let (key, session) = (key.clone(), session.clone());
        self.write(attempted, move |t, now| sessions::acquire(t, now, &key, &value, &session)).await
    }

    async fn release(&self, key: &Key, value: Bytes, session: &SessionId) -> Result<bool, KvError> {
        let attempted = "give a lock back";
        check_value(&value).map_err(|reason| too_large(attempted, self.address(), reason))?;
        let (key, session) = (key.clone(), session.clone());
        self.write(attempted, move |t, _| sessions::release(t, &key, &value, &session)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_lie_beside_the_pool_table() {
        for (registry, keys) in
            [("/a/registry.sqlite", "/a/registry.keys.sqlite"), ("b.c/pool", "b.c/pool.keys")]
        {
            assert_eq!(keys_path(Path::new(registry)), Path::new(keys));
        }
    }

    #[tokio::test]
    async fn who_only_asks_does_not_wait_for_a_process_that_stopped_in_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.sqlite");
        let timeouts = KvTimeouts { call_ms: 500, ..KvTimeouts::default() };
        let kv = SqliteKv::open(&path, || Duration::ZERO, timeouts).unwrap();
        let key = Key::new("a").unwrap();
        let stopped = Connection::open(&path).unwrap();
        stopped.execute_batch("BEGIN IMMEDIATE").unwrap();
        let asks = [Op::CheckNotExists { key: key.clone() }];
        assert_eq!(kv.txn(&asks).await.unwrap(), Txn::Committed(Vec::new()));
        let error = kv.txn(&[Op::Set { key, value: Bytes::new() }]).await.unwrap_err();
        assert_eq!(error.kind, KvErrorKind::TimedOut, "{error}");
    }
}
