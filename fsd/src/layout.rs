//! Where things lie below the cache directory (DESIGN.md 4), and nothing else.
//!
//! ```text
//! objects/<aa>/<blake3>        0444; content never changes
//! segments/<id>.sqlite         symlink to its object
//! incoming/<id>.<random>.part  being staged
//! quarantine/                  what failed verification
//! ledger.sqlite                what was verified when
//! lock                         flock of the one process that changes the cache
//! session                      of the node of a cluster that this cache makes of its machine
//! ```

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::segment::{Digest, SegmentId};

/// The paths of one cache directory.
#[derive(Debug, Clone)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// The layout below `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The cache directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of all objects.
    pub fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    /// The directory that holds the object `digest`.
    pub fn object_dir(&self, digest: &Digest) -> PathBuf {
        self.objects().join(&digest.to_hex()[..2])
    }

    /// The object whose bytes hash to `digest`.
    pub fn object(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_hex();
        self.objects().join(&hex[..2]).join(hex)
    }

    /// The directory of published names.
    pub fn segments(&self) -> PathBuf {
        self.dir.join("segments")
    }

    /// The symlink that publishes `id`.
    pub fn link(&self, id: &SegmentId) -> PathBuf {
        self.segments().join(id.file_name())
    }

    /// What a symlink in [`Self::segments`] to the object `digest` says.
    pub fn link_target(digest: &Digest) -> PathBuf {
        let hex = digest.to_hex();
        Path::new("../objects").join(&hex[..2]).join(hex)
    }

    /// The digest that `id` is published with; `None` when it is not published.
    ///
    /// A link that does not name an object is `InvalidData`: nothing of trough made it.
    pub fn published(&self, id: &SegmentId) -> io::Result<Option<Digest>> {
        match std::fs::read_link(self.link(id)) {
            Ok(target) => digest_of_target(&target).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The directory of files being staged.
    pub fn incoming(&self) -> PathBuf {
        self.dir.join("incoming")
    }

    /// The directory of what failed verification.
    pub fn quarantine(&self) -> PathBuf {
        self.dir.join("quarantine")
    }

    /// The ledger's database.
    pub fn ledger(&self) -> PathBuf {
        self.dir.join("ledger.sqlite")
    }

    /// The file whose flock belongs to the one process that changes the cache.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// Where that process writes down by which session its machine is a node of a cluster.
    pub fn session(&self) -> PathBuf {
        self.dir.join("session")
    }
}

/// The digest in a symlink's target; only the exact form of [`Layout::link_target`] is taken.
pub fn digest_of_target(target: &Path) -> io::Result<Digest> {
    parse_target(target.as_os_str().as_bytes()).ok_or_else(|| {
        let text = format!("symlink target {} does not name an object", target.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

/// `../objects/<aa>/<blake3>`. Read once for each name of a listing and of a start, so nothing is allocated.
fn parse_target(target: &[u8]) -> Option<Digest> {
    let (prefix, hex) = target.strip_prefix(b"../objects/")?.split_at_checked(2)?;
    let hex = hex.strip_prefix(b"/")?.strip_prefix(prefix).map(|_| &hex[1..])?;
    std::str::from_utf8(hex).ok()?.parse().ok()
}

/// An open `segments/`: for many names one after another this is cheaper than [`Layout::published`].
#[derive(Debug)]
pub struct Links(OwnedFd);

impl Links {
    /// Opens `segments/` of `layout`.
    pub fn open(layout: &Layout) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(layout.segments(), flags, Mode::empty())?))
    }

    /// What is published under the file name `name`; as [`Layout::published`].
    pub fn published(&self, name: impl rustix::path::Arg) -> io::Result<Option<Digest>> {
        // a target is 78 bytes; one that fills the buffer is none of ours
        let mut buffer = [MaybeUninit::uninit(); 128];
        match rustix::fs::readlinkat_raw(&self.0, name, &mut buffer) {
            Ok((target, _)) => digest_of_target(Path::new(OsStr::from_bytes(target))).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Links {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_target_gives_its_digest_back_and_no_other_form_does() {
        let digest = Digest::from(blake3::hash(b"x"));
        let target = Layout::link_target(&digest);
        assert_eq!(digest_of_target(&target).unwrap(), digest);
        let hex = digest.to_hex();
        let other = format!("../objects/{}/{hex}", if hex.starts_with("00") { "01" } else { "00" });
        let upper = target.to_str().unwrap().to_uppercase();
        let longer = format!("{}0", target.display());
        for bad in [format!("/etc/{hex}"), hex.clone(), other, upper, longer, "..".into()] {
            assert!(digest_of_target(Path::new(&bad)).is_err(), "{bad} was taken");
        }
    }
}
