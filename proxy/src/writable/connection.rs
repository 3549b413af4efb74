//! The one connection that writes a segment, and what it does for one request.
//!
//! Invariants: a request is one transaction, done whole or not at all; a statement that is not allowed, fails, or
//! takes too long, leaves nothing of its request; every limit stands before the first statement is prepared.

use std::ffi::{c_int, c_void};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, ffi};

use super::admission::Admission;
use super::request::{Row, RowsRequest};
use super::verbs::Verbs;
use super::{WritableSettings, WriteError, WriteRequest};
use crate::connection::statement::Statement;
use crate::connection::{SqliteError, functions, linear};

/// Steps of SQLite between two looks at the clock.
const OPS_BETWEEN_CHECKS: i32 = 1_000;
/// Values that one statement may take.
const PARAMETERS_MAX: i32 = 32_766;
/// Pages of the write-ahead log after which a commit moves them into the file: 16 MB of them.
const CHECKPOINT_PAGES: u32 = 4_000;

/// Bytes and number of the pieces of memory that SQLite keeps ready: 64 KiB in all, what a statement of a few lines needs
/// while it is prepared and run.
const LOOKASIDE: (c_int, c_int) = (512, 128);

/// Memory for the pages of a copy, in KiB.
pub(super) const COPY_CACHE_KIB: i32 = 16 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct WriteConnection {
    admission: Admission,
    connection: Connection,
    write_ms: u64,
    verbs: Verbs,
    page_bytes: u64,
}

