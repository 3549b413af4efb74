//! The tables, and the steps from an older version to this one (S11).

use rusqlite::{Connection, TransactionBehavior};

use super::Failure;

/// Key in `meta`: the index of the newest change.
pub(super) const INDEX: &str = "index";
/// Key in `meta`: the highest index of a removed key that is no longer in `gone`.
pub(super) const FORGOTTEN: &str = "forgotten";

/// Step `n` leads from version `n` (`PRAGMA user_version`) to `n + 1`. Steps are added, never changed.
const STEPS: &[&str] = &["
    CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO meta VALUES ('index', 1), ('forgotten', 1);
    CREATE TABLE kv (
        key TEXT NOT NULL UNIQUE, value BLOB NOT NULL, created INTEGER NOT NULL, modified INTEGER NOT NULL,
        session TEXT
    ) STRICT;
    CREATE INDEX kv_session ON kv (session) WHERE session IS NOT NULL;
    CREATE TABLE gone (key TEXT PRIMARY KEY, modified INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX gone_modified ON gone (modified);
    CREATE TABLE session (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, ttl_ms INTEGER NOT NULL, lock_delay_ms INTEGER NOT NULL,
        boot TEXT NOT NULL, expires_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE lock_delay (key TEXT PRIMARY KEY, boot TEXT NOT NULL, until_ms INTEGER NOT NULL)
        STRICT, WITHOUT ROWID;
"];

/// Brings the file to the newest version in one transaction.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: usize = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let steps = STEPS.get(found..).ok_or_else(|| {
        let known = STEPS.len();
        Failure::Malformed(format!(
            "its version is {found}, and this trough knows {known}; upgrade trough"
        ))
    })?;
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", STEPS.len())?;
    Ok(transaction.commit()?)
}
