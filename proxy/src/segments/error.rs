//! Every way in which an order to the segment manager fails, and the one table from there to HTTP (DESIGN.md 8).
//!
//! Invariant: the tables below are exhaustive; a new failure does not compile before somebody has said which status it
//! is. A body is one line of text that says what to do.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use fsd::segment::SegmentId;
use serde::{Deserialize, Serialize};
use sync::schemas::SchemasError;

use crate::body::BodyError;
use crate::schema::SchemaError;

/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ManageError {
    /// The request itself cannot be understood.
    #[error("{0}")]
    BadRequest(String),
    /// The script of a schema does not run in an empty database.
    #[error("schema {id} is not registered: {reason}")]
    BadSchema {
        /// Which.
        id: SegmentId,
        /// What is wrong, and where.
        reason: String,
    },
    /// A new segment was to begin with a schema that nobody registered.
    #[error("there is no schema {0}; register it with PUT /schema/{0}/sql, or check its name")]
    UnknownSchema(SegmentId),
    /// A schema was asked for that nobody registered.
    #[error("there is no schema {0}; GET /schema lists those that there are")]
    NoSuchSchema(SegmentId),
    /// No such segment, anywhere.
    #[error("there is no segment {0}; check its name")]
    NotFound(SegmentId),
    /// The segment is being written: it is not deleted under its writer.
    #[error(
        "segment {id} is locked for writing by {holder}; promote it, and delete it when its lock is given back"
    )]
    Locked {
        /// Which.
        id: SegmentId,
        /// Who writes it.
        holder: String,
    },
    /// Nobody writes the segment, so there is nothing to promote.
    #[error(
        "segment {0} is not writable anywhere, so it has nothing to promote; provision it first"
    )]
    NotWritable(SegmentId),
    /// What is published is not what was written on top of, or two orders contradict each other.
    #[error("segment {id}: {reason}")]
    Conflict {
        /// Which.
        id: SegmentId,
        /// What contradicts what, and what to do.
        reason: String,
    },
    /// Who holds the segment's writes does not answer, and its writes are not to be left behind yet.
    #[error(
        "segment {id} is held for writing by {holder}, which does not answer: {reason}; try again"
    )]
    HolderAway {
        /// Which.
        id: SegmentId,
        /// Who holds it.
        holder: String,
        /// What came of asking, and when another may take it over.
        reason: String,
    },
    /// No node has room for the segment.
    #[error("no node has room for segment {id}: {reason}; add a node, or raise a quota")]
    NoRoom {
        /// Which.
        id: SegmentId,
        /// How much is missing where.
        reason: String,
    },
    /// Another node must be asked.
    #[error("{reason}")]
    Elsewhere {
        /// Who leads, or that nobody does now.
        reason: String,
    },
    /// What another manager said to whom the order was passed on.
    #[error("{reason}")]
    Passed {
        /// The HTTP status that it had there.
        status: u16,
        /// Its words.
        reason: String,
    },
    /// So many schemas are being looked at that this one was not in time.
    #[error("{0} schemas are being looked at already; try again")]
    Busy(usize),
    /// The writer of this machine does not answer.
    #[error("{0}")]
    WriterAway(String),
    /// The registry does not answer.
    #[error("{0}")]
    Registry(String),
    /// The deep store does not answer.
    #[error("{0}")]
    Store(String),
    /// The request's body did not come in time.
    #[error("{0}")]
    SlowBody(String),
    /// More than a body may have.
    #[error("{0}")]
    BodyTooLarge(String),
    /// A defect or damage: a person has to look.
    #[error("{0}; see the log")]
    Internal(String),
}

impl ManageError {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_)
            | Self::BadSchema { .. }
            | Self::UnknownSchema(_)
            | Self::Locked { .. } => StatusCode::BAD_REQUEST,
            Self::NotFound(_) | Self::NoSuchSchema(_) => StatusCode::NOT_FOUND,
            Self::SlowBody(_) => StatusCode::REQUEST_TIMEOUT,
            Self::NotWritable(_) | Self::Conflict { .. } => StatusCode::CONFLICT,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Elsewhere { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::HolderAway { .. }
            | Self::Busy(_)
            | Self::WriterAway(_)
            | Self::Registry(_)
            | Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoRoom { .. } => StatusCode::INSUFFICIENT_STORAGE,
            Self::Passed { status, .. } => match StatusCode::from_u16(*status) {
                Ok(status) if status.is_client_error() || status.is_server_error() => status,
                // what no manager says
                Ok(_) | Err(_) => StatusCode::BAD_GATEWAY,
            },
        }
    }

    /// When it is worth asking again, in seconds; `None` when it is not.
    pub fn retry_after_s(&self) -> Option<u32> {
        match self {
            Self::Busy(_) => Some(1),
            Self::HolderAway { .. } | Self::WriterAway(_) | Self::Registry(_) | Self::Store(_) => {
                Some(5)
            }
            Self::Passed { .. } => (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(5),
            Self::BadRequest(_)
            | Self::BadSchema { .. }
            | Self::UnknownSchema(_)
            | Self::NoSuchSchema(_)
            | Self::NotFound(_)
            | Self::Locked { .. }
            | Self::NotWritable(_)
            | Self::Conflict { .. }
            | Self::NoRoom { .. }
            | Self::Elsewhere { .. }
            | Self::SlowBody(_)
            | Self::BodyTooLarge(_)
            | Self::Internal(_) => None,
        }
    }

    /// Of a script that was to be schema `id`.
    pub(super) fn of_script(id: &SegmentId, error: &SchemaError) -> Self {
        match error.is_of_script() {
            true => Self::BadSchema { id: id.clone(), reason: error.to_string() },
            false => Self::Internal(error.to_string()),
        }
    }
}

impl From<BodyError> for ManageError {
    fn from(error: BodyError) -> Self {
        let text = error.to_string();
        match error {
            BodyError::TooLarge { .. } => Self::BodyTooLarge(text),
            BodyError::Slow { .. } => Self::SlowBody(text),
            BodyError::Broken(_) | BodyError::NotText => Self::BadRequest(text),
        }
    }
}

impl From<SchemasError> for ManageError {
    fn from(error: SchemasError) -> Self {
        let text = error.to_string();
        match error {
            SchemasError::TooLong { .. } => Self::BadRequest(text),
            SchemasError::NotUnderstood { .. } => Self::Internal(text),
            SchemasError::Contended(_) | SchemasError::Kv(_) => Self::Registry(text),
        }
    }
}

impl IntoResponse for ManageError {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            tracing::warn!(%status, error = %self, "an order was not carried out");
        }
        // SQLite quotes the script in its messages, line breaks and all
        let line = self.to_string().replace(['\n', '\r'], " ");
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        let mut response = (status, [(CONTENT_TYPE, text)], format!("{line}\n")).into_response();
        if let Some(seconds) = self.retry_after_s() {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}
