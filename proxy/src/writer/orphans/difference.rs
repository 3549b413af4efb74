//! The rows that one database has and another has not, table by table.
//!
//! Invariants: rows are counted, for those of a log may be equal: what two have and one has is missing once; values are
//! the same when their bytes and their types are (1 is not 1.0, nor '1', nor x'31'; no column's collation has a say); a
//! rowid that is no column is no part of a row, nor is what SQLite computes. Memory does not grow with the databases: of
//! each row of the other side a digest lies in a file beside the segments, and the rows themselves are passed once, in
//! their order.
//!
//! Left out: tables that only the other has; which rows were changed or deleted, for nothing in a file tells that.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row, ffi};
use tempfile::TempPath;

use super::super::files::{Files, FilesError};
use super::tables::{Table, Tables};

/// Steps of SQLite between two looks whether the comparison is still wanted.
const OPS_BETWEEN_CHECKS: i32 = 10_000;
/// Memory for pages of the digests, in KiB: those of a million rows. What is over it is in the file.
const CACHE_KIB: i32 = 64 << 10;
/// Bytes of a digest: nobody finds two rows of the same 160 bits, and a file of ten million rows stays below 0.5 GB.
const DIGEST_BYTES: usize = 20;

/// Ends what is under way when it is set.
pub type Stop = Arc<AtomicBool>;

/// Where rows of a table of the orphan belong in what is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// It has that table.
    There,
    /// It has no such table: all rows are missing.
    Absent,
    /// It has a table of that name with other columns: all rows are missing.
    OtherColumns,
}

/// What a table has.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TableDifference {
    /// Which.
    pub table: String,
    /// Whether the rows could go back.
    pub place: Place,
    /// How many rows the orphan has that the published version has not.
    pub missing: u64,
    /// How many rows of this table the published version has that the orphan has not.
    pub others: u64,
}

/// What an orphan has that the published version has not.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// Every table of the orphan that has rows of its own, those without a difference among them.
    pub tables: Vec<TableDifference>,
    /// Virtual tables of the orphan, which cannot be compared.
    pub not_compared: Vec<String>,
}

impl Difference {
    /// How many rows are missing in all.
    pub fn missing(&self) -> u64 {
        self.tables.iter().map(|table| table.missing).sum()
    }

    /// How many rows only the published version has.
    pub fn others(&self) -> u64 {
        self.tables.iter().map(|table| table.others).sum()
    }

    /// Tables with rows that cannot go back, for there is no table for them.
    pub fn out_of_place(&self) -> impl Iterator<Item = &TableDifference> {
        self.tables.iter().filter(|table| table.place != Place::There && table.missing > 0)
    }
}

/// Why nothing is known of the difference.
#[derive(Debug, thiserror::Error)]
pub enum DifferenceError {
    /// One of the databases cannot be read.
    #[error("read {what}: {error}")]
    Database {
        /// Which database, and which table of it.
        what: String,
        /// What SQLite said.
        error: rusqlite::Error,
    },
    /// The file beside the segments failed.
    #[error("note rows in a file beside the segments: {0}; is there room on that disk?")]
    Scratch(rusqlite::Error),
    /// The same, when its name was looked for.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A row has what cannot be sent.
    #[error(
        "a row of table {table:?} cannot be put back: {reason}; nothing was sent; put it back by hand, from `trough orphans \
         export`"
    )]
    Row {
        /// Of which table.
        table: String,
        /// What is in it.
        reason: String,
    },
    /// Nobody waits for it any more.
    #[error("the comparison was stopped")]
    Stopped,
}

