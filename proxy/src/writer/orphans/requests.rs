//! Rows as requests to a writer, kept in a file until they are sent: what was rehearsed is what is sent.
//!
//! Invariants: a request has rows of one table, in the order in which they came, and stays within limits that every writer
//! takes, but for a row that is longer alone; every value is read as it was written.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row};
use tempfile::TempPath;

use super::super::files::Files;
use super::Difference;
use super::difference::{DifferenceError, Stop, compare, of_scratch, scratch};
use super::tables::Table;
use crate::writable::to_json;

/// Rows of a request: as many as `make bench` writes at once, far from what a request may take in time.
const ROWS_MAX: u64 = 1_000;
/// Bytes of a request: a sixteenth of what a writer takes by its defaults.
const BYTES_MAX: usize = 1 << 20;

/// What becomes of a row in whose place there is another, by a constraint of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// Nothing is put back at all.
    Stop,
    /// The other stays.
    Skip,
    /// The other goes.
    Replace,
}

impl OnConflict {
    fn verb(self) -> &'static str {
        match self {
            Self::Stop => "INSERT",
            Self::Skip => "INSERT OR IGNORE",
            Self::Replace => "INSERT OR REPLACE",
        }
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Of which table its rows are.
    pub table: String,
    /// How many.
    pub rows: u64,
    /// Its body, of type `application/json`.
    pub body: String,
}

/// All requests, in order.
#[derive(Debug)]
pub struct Requests {
    on_conflict: OnConflict,
    pending: Option<Request>,
    count: u64,
    rows: u64,
    database: Connection,
    /// Goes after the connection to it.
    _part: TempPath,
}

impl Requests {
    /// The requests that put back what `ours` has and `theirs` has not; and what that is.
    pub fn of_difference(
        files: &Files,
        ours: &std::path::Path,
        theirs: &std::path::Path,
        on_conflict: OnConflict,
        stop: &Stop,
    ) -> Result<(Self, Difference), DifferenceError> {
        let mut requests = Self::new(files, on_conflict)?;
        let mut each = |table: &Table, row: &Row<'_>| requests.push(table, row);
        let difference = compare(files, ours, Some(theirs), &Arc::clone(stop), &mut each)?;
        requests.flush()?;
        Ok((requests, difference))
    }

    fn new(files: &Files, on_conflict: OnConflict) -> Result<Self, DifferenceError> {
        let part = files.part()?;
        let open = || -> rusqlite::Result<Connection> {
            let database = scratch(&part)?;
            let sql =
                "CREATE TABLE requests (at INTEGER PRIMARY KEY, of TEXT, rows INTEGER, body TEXT)";
            database.execute_batch(sql)?;
            Ok(database)
        };
        let database = open().map_err(of_scratch)?;
        Ok(Self { on_conflict, pending: None, count: 0, rows: 0, database, _part: part })
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many rows they have together.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The one at `at`, from 0; `None` after the last.
    pub fn get(&self, at: u64) -> Result<Option<Request>, DifferenceError> {
        let sql = "SELECT of, rows, body FROM requests WHERE at = ?1";
        let read = |row: &Row<'_>| {
            Ok(Request { table: row.get(0)?, rows: row.get(1)?, body: row.get(2)? })
        };
        let found = self.database.prepare_cached(sql).and_then(|mut get| {
            let found = get.query_row([at], read);
            found.optional()
        });
        found.map_err(of_scratch)
    }

    fn push(&mut self, table: &Table, row: &Row<'_>) -> Result<(), DifferenceError> {
        let mut json = String::from("[");
        for at in 0..table.columns.len() {
            if at > 0 {
                json.push(',');
            }
            let value = row.get_ref(at).map_err(|error| error.to_string()).and_then(|value| {
                let not_text = "text that is not UTF-8, which JSON cannot carry";
                to_json(value).ok_or_else(|| not_text.to_owned())
            });
            let value = value.map_err(|reason| {
                let reason = format!("column {:?} has {reason}", table.columns[at]);
                DifferenceError::Row { table: table.name.clone(), reason }
            })?;
            json.push_str(&value);
        }
        json.push(']');
        let full = |pending: &Request| {
            pending.table != table.name
                || pending.rows == ROWS_MAX
                || pending.body.len() + json.len() + 3 > BYTES_MAX
        };
        if self.pending.as_ref().is_some_and(full) {
            self.flush()?;
        }
        match &mut self.pending {
            Some(pending) => {
                pending.body.push(',');
                pending.body.push_str(&json);
                pending.rows += 1;
            }
            None => {
                let marks = vec!["?"; table.columns.len()].join(", ");
                let sql = format!(
                    "{} INTO {} ({}) VALUES ({marks})",
                    self.on_conflict.verb(),
                    table.name_sql(),
                    table.columns_sql()
                );
                let sql = serde_json::Value::from(sql);
                let body = format!("{{\"sql\":{sql},\"rows\":[{json}");
                self.pending = Some(Request { table: table.name.clone(), rows: 1, body });
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), DifferenceError> {
        let Some(Request { table, rows, mut body }) = self.pending.take() else { return Ok(()) };
        body.push_str("]}");
        let sql = "INSERT INTO requests VALUES (?1, ?2, ?3, ?4)";
        let values = (self.count, table, rows, body);
        let added = self.database.prepare_cached(sql).and_then(|mut add| add.execute(values));
        added.map_err(of_scratch)?;
        self.count += 1;
        self.rows += rows;
        Ok(())
    }
}
