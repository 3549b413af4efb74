//! Why a segment is not open for writing, or is not published.

use fsd::segment::SegmentId;
use sync::publish::PublishError;
use sync::store::StoreError;

use super::files::FilesError;
use crate::writable::WriteError;

/// Why a segment could not be opened for writing. Nothing was changed that anybody relies on.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its lock, or its place in the deep store, could not be had.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// What is published could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is published is not a sound database.
    #[error(
        "{id} cannot be written, for what is published is damaged: {reason}; put a sound version first"
    )]
    Damaged {
        /// Which.
        id: SegmentId,
        /// What is wrong.
        reason: String,
    },
    /// What is published changed again and again.
    #[error("{0} was published anew each time while it was read; try again")]
    Changing(SegmentId),
    /// There is no such schema.
    #[error("there is no schema {0}; register it with PUT /schema/{0}/sql")]
    UnknownSchema(SegmentId),
    /// Its schema could not be made.
    #[error("make a segment by schema {schema}: {reason}")]
    Schema {
        /// Which.
        schema: SegmentId,
        /// What SQLite or the registry said.
        reason: String,
    },
    /// This machine's disk failed.
    #[error("{0}")]
    Disk(String),
    /// The files of writable segments.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// SQLite could not open it.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// What was written before is an orphan now: nothing is open.
    #[error(
        "what was written here to {0} was overtaken elsewhere, and is an orphan now; see `trough orphans list`"
    )]
    SetAside(SegmentId),
    /// So many are open that there is no place for one more.
    #[error(
        "{open_max} segments are open for writing here, as many as `write.open_max` allows; promote some, or raise it"
    )]
    TooMany {
        /// The limit.
        open_max: usize,
    },
    /// The writer is being stopped.
    #[error("the writer is stopping; ask again when it runs")]
    Stopping,
}

/// Why a segment was not published.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// It is not open for writing here.
    #[error("{0} is not open for writing here; provision it first")]
    NotOpen(SegmentId),
    /// A conflict was to be ended, and there is none.
    #[error(
        "nobody put another file where segment {0} is published, so there is nothing to choose from; what is written to \
         it is published as always"
    )]
    NoConflict(SegmentId),
    /// No copy could be made.
    #[error("copy the segment: {0}")]
    Copy(#[from] WriteError),
    /// The files of writable segments.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// It could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// It was published, and the others could not be told that nothing is unpublished.
    #[error(
        "it is published, but the registry still says that it is not: {0}; it is told again with the next promotion"
    )]
    Settle(WriteError),
}
