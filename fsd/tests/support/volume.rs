//! A small ext4 volume in a file, mounted through a loop device: to be filled, damaged below the file system, or cut off
//! as by a power failure. Needs root, loop devices, mkfs.ext4 and mount; what is missing is a failure.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(dead_code, reason = "each test binary uses its part of this")]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// `FS_IOC_SHUTDOWN` of `linux/fs.h`, and its argument that drops what is not yet in the journal.
const FS_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
const NO_LOG_FLUSH: u32 = 2;

/// The journal is committed only when something asks for it.
const PLAIN: &str = "loop,commit=300";
/// Neither does a file's content reach the disk because the file is renamed over another.
const HARSH: &str = "loop,commit=300,noauto_da_alloc";

pub struct Volume {
    directory: TempDir,
    options: &'static str,
}

impl Volume {
    /// An empty volume of `megabytes`.
    pub fn new(megabytes: u64) -> Self {
        Self::with(megabytes, PLAIN)
    }

    /// One that does nothing of its own accord for who forgot a sync.
    pub fn harsh(megabytes: u64) -> Self {
        Self::with(megabytes, HARSH)
    }

    fn with(megabytes: u64, options: &'static str) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let volume = Self { directory, options };
        File::create(volume.image()).unwrap().set_len(megabytes << 20).unwrap();
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), volume.image().as_ref()]);
        std::fs::create_dir(volume.path()).unwrap();
        volume.mount();
        volume
    }

    pub fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mount")
    }

    pub fn mount(&self) {
        let options = ["-o", self.options].map(AsRef::as_ref);
        run("mount", &[options[0], options[1], self.image().as_ref(), self.path().as_ref()]);
    }

    pub fn unmount(&self) {
        run("umount", &[self.path().as_ref()]);
    }

    /// From now on nothing reaches the disk any more, and what did not yet is lost.
    pub fn cut_power(&self) {
        let root = File::open(self.path()).unwrap();
        // SAFETY: the ioctl reads one u32 behind the pointer, which lives for the length of the call.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), FS_IOC_SHUTDOWN, &NO_LOG_FLUSH) };
        assert_eq!(result, 0, "FS_IOC_SHUTDOWN: {}", std::io::Error::last_os_error());
    }

    /// Writes below the file system, which does not notice. The file system is synced before.
    pub fn write_to_disk(&self, offset: u64, bytes: &[u8]) {
        rustix::fs::syncfs(File::open(self.path()).unwrap()).unwrap();
        let image = OpenOptions::new().write(true).open(self.image()).unwrap();
        image.write_all_at(bytes, offset).unwrap();
        image.sync_all().unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(self.path()).status();
        if !std::thread::panicking() {
            assert!(status.unwrap().success(), "umount {}", self.path().display());
        }
    }
}

fn run(program: &str, arguments: &[&Path]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs {program}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?} (needs root and loop devices): {text}"
    );
}
