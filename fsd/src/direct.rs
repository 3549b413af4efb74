//! What it takes to read and write past the page cache (O_DIRECT): aligned memory, and the flag of an open file.

use std::fs::File;
use std::io;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// O_DIRECT wants memory, offset and length aligned to the disk's logical block, which is at most this.
pub(crate) const ALIGN_BYTES: usize = 4096;

/// Aligned memory.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// Longer than asked for: the aligned part begins somewhere in its first [`ALIGN_BYTES`].
    memory: Vec<u8>,
    length: usize,
}

impl Buffer {
    pub fn new(length: usize) -> Self {
        Self { memory: vec![0; length + ALIGN_BYTES], length }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        let start = self.memory.as_ptr().align_offset(ALIGN_BYTES);
        &mut self.memory[start..start + self.length]
    }
}

/// Sets or clears the flag of an open file; `false` where its file system does not have it.
pub(crate) fn set(file: &File, direct: bool) -> io::Result<bool> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    match rustix::fs::fcntl_setfl(file, flags) {
        Err(Errno::INVAL) => Ok(false),
        done => Ok(done.map(|()| true)?),
    }
}

/// Whether the file system refused what O_DIRECT asks of it: it cannot, or its blocks are longer.
pub(crate) fn is_refused(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::INVAL)
}
