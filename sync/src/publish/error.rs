//! Why a segment was not published.
//!
//! Invariant: whatever went wrong, what was published before still shows, unless [`PublishError::Rename`] says
//! otherwise.

use std::path::PathBuf;

use fsd::segment::SegmentId;

use crate::registry::Epoch;
use crate::seal::SealError;
use crate::store::StoreError;
use crate::write_lock::{Ownership, WriteLockError};

/// Why a segment was not published. Unless [`Self::Rename`] says otherwise, what was published before is
/// still what shows.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The source cannot be read as a SQLite database.
    #[error("cannot read {path}: {reason}", path = path.display())]
    Source {
        /// The source.
        path: PathBuf,
        /// What came back, and what to do.
        reason: String,
    },
    /// SQLite's check of the copy did not say ok.
    #[error("{path} is damaged and was not published: {problems}; repair it with `sqlite3 .recover`", path = path.display())]
    Damaged {
        /// The source.
        path: PathBuf,
        /// The first things that SQLite found.
        problems: String,
    },
    /// The write lock could be neither had nor confirmed.
    #[error("cannot lock {id} for writing")]
    Lock {
        /// The segment.
        id: SegmentId,
        /// Why.
        source: WriteLockError,
    },
    /// Somebody else is publishing or writing it.
    #[error("{id} is locked by {holder}; wait for it to finish, or for its lock to run out")]
    HeldBy {
        /// The segment.
        id: SegmentId,
        /// Who.
        holder: String,
        /// Who, if it is the writer of a node.
        owner: Option<Box<Ownership>>,
    },
    /// The lock was lost on the way, or a later epoch was here already (S4).
    #[error(
        "the write lock of {id} was lost, by its time running out or to another publisher, at epoch {epoch}; nothing was published, try again"
    )]
    Fenced {
        /// The segment.
        id: SegmentId,
        /// The epoch that is over, or the later one that was found.
        epoch: Epoch,
    },
    /// What is published now could not be seen.
    #[error("cannot see what is published of {id} now")]
    Look {
        /// The segment.
        id: SegmentId,
        /// Why.
        source: StoreError,
    },
    /// An earlier publisher's staging directory could not be deleted, or ours not be made.
    #[error("cannot make a place to stage {id}")]
    Stage {
        /// The segment.
        id: SegmentId,
        /// Why.
        source: StoreError,
    },
    /// The copy could not be read again on its way.
    #[error("cannot read the copy of {id} that was checked: {error}; look at `publish.temp_dir`")]
    Copy {
        /// The segment.
        id: SegmentId,
        /// What came back.
        error: std::io::Error,
    },
    /// Its owner could not write down what is about to be published.
    #[error("cannot write down which version of {id} is being published: {error}")]
    Note {
        /// The segment.
        id: SegmentId,
        /// What came back.
        error: std::io::Error,
    },
    /// The copy could not be written to the staging directory.
    #[error("cannot write {id} to the deep store")]
    Upload {
        /// The segment.
        id: SegmentId,
        /// Why.
        source: StoreError,
    },
    /// What was written could not be read back.
    #[error("cannot read {id} back from the deep store")]
    ReadBack {
        /// The segment.
        id: SegmentId,
        /// Why.
        source: StoreError,
    },
    /// What was read back is not what was written.
    #[error(
        "{id} reads back from the deep store with other bytes than were written; look at the disks of its DataNodes"
    )]
    Differs {
        /// The segment.
        id: SegmentId,
    },
    /// No seal could be made.
    #[error("cannot seal {id}")]
    Seal {
        /// The segment.
        id: SegmentId,
        /// Why.
        source: SealError,
    },
    /// Somebody put another file at the final path meanwhile, without the lock.
    #[error(
        "{path} was changed by somebody else meanwhile ({found}); look at it, and put again, or, if it is open for \
         writing, say which is to stay with `trough resolve`"
    )]
    Conflict {
        /// The final path.
        path: String,
        /// What is there now.
        found: String,
    },
    /// The last step failed. It may happen all the same, late or while nobody can look; publishing again settles that.
    #[error("cannot move {id} to its final path; `trough status` shows which version is there")]
    Rename {
        /// The segment.
        id: SegmentId,
        /// Why.
        source: StoreError,
    },
}

impl PublishError {
    /// The step that failed, as metrics call it.
    pub fn step(&self) -> &'static str {
        match self {
            Self::Source { .. } => "source",
            Self::Damaged { .. } => "damaged",
            Self::Lock { .. } => "lock",
            Self::HeldBy { .. } => "held",
            Self::Fenced { .. } => "fenced",
            Self::Look { .. } => "look",
            Self::Stage { .. } => "stage",
            Self::Copy { .. } => "copy",
            Self::Note { .. } => "note",
            Self::Upload { .. } => "upload",
            Self::ReadBack { .. } => "read_back",
            Self::Differs { .. } => "differs",
            Self::Seal { .. } => "seal",
            Self::Conflict { .. } => "conflict",
            Self::Rename { .. } => "rename",
        }
    }
}