/// Compares `ours` with what is published, `theirs`; `None` is nothing. `each` is given every row that only ours has
/// and that has a place in theirs.
pub fn compare(
    files: &Files,
    ours: &Path,
    theirs: Option<&Path>,
    stop: &Stop,
    each: &mut dyn FnMut(&Table, &Row<'_>) -> Result<(), DifferenceError>,
) -> Result<Difference, DifferenceError> {
    let ours = Side::open("the orphan", ours, stop)?;
    let theirs = theirs.map(|path| Side::open("the published version", path, stop)).transpose()?;
    let mut seen = Seen::new(files, stop)?;
    let mut difference =
        Difference { not_compared: ours.tables.virtual_ones.clone(), ..Difference::default() };
    for table in &ours.tables.ordinary {
        let other = theirs.as_ref().and_then(|side| Some((side, side.tables.find(&table.name)?)));
        let (mut missing, mut others) = (0, 0);
        let place = match other {
            None => Place::Absent,
            Some((_, other)) if !table.has_columns_of(other) => Place::OtherColumns,
            Some((side, other)) => {
                seen.empty()?;
                // by the names of ours, in their order
                let of_ours = Table { name: other.name.clone(), columns: table.columns.clone() };
                side.each(&of_ours, stop, &mut |row| {
                    others += 1;
                    seen.add(&digest(row)?)
                })?;
                Place::There
            }
        };
        ours.each(table, stop, &mut |row| {
            if place == Place::There {
                if seen.take(&digest(row)?)? {
                    others -= 1;
                    return Ok(());
                }
                each(table, row)?;
            }
            missing += 1;
            Ok(())
        })?;
        let table = table.name.clone();
        difference.tables.push(TableDifference { table, place, missing, others });
    }
    Ok(difference)
}

/// One of the two.
struct Side {
    what: &'static str,
    database: Connection,
    tables: Tables,
}

impl Side {
    fn open(what: &'static str, path: &Path, stop: &Stop) -> Result<Self, DifferenceError> {
        let open = || -> rusqlite::Result<(Connection, Tables)> {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
                | OpenFlags::SQLITE_OPEN_EXRESCODE;
            let mut database = Connection::open_with_flags(path, flags)?;
            for (option, on) in [
                (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
                // what is in a schema was written by whoever made the segment
                (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
                // a column that is not there is an error, not a string
                (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
            ] {
                database.set_db_config(option, on)?;
            }
            database.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
            database.pragma_update(None, "cell_size_check", true)?;
            database.pragma_update(None, "mmap_size", 0)?;
            stop_at(&mut database, stop)?;
            let tables = Tables::of(&database)?;
            Ok((database, tables))
        };
        let named = |error| of_database(format!("{what} at {}", path.display()), error);
        let (database, tables) = open().map_err(named)?;
        Ok(Self { what, database, tables })
    }

    /// Every row of `table`, in the order in which they were written where SQLite keeps that.
    fn each(
        &self,
        table: &Table,
        stop: &Stop,
        each: &mut dyn FnMut(&Row<'_>) -> Result<(), DifferenceError>,
    ) -> Result<(), DifferenceError> {
        // an index might have all columns, and another order
        let sql = format!("SELECT {} FROM {} NOT INDEXED", table.columns_sql(), table.name_sql());
        let failed = |error| of_database(format!("table {:?} of {}", table.name, self.what), error);
        let mut statement = self.database.prepare(&sql).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            if stop.load(Ordering::Relaxed) {
                return Err(DifferenceError::Stopped);
            }
            each(row)?;
        }
        Ok(())
    }
}

/// How many rows of each digest the other side has.
struct Seen {
    database: Connection,
    /// Goes after the connection to it.
    _part: TempPath,
}

impl Seen {
    fn new(files: &Files, stop: &Stop) -> Result<Self, DifferenceError> {
        let part = files.part()?;
        let open = || -> rusqlite::Result<Connection> {
            let mut database = scratch(&part)?;
            stop_at(&mut database, stop)?;
            database.execute_batch("BEGIN")?;
            Ok(database)
        };
        let database = open().map_err(of_scratch)?;
        Ok(Self { database, _part: part })
    }

    fn empty(&self) -> Result<(), DifferenceError> {
        let sql = "DROP TABLE IF EXISTS seen;
                   CREATE TABLE seen (digest BLOB PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID";
        self.database.execute_batch(sql).map_err(of_scratch)
    }

    fn add(&mut self, digest: &[u8]) -> Result<(), DifferenceError> {
        let sql = "INSERT INTO seen VALUES (?1, 1) ON CONFLICT (digest) DO UPDATE SET n = n + 1";
        let added = self.database.prepare_cached(sql).and_then(|mut add| add.execute([digest]));
        added.map(drop).map_err(of_scratch)
    }

    /// Takes one of them away; `false` when none is left.
    fn take(&mut self, digest: &[u8]) -> Result<bool, DifferenceError> {
        let sql = "UPDATE seen SET n = n - 1 WHERE digest = ?1 AND n > 0";
        let taken = self.database.prepare_cached(sql).and_then(|mut take| take.execute([digest]));
        taken.map(|count| count > 0).map_err(of_scratch)
    }
}

/// A database in a file of this process alone, which nobody needs after it.
pub(super) fn scratch(path: &Path) -> rusqlite::Result<Connection> {
    let database = Connection::open(path)?;
    database.pragma_update(None, "journal_mode", "off")?;
    database.pragma_update(None, "synchronous", "off")?;
    database.pragma_update(None, "locking_mode", "exclusive")?;
    database.pragma_update(None, "cache_size", -CACHE_KIB)?;
    Ok(database)
}

fn stop_at(database: &mut Connection, stop: &Stop) -> rusqlite::Result<()> {
    let stop = Arc::clone(stop);
    database.progress_handler(OPS_BETWEEN_CHECKS, Some(move || stop.load(Ordering::Relaxed)))
}

fn digest(row: &Row<'_>) -> Result<[u8; DIGEST_BYTES], DifferenceError> {
    let mut hasher = blake3::Hasher::new();
    for at in 0..row.as_ref().column_count() {
        let value = row.get_ref(at).map_err(|error| of_database("a row".to_owned(), error))?;
        let number: [u8; 8];
        let (kind, bytes): (u8, &[u8]) = match value {
            ValueRef::Null => (0, &[]),
            ValueRef::Integer(value) => {
                number = value.to_le_bytes();
                (1, &number)
            }
            ValueRef::Real(value) => {
                // zero has two forms, which SQL takes for one
                number = (value + 0.0).to_le_bytes();
                (2, &number)
            }
            ValueRef::Text(bytes) => (3, bytes),
            ValueRef::Blob(bytes) => (4, bytes),
        };
        // with the lengths no two rows give the same
        hasher.update(&[kind]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
    let mut digest = [0; DIGEST_BYTES];
    hasher.finalize_xof().fill(&mut digest);
    Ok(digest)
}

fn of_database(what: String, error: rusqlite::Error) -> DifferenceError {
    match interrupted(&error) {
        true => DifferenceError::Stopped,
        false => DifferenceError::Database { what, error },
    }
}

pub(super) fn of_scratch(error: rusqlite::Error) -> DifferenceError {
    match interrupted(&error) {
        true => DifferenceError::Stopped,
        false => DifferenceError::Scratch(error),
    }
}

fn interrupted(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code & 0xff);
    code == Some(ffi::SQLITE_INTERRUPT)
}

#[cfg(test)]
mod tests;
