//! What was verified when: one SQLite file beside the objects, written by [`crate::cache`] alone.
//!
//! Invariants: a row says no more than what was on the disk before it was written, for every row is committed
//! (`synchronous=FULL`) after the file, its name and their directories were synced (S1). A start trusts an
//! object whose [`Fingerprint`] still matches and hashes every other (S2). A ledger of any older version is
//! read (S11); one of a newer version is refused and left alone.
//!
//! Left out: what to do when rows and files differ; that is `cache/start.rs`. The ledger may always be lost:
//! it is then rebuilt by hashing every object.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, params};

use crate::segment::{Digest, SegmentId, Stamp};

mod reader;

pub use reader::{Facts, LedgerReader};

/// One step for each version of the schema: step N makes version N+1 of version N. Never change a step that
/// was released; add one, and a golden file of the version before it to `testdata/`.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE object (
        digest BLOB PRIMARY KEY, dev INTEGER NOT NULL, ino INTEGER NOT NULL, length INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, verified_at_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE segment (
        id TEXT PRIMARY KEY, digest BLOB NOT NULL, length INTEGER NOT NULL, mtime_ms INTEGER NOT NULL,
        source TEXT NOT NULL, sealed INTEGER NOT NULL, withdrawn_at_ms INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE scrub (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), checkpoint TEXT NOT NULL) STRICT;
"];

/// How long a call waits for another process that reads or checkpoints.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The write-ahead log is cut back to this after a checkpoint, in bytes.
const WAL_BYTES_MAX: u32 = 16 << 20;

/// A call to the ledger that failed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// SQLite's own error.
    #[error("{attempted} in the ledger {path}: {source}", path = path.display())]
    Sqlite {
        /// What was attempted.
        attempted: &'static str,
        /// The ledger.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// Written by a newer trough.
    #[error(
        "the ledger {path} has version {version}, this trough knows up to {known}; run the newer trough, or \
         move the file away and have it rebuilt by reading every object", path = path.display()
    )]
    Newer {
        /// The ledger.
        path: PathBuf,
        /// Its version.
        version: usize,
        /// The newest version this program knows.
        known: usize,
    },
}

impl LedgerError {
    /// The file is no sound ledger: set it aside and rebuild it.
    pub(crate) fn is_damage(&self) -> bool {
        use rusqlite::Error;
        match self {
            Self::Newer { .. } => false,
            Self::Sqlite { source, .. } => match source {
                Error::SqliteFailure(error, _) => {
                    matches!(error.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                }
                // a column that does not hold what its schema says, or a schema that is not ours
                Error::FromSqlConversionFailure(..)
                | Error::IntegralValueOutOfRange(..)
                | Error::InvalidColumnType(..)
                | Error::SqlInputError { .. } => true,
                _ => false,
            },
        }
    }

    /// The volume has no space left.
    pub(crate) fn is_disk_full(&self) -> bool {
        let Self::Sqlite { source, .. } = self else { return false };
        source.sqlite_error_code() == Some(ErrorCode::DiskFull)
    }
}

/// What the file system says of an object without reading it; a write or a replacement changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub dev: u64,
    pub ino: u64,
    pub length: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
}

/// One object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ObjectRow {
    pub fingerprint: Fingerprint,
    pub verified_at_ms: u64,
}

/// One segment that the cache has, published or withdrawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentRow {
    pub digest: Digest,
    pub stamp: Stamp,
    pub source: String,
    pub sealed: bool,
    pub withdrawn_at_ms: Option<u64>,
}

/// One change; a slice of them is one transaction.
#[derive(Debug)]
pub(crate) enum Change {
    Segment(SegmentId, SegmentRow),
    ForgetSegment(SegmentId),
    Object(Digest, ObjectRow),
    ForgetObject(Digest),
    /// The object was read again and is right.
    Verified(Digest, u64),
    /// Where scrub stands.
    Scrub(String),
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Ledger {
    connection: Connection,
    path: PathBuf,
}

impl Ledger {
    /// Opens the ledger, makes it when it is not there, and brings an older one up to date (S11).
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let fail = |source| failure("open", path, source);
        let mut connection = Connection::open(path).map_err(fail)?;
        prepare(&connection).map_err(fail)?;
        migrate(&mut connection, path)?;
        Ok(Self { connection, path: path.to_owned() })
    }

