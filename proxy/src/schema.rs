//! The script of a schema, run in an empty database: to see whether it is any good, and to begin a new segment with.
//!
//! Invariants: a script is hostile SQL. It runs under the limits of a reader's statement, under an allow-list that stays
//! in force until its end ([`rules`]), in a database of its own that is only in memory, and ends by its end or by one of
//! the bounds below; a file comes about only from a script that ran to its end, and is whole.
//!
//! Left out: whether what the script makes is what anybody wants. An empty one is right: it makes an empty database.

use std::ffi::c_int;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthContext, Authorization};
use rusqlite::{Connection, MAIN_DB, OpenFlags, ffi};
use sync::schemas::SQL_BYTES_MAX;

use crate::connection::statement::{Statement, error_at};
use crate::connection::temp::TempBudget;
use crate::connection::{SqliteError, SqliteSettings, functions, harden, linear};

mod rules;

use rules::Rules;

/// How long a script may run. One of the longest that makes two thousand tables takes a fiftieth of it.
const RUN_MAX: Duration = Duration::from_secs(5);
/// How many steps of SQLite's machine go by between two looks at the clock: some 20 microseconds.
const OPS_BETWEEN_CHECKS: c_int = 1000;
/// The largest database that a script may make. It is in memory; a table takes at least one page of 4 KiB.
const DATABASE_BYTES_MAX: u64 = 64 << 20;
/// The most temporary data that a script may write: it sorts what it just made.
const TEMP_BYTES_MAX: u64 = DATABASE_BYTES_MAX;

/// What is wrong with a script, or why it could not be run.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Over [`SQL_BYTES_MAX`].
    #[error("the schema has {0} bytes, and at most {SQL_BYTES_MAX} are allowed; make it shorter")]
    TooLong(usize),
    /// A byte that SQL text never has.
    #[error("line {0}: there is a NUL byte in the schema; remove it")]
    NulByte(usize),
    /// It needs values that a script has no place for.
    #[error("line {0}: the statement has parameters; write their values into it")]
    Parameters(usize),
    /// The allow-list refused it.
    #[error(
        "line {line}: {what} has no place in a schema; it makes tables, indexes, views, triggers and the first rows, \
         in an empty database"
    )]
    Refused {
        /// Where.
        line: usize,
        /// What it would have done.
        what: String,
    },
    /// SQLite did.
    #[error("line {line}: {message}")]
    Sql {
        /// Where.
        line: usize,
        /// SQLite's message.
        message: String,
    },
    /// It ended within a transaction.
    #[error("the schema begins a transaction and does not commit it; end it with COMMIT")]
    Uncommitted,
    /// Its time was used up.
    #[error("line {line}: the schema did not end within {} s; let it make less", RUN_MAX.as_secs())]
    TimeLimit {
        /// How far it came.
        line: usize,
    },
    /// What it makes is too large.
    #[error(
        "line {line}: the schema makes over {DATABASE_BYTES_MAX} bytes; write rows by the writer"
    )]
    TooLarge {
        /// How far it came.
        line: usize,
    },
    /// SQLite itself could not be set up for it.
    #[error("prepare an empty database for the schema: {0}")]
    Sqlite(#[from] SqliteError),
    /// The file could not be written.
    #[error("make the new database {path}: {source}")]
    File {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl SchemaError {
    /// Whether the script is at fault, and not this machine.
    pub fn is_of_script(&self) -> bool {
        !matches!(self, Self::Sqlite(_) | Self::File { .. })
    }
}

impl From<rusqlite::Error> for SchemaError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error.into())
    }
}

/// Whether `sql` runs to its end in an empty database. Takes as long as [`RUN_MAX`], on the thread that asks.
pub fn check(sql: &str) -> Result<(), SchemaError> {
    build(sql, RUN_MAX).map(drop)
}

/// Makes the database that `sql` makes at `path`, where nothing may be. Not synced to the disk, nor is its directory.
/// Takes as long as [`RUN_MAX`], on the thread that asks; an error leaves no file.
pub fn create(sql: &str, path: &Path) -> Result<(), SchemaError> {
    let mut connection = build(sql, RUN_MAX)?;
    let bytes = connection.serialize(MAIN_DB)?;
    let failed = |source| SchemaError::File { path: path.to_owned(), source };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
    let written = file.map_err(failed)?.write_all(&bytes);
    written.map_err(|error| {
        // a part of a database is worse than none; that this fails as well is said by the file
        let _ = std::fs::remove_file(path);
        failed(error)
    })
}

