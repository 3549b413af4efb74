//! From a stream of bytes to a file that may be published: [`Staging`] -> [`Staged`] -> [`Verified`].
//!
//! Invariant (S2): a [`Verified`] is made only by [`Staged::verify`], and it is the only thing that
//! [`super::Cache::publish`] takes. So bytes that were not verified cannot be published.
//!
//! Each of them owns its file in `incoming/` and the room it takes of the quota; dropped before it is
//! published, it removes the one and gives back the other.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rusqlite::{Connection, OpenFlags};

use crate::failpoint::crash_point;
use crate::header::{self, HeaderError};
use crate::metrics;
use crate::segment::{Digest, SegmentId, Stamp};

use super::writer::Writer;
use super::{Cache, CacheError, State, disk};

/// How many problems a refusal by `quick_check` tells of.
const PROBLEMS_MAX: u32 = 5;

/// The file in `incoming/` and the room it has reserved.
#[derive(Debug)]
pub(super) struct Part {
    cache: Cache,
    pub path: PathBuf,
    reserved_bytes: u64,
}

impl Part {
    /// The file is counted elsewhere from now on.
    pub fn release(&mut self, state: &mut State) {
        state.incoming_bytes -= std::mem::take(&mut self.reserved_bytes);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Err(error) = disk::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "part file left for the next start to remove");
        }
        let cache = self.cache.clone();
        self.release(&mut cache.state());
    }
}

/// A segment that is being written; see [`Cache::stage`].
#[derive(Debug)]
pub struct Staging {
    id: SegmentId,
    part: Part,
    writer: Writer,
    hasher: blake3::Hasher,
    expected_bytes: u64,
    written_bytes: u64,
}

impl Staging {
    pub(super) fn new(cache: &Cache, id: &SegmentId, length: u64) -> Result<Self, CacheError> {
        let name = format!("{id}.{}.part", disk::random_name());
        let path = cache.layout().incoming().join(name);
        cache.reserve(id, length)?;
        let part = Part { cache: cache.clone(), path, reserved_bytes: length };
        let fail = |error| CacheError::io("stage", &part.path, length, error);
        // refused before the first byte is pulled, not after the last but one
        let free_bytes = disk::space(&cache.layout().incoming()).map_err(fail)?.free_bytes;
        if free_bytes < length {
            let path = part.path.clone();
            return Err(CacheError::DiskFull { path, needed_bytes: length, free_bytes });
        }
        let options =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).clone();
        let file = options.open(&part.path).map_err(fail)?;
        // whoever comes second to the last free bytes hears of it now; and writing into allocated room costs less
        disk::allocate(&file, length).map_err(fail)?;
        let writer = Writer::new(file, length).map_err(fail)?;
        let hasher = blake3::Hasher::new();
        Ok(Self { id: id.clone(), part, writer, hasher, expected_bytes: length, written_bytes: 0 })
    }

    /// Appends `bytes`; more than the announced length is an error.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CacheError> {
        let got_bytes = self.written_bytes + bytes.len() as u64;
        if got_bytes > self.expected_bytes {
            return Err(self.length_differs(got_bytes));
        }
        self.writer.write(bytes).map_err(|error| {
            CacheError::io("write", &self.part.path, self.expected_bytes, error)
        })?;
        self.hasher.update(bytes);
        self.written_bytes = got_bytes;
        Ok(())
    }

    /// Ends the stream; fewer bytes than announced are an error.
    pub fn finish(self) -> Result<Staged, CacheError> {
        if self.written_bytes != self.expected_bytes {
            return Err(self.length_differs(self.written_bytes));
        }
        let fail = |error| CacheError::io("stage", &self.part.path, self.expected_bytes, error);
        let file = self.writer.finish().map_err(fail)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o444)).map_err(fail)?;
        crash_point("admission.staged");
        Ok(Staged {
            id: self.id,
            digest: self.hasher.finalize().into(),
            length: self.expected_bytes,
            part: self.part,
            file,
            durable_as: None,
        })
    }

    fn length_differs(&self, got_bytes: u64) -> CacheError {
        let (id, expected_bytes) = (self.id.clone(), self.expected_bytes);
        CacheError::LengthDiffers { id, expected_bytes, got_bytes }
    }
}

/// A whole file whose digest is known and whose content is not yet trusted.
#[derive(Debug)]
pub struct Staged {
    id: SegmentId,
    digest: Digest,
    length: u64,
    pub(super) part: Part,
    file: File,
    /// The version as which its bytes and mtime are on the disk to stay.
    durable_as: Option<Stamp>,
}

impl Staged {
    /// The segment it is to be.
    pub fn id(&self) -> &SegmentId {
        &self.id
    }

