//! A SQLite file that the processes of one machine share: how it is opened, and brought up to date (S11).
//!
//! Invariants: what was committed is on the disk (`synchronous=FULL`); who opens a file that is up to date writes
//! nothing, so a process that stopped in the middle of its own change holds up nobody who only opens and reads.
//!
//! Left out: the tables and the calls, which are [`crate::registry::sqlite`]'s and [`crate::kv::sqlite`]'s.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

/// The pause before a change to WAL mode that was refused is tried again.
const WAL_PAUSE: Duration = Duration::from_millis(5);

/// Why a file could not be opened, read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SqliteFileError {
    /// Another process was in the middle of a change for as long as this one waits.
    #[error(
        "another process held it too long; see whether one of trough hangs, and try again ({0})"
    )]
    Busy(rusqlite::Error),
    /// A newer trough wrote it.
    #[error("its version is {found}, and this trough knows {known}; upgrade trough")]
    Newer {
        /// Its version.
        found: usize,
        /// The newest that is known here.
        known: usize,
    },
    /// Anything else.
    #[error(transparent)]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for SqliteFileError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy(error),
            _ => Self::Sqlite(error),
        }
    }
}

/// Opens the file at `path`, or makes it. A call waits for another process's change at most `busy`. Step `n` of
/// `steps` leads from version `n` (`PRAGMA user_version`) to `n + 1`; steps are added, never changed.
pub(crate) fn open(
    path: &Path,
    busy: Duration,
    steps: &[&str],
) -> Result<Connection, SqliteFileError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(busy)?;
    enter_wal(&connection, busy)?;
    connection.pragma_update(None, "synchronous", "full")?;
    migrate(&mut connection, steps)?;
    Ok(connection)
}

/// Only the first of those who open a new file at the same moment changes its mode, and SQLite tells the others at once
/// that it is locked, whatever they are ready to wait: to wait there could be for each other.
fn enter_wal(connection: &Connection, busy: Duration) -> Result<(), SqliteFileError> {
    let deadline = Instant::now() + busy;
    loop {
        let error = match connection.pragma_update(None, "journal_mode", "wal") {
            Ok(()) => return Ok(()),
            Err(error) => SqliteFileError::from(error),
        };
        if !matches!(error, SqliteFileError::Busy(_)) || Instant::now() >= deadline {
            return Err(error);
        }
        std::thread::sleep(WAL_PAUSE);
    }
}

/// Brings the tables to the newest version in one transaction.
pub(crate) fn migrate(connection: &mut Connection, steps: &[&str]) -> Result<(), SqliteFileError> {
    if version(connection)? == steps.len() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // another process may have done it meanwhile
    let found = version(&transaction)?;
    let known = steps.len();
    let missing = steps.get(found..).ok_or(SqliteFileError::Newer { found, known })?;
    for step in missing {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    Ok(transaction.commit()?)
}

fn version(connection: &Connection) -> rusqlite::Result<usize> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: &[&str] = &["CREATE TABLE one (n)", "CREATE TABLE two (n)"];
    /// Shorter than the locks of this test last.
    const BUSY: Duration = Duration::from_millis(100);

    #[test]
    fn a_process_that_stopped_in_a_change_keeps_nobody_from_opening_and_reading() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shared.sqlite");
        let mut stopped = open(&path, BUSY, STEPS).unwrap();
        let held = stopped.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        let other = open(&path, BUSY, STEPS).unwrap();
        let count = |sql| other.query_row(sql, [], |row| row.get::<_, u64>(0));
        assert_eq!(count("SELECT count(*) FROM two").unwrap(), 0);
        let error = other.execute("INSERT INTO one VALUES (1)", []).unwrap_err();
        let said = SqliteFileError::from(error).to_string();
        assert!(said.contains("try again"), "{said}");
        drop(held);
        other.execute("INSERT INTO one VALUES (1)", []).unwrap();
    }

    #[test]
    fn many_that_open_a_new_file_at_the_same_moment_all_get_it() {
        const MANY: usize = 8;
        let dir = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let path = dir.path().join(round.to_string());
            let start = std::sync::Barrier::new(MANY);
            let open_it = || {
                start.wait();
                open(&path, Duration::from_secs(30), STEPS).map(drop)
            };
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..MANY).map(|_| scope.spawn(open_it)).collect();
                for one in all {
                    one.join().unwrap().unwrap();
                }
            });
        }
    }

    #[test]
    fn s11_an_older_file_is_brought_up_to_date_and_a_newer_one_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shared.sqlite");
        drop(open(&path, BUSY, &STEPS[..1]).unwrap());
        let newest = open(&path, BUSY, STEPS).unwrap();
        newest.execute("INSERT INTO two VALUES (1)", []).unwrap();
        let error = open(&path, BUSY, &STEPS[..1]).unwrap_err();
        assert!(matches!(error, SqliteFileError::Newer { found: 2, known: 1 }), "{error}");
    }
}
