//! One query on a thread that may wait: find the file, take a connection, step, write rows, give it back.
//!
//! Invariants (S8): it ends by its answer, its deadline, its size limits, or its client's leaving; whichever
//! comes first is looked at every [`OPS_BETWEEN_CHECKS`] steps of SQLite's machine and after every row. A
//! connection whose statement failed for a reason of the file's is closed, not given back.
//!
//! Left out: a single step of SQLite's machine cannot be interrupted; the limits of
//! [`crate::connection::SqliteSettings`] bound what one can cost.

use std::ffi::c_int;
use std::sync::Arc;
use std::time::Instant;

use fsd::segment::SegmentId;
use metrics::{counter, gauge};
use rusqlite::ffi;

use crate::connection::statement::Statement;
use crate::connection::temp::TempBudget;
use crate::connection::{PrepareError, SegmentConnection, SqliteError};
use crate::error::QueryError;
use crate::metrics::{BYTES, IN_FLIGHT, QUERIES, ROWS, STOPPED};
use crate::pool::{Pool, Source, TakeError, Taken};
use crate::rows::json::JsonRows;
use crate::rows::{HeadSender, Sink, Unanswered};

pub mod control;

use control::Control;

/// How many steps of SQLite's machine go by between two looks at the clock: some 20 microseconds.
const OPS_BETWEEN_CHECKS: c_int = 1000;

/// What a query needs.
#[derive(Debug)]
pub struct Job {
    /// Which segment.
    pub id: SegmentId,
    /// Which file of it.
    pub source: Source,
    /// The statement.
    pub sql: Arc<str>,
    /// When to stop.
    pub control: Arc<Control>,
}

/// Counts a query that occupies a thread.
struct InFlight;

impl InFlight {
    fn begin() -> Self {
        gauge!(IN_FLIGHT).increment(1.0);
        Self
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        gauge!(IN_FLIGHT).decrement(1.0);
    }
}

/// Runs `job` and sends its first word, whatever it is, to `head`. Blocks; call it from a thread of tokio's
/// blocking pool.
pub fn run(job: &Job, pool: &Pool, head: HeadSender) {
    let _in_flight = InFlight::begin();
    let mut taken = match take(job, pool) {
        Ok(taken) => taken,
        // nobody there to hear it is as good
        Err(unanswered) => return drop(head.send(Err(unanswered))),
    };
    let mut sink = Sink::new(head, taken.shown.clone(), Arc::clone(&job.control));
    let failure = match answer(job, &mut taken.connection, &mut sink) {
        Ok(rows) => {
            // the next query need not wait for this one's client
            pool.give_back(taken);
            counter!(ROWS).increment(rows);
            match sink.finish() {
                Ok(sent_bytes) => counter!(BYTES).increment(sent_bytes),
                Err(_) if sink.nothing_sent() => drop(sink.fail(Unanswered::NotHere)),
                Err(error) => broken_off(job, &error),
            }
            return;
        }
        Err(failure) => failure,
    };
    // what failed may have failed for that: the file is gone, or another's
    let lent_no_more = matches!(failure, Failure::Stopped(QueryError::LentNoMore));
    if sink.nothing_sent() && (lent_no_more || !taken.shown.holds()) {
        pool.close_failed(taken);
        sink.fail(Unanswered::NotHere);
        return;
    }
    let refused = taken.connection.refused();
    match failure.is_of_the_file() {
        true => pool.close_failed(taken),
        false => pool.give_back(taken),
    }
    let try_again = match &failure {
        Failure::Sqlite(error) | Failure::Prepare(PrepareError::Sqlite(error)) => {
            // a file of this machine is not waited for
            job.source == Source::Copy && is_transient(error.primary()) && sink.nothing_sent()
        }
        Failure::Stopped(_) | Failure::Prepare(_) => false,
    };
    let error = failure.explain(job, refused);
    if try_again {
        sink.fail(Unanswered::MountAway(error.to_string()));
        return;
    }
    if sink.nothing_sent() {
        count_stop(&error);
        sink.fail(Unanswered::Failed(error));
    } else {
        broken_off(job, &error);
        // its sender goes without `End`
        drop(sink);
    }
}

fn take(job: &Job, pool: &Pool) -> Result<Taken, Unanswered> {
    // it may have waited long for this thread
    if let Err(error) = job.control.check(Instant::now()) {
        count_stop(&error);
        return Err(Unanswered::Failed(error));
    }
    match pool.take(&job.id, job.source) {
        Ok(Some(taken)) => Ok(taken),
        Ok(None) => Err(Unanswered::NotHere),
        Err(TakeError::Open(error)) if !is_transient(error.primary()) => {
            Err(Unanswered::Failed(Failure::Sqlite(error).explain(job, None)))
        }
        Err(
            error @ (TakeError::View(_)
            | TakeError::File { .. }
            | TakeError::Open(_)
            | TakeError::Changing),
        ) => Err(Unanswered::MountAway(error.to_string())),
    }
}

fn broken_off(job: &Job, error: &QueryError) {
    count_stop(error);
    counter!(QUERIES, "status" => "broken").increment(1);
    let error = error.to_string();
    tracing::info!(segment = %job.id, error, "an answer was broken off after its first byte");
}

/// Errors that a mount on its way out or back gives.
fn is_transient(primary: c_int) -> bool {
    matches!(primary, ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN)
}

