//! One hardened SQLite connection to one segment file (S7, S8).
//!
//! Invariants: the file is opened with the flag READONLY (never read-write with `mode=ro`, which ATTACH gets around), a
//! copy with `immutable=1` as well; every limit stands before the first statement is prepared; the allow-list of
//! [`crate::admission`] is in force for the connection's life; exactly one statement runs.
//!
//! `immutable=1` is honest here: an inode of the mount is one content for ever. A file that is being written is read
//! through its write-ahead log, each statement in a read transaction of its own.

use std::ffi::c_int;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, ffi};
use serde::{Deserialize, Serialize};

use crate::admission::Admission;

pub mod functions;
pub mod linear;
pub mod statement;
pub mod temp;

use statement::Statement;

/// Statements kept prepared on each connection. A statement takes a few kilobytes, an open segment some 50.
const STATEMENTS_MAX: usize = 8;
/// Pages that an idle connection may keep in memory, in bytes; the kernel keeps them too.
const IDLE_CACHE_BYTES_MAX: c_int = 256 << 10;
/// How long a query waits for a lock of a file that is being written: it is held while a log is recovered or emptied.
const WRITABLE_LOCK_WAIT: Duration = Duration::from_secs(1);
/// Longer statements are not kept: they hardly come twice.
const CACHED_SQL_BYTES_MAX: usize = 4096;

/// SQLite's own limits for a query, and how it reads the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SqliteSettings {
    /// The longest string, blob or row, in bytes. Segments with longer rows cannot be read. It also bounds
    /// what a single step can cost, which no time limit can interrupt.
    pub value_bytes_max: u32,
    /// The most columns of a result or table.
    pub columns_max: u16,
    /// The deepest nesting of an expression.
    pub expression_depth_max: u16,
    /// The most SELECTs joined by UNION and the like.
    pub compound_select_max: u16,
    /// The most instructions of a prepared statement.
    pub instructions_max: u32,
    /// The longest LIKE or GLOB pattern, in bytes: matching takes text times pattern.
    pub like_pattern_bytes_max: u16,
    /// How much of each file is read through a memory map, in bytes. 0: none, every read is a `pread`. With
    /// it, damage to a file under a running query ends the process instead of the query.
    pub mmap_bytes: u64,
}

impl Default for SqliteSettings {
    fn default() -> Self {
        Self {
            value_bytes_max: 4 << 20,
            columns_max: 200,
            expression_depth_max: 100,
            compound_select_max: 50,
            instructions_max: 25_000,
            like_pattern_bytes_max: 500,
            mmap_bytes: 0,
        }
    }
}

/// An open segment. One thread at a time uses it.
#[derive(Debug)]
pub struct SegmentConnection {
    // statements go before the connection that they belong to
    statements: Vec<(Box<str>, Statement)>,
    admission: Admission,
    connection: Connection,
}

// SAFETY: SQLite ties neither connection nor statement to a thread; opened NOMUTEX, they only must not be
// used by two at once, and every use needs `&mut self` or the value itself. The statements never leave it.
unsafe impl Send for SegmentConnection {}

/// Why a statement cannot run.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// There is none: nothing, blanks or comments only.
    #[error("there is no statement in the body; send one SELECT")]
    Empty,
    /// A second one follows.
    #[error("there is more than one statement in the body; send one SELECT at a time")]
    Several,
    /// A byte that SQL text never has.
    #[error("there is a NUL byte in the statement; remove it")]
    NulByte,
    /// It needs values that a body of SQL has no place for.
    #[error("the statement has {0} parameters; write their values into it")]
    Parameters(c_int),
    /// The allow-list refused it.
    #[error(
        "a reader does not run {0}; it answers SELECT (also WITH, VALUES, EXPLAIN), nothing else"
    )]
    Refused(String),
    /// SQLite did.
    #[error(transparent)]
    Sqlite(#[from] SqliteError),
}

/// Bounds the memory of SQLite in this whole process: the last resort, for what is over it fails in whichever
/// query asks next. Values of one row are bounded one by one only, at `columns_max` times `value_bytes_max`.
pub fn limit_heap(bytes: u64) {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    // SAFETY: a call without pointers, allowed at any time
    unsafe { ffi::sqlite3_hard_heap_limit64(bytes) };
}

/// What SQLite answered: its extended result code and its words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SqliteError {
    /// The extended result code.
    pub code: c_int,
    /// The message.
    pub message: String,
}

impl SqliteError {
    /// The primary result code.
    pub fn primary(&self) -> c_int {
        self.code & 0xff
    }
}

impl From<rusqlite::Error> for SqliteError {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error().map_or(ffi::SQLITE_ERROR, |error| error.extended_code);
        Self { code, message: error.to_string() }
    }
}

