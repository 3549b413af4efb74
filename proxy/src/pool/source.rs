//! Where an answer comes from: a copy that the mount shows, or the file that this node's writer writes.
//!
//! Invariant (S4): the writable file is there only while the writer's lease on it holds, at every look.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use fsd::segment::{Digest, SegmentId};
use fsd::view::Seen;
use rusqlite::ffi;

use super::TakeError;
use crate::connection::{SegmentConnection, SqliteError, SqliteSettings};
use crate::lease::{Leases, Lent};
use crate::mount::Mount;

/// Which file of a segment answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A published version, through the mount.
    Copy,
    /// What this node's writer writes.
    Writable,
}

/// What an answer shows.
#[derive(Debug, Clone)]
pub enum Shown {
    /// A published version.
    Version(Digest),
    /// What is being written, while that is lent.
    Writable(Lent),
}

impl Shown {
    /// Whether an answer that has not begun may begin now. A copy is what it is; what is being written may be so somewhere
    /// else by now.
    pub fn holds(&self) -> bool {
        match self {
            Self::Version(_) => true,
            Self::Writable(lent) => lent.path().is_some(),
        }
    }
}

/// Where segments are found.
#[derive(Debug)]
pub struct Sources {
    /// Copies.
    pub mount: Arc<dyn Mount>,
    /// Writable files; `None` where nothing is written.
    pub leases: Option<Leases>,
    /// How both are opened.
    pub sqlite: SqliteSettings,
}

impl Sources {
    /// Which file it is now; `None` when it is not there, or may not be read. Blocks.
    pub(super) fn stat(&self, id: &SegmentId, source: Source) -> Result<Option<Seen>, TakeError> {
        let path = match source {
            Source::Copy => return Ok(self.mount.stat(id)?),
            Source::Writable => self.leases.as_ref().and_then(|leases| leases.path(id)),
        };
        let Some(path) = path else { return Ok(None) };
        match std::fs::metadata(&path) {
            // it grows, and is the same
            Ok(file) => Ok(Some(Seen { dev: file.dev(), ino: file.ino(), length: 0 })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TakeError::File { path, error }),
        }
    }

    /// What it shows now; `None` when it is not there. Blocks.
    pub(super) fn shown(&self, id: &SegmentId, source: Source) -> Result<Option<Shown>, TakeError> {
        Ok(match source {
            Source::Copy => self.mount.digest(id)?.map(Shown::Version),
            Source::Writable => {
                self.leases.as_ref().map(|leases| Shown::Writable(leases.lent(id.clone())))
            }
        })
    }

    /// Opens it. Blocks.
    pub(super) fn open(
        &self,
        id: &SegmentId,
        source: Source,
    ) -> Result<SegmentConnection, SqliteError> {
        if source == Source::Copy {
            return SegmentConnection::open(&self.mount.path(id), &self.sqlite);
        }
        match self.leases.as_ref().and_then(|leases| leases.path(id)) {
            Some(path) => SegmentConnection::open_writable(&path, &self.sqlite),
            None => {
                let message = "it may not be read here any more".to_owned();
                Err(SqliteError { code: ffi::SQLITE_CANTOPEN, message })
            }
        }
    }
}
