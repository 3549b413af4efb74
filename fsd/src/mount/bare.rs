//! The bare directory below the mount.
//!
//! Invariant (S6): while fsd is meant to run, the directory under its mount takes no file and shows none,
//! so a reader that meets it for a moment cannot create a database there. A clean stop gives it back.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::IFlags;
use tracing::{debug, warn};

use super::MountError;

/// The directory's mode while fsd runs.
const MODE_RUNNING: u32 = 0o000;
/// The directory's mode after a clean stop.
const MODE_STOPPED: u32 = 0o755;

/// The canonical path of the mount point, whose parents are created if they are missing.
///
/// The last component is not looked into: a dead mount may stand there.
pub fn resolve(mountpoint: &Path) -> Result<PathBuf, MountError> {
    let (Some(parent), Some(name)) = (mountpoint.parent(), mountpoint.file_name()) else {
        let what = format!("mountpoint {:?} has no last component", mountpoint.display());
        return Err(MountError::Setting { what });
    };
    std::fs::create_dir_all(parent).map_err(MountError::io("create", parent))?;
    let path = parent.canonicalize().map_err(MountError::io("resolve", parent))?.join(name);
    match std::fs::create_dir(&path) {
        Ok(()) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(path),
        Err(error) => Err(MountError::io("create", &path)(error)),
    }
}

/// The protected directory; dropping it gives the directory back, unless [`Protected::keep`] was called.
#[derive(Debug)]
pub struct Protected {
    path: Option<PathBuf>,
}

impl Protected {
    /// Leaves the directory protected: a mount stands on it now.
    pub fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for Protected {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            release(path);
        }
    }
}

/// Checks that the bare directory is empty and protects it.
pub fn protect(path: &Path, immutable: bool) -> Result<Protected, MountError> {
    let io = |what| MountError::io(what, path);
    let meta = path.symlink_metadata().map_err(io("look at"))?;
    if !meta.is_dir() {
        return Err(io("mount on")(io::ErrorKind::NotADirectory.into()));
    }
    if meta.permissions().mode() & 0o500 != 0o500 {
        // left behind by a killed fsd: an owner without special rights must read it first
        release(path);
    }
    let mut entries = std::fs::read_dir(path).map_err(io("list"))?;
    if let Some(entry) = entries.next() {
        let entry = entry.map_err(io("list"))?.file_name().to_string_lossy().into_owned();
        return Err(MountError::NotEmpty { path: path.to_owned(), entry });
    }
    // an immutable directory that is somebody's wish already is left as it is
    if let Err(error) = std::fs::set_permissions(path, Permissions::from_mode(MODE_RUNNING)) {
        warn!(path = %path.display(), %error, "could not close the bare mount point");
    }
    let protected = Protected { path: Some(path.to_owned()) };
    if immutable {
        // where the closed directory cannot be opened, the flag could not be taken off again either
        let set = File::open(path).and_then(|directory| flag(&directory, true));
        if let Err(error) = set {
            debug!(path = %path.display(), %error, "the bare mount point stays without immutable flag");
        }
    }
    Ok(protected)
}

/// Whether `path` is a bare directory as a running fsd has it: who sees it, and no mount on it, knows of an fsd that was
/// killed.
pub fn is_protected(path: &Path) -> bool {
    let meta = path.symlink_metadata();
    meta.is_ok_and(|meta| meta.is_dir() && meta.permissions().mode() & 0o777 == MODE_RUNNING)
}

/// Gives the bare directory back to people: no immutable flag, an ordinary mode.
pub fn release(path: &Path) {
    if let Err(error) = File::open(path).and_then(|directory| flag(&directory, false)) {
        debug!(path = %path.display(), %error, "no immutable flag was taken off the mount point");
    }
    if let Err(error) = std::fs::set_permissions(path, Permissions::from_mode(MODE_STOPPED)) {
        warn!(path = %path.display(), %error, "could not open the bare mount point again");
    }
}

fn flag(directory: &File, on: bool) -> io::Result<()> {
    let flags = rustix::fs::ioctl_getflags(directory)?;
    let wanted = match on {
        true => flags | IFlags::IMMUTABLE,
        false => flags - IFlags::IMMUTABLE,
    };
    match wanted == flags {
        true => Ok(()),
        false => Ok(rustix::fs::ioctl_setflags(directory, wanted)?),
    }
}
