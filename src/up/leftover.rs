//! The last net under the mount: nothing of trough stays mounted when `trough up` has ended.
//!
//! Invariant: only a mount of trough exactly at the mount point is detached, never another file system; the directory
//! below it, which an fsd that was killed left closed, is given back.

use std::path::Path;

use fsd::mount::bare;
use rustix::mount::UnmountFlags;

/// The file system's type as fsd mounts it.
const TYPE: &str = "fuse.trough";

/// The most mounts on one another that are detached: an upgrade makes two.
const STACKED_MAX: usize = 8;

/// Detaches what fsd left at `mountpoint`; says how many mounts that were. Never waits for a daemon.
pub fn detach(mountpoint: &Path) -> std::io::Result<usize> {
    let mut detached = 0;
    while detached < STACKED_MAX
        && is_trough(&std::fs::read_to_string("/proc/self/mountinfo")?, mountpoint)
    {
        rustix::mount::unmount(mountpoint, UnmountFlags::DETACH)?;
        detached += 1;
    }
    if detached < STACKED_MAX && bare::is_protected(mountpoint) {
        bare::release(mountpoint);
    }
    Ok(detached)
}

/// Whether the uppermost mount at `mountpoint` is of trough; see proc_pid_mountinfo(5) for the form.
fn is_trough(mountinfo: &str, mountpoint: &Path) -> bool {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        Some((unescape(left.split(' ').nth(4)?), right.split(' ').next()?))
    });
    let at = mountpoint.as_os_str().as_encoded_bytes();
    let uppermost = mounts.rev().find(|(path, _)| path == at);
    uppermost.is_some_and(|(_, kind)| kind == TYPE)
}

/// The kernel writes space, tab, line break and backslash as `\` and three octal digits.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        let byte = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match byte.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_trough_exactly_at_the_mount_point_is_seen() {
        let info = "22 1 8:1 / / rw - ext4 /dev/sda rw\n\
                    30 22 0:30 / /a\\040b/mount ro,nosuid - fuse.trough trough rw\n\
                    31 22 0:31 / /b rw - fuse.trough trough rw\n\
                    32 31 0:32 / /b rw shared:4 - tmpfs tmpfs rw\n\
                    33 22 0:33 / /d rw - fuse.sshfs host rw\n";
        assert!(is_trough(info, Path::new("/a b/mount")));
        for other in ["/", "/a b", "/a b/mount/x", "/b", "/c", "/d"] {
            assert!(!is_trough(info, Path::new(other)), "{other}");
        }
    }

    #[test]
    fn a_plain_directory_is_left_alone_and_one_that_was_left_closed_is_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let mode = || directory.path().metadata().unwrap().permissions().mode() & 0o777;
        let before = mode();
        assert_eq!(detach(directory.path()).unwrap(), 0);
        assert_eq!(mode(), before);
        // an fsd that was killed could not open it again
        std::mem::forget(bare::protect(directory.path(), true).unwrap());
        assert_eq!(mode(), 0);
        assert_eq!(detach(directory.path()).unwrap(), 0);
        assert_ne!(mode(), 0);
        std::fs::remove_dir(directory.path()).expect("it can be removed");
    }
}
