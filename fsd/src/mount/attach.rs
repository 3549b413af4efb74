//! Making a mount and putting it in place.
//!
//! Invariant: the mount is made detached and served before anybody can see it, so the first look at it is
//! answered. Two that come at once take turns, so that the second sees the first one's mount. With `MOVE_MOUNT_BENEATH` there is no moment without a mount (fuse.md 2.3: 17,690 opens over
//! eight swaps, none failed).

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};
use tracing::{info, warn};

use super::probe::{self, Found};
use super::{Feature, MountError, MountSettings, bare, table};
use crate::failpoint::crash_point;

/// How long another fsd may take to place its mount: it may find some hung mounts to take away first.
const TURN_LIMIT: Duration = Duration::from_secs(20);
/// Between two tries for the turn.
const TURN_PAUSE: Duration = Duration::from_millis(10);

/// A mount that nobody can see yet.
pub struct Detached {
    /// The mount.
    pub mount: OwnedFd,
    /// The device on which the kernel asks.
    pub device: OwnedFd,
}

/// How a mount came to its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// On a bare directory.
    Fresh,
    /// Under the mount of a running fsd, which was then taken away.
    Beneath,
    /// After the mount of a running fsd was taken away.
    Replaced,
}

/// Makes a mount from `source` that is read-only, without set-uid, devices and programs.
pub fn create(settings: &MountSettings, source: &str) -> Result<Detached, MountError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open(&settings.fuse_device, flags, Mode::empty())
        .map_err(MountError::system("open the FUSE device", &settings.fuse_device))?;
    let failed =
        MountError::system("make a FUSE mount (CAP_SYS_ADMIN is needed) for", Path::new(source));
    let make = || -> Result<OwnedFd, Errno> {
        let context = rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let string =
            |key: &str, value: &str| rustix::mount::fsconfig_set_string(&context, key, value);
        string("source", source)?;
        string("subtype", "trough")?;
        string("fd", &device.as_raw_fd().to_string())?;
        string("rootmode", "40000")?;
        string("user_id", &rustix::process::geteuid().as_raw().to_string())?;
        string("group_id", &rustix::process::getegid().as_raw().to_string())?;
        for flag in ["ro", "default_permissions", "allow_other"] {
            rustix::mount::fsconfig_set_flag(&context, flag)?;
        }
        rustix::mount::fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    Ok(Detached { mount: make().map_err(failed)?, device })
}

/// Puts `mount` at `path`, whatever trough left there, and says how and with which device number.
///
/// The handle is closed then: as long as it is open, an unmounted file system would live on.
pub fn place(
    mount: OwnedFd,
    path: &Path,
    source: &str,
    settings: &MountSettings,
) -> Result<(Placed, (u32, u32)), MountError> {
    let id = table::mount_id(mount.as_raw_fd()).map_err(MountError::io("look at", path))?;
    let _turn = take_turn(path)?;
    let placed = match probe::clear(path, source)? {
        Found::Own(_) if settings.beneath == Feature::Auto => match put(&mount, path, true) {
            Ok(()) => {
                probe::detach(path)?;
                Placed::Beneath
            }
            Err(errno) => {
                warn!(path = %path.display(), %errno, "no mount beneath another one here; opens fail for a moment");
                replace(&mount, path, settings)?
            }
        },
        Found::Own(_) => replace(&mount, path, settings)?,
        Found::Bare => {
            fresh(&mount, path, settings)?;
            Placed::Fresh
        }
    };
    let layers = table::at(path).map_err(MountError::io("look at", path))?;
    // held until its id is found, so that the id is this mount's
    drop(mount);
    let Some(layer) = layers.iter().find(|layer| layer.id == id) else {
        return Err(MountError::Unmounted { path: path.to_owned() });
    };
    info!(path = %path.display(), ?placed, layers = layers.len(), "mounted");
    Ok((placed, layer.device))
}

/// Waits until nobody else looks at `path` and mounts there; the turn ends when the handle goes.
///
/// The lock is on the parent directory: it is there whatever is mounted at `path`, and needs no file.
fn take_turn(path: &Path) -> Result<OwnedFd, MountError> {
    let parent = path.parent().unwrap_or(path);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let failed = MountError::system("lock", parent);
    let directory = rustix::fs::open(parent, flags, Mode::empty()).map_err(failed)?;
    let deadline = Instant::now() + TURN_LIMIT;
    loop {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(directory),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(TURN_PAUSE);
            }
            Err(Errno::WOULDBLOCK) => {
                return Err(MountError::Busy { path: path.to_owned(), limit: TURN_LIMIT });
            }
            Err(errno) => return Err(failed(errno)),
        }
    }
}

fn replace(mount: &OwnedFd, path: &Path, settings: &MountSettings) -> Result<Placed, MountError> {
    probe::detach(path)?;
    fresh(mount, path, settings)?;
    Ok(Placed::Replaced)
}

fn fresh(mount: &OwnedFd, path: &Path, settings: &MountSettings) -> Result<(), MountError> {
    let protected = bare::protect(path, settings.mountpoint_immutable)?;
    crash_point("mount.protected");
    put(mount, path, false).map_err(MountError::system("mount on", path))?;
    protected.keep();
    Ok(())
}

fn put(mount: &OwnedFd, path: &Path, beneath: bool) -> Result<(), Errno> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    if beneath {
        flags |= MoveMountFlags::MOVE_MOUNT_BENEATH;
    }
    rustix::mount::move_mount(mount, "", CWD, path, flags)
}