    /// What the bytes that were written hash to.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Checks it in the order of admission: the seal's digest (`sealed`), the SQLite header, and, where no seal
    /// vouches for the content, `PRAGMA quick_check` (S2).
    #[expect(
        clippy::result_large_err,
        reason = "both variants carry the file, once for each segment"
    )]
    pub fn verify(self, sealed: Option<Digest>) -> Result<Verified, Rejected> {
        match self.check(sealed) {
            Ok(()) => {
                crash_point("admission.verified");
                Ok(Verified(self))
            }
            Err(refusal) => {
                ::metrics::counter!(metrics::CACHE_REFUSED, "step" => refusal.step()).increment(1);
                Err(Rejected { refusal, staged: self })
            }
        }
    }

    fn check(&self, sealed: Option<Digest>) -> Result<(), Refusal> {
        if let Some(sealed) = sealed.filter(|&sealed| sealed != self.digest) {
            return Err(Refusal::Seal { sealed, got: self.digest });
        }
        let mut start = [0_u8; header::HEADER_BYTES];
        let length = self.length.min(start.len() as u64) as usize;
        let read = self.file.read_exact_at(&mut start[..length], 0);
        read.map_err(|error| Refusal::Unreadable(error.to_string()))?;
        header::check(&start[..length], self.length)?;
        if sealed.is_none() { quick_check(&self.part.path) } else { Ok(()) }
    }
}

/// A file that passed every check. It cannot be made in any other way.
#[derive(Debug)]
pub struct Verified(pub(super) Staged);

impl Verified {
    /// The segment it is to be.
    pub fn id(&self) -> &SegmentId {
        self.0.id()
    }

    /// What its bytes hash to.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.0.length
    }

    /// Brings the bytes to the disk, with the mtime that the deep store has, from which a lost ledger is rebuilt
    /// (S1). [`Cache::publish`] does it where it was not done before; whoever pulls many files does it for each as
    /// it comes, so that the disk works while the others are on their way.
    pub fn make_durable(&mut self, stamp: Stamp) -> Result<(), CacheError> {
        let Staged { id, length, part, file, durable_as, .. } = &mut self.0;
        let (expected_bytes, got_bytes) = (stamp.length, *length);
        if expected_bytes != got_bytes {
            return Err(CacheError::LengthDiffers { id: id.clone(), expected_bytes, got_bytes });
        }
        if *durable_as == Some(stamp) {
            return Ok(());
        }
        let mtime = UNIX_EPOCH + Duration::from_millis(stamp.mtime_ms);
        let synced = file.set_modified(mtime).and_then(|()| file.sync_all());
        synced.map_err(|error| CacheError::io("sync", &part.path, got_bytes, error))?;
        *durable_as = Some(stamp);
        Ok(())
    }
}

/// A file that was refused; hand it to [`Cache::quarantine_staged`] to keep it, or drop it.
#[derive(Debug)]
pub struct Rejected {
    /// Why.
    pub refusal: Refusal,
    /// The file.
    pub staged: Staged,
}

/// Why a staged file is not admitted: one variant a step, each naming what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The seal vouches for other bytes.
    #[error(
        "the seal says that the file hashes to {sealed}, but it hashes to {got}; the file or its seal is \
         damaged: publish it again"
    )]
    Seal {
        /// By the seal.
        sealed: Digest,
        /// By the bytes.
        got: Digest,
    },
    /// The header is not that of a database that can be served.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The pages contradict each other.
    #[error(
        "PRAGMA quick_check finds it damaged: {0}; rebuild it (`sqlite3 FILE .recover`) and publish it again"
    )]
    QuickCheck(String),
    /// This machine could not read back what it wrote: no fault of the file.
    #[error("the staged file could not be read back: {0}; look at this machine's disk")]
    Unreadable(String),
}

impl Refusal {
    /// The name of the step, for metrics.
    pub fn step(&self) -> &'static str {
        match self {
            Self::Seal { .. } => "seal",
            Self::Header(_) => "header",
            Self::QuickCheck(_) => "quick_check",
            Self::Unreadable(_) => "read",
        }
    }
}

fn quick_check(path: &Path) -> Result<(), Refusal> {
    use rusqlite::Error;
    // `immutable` keeps SQLite from looking for a journal and from taking locks
    let uri = format!("file:{}?immutable=1", uri_path(path));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let check = || -> rusqlite::Result<Vec<String>> {
        let connection = Connection::open_with_flags(uri, flags)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        let mut statement = connection.prepare(&format!("PRAGMA quick_check({PROBLEMS_MAX})"))?;
        statement.query_map([], |row| row.get(0))?.collect()
    };
    match check() {
        Ok(lines) if lines == ["ok"] => Ok(()),
        Ok(lines) => Err(Refusal::QuickCheck(lines.join("; "))),
        Err(Error::SqliteFailure(error, _))
            if matches!(
                error.code,
                rusqlite::ErrorCode::SystemIoFailure | rusqlite::ErrorCode::CannotOpen
            ) =>
        {
            Err(Refusal::Unreadable(error.to_string()))
        }
        Err(error) => Err(Refusal::QuickCheck(error.to_string())),
    }
}

/// The path as it stands in an SQLite URI: everything but plain characters is escaped.
fn uri_path(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
    let escape = |&byte: &u8| {
        if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    path.as_os_str().as_bytes().iter().map(escape).collect()
}