impl WriteConnection {
    /// Opens the database at `path`, which is there, and recovers what a crash left in its log.
    pub(super) fn open(
        path: &Path,
        settings: &WritableSettings,
        verbs: Verbs,
    ) -> Result<Self, SqliteError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let mut connection = Connection::open_with_flags(path, flags)?;
        ready_memory(&connection)?;
        harden(&connection, settings)?;
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        if mode != "wal" {
            let message = format!("its journal mode stays {mode}");
            return Err(SqliteError { code: ffi::SQLITE_CANTOPEN, message });
        }
        // a commit is not synced by SQLite, but for many at once: see the thread
        connection.pragma_update(None, "synchronous", "normal")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        linear::install(&connection)?;
        functions::install(&connection)?;
        let page_bytes = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        // last: it refuses the pragmas above
        let admission = Admission::install(&mut connection, verbs)?;
        Ok(Self { admission, connection, write_ms: settings.write_ms, verbs, page_bytes })
    }

    /// Does all of `request`, and commits it without syncing; `Ok` has the number of changed rows.
    pub(super) fn run(
        &mut self,
        request: &WriteRequest,
        deadline: Instant,
        gone: &Arc<AtomicBool>,
    ) -> Result<u64, WriteError> {
        self.watch(deadline, Arc::clone(gone))?;
        let before = self.connection.total_changes();
        let schema = self.schema_version();
        let done = self.transact(request);
        let done = match done {
            Err(Failure::Sqlite(error)) => Err(self.explain(&error, deadline, gone)),
            Err(Failure::Said(error)) => Err(error),
            Ok(()) => Ok(self.connection.total_changes() - before),
        };
        if self.schema_version() != schema {
            self.unguarded(|this| this.admission.look(&this.connection))?;
        }
        done
    }

    fn transact(&mut self, request: &WriteRequest) -> Result<(), Failure> {
        self.plain("BEGIN IMMEDIATE")?;
        let done = match request {
            WriteRequest::Script(sql) => self.script(sql),
            WriteRequest::Rows(rows) => self.rows(rows),
        };
        let done = done.and_then(|()| match self.connection.is_autocommit() {
            // ON CONFLICT ROLLBACK fails its statement; nothing else may end a transaction
            true => Err(Failure::Said(WriteError::Sql("its transaction was ended".to_owned()))),
            false => self.plain("COMMIT"),
        });
        if done.is_err() && !self.connection.is_autocommit() {
            // it can only fail where there is nothing to roll back
            let _ = self.plain("ROLLBACK");
        }
        done
    }

    fn script(&mut self, sql: &str) -> Result<(), Failure> {
        if sql.as_bytes().contains(&0) {
            return Err(WriteError::NulByte.into());
        }
        let (mut rest, mut any) = (sql, false);
        while !rest.is_empty() {
            let (statement, used) = self.prepare(rest)?;
            rest = &rest[used..];
            let Some(mut statement) = statement else { continue };
            any = true;
            match statement.parameters() {
                0 => step(&mut statement)?,
                count => {
                    return Err(WriteError::Parameters(format!(
                        "a statement of the script has {count} parameters; write their values into it, or send it as JSON \
                         with `params`"
                    ))
                    .into());
                }
            }
        }
        match any {
            true => Ok(()),
            false => Err(WriteError::Empty.into()),
        }
    }

    fn rows(&mut self, request: &RowsRequest) -> Result<(), Failure> {
        let sql = &request.sql;
        if sql.as_bytes().contains(&0) {
            return Err(WriteError::NulByte.into());
        }
        let (statement, used) = self.prepare(sql)?;
        let Some(mut statement) = statement else { return Err(WriteError::Empty.into()) };
        let mut rest = &sql[used..];
        while !rest.is_empty() {
            // SQLite is the judge of what a comment is
            match Statement::prepare(&self.connection, rest) {
                Ok((None, used)) if used > 0 => rest = &rest[used..],
                Ok((None, _)) => break,
                Ok((Some(_), _)) | Err(_) => return Err(WriteError::Several.into()),
            }
        }
        for (at, row) in request.rows.iter().enumerate() {
            bind(&statement, &row).map_err(|why| {
                WriteError::Parameters(format!(
                    "row {}: {why}; nothing of this request was written",
                    at + 1
                ))
            })?;
            step(&mut statement)?;
            statement.reset();
        }
        Ok(())
    }

    /// The first statement of `sql`, if it is one that a writer runs.
    fn prepare(&mut self, sql: &str) -> Result<(Option<Statement>, usize), Failure> {
        self.admission.begin();
        let (statement, used) = Statement::prepare(&self.connection, sql)?;
        if statement.as_ref().is_some_and(|one| one.is_read_only() || one.is_explain()) {
            let what = "a statement that only reads";
            return Err(self.refusal(what).into());
        }
        Ok((statement, used))
    }

    fn refusal(&self, what: &str) -> WriteError {
        WriteError::Refused(format!(
            "the writer of this segment does not run {what}; it runs {}; nothing of this request was written",
            self.verbs
        ))
    }

    fn explain(&self, error: &SqliteError, deadline: Instant, gone: &AtomicBool) -> WriteError {
        if error.primary() == ffi::SQLITE_INTERRUPT {
            return match gone.load(Ordering::Relaxed) {
                true => WriteError::Closed("its client is gone".to_owned()),
                false if Instant::now() >= deadline => {
                    WriteError::TimeLimit { limit_ms: self.write_ms }
                }
                false => WriteError::Sql(error.message.clone()),
            };
        }
        match self.admission.refused() {
            Some(what) => self.refusal(&what),
            // SQLite asks nobody whether it may, and knows no code for that it may not
            None if error.message.starts_with("cannot VACUUM") => self.refusal("VACUUM"),
            None => WriteError::of_sqlite(error),
        }
    }

    /// Stops SQLite at `deadline`, or when the client is gone.
    fn watch(&mut self, deadline: Instant, gone: Arc<AtomicBool>) -> Result<(), WriteError> {
        let over = move || gone.load(Ordering::Relaxed) || Instant::now() >= deadline;
        let set = self.connection.progress_handler(OPS_BETWEEN_CHECKS, Some(over));
        set.map_err(|error| WriteError::of_sqlite(&error.into()))
    }

    /// One of trough's own statements, of which the allow-list knows nothing. It is prepared once.
    fn plain(&mut self, sql: &'static str) -> Result<(), Failure> {
        let run = |this: &mut Self| this.connection.prepare_cached(sql)?.execute([]).map(drop);
        self.unguarded(run).map_err(Failure::Said)
    }

    fn unguarded<T>(
        &mut self,
        run: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> Result<T, WriteError> {
        self.admission.trust(true);
        let done = run(self);
        self.admission.trust(false);
        done.map_err(|error| WriteError::of_sqlite(&error.into()))
    }

    fn schema_version(&mut self) -> Option<i64> {
        let read = |this: &mut Self| {
            this.connection.pragma_query_value(None, "schema_version", |row| row.get(0))
        };
        match self.verbs.change_the_schema() {
            true => self.unguarded(read).ok(),
            false => None,
        }
    }

    /// Bytes of pages that were written since the last question.
    pub(super) fn written_bytes(&mut self) -> u64 {
        let (mut pages, mut most) = (0, 0);
        // SAFETY: the handle is open; both figures are written before the call returns
        unsafe {
            let what = ffi::SQLITE_DBSTATUS_CACHE_WRITE;
            let database = self.connection.handle();
            ffi::sqlite3_db_status(database, what, &raw mut pages, &raw mut most, 1);
        }
        u64::try_from(pages).unwrap_or(0) * self.page_bytes
    }

    /// Moves the whole log into the file and empties it, waiting at most `wait` for those who read it. `false`: a
    /// reader is in it.
    pub(super) fn truncate_log(&mut self, wait: Duration) -> Result<bool, WriteError> {
        self.unguarded(|this| {
            this.connection.progress_handler(0, None::<fn() -> bool>)?;
            this.connection.busy_timeout(wait)?;
            let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
            let busy: i64 = this.connection.query_row(sql, [], |row| row.get(0))?;
            this.connection.busy_timeout(Duration::ZERO)?;
            Ok(busy == 0)
        })
    }

    /// Closes it, which moves the log into the file unless a reader is in it.
    pub(super) fn close(self) -> Result<(), SqliteError> {
        let Self { connection, .. } = self;
        connection.close().map_err(|(_, error)| error.into())
    }
}

