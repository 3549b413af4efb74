//! The kernel's mount table (`/proc/self/mountinfo`), and which mount is on top at a path.
//!
//! Invariant: nothing here asks the mounted file system, so nothing here can hang on a dead one. The top
//! mount is told by the mount id of an `O_PATH` handle, because the order of lines does not tell it.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The mount's id; the kernel uses it again once the mount is gone.
    pub id: u64,
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// For example `ext4`, `fuse.trough`.
    pub fs_type: String,
    /// What it is mounted from.
    pub source: String,
}

/// How often a table that changed between two looks is read again.
const ATTEMPTS: usize = 16;

/// All mounts of this process's namespace.
pub fn read() -> io::Result<Vec<Layer>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// The mounts at `path`, in no useful order.
pub fn at(path: &Path) -> io::Result<Vec<Layer>> {
    Ok(read()?.into_iter().filter(|layer| layer.mountpoint == path).collect())
}

/// The mount that a look at `path` meets; `None` when `path` is no mount point. `path` is canonical.
pub fn top(path: &Path) -> io::Result<Option<Layer>> {
    for _ in 0..ATTEMPTS {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty())?;
        let id = mount_id(handle.as_raw_fd())?;
        // held until the table is read, so that the id stays this mount's
        let layers = read()?;
        drop(handle);
        if let Some(layer) = layers.into_iter().find(|layer| layer.id == id) {
            return Ok((layer.mountpoint == path).then_some(layer));
        }
    }
    Err(io::Error::other("the mount table changes too fast to be read"))
}

/// The id of the mount that the descriptor `fd` of this process lies on.
pub fn mount_id(fd: i32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.and_then(|id| id.trim().parse().ok())
        .ok_or_else(|| io::Error::other("fdinfo names no mount id; is /proc a full procfs?"))
}

/// One line: `36 35 98:0 /root /mnt rw,noatime shared:1 - ext3 /dev/root rw` (proc_pid_mountinfo(5)).
fn parse(line: &[u8]) -> Option<Layer> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = text(fields.next()?).parse().ok()?;
    let device = text(fields.nth(1)?);
    let (major, minor) = device.split_once(':')?;
    let mountpoint = unescape(fields.nth(1)?);
    let mut rest = fields.skip_while(|field| *field != b"-");
    let fs_type = text(rest.nth(1)?);
    let source = unescape(rest.next()?).to_string_lossy().into_owned();
    Some(Layer {
        id,
        device: (major.parse().ok()?, minor.parse().ok()?),
        mountpoint: mountpoint.into(),
        fs_type,
        source,
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Space, tab, newline and backslash stand as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let code = match (first, tail.get(..3)) {
            (b'\\', Some(digits)) => {
                std::str::from_utf8(digits).ok().and_then(|d| u8::from_str_radix(d, 8).ok())
            }
            _ => None,
        };
        match code {
            Some(code) => {
                plain.push(code);
                rest = &tail[3..];
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_escapes_is_read() {
        let line = br"36 35 0:98 / /mnt/a\040b ro,nosuid shared:1 master:2 - fuse.trough trough:/c\134d ro,user_id=0";
        let layer = parse(line).unwrap();
        assert_eq!(layer.id, 36);
        assert_eq!(layer.device, (0, 98));
        assert_eq!(layer.mountpoint, Path::new("/mnt/a b"));
        assert_eq!(layer.fs_type, "fuse.trough");
        assert_eq!(layer.source, r"trough:/c\d");
        assert!(parse(b"").is_none());
        assert!(parse(b"36 35 0:98 / /mnt").is_none());
    }

    #[test]
    fn the_root_is_a_mount_point_and_a_new_directory_is_not() {
        assert!(top(Path::new("/proc")).unwrap().is_some_and(|layer| layer.fs_type == "proc"));
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(top(&directory.path().canonicalize().unwrap()).unwrap(), None);
    }
}
