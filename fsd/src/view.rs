//! The mount as other processes see it: is it there, and which version does a name show.
//!
//! Invariant (S6): an absent mount is never mistaken for an absent segment. Every answer here first asks
//! whether the path is on FUSE, because the bare directory below says ENOENT to everything, and asks it
//! through a handle on that mount, because a mount may come or go between two calls.
//!
//! All calls are system calls that a hung fsd can block: call them from a thread that may wait.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::segment::{Digest, SegmentId};

/// `FUSE_SUPER_MAGIC` of `linux/magic.h`.
const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;

/// The extended attribute that holds the version's digest.
pub const XATTR_BLAKE3: &str = "user.trough.blake3";
/// The extended attribute that holds length and mtime in the deep store.
pub const XATTR_VERSION: &str = "user.trough.version";
/// The extended attribute that holds the path in the deep store.
pub const XATTR_SOURCE: &str = "user.trough.source";
/// The extended attribute that holds when the bytes were last verified.
pub const XATTR_VERIFIED_AT: &str = "user.trough.verified_at";

/// What stands at the mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountState {
    /// A FUSE mount that answers.
    Live,
    /// A bare directory, or nothing: fsd has not mounted yet, or is gone cleanly.
    Absent,
    /// A mount whose daemon is gone (ENOTCONN, ECONNABORTED).
    Dead,
}

/// One segment as the mount shows it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Device number of the mount.
    pub dev: u64,
    /// Inode number: one (id, digest) for ever.
    pub ino: u64,
    /// Length in bytes.
    pub length: u64,
}

/// Why the mount could not say.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// No live mount: nothing can be said of any segment.
    #[error("{path} is not a live trough mount ({state:?}); is `trough fsd` running?", path = path.display())]
    NotMounted {
        /// The mount point.
        path: PathBuf,
        /// What stands there.
        state: MountState,
    },
    /// The mount answered with another error.
    #[error("look at {path} through the mount: {source}", path = path.display())]
    Io {
        /// The file looked at.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
}

/// The read-only view of one mount point.
#[derive(Debug, Clone)]
pub struct MountView {
    root: PathBuf,
}

impl MountView {
    /// The mount at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The mount point.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the segment's file is, if it is there.
    pub fn path(&self, id: &SegmentId) -> PathBuf {
        self.root.join(id.file_name())
    }

    /// What stands at the mount point.
    pub fn state(&self) -> MountState {
        match self.pin() {
            Ok(_) => MountState::Live,
            Err(state) => state,
        }
    }

    /// The segment's device, inode and length; `None` when a live mount says that it is not there.
    pub fn stat(&self, id: &SegmentId) -> Result<Option<Seen>, ViewError> {
        let path = self.path(id);
        match std::fs::metadata(&path) {
            Ok(meta) => Ok(Some(Seen { dev: meta.dev(), ino: meta.ino(), length: meta.len() })),
            // the bare directory says so too: ask again where only a live mount can answer
            Err(_) => self.stat_pinned(id),
        }
    }

    /// The digest that the mount names for the segment; `None` when it is not there.
    ///
    /// The file is opened for this, and an open never shows an old version: the answer is current even
    /// where a cached `stat` is not, and the open refreshes that `stat` for everybody.
    pub fn digest(&self, id: &SegmentId) -> Result<Option<Digest>, ViewError> {
        let path = self.path(id);
        let fail = |errno: Errno| self.failure(errno, &path);
        let mount = self.pin().map_err(|state| self.not_mounted(state))?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&mount, id.file_name(), flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(fail(errno)),
        };
        let mut buffer = [0_u8; 64];
        let length = rustix::fs::fgetxattr(&file, XATTR_BLAKE3, &mut buffer[..]).map_err(fail)?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        let invalid = |error| ViewError::Io { path: path.clone(), source: io::Error::other(error) };
        text.parse().map(Some).map_err(invalid)
    }

    fn stat_pinned(&self, id: &SegmentId) -> Result<Option<Seen>, ViewError> {
        let mount = self.pin().map_err(|state| self.not_mounted(state))?;
        match rustix::fs::statat(&mount, id.file_name(), AtFlags::empty()) {
            Ok(stat) => Ok(Some(Seen {
                dev: stat.st_dev,
                ino: stat.st_ino,
                length: u64::try_from(stat.st_size).unwrap_or(0),
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failure(errno, &self.path(id))),
        }
    }

    /// A handle on the mount's root that stays on this mount whatever is mounted or unmounted later.
    fn pin(&self) -> Result<OwnedFd, MountState> {
        let state = |errno| match errno {
            Errno::NOTCONN | Errno::CONNABORTED => MountState::Dead,
            _ => MountState::Absent,
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.root, flags, Mode::empty()).map_err(state)?;
        match rustix::fs::fstatfs(&root).map_err(state)?.f_type {
            FUSE_SUPER_MAGIC => Ok(root),
            _ => Err(MountState::Absent),
        }
    }

    fn not_mounted(&self, state: MountState) -> ViewError {
        ViewError::NotMounted { path: self.root.clone(), state }
    }

    fn failure(&self, errno: Errno, path: &Path) -> ViewError {
        match errno {
            Errno::NOTCONN | Errno::CONNABORTED => self.not_mounted(MountState::Dead),
            _ => ViewError::Io { path: path.to_owned(), source: errno.into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_directory_never_says_that_a_segment_is_absent() {
        let directory = tempfile::tempdir().unwrap();
        let view = MountView::new(directory.path());
        let id = SegmentId::new("ohio").unwrap();
        assert_eq!(view.state(), MountState::Absent);
        assert!(matches!(view.stat(&id), Err(ViewError::NotMounted { .. })));
        assert!(matches!(view.digest(&id), Err(ViewError::NotMounted { .. })));
    }
}