/// The database that `sql` makes, at least one page long.
fn build(sql: &str, time: Duration) -> Result<Connection, SchemaError> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(SchemaError::TooLong(sql.len()));
    }
    if let Some(at) = sql.find('\0') {
        return Err(SchemaError::NulByte(line(sql, at)));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let mut connection = Connection::open_in_memory_with_flags(flags)?;
    harden(&connection, &SqliteSettings::default())?;
    // as a script finds it everywhere else: first rows go through the triggers that stand before them, and foreign keys
    // are for those who ask for them
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    linear::install(&connection)?;
    functions::install(&connection)?;
    let deadline = Instant::now() + time;
    let late = move || Instant::now() >= deadline;
    connection.progress_handler(OPS_BETWEEN_CHECKS, Some(late))?;
    // last: it refuses the pragmas above
    let rules = Rules::install(&mut connection)?;
    run(&connection, &rules, sql)?;
    if !connection.is_autocommit() {
        return Err(SchemaError::Uncommitted);
    }
    connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
    connection.progress_handler(0, None::<fn() -> bool>)?;
    // what was never written to has no page, and a file without a page is no database to anybody but SQLite
    let pages: u64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
    if pages == 0 {
        connection.pragma_update(None, "user_version", 0)?;
    }
    Ok(connection)
}

/// Runs the statements of `sql` one by one.
fn run(connection: &Connection, rules: &Rules, sql: &str) -> Result<(), SchemaError> {
    let budget = TempBudget::begin(TEMP_BYTES_MAX);
    let mut at = 0;
    loop {
        // a statement may have changed how long a page is
        rules.ours(|| bound(connection))?;
        rules.begin();
        let rest = &sql[at..];
        let explain = |error: SqliteError, within: Option<usize>| {
            let line = line(sql, at + within.unwrap_or_else(|| beginning(rest)));
            match (rules.refused(), error.primary()) {
                (Some(what), _) => SchemaError::Refused { line, what },
                (None, ffi::SQLITE_INTERRUPT) => SchemaError::TimeLimit { line },
                (None, ffi::SQLITE_FULL) => SchemaError::TooLarge { line },
                (None, _) if budget.exceeded() => SchemaError::TooLarge { line },
                (None, _) => SchemaError::Sql { line, message: error.message },
            }
        };
        let prepared = Statement::prepare(connection, rest);
        let (statement, length) = prepared.map_err(|error| explain(error, error_at(connection)))?;
        match statement {
            Some(statement) if statement.parameters() > 0 => {
                return Err(SchemaError::Parameters(line(sql, at + beginning(rest))));
            }
            Some(mut statement) => {
                while statement.step().map_err(|error| explain(error, None))?.is_some() {}
            }
            // blanks and comments
            None if length == rest.len() => return Ok(()),
            None => {}
        }
        at += length;
    }
}

/// Bounds the database by [`DATABASE_BYTES_MAX`], however long its pages are.
fn bound(connection: &Connection) -> Result<(), SchemaError> {
    let page: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let pages = DATABASE_BYTES_MAX / page.max(1);
    connection.pragma_update(None, "max_page_count", pages)?;
    Ok(())
}

/// The line of byte `at`, from 1.
fn line(sql: &str, at: usize) -> usize {
    1 + sql.bytes().take(at).filter(|&byte| byte == b'\n').count()
}

/// Where the first statement of `sql` begins, behind blanks and comments.
fn beginning(sql: &str) -> usize {
    let mut rest = sql;
    loop {
        rest = rest.trim_ascii_start();
        let end = match rest.get(..2) {
            Some("--") => rest.find('\n'),
            Some("/*") => rest.find("*/").map(|end| end + 2),
            _ => None,
        };
        match end {
            Some(end) => rest = &rest[end..],
            None => return sql.len() - rest.len(),
        }
    }
}

#[cfg(test)]
mod tests;
