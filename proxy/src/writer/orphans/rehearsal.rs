//! The requests tried on a private copy of what is published, before any of them is sent.
//!
//! Invariants: where a constraint, a limit or a trigger is in the way nothing is sent, and it is said in the way of which
//! row; what was rehearsed makes the difference go away, so that another replay sends nothing a second time.

use std::path::Path;

use rusqlite::types::ValueRef;

use super::super::files::Files;
use super::difference::{DifferenceError, Place, Stop, compare};
use super::requests::{OnConflict, Request, Requests};
use crate::writable::{Rehearsal, Row, RowsRequest, WritableSettings, WriteError, WriteRequest};

/// Characters of a value that are shown.
const VALUE_SHOWN: usize = 60;
/// Values of a row that are shown.
const VALUES_SHOWN: usize = 12;

/// What would come of sending the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rehearsed {
    /// Rows that stay out, for others are in their place: [`OnConflict::Skip`].
    pub skipped: u64,
}

/// Why the requests are not to be sent.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// A row is not taken.
    #[error("table {table:?} does not take the row {row}: {reason}")]
    Row {
        /// Which table.
        table: String,
        /// The row's values.
        row: String,
        /// What the writer would say.
        reason: String,
    },
    /// A row is longer than the writer takes.
    #[error(
        "a row of table {table:?} makes a request of {bytes} bytes, and `write.body_bytes_max` is {limit}; raise it on all \
         nodes that write"
    )]
    TooLong {
        /// Which table.
        table: String,
        /// How long it is.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// Rows are taken and become others.
    #[error(
        "rows of table {table:?} ({rows}) become others when they are inserted into what is published, by a trigger or by the \
         types of its columns; so they would be inserted again and again"
    )]
    NotKept {
        /// Which table.
        table: String,
        /// How many.
        rows: u64,
    },
    /// The copy cannot be written.
    #[error("rehearse on a private copy: {0}")]
    Copy(WriteError),
    /// The difference, before or after, is not known.
    #[error(transparent)]
    Difference(#[from] DifferenceError),
}

/// Tries `requests`, made to put back what `ours` has, on `copy`, which is changed by that.
pub fn rehearse(
    files: &Files,
    requests: &Requests,
    on_conflict: OnConflict,
    ours: &Path,
    copy: &Path,
    settings: &WritableSettings,
    stop: &Stop,
) -> Result<Rehearsed, RehearsalError> {
    run_all(requests, copy, settings, stop)?;
    if on_conflict != OnConflict::Skip {
        let after = compare(files, ours, Some(copy), stop, &mut |_, _| Ok(()))?;
        let left =
            |table: &&super::TableDifference| table.place == Place::There && table.missing > 0;
        return match after.tables.iter().find(left) {
            None => Ok(Rehearsed { skipped: 0 }),
            Some(left) => Err(not_kept(&left.table, left.missing)),
        };
    }
    // what is left was skipped, or it became something else: what was skipped is skipped again
    let (again, _) = Requests::of_difference(files, ours, copy, on_conflict, stop)?;
    match run_all(&again, copy, settings, stop)? {
        None => Ok(Rehearsed { skipped: again.rows() }),
        Some(table) => Err(not_kept(&table, again.rows())),
    }
}

fn not_kept(table: &str, rows: u64) -> RehearsalError {
    RehearsalError::NotKept { table: table.to_owned(), rows }
}

/// Runs them all; the first table of which something was changed.
fn run_all(
    requests: &Requests,
    copy: &Path,
    settings: &WritableSettings,
    stop: &Stop,
) -> Result<Option<String>, RehearsalError> {
    let mut rehearsal =
        Rehearsal::begin(copy, settings, Stop::clone(stop)).map_err(RehearsalError::Copy)?;
    let mut changed = None;
    let mut at = 0;
    while let Some(request) = requests.get(at)? {
        let bytes = request.body.len() as u64;
        if bytes > settings.body_bytes_max {
            let (table, limit) = (request.table, settings.body_bytes_max);
            return Err(RehearsalError::TooLong { table, bytes, limit });
        }
        let parsed = WriteRequest::from_json(request.body.as_bytes());
        let parsed = parsed.map_err(RehearsalError::Copy)?;
        match rehearsal.run(&parsed) {
            Ok(0) => {}
            Ok(_) => drop(changed.get_or_insert(request.table)),
            Err(WriteError::Closed(_)) => return Err(DifferenceError::Stopped.into()),
            Err(error) => return Err(find(&mut rehearsal, &request, parsed, error)),
        }
        at += 1;
    }
    rehearsal.end().map_err(RehearsalError::Copy)?;
    Ok(changed)
}

/// The row of `request` that is not taken: of a request that fails nothing is written, so its rows are tried one by one.
fn find(
    rehearsal: &mut Rehearsal,
    request: &Request,
    parsed: WriteRequest,
    error: WriteError,
) -> RehearsalError {
    let WriteRequest::Rows(RowsRequest { sql, rows }) = parsed else {
        return RehearsalError::Copy(error);
    };
    for row in rows.iter() {
        let one = WriteRequest::Rows(RowsRequest { sql: sql.clone(), rows: row.alone() });
        if let Err(error) = rehearsal.run(&one) {
            let reason = match error {
                WriteError::Sql(reason) => reason,
                error => error.to_string(),
            };
            return RehearsalError::Row { table: request.table.clone(), row: shown(&row), reason };
        }
    }
    // all of them are too much at once
    RehearsalError::Copy(error)
}

fn shown(row: &Row<'_>) -> String {
    let mut parts: Vec<_> = row.values().take(VALUES_SHOWN).map(value_shown).collect();
    if row.len() > VALUES_SHOWN {
        parts.push("…".to_owned());
    }
    format!("({})", parts.join(", "))
}

fn value_shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".to_owned(),
        ValueRef::Integer(value) => value.to_string(),
        ValueRef::Real(value) => format!("{value:?}"),
        ValueRef::Text(text) => {
            let text = String::from_utf8_lossy(text);
            let more = if text.chars().nth(VALUE_SHOWN).is_some() { "…" } else { "" };
            // no control character reaches a terminal
            format!("{:?}{more}", text.chars().take(VALUE_SHOWN).collect::<String>())
        }
        ValueRef::Blob(bytes) => format!("a blob of {} bytes", bytes.len()),
    }
}
