//! The pool table in one SQLite file for the processes of one machine.
//!
//! Invariant: every change is one IMMEDIATE transaction that is on the disk when it is acknowledged
//! (`synchronous=FULL`).
//!
//! Left out: more than one machine (SQLite's locks do not hold over network file systems).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fsd::segment::SegmentId;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{Lookup, PoolChange, PoolMeta, PoolRow, Registry, RegistryError};
use crate::sqlite_file::{self, SqliteFileError};

mod rows;
mod schema;

use rows::{ROW, row_of};

/// How long a call waits for another process's transaction; a change of 100,000 rows takes about a second.
const BUSY: Duration = Duration::from_secs(10);
/// How long a call may take in all, the disk included.
const CALL: Duration = Duration::from_secs(20);

/// A registry in a file. Cloning is cheap.
#[derive(Clone)]
pub struct SqliteRegistry {
    path: Arc<Path>,
    /// WAL lets one read while the other writes.
    reader: Arc<Mutex<Connection>>,
    writer: Arc<Mutex<Connection>>,
}

impl std::fmt::Debug for SqliteRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SqliteRegistry").field(&self.path).finish()
    }
}

impl SqliteRegistry {
    /// Opens the registry at `path`, or makes it, and brings its schema up to date.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, RegistryError> {
        let path = path.into();
        let error = |reason: String| RegistryError {
            attempted: "open",
            target: path.display().to_string(),
            reason,
        };
        let connect = || sqlite_file::open(&path, BUSY, schema::STEPS);
        let writer = connect().map_err(|e| error(e.to_string()))?;
        let reader = connect().map_err(|e| error(e.to_string()))?;
        Ok(Self {
            reader: Arc::new(Mutex::new(reader)),
            writer: Arc::new(Mutex::new(writer)),
            path: path.into(),
        })
    }

    async fn on<T: Send + 'static>(
        &self,
        attempted: &'static str,
        connection: &Arc<Mutex<Connection>>,
        call: impl FnOnce(&mut Connection) -> Result<T, SqliteFileError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let connection = connection.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut connection =
                connection.lock().expect("no code panics while it holds the connection");
            call(&mut connection)
        });
        let reason = match tokio::time::timeout(CALL, task).await {
            Ok(Ok(Ok(value))) => return Ok(value),
            Ok(Ok(Err(failure))) => failure.to_string(),
            Ok(Err(join)) => join.to_string(),
            Err(_) => format!("no answer within {CALL:?}; is the disk well?"),
        };
        Err(RegistryError { attempted, target: self.path.display().to_string(), reason })
    }

    async fn read<T: Send + 'static>(
        &self,
        attempted: &'static str,
        call: impl FnOnce(&mut Connection) -> Result<T, SqliteFileError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        self.on(attempted, &self.reader, call).await
    }

    /// Runs `call` in an IMMEDIATE transaction and commits it.
    async fn write<T: Send + 'static>(
        &self,
        attempted: &'static str,
        call: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, SqliteFileError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let call = move |connection: &mut Connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = call(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        self.on(attempted, &self.writer, call).await
    }
}

fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<u64>> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE key = ?")?;
    statement.query_row([key], |row| row.get(0)).optional()
}

fn set_meta(connection: &Connection, key: &str, value: u64) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?, ?)")?;
    statement.execute(params![key, value]).map(drop)
}

fn apply(
    transaction: &rusqlite::Transaction<'_>,
    change: &PoolChange,
) -> Result<(), SqliteFileError> {
    let mut segments = meta(transaction, schema::SEGMENTS)?.unwrap_or(0);
    for row in &change.upsert {
        segments += u64::from(rows::upsert(transaction, row)?);
    }
    let mut delete = transaction.prepare_cached("DELETE FROM pool WHERE id = ?")?;
    for id in &change.remove {
        segments = segments.saturating_sub(delete.execute([id.as_str()])? as u64);
    }
    set_meta(transaction, schema::SEGMENTS, segments)?;
    if let Some(at) = change.complete_at_ms {
        set_meta(transaction, schema::COMPLETE_AT_MS, at)?;
    }
    Ok(())
}

#[async_trait]
impl Registry for SqliteRegistry {
    async fn change_pool(&self, change: PoolChange) -> Result<(), RegistryError> {
        self.write("change the pool", move |transaction| apply(transaction, &change)).await
    }

    async fn pool_meta(&self) -> Result<Option<PoolMeta>, RegistryError> {
        self.read("read the pool's state", |connection| {
            let transaction = connection.transaction()?;
            let complete = meta(&transaction, schema::COMPLETE_AT_MS)?;
            let segments = meta(&transaction, schema::SEGMENTS)?.unwrap_or(0);
            Ok(complete.map(|complete_at_ms| PoolMeta { complete_at_ms, segments }))
        })
        .await
    }

    async fn lookup(&self, id: &SegmentId) -> Result<Lookup, RegistryError> {
        let id = id.clone();
        self.read("look a segment up", move |connection| {
            // one snapshot: a row that comes between two questions must not look absent
            let transaction = connection.transaction()?;
            let row = transaction
                .prepare_cached(&format!("SELECT {ROW} FROM pool WHERE id = ?"))?
                .query_row([id.as_str()], row_of)
                .optional()?;
            match row {
                Some(row) => Ok(Lookup::Listed(row)),
                None if meta(&transaction, schema::COMPLETE_AT_MS)?.is_some() => Ok(Lookup::Absent),
                None => Ok(Lookup::Unknown),
            }
        })
        .await
    }

    async fn pool_page(
        &self,
        after: Option<&SegmentId>,
        limit: usize,
    ) -> Result<Vec<PoolRow>, RegistryError> {
        let after = after.map_or(String::new(), ToString::to_string);
        self.read("page through the pool", move |connection| {
            let sql = format!("SELECT {ROW} FROM pool WHERE id > ? ORDER BY id LIMIT ?");
            let mut statement = connection.prepare_cached(&sql)?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows = statement.query_map(params![after, limit], row_of)?;
            Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_stopped_in_a_change_keeps_nobody_from_opening_and_reading() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.sqlite");
        drop(SqliteRegistry::open(&path).unwrap());
        let stopped = rusqlite::Connection::open(&path).unwrap();
        stopped.execute_batch("BEGIN IMMEDIATE").unwrap();
        // with a write among it this would wait until it is given up
        let registry = SqliteRegistry::open(&path).unwrap();
        assert_eq!(registry.pool_meta().await.unwrap(), None);
        let complete = PoolChange { complete_at_ms: Some(1), ..PoolChange::default() };
        let error = registry.change_pool(complete.clone()).await.unwrap_err();
        assert!(error.to_string().contains("try again"), "{error}");
        drop(stopped);
        registry.change_pool(complete).await.unwrap();
    }
}
