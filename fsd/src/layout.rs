//! Where things lie below the cache directory (DESIGN.md 4), and nothing else.
//!
//! ```text
//! objects/<aa>/<blake3>        0444; content never changes
//! segments/<id>.sqlite         symlink to its object
//! incoming/<id>.<random>.part  being staged
//! quarantine/                  what failed verification
//! ledger.sqlite                what was verified when
//! lock                         flock of the one process that changes the cache
//! ```

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

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
}

/// The digest in a symlink's target; only the exact form of [`Layout::link_target`] is taken.
pub fn digest_of_target(target: &Path) -> io::Result<Digest> {
    let invalid = || {
        let text = format!("symlink target {} does not name an object", target.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    let name = target.file_name().and_then(|name| name.to_str()).ok_or_else(invalid)?;
    let digest: Digest = name.parse().map_err(|_| invalid())?;
    match Layout::link_target(&digest).as_os_str().as_bytes() == target.as_os_str().as_bytes() {
        true => Ok(digest),
        false => Err(invalid()),
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
        for bad in [format!("/etc/{hex}"), hex.clone(), format!("../objects/zz/{hex}"), "..".into()]
        {
            assert!(digest_of_target(Path::new(&bad)).is_err(), "{bad} was taken");
        }
    }
}
