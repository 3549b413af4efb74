//! Orphans: what was acknowledged here and overtaken elsewhere. What they have that the published version has not, and
//! how that is put back.
//!
//! ```text
//!   tables      the tables of a database, and which of them are compared
//!   difference  the rows that one database has and another has not
//!   requests    those rows as requests to a writer, on this disk
//!   rehearsal   the requests tried on a private copy, before anything is sent
//!   watch       the writer tells how many orphans there are
//! ```
//!
//! Invariants: an orphan is only read; nothing but [`Files::discard`] takes it away, and nobody calls that but a person's
//! order. One at a time puts an orphan's rows back.
//!
//! Left out: sending the requests, which is the command's (`trough orphans replay`).

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use rustix::fs::FlockOperation;

mod difference;
mod rehearsal;
mod requests;
mod tables;
pub(super) mod watch;

pub use difference::{Difference, DifferenceError, Place, Stop, TableDifference, compare};
pub use rehearsal::{RehearsalError, Rehearsed, rehearse};
pub use requests::{OnConflict, Request, Requests};
pub use tables::Table;

use super::files::{Files, FilesError, failed, with_end};
use super::note::Note;

/// What is in the lock of an orphan while requests are being sent.
const SENDING: &[u8] = b"sending\n";

/// An orphan on this disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// What was written down of it.
    pub note: Note,
    /// Its file.
    pub path: PathBuf,
    /// When it was set aside; Unix time in milliseconds.
    pub set_aside_ms: u64,
    /// The length of its file.
    pub bytes: u64,
}

impl Orphan {
    /// All of `files`, the oldest first.
    pub fn all(files: &Files) -> Result<Vec<Self>, FilesError> {
        let mut all = Vec::new();
        for note in files.orphans()? {
            let path = files.orphan(&note);
            // one that is being discarded
            let Some(file) = metadata(&path)? else { continue };
            let Some(noted) = metadata(&path.with_extension("json"))? else { continue };
            let since = noted.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            let set_aside_ms = since.map_or(0, |since| since.as_millis().try_into().unwrap_or(0));
            all.push(Self { note, path, set_aside_ms, bytes: file.len() });
        }
        all.sort_by_key(|orphan| (orphan.set_aside_ms, orphan.note.epoch));
        Ok(all)
    }

    /// Whether all of it is in its one file: a log beside it is that of somebody who has it open.
    pub fn is_one_file(&self) -> Result<bool, FilesError> {
        for end in ["-wal", "-journal"] {
            if metadata(&with_end(&self.path, end))?.is_some_and(|file| file.len() > 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes it against everybody else who would put its rows back or discard it; `None`: somebody is at it.
    pub fn lock(&self, files: &Files) -> Result<Option<OrphanLock>, FilesError> {
        let path = files.orphan_lock(&self.note);
        let open = || -> io::Result<Option<OrphanLock>> {
            let mut options = File::options();
            let mut file =
                options.read(true).write(true).create(true).truncate(false).open(&path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                locked => locked?,
            }
            let mut text = Vec::new();
            (&mut file).take(SENDING.len() as u64).read_to_end(&mut text)?;
            Ok(Some(OrphanLock { file, was_sending: text == SENDING }))
        };
        open().map_err(failed("lock", &path))
    }
}

/// An orphan that nobody else is at. Ends when it is dropped, or with the process.
#[derive(Debug)]
pub struct OrphanLock {
    file: File,
    was_sending: bool,
}

impl OrphanLock {
    /// Whether the one before ended while it was sending: what it sent last may still be on its way.
    pub fn was_sending(&self) -> bool {
        self.was_sending
    }

    /// Notes whether requests are on their way.
    pub fn note_sending(&mut self, sending: bool) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        match sending {
            true => self.file.write_all_at(SENDING, 0)?,
            false => self.file.set_len(0)?,
        }
        self.file.flush()
    }
}

fn metadata(path: &std::path::Path) -> Result<Option<std::fs::Metadata>, FilesError> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("look at", path)(error)),
    }
}
