//! What stands at the mount point before fsd mounts, and how a broken mount is taken away.
//!
//! Invariant (S5): a start never hangs on a mount whose daemon is dead or stuck, and never takes away
//! anything that is not trough's.

use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, UnmountFlags};
use tracing::warn;

use super::table::{self, Layer};
use super::{FS_TYPE, MountError};

/// How long a mount may take to answer before it counts as hung.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// The most broken mounts that one start takes away.
const LAYERS_MAX: usize = 64;

/// Where the kernel's control files of FUSE connections are, when mounted.
const FUSECTL: &str = "/sys/fs/fuse/connections";

/// What a start finds once broken mounts are gone.
#[derive(Debug)]
pub enum Found {
    /// No mount.
    Bare,
    /// A live mount of the same cache: take it over.
    Own(Layer),
}

/// Takes away dead and hung trough mounts at `path` and says what is left; refuses what is not ours.
pub fn clear(path: &Path, source: &str) -> Result<Found, MountError> {
    for _ in 0..LAYERS_MAX {
        let top = match table::top(path) {
            Ok(top) => top,
            Err(error) => return Err(MountError::io("look at", path)(error)),
        };
        let Some(layer) = top else { return Ok(Found::Bare) };
        if layer.fs_type != FS_TYPE {
            return Err(MountError::Foreign {
                path: path.to_owned(),
                fs_type: layer.fs_type,
                source_name: layer.source,
            });
        }
        match answer(path) {
            Answer::Live if layer.source == source => return Ok(Found::Own(layer)),
            Answer::Live => {
                return Err(MountError::OtherCache {
                    path: path.to_owned(),
                    source_name: layer.source,
                    ours: source.to_owned(),
                });
            }
            Answer::Dead(errno) => warn!(path = %path.display(), %errno, "detaching a dead mount"),
            Answer::Hung => {
                warn!(path = %path.display(), "ending and detaching a mount that does not answer");
                if let Err(error) = abort(&layer) {
                    warn!(%error, "could not end the connection of the hung mount");
                }
            }
        }
        detach(path)?;
    }
    Err(MountError::TooManyLayers { path: path.to_owned(), limit: LAYERS_MAX })
}

/// Takes the top mount at `path` away; open files on it stay usable as far as its daemon lives.
pub fn detach(path: &Path) -> Result<(), MountError> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // gone by itself: what was wanted
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(MountError::system("unmount", path)(errno)),
    }
}

/// Whether the mount at `path` answers within [`ANSWER_LIMIT`].
pub fn is_live(path: &Path) -> bool {
    matches!(answer(path), Answer::Live)
}

enum Answer {
    Live,
    Dead(Errno),
    Hung,
}

/// Asks the mount for its figures: unlike `stat`, that is never answered from the kernel's memory.
fn answer(path: &Path) -> Answer {
    let (sender, receiver) = mpsc::channel();
    let asked = path.to_owned();
    // a hung mount keeps this thread until the connection is aborted below
    std::thread::spawn(move || {
        let _ = sender.send(rustix::fs::statfs(&asked).map(|_| ()));
    });
    match receiver.recv_timeout(ANSWER_LIMIT) {
        Ok(Ok(())) => Answer::Live,
        Ok(Err(errno)) => Answer::Dead(errno),
        Err(_) => Answer::Hung,
    }
}

/// Ends a connection in the kernel: whoever waits on it gets an error at once.
fn abort(layer: &Layer) -> io::Result<()> {
    let file = format!("{}/abort", layer.device.1);
    match std::fs::write(Path::new(FUSECTL).join(&file), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        done => return done,
    }
    let context = rustix::mount::fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let control = rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    let switch =
        rustix::fs::openat(&control, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&switch, b"1")?;
    Ok(())
}