    /// Writes all `changes` or none; they are on the disk when this returns.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), LedgerError> {
        if changes.is_empty() {
            return Ok(());
        }
        let result = apply(&mut self.connection, changes);
        result.map_err(|source| failure("write", &self.path, source))
    }

    /// Every object.
    pub fn objects(&self) -> Result<Vec<(Digest, ObjectRow)>, LedgerError> {
        let sql = "SELECT digest, dev, ino, length, mtime_ns, ctime_ns, verified_at_ms FROM object";
        self.all(sql, |row| {
            let fingerprint = Fingerprint {
                dev: row.get::<_, i64>(1)?.cast_unsigned(),
                ino: row.get::<_, i64>(2)?.cast_unsigned(),
                length: row.get(3)?,
                mtime_ns: row.get(4)?,
                ctime_ns: row.get(5)?,
            };
            Ok((digest(row, 0)?, ObjectRow { fingerprint, verified_at_ms: row.get(6)? }))
        })
    }

    /// Every segment.
    pub fn segments(&self) -> Result<Vec<(SegmentId, SegmentRow)>, LedgerError> {
        let sql =
            "SELECT id, digest, length, mtime_ms, source, sealed, withdrawn_at_ms FROM segment";
        self.all(sql, |row| {
            let id =
                SegmentId::new(row.get_ref(0)?.as_str()?).map_err(|error| conversion(0, error))?;
            let segment = SegmentRow {
                digest: digest(row, 1)?,
                stamp: Stamp { length: row.get(2)?, mtime_ms: row.get(3)? },
                source: row.get(4)?,
                sealed: row.get(5)?,
                withdrawn_at_ms: row.get(6)?,
            };
            Ok((id, segment))
        })
    }

    /// Where scrub stood when it last said so.
    pub fn scrub(&self) -> Result<Option<String>, LedgerError> {
        let query = self.connection.query_row("SELECT checkpoint FROM scrub", [], |row| row.get(0));
        query.optional().map_err(|source| failure("read", &self.path, source))
    }

    fn all<T>(
        &self,
        sql: &str,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, LedgerError> {
        let query = || -> rusqlite::Result<Vec<T>> {
            self.connection.prepare(sql)?.query_map([], read)?.collect()
        };
        query().map_err(|source| failure("read", &self.path, source))
    }
}

fn failure(attempted: &'static str, path: &Path, source: rusqlite::Error) -> LedgerError {
    LedgerError::Sqlite { attempted, path: path.to_owned(), source }
}

fn conversion(
    column: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Blob, Box::new(error))
}

fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    let hash = blake3::Hash::from_slice(row.get_ref(column)?.as_blob()?);
    hash.map(Digest::from).map_err(|error| conversion(column, error))
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // A process that may only read cannot make the -wal and -shm files, so they stay when this one ends.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update_and_check(None, "journal_size_limit", WAL_BYTES_MAX, |_| Ok(()))
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    let fail = |source| failure("bring up to date", path, source);
    let version = || connection.pragma_query_value(None, "user_version", |row| row.get(0));
    let version: usize = version().map_err(fail)?;
    let Some(steps) = MIGRATIONS.get(version..) else {
        return Err(LedgerError::Newer { path: path.to_owned(), version, known: MIGRATIONS.len() });
    };
    for (step, sql) in steps.iter().enumerate() {
        let one = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            transaction.execute_batch(sql)?;
            transaction.pragma_update(None, "user_version", version + step + 1)?;
            transaction.commit()
        };
        one(connection).map_err(fail)?;
    }
    Ok(())
}

