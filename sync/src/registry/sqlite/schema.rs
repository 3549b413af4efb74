//! The tables, and the steps from an older version to this one (S11).

use rusqlite::{Connection, TransactionBehavior};

use super::Failure;

/// Key in `meta`: when the newest complete listing ended, milliseconds since 1970.
pub(super) const COMPLETE_AT_MS: &str = "complete_at_ms";
/// Key in `meta`: how many rows `pool` has.
pub(super) const SEGMENTS: &str = "segments";
/// Key in `meta`: which life of the registry this is.
pub(super) const INCARNATION: &str = "incarnation";
/// Key in `meta`: the index of the newest epoch.
pub(super) const EPOCH_INDEX: &str = "epoch_index";

/// Step `n` leads from version `n` (`PRAGMA user_version`) to `n + 1`. Steps are added, never changed.
const STEPS: &[&str] = &["
    CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE pool (
        id TEXT PRIMARY KEY, path TEXT NOT NULL, length INTEGER NOT NULL, mtime_ms INTEGER NOT NULL,
        state INTEGER NOT NULL, digest BLOB, reason TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE write_lock (
        id TEXT PRIMARY KEY, incarnation INTEGER NOT NULL, idx INTEGER NOT NULL, holder TEXT NOT NULL,
        boot TEXT NOT NULL, expires_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
"];

/// Brings the file to the newest version in one transaction. Where it is there already nothing is written, so that
/// a process which stopped in the middle of its own change holds up nobody who only opens the registry.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), Failure> {
    let version: usize = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == STEPS.len() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: usize = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let steps = STEPS.get(found..).ok_or_else(|| {
        let known = STEPS.len();
        Failure::Said(format!(
            "its version is {found}, and this trough knows {known}; upgrade trough"
        ))
    })?;
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", STEPS.len())?;
    Ok(transaction.commit()?)
}
