//! A prepared statement, straight on SQLite's C interface.
//!
//! Why not rusqlite's: its `prepare` calls itself once for every statement in the text before it says
//! that there is more than one, which a body of `SELECT 1;SELECT 1;...` turns into a stack overflow; and it
//! does not give the tail away.
//!
//! Invariant: a value read from a row lives no longer than the row does (`&mut self` to step).

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::NonNull;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ffi};

use super::SqliteError;

/// A prepared statement. It must not outlive its connection: [`super::SegmentConnection`] sees to that.
#[derive(Debug)]
pub(crate) struct Statement {
    raw: NonNull<ffi::sqlite3_stmt>,
}

impl Statement {
    /// Prepares the first statement of `sql`; with it the number of bytes that it takes up.
    pub fn prepare(
        connection: &Connection,
        sql: &str,
    ) -> Result<(Option<Self>, usize), SqliteError> {
        // SAFETY: only asked for its errors here, while `connection` is borrowed
        let database = unsafe { connection.handle() };
        let length = c_int::try_from(sql.len()).unwrap_or(c_int::MAX);
        let mut raw = std::ptr::null_mut();
        let mut tail: *const c_char = std::ptr::null();
        // SAFETY: the text is `length` bytes long, both results are written before the call returns
        let code = unsafe {
            ffi::sqlite3_prepare_v3(
                database,
                sql.as_ptr().cast(),
                length,
                ffi::SQLITE_PREPARE_PERSISTENT,
                &raw mut raw,
                &raw mut tail,
            )
        };
        if code != ffi::SQLITE_OK {
            return Err(last_error(database, code));
        }
        let used = (tail as usize).saturating_sub(sql.as_ptr() as usize).min(sql.len());
        Ok((NonNull::new(raw).map(|raw| Self { raw }), used))
    }

    /// Whether SQLite says that it does not write. True for ATTACH and PRAGMA as well: not a barrier alone.
    pub fn is_read_only(&self) -> bool {
        // SAFETY: the statement is alive
        unsafe { ffi::sqlite3_stmt_readonly(self.raw.as_ptr()) != 0 }
    }

    /// Whether it only tells how the statement would be run.
    pub fn is_explain(&self) -> bool {
        // SAFETY: the statement is alive
        unsafe { ffi::sqlite3_stmt_isexplain(self.raw.as_ptr()) != 0 }
    }

    /// How many values it wants bound.
    pub fn parameters(&self) -> c_int {
        // SAFETY: the statement is alive
        unsafe { ffi::sqlite3_bind_parameter_count(self.raw.as_ptr()) }
    }

    /// The place, from 1, of the parameter `name`, which may come without the sign before it.
    pub fn parameter(&self, name: &str) -> Option<usize> {
        let signs: &[&str] =
            if name.starts_with([':', '@', '$']) { &[""] } else { &[":", "@", "$"] };
        signs.iter().find_map(|sign| {
            let name = CString::new(format!("{sign}{name}")).ok()?;
            // SAFETY: the statement is alive, the name ends with a NUL byte
            let index =
                unsafe { ffi::sqlite3_bind_parameter_index(self.raw.as_ptr(), name.as_ptr()) };
            usize::try_from(index).ok().filter(|index| *index > 0)
        })
    }

    /// Binds `value` to the parameter at `index`, from 1.
    pub fn bind(&self, index: usize, value: ValueRef<'_>) -> Result<(), SqliteError> {
        let (raw, index) = (self.raw.as_ptr(), c_int::try_from(index).unwrap_or(c_int::MAX));
        // SAFETY: the statement is alive; SQLite copies what it is given (SQLITE_TRANSIENT) before the call returns
        let code = unsafe {
            match value {
                ValueRef::Null => ffi::sqlite3_bind_null(raw, index),
                ValueRef::Integer(value) => ffi::sqlite3_bind_int64(raw, index, value),
                ValueRef::Real(value) => ffi::sqlite3_bind_double(raw, index, value),
                ValueRef::Text(text) => ffi::sqlite3_bind_text64(
                    raw,
                    index,
                    text.as_ptr().cast(),
                    text.len() as u64,
                    ffi::SQLITE_TRANSIENT(),
                    ffi::SQLITE_UTF8 as u8,
                ),
                ValueRef::Blob(bytes) => ffi::sqlite3_bind_blob64(
                    raw,
                    index,
                    // a blob of no bytes is none of null
                    if bytes.is_empty() { c"".as_ptr().cast() } else { bytes.as_ptr().cast() },
                    bytes.len() as u64,
                    ffi::SQLITE_TRANSIENT(),
                ),
            }
        };
        match code {
            ffi::SQLITE_OK => Ok(()),
            // SAFETY: the statement is alive, so its connection is
            code => Err(last_error(unsafe { ffi::sqlite3_db_handle(raw) }, code)),
        }
    }

