//! Every way in which a query fails, and the one table from there to HTTP (DESIGN.md 8).
//!
//! Invariant: the tables below are exhaustive; a new failure does not compile before somebody has said
//! which status it is. A body is one line of text that says what to do.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use fsd::segment::SegmentId;
use sync::node::NodeName;

use crate::body::BodyError;
use crate::tokens::TokenRefused;

/// Why a query got no answer, or not the whole of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// The request itself cannot be understood.
    #[error("{0}")]
    BadRequest(String),
    /// The caller may not ask here.
    #[error(transparent)]
    Token(#[from] TokenRefused),
    /// SQLite does not take the statement, or it failed while it ran.
    #[error("{0}")]
    BadSql(String),
    /// A statement that a reader never runs.
    #[error("{0}")]
    Refused(String),
    /// The last complete listing of the pool did not have it.
    #[error("segment {0} is not in the pool; publish it with `trough put`, or check its name")]
    NotInPool(SegmentId),
    /// The query's time is used up.
    #[error(
        "the query did not end within {limit_ms} ms; narrow it, or raise `query_ms` (and `writable_read_ms`, if the segment is being written)"
    )]
    TimeLimit {
        /// The limit.
        limit_ms: u64,
    },
    /// The request's body did not come in time.
    #[error("the body did not arrive within {limit_ms} ms; send it at once")]
    SlowBody {
        /// The limit.
        limit_ms: u64,
    },
    /// The client took none of its answer for too long.
    #[error("the client took nothing of its answer for {limit_ms} ms")]
    SlowClient {
        /// The limit.
        limit_ms: u64,
    },
    /// More SQL than a body may have.
    #[error("the body is over {limit_bytes} bytes; send a shorter statement")]
    BodyTooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// The answer would be too long.
    #[error(
        "the answer is over {limit_bytes} bytes; ask for fewer rows or columns, or page through it"
    )]
    AnswerTooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// Sorting or grouping would fill the disk.
    #[error("the query wrote over {limit_bytes} bytes of temporary data; sort or group less")]
    TempTooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// One value, or what SQLite needs to make it, is too big.
    #[error("a value in the query is too big ({0}); make it in smaller pieces")]
    ValueTooLarge(String),
    /// The `Host` header names neither this server nor a segment.
    #[error(
        "host {0:?} is neither a name of this server nor a segment; use ?segment=ID and an address of the server"
    )]
    WrongHost(String),
    /// Too much to do.
    #[error("{running} queries are running and {queued} waiting; try again later")]
    Busy {
        /// How many may run at once.
        running: usize,
        /// How many may wait.
        queued: usize,
    },
    /// In the pool, but not to be read here now.
    #[error("segment {id} is in the pool but not held here now: {reason}")]
    NotHeld {
        /// Which.
        id: SegmentId,
        /// What the pool table says of it.
        reason: String,
    },
    /// Another reader asks, and this one does not have it (any more): only that other knows whom else to ask.
    #[error("segment {0} is not here")]
    NotHere(SegmentId),
    /// In the pool, and somebody has it, but nobody who does answers.
    #[error(
        "segment {id} is held by other nodes, and none of them answers now: {reason}; try again"
    )]
    NoAnswer {
        /// Which.
        id: SegmentId,
        /// What came of asking the last of them.
        reason: String,
    },
    /// Nobody has listed the pool yet.
    #[error(
        "segment {0} is not here, and the pool was never listed, so nobody can say whether it exists; is `trough sync local` running?"
    )]
    PoolUnknown(SegmentId),
    /// No mount to read from (S6).
    #[error("segment {id} cannot be read now: {reason}")]
    MountAway {
        /// Which.
        id: SegmentId,
        /// What stands at the mount point.
        reason: String,
    },
    /// The pool table could not be read.
    #[error("{0}")]
    Registry(String),
    /// The disk or the mount failed under the query.
    #[error("read segment {id}: {reason}; try again")]
    Storage {
        /// Which.
        id: SegmentId,
        /// What SQLite said.
        reason: String,
    },
    /// Its bytes are not a sound database.
    #[error("segment {id} is damaged: {reason}; publish it again")]
    Damaged {
        /// Which.
        id: SegmentId,
        /// What SQLite said.
        reason: String,
    },
    /// The node that writes it has what nobody else has, and cannot be asked.
    #[error(
        "segment {id} is being written by node {node}, and only that node has all of it; it cannot answer now: {reason}; try again"
    )]
    OwnerAway {
        /// Which.
        id: SegmentId,
        /// Which node has them.
        node: NodeName,
        /// What came of asking it.
        reason: String,
    },
    /// This node's writer has what nobody else has and may not let it be read, and who else writes it was not heard lately.
    #[error(
        "segment {0} has rows that only this node has, and its writer has no lock on it now, nor does the registry answer; try again"
    )]
    WriterAway(SegmentId),
    /// The pool does not have it, and nobody knows whether it is being written.
    #[error(
        "segment {0} is not in the pool, and the registry was not read yet, so nobody can say whether it is being written; try again"
    )]
    OwnersUnknown(SegmentId),
    /// The writer's lease ended before its answer began. Another way is tried then: nobody reads this.
    #[error("the segment may not be read from the file that it is written in any more")]
    LentNoMore,
    /// Its client is gone: nobody reads this.
    #[error("the client is gone")]
    Cancelled,
    /// A thread that should have answered ended without a word.
    #[error("the query ended without an answer; see the log")]
    Lost,
}