fn count_stop(error: &QueryError) {
    let reason = match error {
        QueryError::TimeLimit { .. } => "time",
        QueryError::Cancelled | QueryError::SlowClient { .. } => "client_gone",
        QueryError::TempTooLarge { .. } => "temp_bytes",
        _ => return,
    };
    counter!(STOPPED, "reason" => reason).increment(1);
}

/// Why a query failed, before it is put into words.
enum Failure {
    /// It was stopped, or never could begin.
    Stopped(QueryError),
    /// The statement was not taken.
    Prepare(PrepareError),
    /// SQLite gave up on it.
    Sqlite(SqliteError),
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        Self::Stopped(error)
    }
}

impl Failure {
    /// Whether the connection is no good any more.
    fn is_of_the_file(&self) -> bool {
        let code = match self {
            Self::Stopped(_) => return false,
            Self::Prepare(PrepareError::Sqlite(error)) | Self::Sqlite(error) => error.primary(),
            Self::Prepare(_) => return false,
        };
        is_transient(code)
            || matches!(code, ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB | ffi::SQLITE_NOMEM)
            || self.is_of_the_log()
    }

    /// Whether the locks or the index of a log are not to be had, which has nothing to do with the statement.
    fn is_of_the_log(&self) -> bool {
        match self {
            Self::Prepare(PrepareError::Sqlite(error)) | Self::Sqlite(error) => {
                matches!(error.primary(), ffi::SQLITE_BUSY | ffi::SQLITE_PROTOCOL)
                    || matches!(
                        error.code,
                        ffi::SQLITE_READONLY_RECOVERY
                            | ffi::SQLITE_READONLY_CANTLOCK
                            | ffi::SQLITE_READONLY_CANTINIT
                    )
            }
            Self::Stopped(_) | Self::Prepare(_) => false,
        }
    }

    fn explain(self, job: &Job, refused: Option<String>) -> QueryError {
        let of_the_log = self.is_of_the_log();
        let error = match self {
            Self::Stopped(error) => return error,
            Self::Prepare(PrepareError::Sqlite(error)) | Self::Sqlite(error) => error,
            Self::Prepare(error @ PrepareError::Refused(_)) => {
                return QueryError::Refused(error.to_string());
            }
            Self::Prepare(
                error @ (PrepareError::Empty
                | PrepareError::Several
                | PrepareError::NulByte
                | PrepareError::Parameters(_)),
            ) => return QueryError::BadRequest(error.to_string()),
        };
        let id = job.id.clone();
        let reason = error.message.clone();
        match error.primary() {
            _ if of_the_log => QueryError::Storage { id, reason },
            ffi::SQLITE_AUTH => {
                let what = refused.unwrap_or(reason);
                QueryError::Refused(PrepareError::Refused(what).to_string())
            }
            ffi::SQLITE_READONLY => QueryError::Refused("the segment is read-only here".to_owned()),
            ffi::SQLITE_TOOBIG => QueryError::ValueTooLarge(reason),
            ffi::SQLITE_NOMEM => QueryError::ValueTooLarge("out of memory".to_owned()),
            ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB => QueryError::Damaged { id, reason },
            ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN | ffi::SQLITE_FULL => {
                QueryError::Storage { id, reason }
            }
            // how SQLite itself guards its schema and the tables beneath virtual ones; there is no code for it
            _ if reason.ends_with("may not be modified") => QueryError::Refused(reason),
            _ => QueryError::BadSql(reason),
        }
    }
}

/// Prepares, steps and writes; the number of rows.
fn answer(job: &Job, connection: &mut SegmentConnection, sink: &mut Sink) -> Result<u64, Failure> {
    let control = Arc::clone(&job.control);
    let watch = move || control.check(Instant::now()).is_err();
    // the handler is rusqlite's box, not the connection's state: it can be set before every query
    let set = connection.raw().progress_handler(OPS_BETWEEN_CHECKS, Some(watch));
    set.map_err(|error| Failure::Sqlite(error.into()))?;
    let budget = TempBudget::begin(job.control.limits().temp_bytes_max);
    let ended = match connection.prepare(&job.sql) {
        Ok(mut statement) => {
            let stepped = step(&mut statement, sink);
            connection.keep(&job.sql, statement);
            stepped
        }
        Err(error) => Err(Failure::Prepare(error)),
    };
    let cleared = connection.raw().progress_handler(0, None::<fn() -> bool>);
    cleared.map_err(|error| Failure::Sqlite(error.into()))?;
    let code = match &ended {
        Err(Failure::Sqlite(error) | Failure::Prepare(PrepareError::Sqlite(error))) => {
            error.primary()
        }
        _ => return ended,
    };
    // SQLite says only that it was interrupted, or that the disk is full
    if budget.exceeded() {
        let limit_bytes = job.control.limits().temp_bytes_max;
        return Err(Failure::Stopped(QueryError::TempTooLarge { limit_bytes }));
    }
    if code == ffi::SQLITE_INTERRUPT {
        job.control.check(Instant::now())?;
    }
    ended
}

fn step(statement: &mut Statement, sink: &mut Sink) -> Result<u64, Failure> {
    let mut rows = JsonRows::default();
    while let Some(row) = statement.step().map_err(Failure::Sqlite)? {
        rows.row(sink.buffer(), &row)?;
        sink.row_done()?;
    }
    rows.end(sink.buffer());
    Ok(rows.rows())
}
