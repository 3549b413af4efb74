//! What can go wrong in the cache, apart from a refused file ([`super::Refusal`]).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::ledger::LedgerError;
use crate::segment::SegmentId;

/// A call to the cache that failed. What was published before it stays published. Cloned where one failure
/// (a directory that cannot be synced) meets several items of a batch.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CacheError {
    /// Another process has this cache.
    #[error("open the cache {path}: it is in use by {holder}; stop that process first", path = path.display())]
    Locked {
        /// The cache directory.
        path: PathBuf,
        /// Who holds it: pid and start time.
        holder: String,
    },
    /// It is not there any more: moved or deleted, by somebody else, while it was in use.
    #[error(
        "use the cache: {path} was moved, replaced or deleted meanwhile; what was in it counts as lost, and whoever \
         opens the cache anew begins with what is there", path = path.display()
    )]
    Gone {
        /// What of it is missed.
        path: PathBuf,
    },
    /// The quota has no room.
    #[error(
        "stage segment {id}: {needed_bytes} bytes on top of {used_bytes} used are over the quota of \
         {quota_bytes} bytes; evict segments or raise `quota_bytes`"
    )]
    OverQuota {
        /// The segment.
        id: SegmentId,
        /// Its length.
        needed_bytes: u64,
        /// Objects and files being staged.
        used_bytes: u64,
        /// The quota.
        quota_bytes: u64,
    },
    /// The volume is full, whatever the quota says.
    #[error(
        "write {path}: the volume is full ({free_bytes} bytes free, {needed_bytes} needed); free some space \
         or lower `quota_bytes`", path = path.display()
    )]
    DiskFull {
        /// What was to be written.
        path: PathBuf,
        /// How many bytes it needs.
        needed_bytes: u64,
        /// How many the volume has free.
        free_bytes: u64,
    },
    /// More or fewer bytes came than were announced.
    #[error(
        "stage segment {id}: {got_bytes} bytes came where {expected_bytes} were announced; it changed while it \
         was read: start over"
    )]
    LengthDiffers {
        /// The segment.
        id: SegmentId,
        /// As announced.
        expected_bytes: u64,
        /// As it came; at least this many when too many came.
        got_bytes: u64,
    },
    /// The ledger failed. The files are as they should be; the next start sets the ledger right.
    #[error(transparent)]
    Ledger(Arc<LedgerError>),
    /// The file system failed.
    #[error("{attempted} {path}: {source}", path = path.display())]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// What came back.
        source: Arc<io::Error>,
    },
}

impl CacheError {
    /// The error of an attempt on `path`; a full volume becomes [`Self::DiskFull`], needing `needed_bytes`.
    pub(crate) fn io(
        attempted: &'static str,
        path: &Path,
        needed_bytes: u64,
        source: impl Into<io::Error>,
    ) -> Self {
        let (path, source) = (path.to_owned(), source.into());
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => {
                let free_bytes = super::disk::space(&path).map_or(0, |space| space.free_bytes);
                Self::DiskFull { path, needed_bytes, free_bytes }
            }
            _ => Self::Io { attempted, path, source: Arc::new(source) },
        }
    }

    /// The error of the ledger at `path`.
    pub(super) fn ledger(path: &Path, error: LedgerError) -> Self {
        if !error.is_disk_full() {
            return Self::Ledger(Arc::new(error));
        }
        let free_bytes = super::disk::space(path).map_or(0, |space| space.free_bytes);
        Self::DiskFull { path: path.to_owned(), needed_bytes: super::disk::BLOCK_BYTES, free_bytes }
    }
}