fn apply(connection: &mut Connection, changes: &[Change]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for change in changes {
        match change {
            Change::Segment(id, row) => transaction
                .prepare_cached("INSERT OR REPLACE INTO segment VALUES (?, ?, ?, ?, ?, ?, ?)")?
                .execute(params![
                    id.as_str(),
                    row.digest.as_bytes(),
                    row.stamp.length,
                    row.stamp.mtime_ms,
                    row.source,
                    row.sealed,
                    row.withdrawn_at_ms
                ])?,
            Change::ForgetSegment(id) => transaction
                .prepare_cached("DELETE FROM segment WHERE id = ?")?
                .execute([id.as_str()])?,
            Change::Object(digest, row) => transaction
                .prepare_cached("INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?, ?, ?)")?
                .execute(params![
                    digest.as_bytes(),
                    row.fingerprint.dev.cast_signed(),
                    row.fingerprint.ino.cast_signed(),
                    row.fingerprint.length,
                    row.fingerprint.mtime_ns,
                    row.fingerprint.ctime_ns,
                    row.verified_at_ms
                ])?,
            Change::ForgetObject(digest) => transaction
                .prepare_cached("DELETE FROM object WHERE digest = ?")?
                .execute([digest.as_bytes()])?,
            Change::Verified(digest, at_ms) => transaction
                .prepare_cached("UPDATE object SET verified_at_ms = ?2 WHERE digest = ?1")?
                .execute(params![digest.as_bytes(), at_ms])?,
            Change::Scrub(checkpoint) => transaction
                .prepare_cached("INSERT OR REPLACE INTO scrub VALUES (1, ?)")?
                .execute([checkpoint])?,
        };
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn rows() -> [Change; 4] {
        let digest = Digest::from(blake3::hash(b"golden"));
        let fingerprint = Fingerprint {
            dev: u64::MAX,
            ino: 7,
            length: 8192,
            mtime_ns: -5,
            ctime_ns: 1_700_000_000_000_000_001,
        };
        let segment = SegmentRow {
            digest,
            stamp: Stamp { length: 8192, mtime_ms: 1_700_000_000_000 },
            source: "/segments/o/ohio.sqlite".into(),
            sealed: true,
            withdrawn_at_ms: None,
        };
        let withdrawn = SegmentRow { withdrawn_at_ms: Some(5), sealed: false, ..segment.clone() };
        [
            Change::Object(digest, ObjectRow { fingerprint, verified_at_ms: 1_700_000_000_123 }),
            Change::Segment(SegmentId::new("ohio").unwrap(), segment),
            Change::Segment(SegmentId::new("iowa").unwrap(), withdrawn),
            Change::Scrub("{}".into()),
        ]
    }

    fn assert_has_rows(ledger: &Ledger) {
        let [
            Change::Object(digest, object),
            Change::Segment(ohio, one),
            Change::Segment(iowa, two),
            _,
        ] = rows()
        else {
            unreachable!("as written above")
        };
        assert_eq!(ledger.objects().unwrap(), [(digest, object)]);
        assert_eq!(ledger.segments().unwrap(), [(iowa, two), (ohio, one)]);
        assert_eq!(ledger.scrub().unwrap().as_deref(), Some("{}"));
    }

    #[test]
    fn what_is_written_is_read_back_and_forgotten_rows_are_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.sqlite");
        Ledger::open(&path).unwrap().apply(&rows()).unwrap();
        let mut ledger = Ledger::open(&path).unwrap();
        assert_has_rows(&ledger);
        let digest = Digest::from(blake3::hash(b"golden"));
        ledger.apply(&[Change::Verified(digest, 9)]).unwrap();
        assert_eq!(ledger.objects().unwrap()[0].1.verified_at_ms, 9);
        let ohio = SegmentId::new("ohio").unwrap();
        ledger.apply(&[Change::ForgetObject(digest), Change::ForgetSegment(ohio)]).unwrap();
        assert!(ledger.objects().unwrap().is_empty());
        assert_eq!(ledger.segments().unwrap().len(), 1);
    }

    /// S11. A golden file is written once, when its version of the schema is new (with `WRITE_GOLDEN=1`), and
    /// never again.
    #[test]
    fn s11_a_ledger_of_every_older_version_is_read() {
        if std::env::var_os("WRITE_GOLDEN").is_some() {
            write_golden();
        }
        for version in 1..=MIGRATIONS.len() {
            let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(format!("testdata/ledger-v{version}.sqlite"));
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("ledger.sqlite");
            std::fs::copy(&golden, &path).unwrap();
            assert_has_rows(&Ledger::open(&path).unwrap());
        }
    }

    fn write_golden() {
        let name = format!("testdata/ledger-v{}.sqlite", MIGRATIONS.len());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        assert!(!path.try_exists().unwrap(), "{} is never written again", path.display());
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.apply(&rows()).unwrap();
        let connection = &ledger.connection;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).unwrap();
    }

    #[test]
    fn a_newer_ledger_is_refused_and_no_damage() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.sqlite");
        let ledger = Ledger::open(&path).unwrap();
        ledger.connection.pragma_update(None, "user_version", 99).unwrap();
        drop(ledger);
        let error = Ledger::open(&path).unwrap_err();
        assert!(!error.is_damage() && error.to_string().contains("version 99"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_ledger_is_damage() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.sqlite");
        std::fs::write(&path, [b'x'; 8192]).unwrap();
        assert!(Ledger::open(&path).unwrap_err().is_damage());
        std::fs::remove_file(&path).unwrap();
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE object (other)").unwrap();
        assert!(Ledger::open(&path).unwrap_err().is_damage());
    }
}
