//! Owning the mount point: settings, what may stand there, and the system calls that put a mount in place.
//!
//! Invariant (S5): fsd never unmounts anything but its own mount, a dead mount of trough, or the live mount
//! of the same cache that it is taking over. fuser is given a bare device and owns no mount.
//!
//! Left out: serving the files ([`crate::filesystem`]) and when to mount ([`crate::daemon`]).

pub mod attach;
pub mod bare;
pub mod probe;
pub mod table;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file system type that `/proc/mounts` shows for a trough mount.
pub const FS_TYPE: &str = "fuse.trough";

/// Whether a feature of the kernel is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Feature {
    /// Used where the kernel has it.
    Auto,
    /// Never used.
    Off,
}

/// The settings of the mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MountSettings {
    /// Where the segments show; created if missing, must be empty.
    pub mountpoint: PathBuf,
    /// Reads go from the kernel to the object without fsd (Linux 6.9 and CAP_SYS_ADMIN).
    pub passthrough: Feature,
    /// A new fsd slides its mount under the old one, so that no open fails (Linux 6.5).
    pub beneath: Feature,
    /// How long the kernel may remember that a name is absent, seconds.
    pub negative_ttl_s: u64,
    /// How long the kernel may remember a name and its attributes, seconds.
    pub entry_ttl_s: u64,
    /// Threads that answer the kernel.
    pub threads: usize,
    /// The FUSE device node.
    pub fuse_device: PathBuf,
    /// Makes the bare directory below the mount immutable while fsd runs, where that is permitted.
    pub mountpoint_immutable: bool,
    /// Tells the kernel of changed names. `off` is for tests: an open is right without it, while a
    /// `stat` and an absent name are not.
    pub invalidation: Feature,
}

impl Default for MountSettings {
    fn default() -> Self {
        Self {
            mountpoint: PathBuf::from("/var/lib/trough/mount"),
            passthrough: Feature::Auto,
            beneath: Feature::Auto,
            negative_ttl_s: 3600,
            entry_ttl_s: 3600,
            threads: 4,
            fuse_device: PathBuf::from("/dev/fuse"),
            mountpoint_immutable: true,
            invalidation: Feature::Auto,
        }
    }
}

/// The most threads that may answer the kernel: each has a 16 MiB buffer of address space.
pub const THREADS_MAX: usize = 64;

impl MountSettings {
    /// Refuses what no mount can be made of.
    pub fn check(&self) -> Result<(), MountError> {
        let wrong = |what| Err(MountError::Setting { what });
        if !self.mountpoint.is_absolute() {
            return wrong(format!(
                "mountpoint {:?} is not an absolute path",
                self.mountpoint.display().to_string()
            ));
        }
        if !(1..=THREADS_MAX).contains(&self.threads) {
            return wrong(format!("threads is {}; it must be 1 to {THREADS_MAX}", self.threads));
        }
        Ok(())
    }
}

/// Why the mount could not be made, kept or taken over.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A setting has a value that cannot work.
    #[error("bad mount setting: {what}")]
    Setting {
        /// Which, and what it may be.
        what: String,
    },
    /// Files below a mount would be hidden by it.
    #[error("mount point {path} is not empty ({entry:?} is in it); choose an empty directory or move its files away", path = path.display())]
    NotEmpty {
        /// The mount point.
        path: PathBuf,
        /// One of the names found.
        entry: String,
    },
    /// Another fsd is at it.
    #[error("another process has been placing a mount at {path} for over {limit:?}; look for a second `trough fsd`", path = path.display())]
    Busy {
        /// The mount point.
        path: PathBuf,
        /// How long was waited.
        limit: std::time::Duration,
    },
    /// Something that is not trough's is mounted there.
    #[error("{path} already has a mount of {fs_type} from {source_name:?}; unmount it or choose another mount point", path = path.display())]
    Foreign {
        /// The mount point.
        path: PathBuf,
        /// Its file system type.
        fs_type: String,
        /// What it is mounted from.
        source_name: String,
    },
    /// A running fsd shows another cache there.
    #[error("{path} shows another cache ({source_name}, this one is {ours}); stop that fsd or choose another mount point", path = path.display())]
    OtherCache {
        /// The mount point.
        path: PathBuf,
        /// The cache mounted now.
        source_name: String,
        /// The cache that was to be mounted.
        ours: String,
    },
    /// More mounts lie on each other than a repair should touch.
    #[error("more than {limit} mounts lie on {path}; unmount them by hand", path = path.display())]
    TooManyLayers {
        /// The mount point.
        path: PathBuf,
        /// How many were removed before giving up.
        limit: usize,
    },
    /// A system call failed.
    #[error("{what} {path}: {source}", path = path.display())]
    System {
        /// What was attempted, as a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// The kernel ended the connection although the mount still stands.
    #[error("the kernel ended the connection of the mount at {path} ({cause}); start fsd again", path = path.display())]
    Aborted {
        /// The mount point.
        path: PathBuf,
        /// What the session ended with.
        cause: String,
    },
    /// Somebody unmounted it.
    #[error("{path} was unmounted by somebody else; start fsd again to mount it", path = path.display())]
    Unmounted {
        /// The mount point.
        path: PathBuf,
    },
    /// The cache cannot be watched any longer.
    #[error("watching {path} for published segments ended: {source}", path = path.display())]
    Watch {
        /// The directory of published names.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
}

impl MountError {
    /// Wraps the failure of `what` on `path`.
    pub(crate) fn system(
        what: &'static str,
        path: &Path,
    ) -> impl Fn(rustix::io::Errno) -> Self + Copy {
        move |errno| Self::System { what, path: path.to_owned(), source: errno.into() }
    }

    /// Wraps the failure of `what` on `path`.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        move |source| Self::System { what, path: path.to_owned(), source }
    }
}

/// What `/proc/mounts` names as the source of the mount that shows the cache at `cache_dir`.
///
/// fsd knows its own mounts, and those of other caches, by it.
pub fn source_name(cache_dir: &Path) -> Result<String, MountError> {
    let canonical = cache_dir.canonicalize().map_err(MountError::io("resolve", cache_dir))?;
    Ok(format!("trough:{}", canonical.display()))
}
