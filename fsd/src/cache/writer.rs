//! Writes a file from its beginning to its end, past the page cache (O_DIRECT): a pull must not push out what queries
//! need (S12), and a copy through the page cache with its write-back costs more than the disk itself. Where the file
//! system cannot (tmpfs), and for an end shorter than a block, it writes through the page cache.
//!
//! Left out: syncing. What was written survives a power cut only after the file's fsync.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::direct::{self, ALIGN_BYTES, Buffer};

/// One write: long enough for a disk's full speed, short enough that many pulls at once have room.
const CHUNK_BYTES: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    direct: bool,
    buffer: Buffer,
    /// So much of the buffer is waiting to be written at `offset`.
    filled: usize,
    offset: u64,
}

impl Writer {
    /// For an empty file that is to have `length` bytes.
    pub fn new(file: File, length: u64) -> io::Result<Self> {
        let chunk = length.min(CHUNK_BYTES as u64) as usize;
        let direct = direct::set(&file, true)?;
        let buffer = Buffer::new(chunk.next_multiple_of(ALIGN_BYTES));
        Ok(Self { file, direct, buffer, filled: 0, offset: 0 })
    }

    /// Appends `bytes`.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = &mut self.buffer.bytes()[self.filled..];
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.filled += now.len();
            if now.len() == room.len() {
                self.write_out(0..self.filled)?;
                self.filled = 0;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Writes what is left, and gives back the file, which goes through the page cache from now on.
    pub fn finish(mut self) -> io::Result<File> {
        let blocks = self.filled - self.filled % ALIGN_BYTES;
        self.write_out(0..blocks)?;
        direct::set(&self.file, false)?;
        self.direct = false;
        self.write_out(blocks..self.filled)?;
        Ok(self.file)
    }

    fn write_out(&mut self, part: std::ops::Range<usize>) -> io::Result<()> {
        let bytes = &self.buffer.bytes()[part];
        match self.file.write_all_at(bytes, self.offset) {
            Err(error) if self.direct && direct::is_refused(&error) => {
                direct::set(&self.file, false)?;
                self.direct = false;
                self.file.write_all_at(bytes, self.offset)?;
            }
            done => done?,
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSliceMut, Read};
    use std::path::Path;

    use rustix::io::{Errno, ReadWriteFlags};

    use super::*;

    fn write(path: &Path, bytes: &[u8], piece: usize) -> File {
        let options = File::options().read(true).write(true).create_new(true).clone();
        let file = options.open(path).unwrap();
        let mut writer = Writer::new(file, bytes.len() as u64).unwrap();
        for piece in bytes.chunks(piece) {
            writer.write(piece).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn every_length_is_written_whole() {
        // the disk can write past the page cache, the memory's file system may not
        for root in [env!("CARGO_MANIFEST_DIR"), "/dev/shm"] {
            let directory = tempfile::tempdir_in(root).unwrap();
            for length in [0, 1, 512, 4096, 5000, CHUNK_BYTES, CHUNK_BYTES + 4608, 3 * CHUNK_BYTES]
            {
                let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
                for piece in [1000, 65_536, 2 * CHUNK_BYTES + 1] {
                    let path = directory.path().join(format!("{length}-{piece}"));
                    let mut file = write(&path, &bytes, piece);
                    let mut got = Vec::new();
                    file.read_to_end(&mut got).unwrap();
                    assert!(got == bytes, "{length} bytes in pieces of {piece} below {root}");
                }
            }
        }
    }

    #[test]
    fn s12_what_is_staged_leaves_the_page_cache_to_the_queries() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let file = write(&directory.path().join("x"), &vec![7; 4 * CHUNK_BYTES], 65_536);
        let mut block = [0; ALIGN_BYTES];
        for offset in (0..4 * CHUNK_BYTES as u64).step_by(CHUNK_BYTES) {
            let mut into = [IoSliceMut::new(&mut block)];
            // gives only what the page cache has
            let got = rustix::io::preadv2(&file, &mut into, offset, ReadWriteFlags::NOWAIT);
            assert_eq!(got, Err(Errno::AGAIN), "at {offset}");
        }
    }
}