impl QueryError {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::BadSql(_) => StatusCode::BAD_REQUEST,
            Self::Token(refused) => refused.status(),
            Self::Refused(_) => StatusCode::FORBIDDEN,
            Self::NotInPool(_) => StatusCode::NOT_FOUND,
            Self::TimeLimit { .. } | Self::SlowBody { .. } | Self::SlowClient { .. } => {
                StatusCode::REQUEST_TIMEOUT
            }
            Self::BodyTooLarge { .. }
            | Self::AnswerTooLarge { .. }
            | Self::TempTooLarge { .. }
            | Self::ValueTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::WrongHost(_) | Self::NotHere(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::NotHeld { .. }
            | Self::NoAnswer { .. }
            | Self::PoolUnknown(_)
            | Self::MountAway { .. }
            | Self::Registry(_)
            | Self::Storage { .. }
            | Self::OwnerAway { .. }
            | Self::WriterAway(_)
            | Self::OwnersUnknown(_)
            | Self::LentNoMore
            | Self::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            Self::Damaged { .. } | Self::Lost => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether another copy of the segment may answer where this one does not.
    pub fn is_of_this_copy(&self) -> bool {
        matches!(self, Self::Storage { .. } | Self::Damaged { .. })
    }

    /// When it is worth asking again, in seconds; `None` when it is not.
    pub fn retry_after_s(&self) -> Option<u32> {
        match self {
            Self::Busy { .. }
            | Self::MountAway { .. }
            | Self::NoAnswer { .. }
            | Self::OwnerAway { .. }
            | Self::WriterAway(_)
            | Self::OwnersUnknown(_)
            | Self::LentNoMore
            | Self::Storage { .. } => Some(1),
            Self::Registry(_) | Self::Cancelled => Some(5),
            // the synchronizer's next look at the pool
            Self::NotHeld { .. } | Self::PoolUnknown(_) => Some(10),
            Self::BadRequest(_)
            | Self::Token(_)
            | Self::BadSql(_)
            | Self::Refused(_)
            | Self::NotInPool(_)
            | Self::TimeLimit { .. }
            | Self::SlowBody { .. }
            | Self::SlowClient { .. }
            | Self::BodyTooLarge { .. }
            | Self::AnswerTooLarge { .. }
            | Self::TempTooLarge { .. }
            | Self::ValueTooLarge(_)
            | Self::WrongHost(_)
            | Self::NotHere(_)
            | Self::Damaged { .. }
            | Self::Lost => None,
        }
    }
}

impl From<BodyError> for QueryError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge { limit_bytes } => Self::BodyTooLarge { limit_bytes },
            BodyError::Slow { limit_ms } => Self::SlowBody { limit_ms },
            BodyError::Broken(_) | BodyError::NotText => Self::BadRequest(error.to_string()),
        }
    }
}

impl IntoResponse for QueryError {
    fn into_response(self) -> Response {
        if let Self::Token(refused) = self {
            return refused.into_response();
        }
        // SQLite quotes the statement in its messages, line breaks and all
        let line = self.to_string().replace(['\n', '\r'], " ");
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        let mut response =
            (self.status(), [(CONTENT_TYPE, text)], format!("{line}\n")).into_response();
        if let Some(seconds) = self.retry_after_s() {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}