    /// How many columns a row has. It may change until the first row is there: with the schema of a file that is being
    /// written.
    pub fn columns(&self) -> usize {
        // SAFETY: the statement is alive
        usize::try_from(unsafe { ffi::sqlite3_column_count(self.raw.as_ptr()) }).unwrap_or(0)
    }

    /// The name of column `index`.
    pub fn column_name(&self, index: usize) -> String {
        let index = c_int::try_from(index).unwrap_or(c_int::MAX);
        // SAFETY: SQLite answers null for an index out of range; the name lives until the next call
        unsafe {
            let name = ffi::sqlite3_column_name(self.raw.as_ptr(), index);
            match name.is_null() {
                true => String::new(),
                false => CStr::from_ptr(name).to_string_lossy().into_owned(),
            }
        }
    }

    /// The next row, if there is one.
    pub fn step(&mut self) -> Result<Option<Row<'_>>, SqliteError> {
        // SAFETY: the statement is alive
        match unsafe { ffi::sqlite3_step(self.raw.as_ptr()) } {
            ffi::SQLITE_ROW => Ok(Some(Row(self))),
            ffi::SQLITE_DONE => Ok(None),
            code => {
                // SAFETY: the statement is alive, so its connection is
                let database = unsafe { ffi::sqlite3_db_handle(self.raw.as_ptr()) };
                Err(last_error(database, code))
            }
        }
    }

    /// Makes it ready to run again; `false` when its last run failed.
    pub fn reset(&self) -> bool {
        // SAFETY: the statement is alive
        unsafe { ffi::sqlite3_reset(self.raw.as_ptr()) == ffi::SQLITE_OK }
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        // SAFETY: the only owner; the connection is still open
        unsafe { ffi::sqlite3_finalize(self.raw.as_ptr()) };
    }
}

/// One row; gone with the next step.
#[derive(Debug)]
pub(crate) struct Row<'a>(&'a Statement);

impl Row<'_> {
    /// Which it is a row of.
    pub fn statement(&self) -> &Statement {
        self.0
    }

    /// The value of column `index`.
    pub fn value(&self, index: usize) -> ValueRef<'_> {
        let index = c_int::try_from(index).unwrap_or(c_int::MAX);
        let raw = self.0.raw.as_ptr();
        // SAFETY: the statement is on a row; each pointer is asked for before its length and lives until
        // the next step, which needs the statement that this row borrows
        unsafe {
            match ffi::sqlite3_column_type(raw, index) {
                ffi::SQLITE_INTEGER => ValueRef::Integer(ffi::sqlite3_column_int64(raw, index)),
                ffi::SQLITE_FLOAT => ValueRef::Real(ffi::sqlite3_column_double(raw, index)),
                ffi::SQLITE_TEXT => {
                    let start = ffi::sqlite3_column_text(raw, index);
                    ValueRef::Text(bytes(start, ffi::sqlite3_column_bytes(raw, index)))
                }
                ffi::SQLITE_BLOB => {
                    let start = ffi::sqlite3_column_blob(raw, index).cast();
                    ValueRef::Blob(bytes(start, ffi::sqlite3_column_bytes(raw, index)))
                }
                _ => ValueRef::Null,
            }
        }
    }
}

/// # Safety
/// `start` is null or the start of `length` bytes that live for `'a`.
unsafe fn bytes<'a>(start: *const u8, length: c_int) -> &'a [u8] {
    match (start.is_null(), usize::try_from(length)) {
        // SAFETY: as this function's
        (false, Ok(length)) => unsafe { std::slice::from_raw_parts(start, length) },
        _ => &[],
    }
}

/// Where in the text that was just prepared SQLite found its error, in bytes; `None` when that is at no one place.
pub(crate) fn error_at(connection: &Connection) -> Option<usize> {
    // SAFETY: the handle is open, and only asked
    usize::try_from(unsafe { ffi::sqlite3_error_offset(connection.handle()) }).ok()
}

fn last_error(database: *mut ffi::sqlite3, code: c_int) -> SqliteError {
    // SAFETY: the database is open; the message lives until the next call on it
    unsafe {
        let code = match ffi::sqlite3_extended_errcode(database) {
            extended if extended & 0xff == code & 0xff => extended,
            _ => code,
        };
        let message = CStr::from_ptr(ffi::sqlite3_errmsg(database)).to_string_lossy().into_owned();
        SqliteError { code, message }
    }
}
