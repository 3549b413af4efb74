//! The system calls below the cache: syncing, space, flags, fingerprints.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, FallocateFlags, IFlags, Stat};
use rustix::io::Errno;

use crate::ledger::Fingerprint;

/// The least a volume gives out at a time.
pub(crate) const BLOCK_BYTES: u64 = 4096;

/// Room on a volume, as this process may use it.
pub(crate) struct Space {
    pub size_bytes: u64,
    pub free_bytes: u64,
}

pub(crate) fn space(path: &Path) -> io::Result<Space> {
    // a file that could not be made has no volume, its directory has
    let stat = rustix::fs::statvfs(path)
        .or_else(|errno| path.parent().map_or(Err(errno), rustix::fs::statvfs))?;
    Ok(Space {
        size_bytes: stat.f_blocks * stat.f_frsize,
        free_bytes: stat.f_bavail * stat.f_frsize,
    })
}

/// Takes `length` bytes of the volume for `file`, whose length stays as it is. Where the file system cannot, the
/// room is taken as the file is written.
pub(crate) fn allocate(file: &File, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, length) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        done => Ok(done?),
    }
}

pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// 16 hexadecimal digits for a name that nothing else uses.
pub(crate) fn random_name() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// Now, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn fingerprint(path: &Path) -> io::Result<Fingerprint> {
    let stat = rustix::fs::statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(fingerprint_of(&stat))
}

pub(crate) fn fingerprint_of(stat: &Stat) -> Fingerprint {
    const NS: i64 = 1_000_000_000;
    Fingerprint {
        dev: stat.st_dev,
        ino: stat.st_ino,
        length: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: stat.st_mtime.wrapping_mul(NS).wrapping_add_unsigned(stat.st_mtime_nsec),
        ctime_ns: stat.st_ctime.wrapping_mul(NS).wrapping_add_unsigned(stat.st_ctime_nsec),
    }
}

/// Sets the immutable flag, best effort: it needs CAP_LINUX_IMMUTABLE and a file system that has it.
pub(crate) fn set_immutable(path: &Path) {
    if let Err(error) = change_flags(path, |flags| flags | IFlags::IMMUTABLE) {
        tracing::debug!(path = %path.display(), %error, "immutable flag not set");
    }
}

/// Clears the flag, whoever set it; where that fails, the unlink or rename after it says so.
pub(crate) fn clear_immutable(path: &Path) {
    let _ = change_flags(path, |flags| flags - IFlags::IMMUTABLE);
}

fn change_flags(path: &Path, change: impl Fn(IFlags) -> IFlags) -> io::Result<()> {
    let file = File::open(path)?;
    let flags = rustix::fs::ioctl_getflags(&file)?;
    if change(flags) != flags {
        rustix::fs::ioctl_setflags(&file, change(flags))?;
    }
    Ok(())
}

/// Removes a file; one that is not there is removed already.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