impl SegmentConnection {
    /// Opens `path`, which must never change.
    pub fn open(path: &Path, settings: &SqliteSettings) -> Result<Self, SqliteError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_EXRESCODE;
        Self::guarded(Connection::open_with_flags(uri(path), flags)?, settings)
    }

    /// Opens `path`, which a writer of this machine writes: through its log, and never by a memory map, for it changes.
    pub fn open_writable(path: &Path, settings: &SqliteSettings) -> Result<Self, SqliteError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(WRITABLE_LOCK_WAIT)?;
        // the log is the writer's, also when this one is the last to close
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        Self::guarded(connection, &SqliteSettings { mmap_bytes: 0, ..*settings })
    }

    fn guarded(mut connection: Connection, settings: &SqliteSettings) -> Result<Self, SqliteError> {
        harden(&connection, settings)?;
        linear::install(&connection)?;
        functions::install(&connection)?;
        // last: it refuses the pragmas above
        let admission = Admission::install(&mut connection)?;
        Ok(Self { statements: Vec::new(), admission, connection })
    }

    /// Prepares `sql` or finds it prepared; exactly one statement, and one that only reads.
    ///
    /// The statement must be taken up again with [`Self::keep`] or dropped before the connection is.
    pub(crate) fn prepare(&mut self, sql: &str) -> Result<Statement, PrepareError> {
        if let Some(at) = self.statements.iter().position(|(text, _)| **text == *sql) {
            return Ok(self.statements.remove(at).1);
        }
        if sql.as_bytes().contains(&0) {
            return Err(PrepareError::NulByte);
        }
        self.admission.begin();
        let prepared = Statement::prepare(&self.connection, sql);
        let (statement, tail) = prepared.map_err(|error| self.explain(error))?;
        let Some(statement) = statement else { return Err(PrepareError::Empty) };
        let judged = (self.admission.reads(), statement.is_read_only());
        if !matches!(judged, (true, true)) {
            return Err(PrepareError::Refused("this statement".to_owned()));
        }
        self.nothing_follows(&sql[tail..])?;
        match statement.parameters() {
            0 => Ok(statement),
            count => Err(PrepareError::Parameters(count)),
        }
    }

    /// Keeps a statement for the next query with the same text.
    pub(crate) fn keep(&mut self, sql: &str, statement: Statement) {
        if sql.len() > CACHED_SQL_BYTES_MAX || !statement.reset() {
            return;
        }
        self.statements.insert(0, (sql.into(), statement));
        self.statements.truncate(STATEMENTS_MAX);
    }

    /// Makes it small before it lies idle: a scan leaves 2 MB of pages in SQLite's cache.
    pub(crate) fn rest(&mut self) {
        let (mut used, mut most) = (0, 0);
        // SAFETY: the handle is open; both figures are written before the call returns
        unsafe {
            let database = self.connection.handle();
            let what = ffi::SQLITE_DBSTATUS_CACHE_USED;
            ffi::sqlite3_db_status(database, what, &raw mut used, &raw mut most, 0);
            if used > IDLE_CACHE_BYTES_MAX {
                ffi::sqlite3_db_release_memory(database);
            }
        }
    }

    /// The connection itself, for the progress handler and for tests.
    pub(crate) fn raw(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// SQLite is the judge of what a comment is: what follows must prepare to nothing.
    fn nothing_follows(&self, tail: &str) -> Result<(), PrepareError> {
        if tail.bytes().all(|byte| byte.is_ascii_whitespace() || byte == b';') {
            return Ok(());
        }
        match Statement::prepare(&self.connection, tail) {
            Ok((None, _)) => Ok(()),
            Ok((Some(_), _)) | Err(_) => Err(PrepareError::Several),
        }
    }

    fn explain(&self, error: SqliteError) -> PrepareError {
        match self.admission.refused() {
            Some(what) => PrepareError::Refused(what),
            None => PrepareError::Sqlite(error),
        }
    }

    /// What the allow-list refused while the statement ran (`VACUUM INTO` asks to attach only then).
    pub(crate) fn refused(&self) -> Option<String> {
        self.admission.refused()
    }
}

/// `file:` and the path with every byte but the plainest encoded.
fn uri(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'_' | b'-' | b'.' => {
                uri.push(char::from(byte));
            }
            // writing to a string does not fail
            _ => drop(write!(uri, "%{byte:02X}")),
        }
    }
    uri + "?immutable=1"
}

/// Puts the limits in force that stand for every statement, whoever wrote it.
pub(crate) fn harden(
    connection: &Connection,
    settings: &SqliteSettings,
) -> Result<(), SqliteError> {
    for (option, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, false),
        // "x" as a string stays legal: users of the original write it so
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, true),
    ] {
        connection.set_db_config(option, on)?;
    }
    // refuses cells that overlap before they are read; temporary data goes to files, which have a budget
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "temp_store", 1)?;
    let mmap = i64::try_from(settings.mmap_bytes).unwrap_or(i64::MAX);
    connection.pragma_update(None, "mmap_size", mmap)?;
    let value = i32::try_from(settings.value_bytes_max).unwrap_or(i32::MAX);
    for (limit, most) in [
        (Limit::SQLITE_LIMIT_LENGTH, value),
        // the body's own limit stands before it
        (Limit::SQLITE_LIMIT_SQL_LENGTH, value),
        (Limit::SQLITE_LIMIT_COLUMN, settings.columns_max.into()),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, settings.expression_depth_max.into()),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, settings.compound_select_max.into()),
        (Limit::SQLITE_LIMIT_VDBE_OP, i32::try_from(settings.instructions_max).unwrap_or(i32::MAX)),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 127),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, settings.like_pattern_bytes_max.into()),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 1000),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 10),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, most)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_say_anything_but_a_path() {
        let uri = uri(Path::new("/m t/a?mode=rwc&x#%41é.sqlite"));
        assert_eq!(uri, "file:/m%20t/a%3Fmode%3Drwc%26x%23%2541%C3%A9.sqlite?immutable=1");
    }
}