/// Gives the copy at `path` the form in which segments are published: no write-ahead log.
pub(super) fn as_published(path: &Path) -> rusqlite::Result<()> {
    let copy = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    copy.pragma_update(None, "synchronous", "off")?;
    copy.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(()))?;
    Ok(())
}

/// Why a request was not done.
enum Failure {
    Sqlite(SqliteError),
    Said(WriteError),
}

impl From<SqliteError> for Failure {
    fn from(error: SqliteError) -> Self {
        Self::Sqlite(error)
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self::Said(error)
    }
}

fn step(statement: &mut Statement) -> Result<(), Failure> {
    // what RETURNING gives is passed over: there is no place for it in the answer
    while statement.step()?.is_some() {}
    Ok(())
}

fn bind(statement: &Statement, row: &Row<'_>) -> Result<(), String> {
    let wanted = usize::try_from(statement.parameters()).unwrap_or(0);
    if row.len() != wanted {
        return Err(format!("{} values for {wanted} parameters", row.len()));
    }
    let bind_one = |index: usize, value: ValueRef<'_>| {
        statement.bind(index, value).map_err(|error| format!("value {index}: {error}"))
    };
    let Some(names) = row.names() else {
        return row.values().enumerate().try_for_each(|(at, value)| bind_one(at + 1, value));
    };
    let mut bound = vec![false; wanted];
    for (name, value) in names.iter().zip(row.values()) {
        let index = statement.parameter(name);
        let index = index.ok_or_else(|| format!("there is no parameter called {name:?}"))?;
        if std::mem::replace(&mut bound[index - 1], true) {
            return Err(format!("{name:?} is there twice"));
        }
        bind_one(index, value)?;
    }
    Ok(())
}

/// Gives SQLite memory of the connection's own for what it makes and forgets with each statement.
fn ready_memory(connection: &Connection) -> Result<(), SqliteError> {
    let (size, count) = LOOKASIDE;
    // SAFETY: the handle is open; SQLite takes memory of its own where it is given none, and these are two integers
    let code = unsafe {
        let (database, what) = (connection.handle(), ffi::SQLITE_DBCONFIG_LOOKASIDE);
        ffi::sqlite3_db_config(database, what, std::ptr::null_mut::<c_void>(), size, count)
    };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(SqliteError { code, message: "its lookaside memory cannot be set".to_owned() }),
    }
}

fn harden(connection: &Connection, settings: &WritableSettings) -> Result<(), SqliteError> {
    for (option, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, false),
        // "x" as a string stays legal: users of the original write it so
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, true),
        // as SQLite's own default is, and the original's; the bundled one is built otherwise
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, settings.foreign_keys),
    ] {
        connection.set_db_config(option, on)?;
    }
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "temp_store", 2)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    let value = i32::try_from(settings.value_bytes_max).unwrap_or(i32::MAX);
    let script = i32::try_from(settings.body_bytes_max).unwrap_or(i32::MAX);
    for (limit, most) in [
        (Limit::SQLITE_LIMIT_LENGTH, value),
        // the body's own limit stands before it
        (Limit::SQLITE_LIMIT_SQL_LENGTH, script),
        (Limit::SQLITE_LIMIT_COLUMN, 2_000),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 500),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 127),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 500),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, PARAMETERS_MAX),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 50),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, most)?;
    }
    Ok(())
}
