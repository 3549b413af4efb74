//! Every way in which a write fails, and whether it may have happened all the same.
//!
//! Invariant: an error other than [`WriteError::Unknown`] and [`WriteError::Disk`] means that nothing of the request is in the segment, and
//! never will be. The table from here to HTTP is in [`crate::writer`].

use rusqlite::ffi;

use crate::connection::SqliteError;

/// Why a write was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The request itself cannot be understood.
    #[error("{0}")]
    BadRequest(String),
    /// There is no statement in it.
    #[error("there is no statement in the body; send INSERT or UPDATE")]
    Empty,
    /// A request with values has one statement for them.
    #[error(
        "there is more than one statement, and values for one; send the statements as a script without values, or one \
         by one"
    )]
    Several,
    /// A byte that SQL text never has.
    #[error("there is a NUL byte in the SQL; remove it, or bind the text as a value")]
    NulByte,
    /// Values and parameters do not fit.
    #[error("{0}")]
    Parameters(String),
    /// SQLite does not take a statement, or it failed while it ran.
    #[error("{0}; nothing of this request was written")]
    Sql(String),
    /// A statement that this segment's writer does not run.
    #[error("{0}")]
    Refused(String),
    /// A value, a statement or the whole is too big.
    #[error("{0}")]
    TooLarge(String),
    /// The request's time is used up.
    #[error(
        "the request did not end within {limit_ms} ms, and nothing of it was written; send less at once, or raise \
         `write_ms`"
    )]
    TimeLimit {
        /// The limit.
        limit_ms: u64,
    },
    /// Too much to do.
    #[error("{waiting} writes of this segment are waiting already; try again later")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// The disk or the segment's share of it is full.
    #[error("there is no room for it: {0}; free space on the writer's disk, or promote")]
    Full(String),
    /// It is not written here (any more).
    #[error("the segment is not open for writing here: {0}; provision it again")]
    Closed(String),
    /// It may have been written, and nobody knows.
    #[error("whether this was written is not known: {0}; look before you send it again")]
    Unknown(String),
    /// The disk failed; what was on its way to it may be there or not.
    #[error("the disk under the segment failed: {0}; look before you send this again")]
    Disk(String),
    /// The segment's file is not a sound database.
    #[error("the segment is damaged: {0}")]
    Damaged(String),
}

impl WriteError {
    /// What SQLite's answer means for a request that was rolled back.
    pub(super) fn of_sqlite(error: &SqliteError) -> Self {
        let reason = error.message.clone();
        match error.primary() {
            ffi::SQLITE_TOOBIG => {
                Self::TooLarge(format!("a value or the statement is too big ({reason})"))
            }
            ffi::SQLITE_NOMEM => Self::TooLarge("out of memory; send less at once".to_owned()),
            ffi::SQLITE_FULL => Self::Full(reason),
            ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN | ffi::SQLITE_PROTOCOL => Self::Disk(reason),
            ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB => Self::Damaged(reason),
            // how SQLite itself guards its schema and the tables beneath virtual ones; there is no code for it
            _ if reason.ends_with("may not be modified") => Self::Refused(reason),
            _ => Self::Sql(reason),
        }
    }
}
