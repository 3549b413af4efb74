//! Reads a file from the disk, past the page cache (O_DIRECT): what the page cache has would prove nothing, and
//! reading through it would push out what queries need. Where the file system refuses (tmpfs), the file is read through
//! the page cache, which is asked to drop it before and after.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;

use crate::cache::disk;
use crate::direct::{self, ALIGN_BYTES, Buffer};
use crate::ledger::Fingerprint;

/// One read: large enough for a disk's full speed, small enough that a rest comes soon.
pub(super) const CHUNK_BYTES: usize = 8 << 20;

/// A file that is read chunk by chunk.
pub(super) struct Reader {
    file: File,
    fingerprint: Fingerprint,
    direct: bool,
    offset: u64,
}

impl Reader {
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let direct = direct::set(&file, true)?;
        let fingerprint = disk::fingerprint_of(&rustix::fs::fstat(&file)?);
        let reader = Self { file, fingerprint, direct, offset: 0 };
        if !direct {
            reader.drop_from_cache(0);
        }
        Ok(reader)
    }

    /// As it was when it was opened.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The next chunk; a shorter one than [`CHUNK_BYTES`] is the last.
    pub fn read<'a>(&mut self, buffer: &'a mut Buffer) -> io::Result<&'a [u8]> {
        let buffer = buffer.bytes();
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], self.offset + filled as u64) {
                Ok(0) => break,
                Ok(got) => {
                    filled += got;
                    // an end that is not aligned is the end of the file: direct reads cannot go on behind it
                    if self.direct && !got.is_multiple_of(ALIGN_BYTES) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if self.direct && direct::is_refused(&error) => {
                    direct::set(&self.file, false)?;
                    self.direct = false;
                    self.drop_from_cache(self.offset);
                }
                Err(error) => return Err(error),
            }
        }
        if !self.direct {
            self.drop_from_cache(self.offset);
        }
        self.offset += filled as u64;
        Ok(&buffer[..filled])
    }

    /// A hint, so failure is no matter.
    fn drop_from_cache(&self, offset: u64) {
        let rest: Option<NonZeroU64> = None;
        let _ = rustix::fs::fadvise(&self.file, offset, rest, Advice::DontNeed);
    }
}

/// Errors by which a disk or file system says that the bytes are lost; others may pass.
pub(super) fn is_damage(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::IO | Errno::UCLEAN | Errno::BADMSG | Errno::NODATA)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_read_whole() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("x");
        let mut buffer = Buffer::new(CHUNK_BYTES);
        for length in [0, 1, 511, 4096, 4097, CHUNK_BYTES, CHUNK_BYTES + 5000, 2 * CHUNK_BYTES] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            for direct in [true, false] {
                let mut reader = Reader::open(&path).unwrap();
                if !direct && reader.direct {
                    direct::set(&reader.file, false).unwrap();
                    reader.direct = false;
                }
                let mut got = Vec::new();
                loop {
                    let chunk = reader.read(&mut buffer).unwrap();
                    got.extend_from_slice(chunk);
                    if chunk.len() < CHUNK_BYTES {
                        break;
                    }
                }
                assert!(got == bytes, "{length} bytes, direct: {direct}");
            }
        }
    }
}
