//! What the reader needs of the mount, as a trait: tests put a directory in its place.
//!
//! Invariant: the only implementation outside the tests is [`MountView`], which asks for FUSE before it
//! answers (S6), and [`crate::reader::run`] takes nothing else.

use std::fmt;
use std::path::PathBuf;

use fsd::segment::{Digest, SegmentId};
use fsd::view::{MountState, MountView, Seen, ViewError};

/// The mount. Every call may block: use it from a thread that may wait.
pub trait Mount: fmt::Debug + Send + Sync {
    /// Where the segment's file is, if it is there.
    fn path(&self, id: &SegmentId) -> PathBuf;
    /// What stands at the mount point.
    fn state(&self) -> MountState;
    /// Device, inode and length; `None` only when a live mount says that it is not there.
    fn stat(&self, id: &SegmentId) -> Result<Option<Seen>, ViewError>;
    /// The digest that the mount names; never that of an older version.
    fn digest(&self, id: &SegmentId) -> Result<Option<Digest>, ViewError>;
}

impl Mount for MountView {
    fn path(&self, id: &SegmentId) -> PathBuf {
        self.path(id)
    }
    fn state(&self) -> MountState {
        self.state()
    }
    fn stat(&self, id: &SegmentId) -> Result<Option<Seen>, ViewError> {
        self.stat(id)
    }
    fn digest(&self, id: &SegmentId) -> Result<Option<Digest>, ViewError> {
        self.digest(id)
    }
}
