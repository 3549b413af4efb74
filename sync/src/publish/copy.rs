//! One snapshot of a SQLite database that others may be using, in the form in which segments are published: one
//! file's bytes, no WAL.
//!
//! Invariant: the copy is private from its first byte, so nothing that is done to the source later is in it.
//!
//! Small databases are copied in memory, as long as there is room: through a file, every page costs several
//! system calls and is written to a disk that need not have it.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fsd::segment::Digest;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, MAIN_DB, OpenFlags};
use tempfile::TempPath;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a copy waits for a writer that holds the source exclusively.
const BUSY: Duration = Duration::from_secs(30);
/// What one permit of [`Room`] stands for, in bytes; fits a segment of 4 TiB into tokio's `u32`.
const PERMIT_BYTES: u64 = 1 << 10;
/// The longest copy in memory: SQLite's own limit for one (`SQLITE_MEMDB_DEFAULT_MAXSIZE`).
const MEMORY_COPY_MAX_BYTES: u64 = 1 << 30;
/// SQLite's file system in memory (memdb.c); a name that does not begin with a slash is seen by its opener alone.
const MEMORY_VFS: &CStr = c"memdb";
/// Bytes before the first page's content that say how to read the file (SQLite file format, 1.3).
const HEADER_BYTES: usize = 100;

/// The memory that all copies of a publisher may take together, and where those go that do not fit.
#[derive(Debug)]
pub(super) struct Room {
    memory: Arc<Semaphore>,
    temp_dir: PathBuf,
}

impl Room {
    /// At most `memory_bytes`, then files in `temp_dir`, or in the system's directory for them.
    pub(super) fn new(memory_bytes: u64, temp_dir: Option<PathBuf>) -> Self {
        let permits = usize::try_from(memory_bytes / PERMIT_BYTES).unwrap_or(usize::MAX);
        let memory = Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Self { memory, temp_dir: temp_dir.unwrap_or_else(std::env::temp_dir) }
    }

    fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).ok()?;
        self.memory.clone().try_acquire_many_owned(permits).ok()
    }
}

/// The bytes of a copy; memory, or a file of ours, goes when this is dropped.
#[derive(Debug)]
pub(super) enum Content {
    /// In memory.
    Memory(Bytes),
    /// In a file.
    File {
        /// Where.
        path: PathBuf,
        /// Deletes it with this; without, whoever made it does.
        _ours: Option<TempPath>,
    },
}

impl Content {
    /// Those of the file at `path`, which somebody else deletes.
    pub(super) fn of(path: PathBuf) -> Self {
        Self::File { path, _ours: None }
    }

    /// How many there are.
    pub(super) fn length(&self) -> io::Result<u64> {
        match self {
            Self::Memory(bytes) => Ok(bytes.len() as u64),
            Self::File { path, .. } => Ok(std::fs::metadata(path)?.len()),
        }
    }

    /// The first of them, as many as a SQLite header has.
    pub(super) fn header(&self) -> io::Result<[u8; HEADER_BYTES]> {
        let mut header = [0; HEADER_BYTES];
        match self {
            Self::Memory(bytes) => (&**bytes).read_exact(&mut header)?,
            Self::File { path, .. } => File::open(path)?.read_exact(&mut header)?,
        }
        Ok(header)
    }

    /// Their digest.
    pub(super) fn digest(&self) -> io::Result<Digest> {
        let mut hasher = blake3::Hasher::new();
        match self {
            Self::Memory(bytes) => hasher.update(bytes),
            Self::File { path, .. } => hasher.update_reader(File::open(path)?)?,
        };
        Ok(Digest::from(hasher.finalize()))
    }

    /// Reads them from the start.
    pub(super) fn open(&self) -> io::Result<Pieces> {
        Ok(match self {
            Self::Memory(bytes) => Pieces::Memory(bytes.clone()),
            Self::File { path, .. } => Pieces::File(Arc::new(File::open(path)?)),
        })
    }
}

/// Bytes with the room that they take, which is free again with the last of their clones.
struct Held {
    bytes: BytesMut,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What is left to read of a copy.
pub(super) enum Pieces {
    Memory(Bytes),
    File(Arc<File>),
}

impl Pieces {
    /// The next `want` bytes; fewer is an error.
    pub(super) async fn next(&mut self, want: usize) -> io::Result<Bytes> {
        match self {
            Self::Memory(left) if left.len() < want => Err(io::ErrorKind::UnexpectedEof.into()),
            Self::Memory(left) => Ok(left.split_to(want)),
            Self::File(file) => {
                let file = file.clone();
                let read = move || {
                    let mut piece = BytesMut::zeroed(want);
                    (&*file).read_exact(&mut piece)?;
                    Ok(piece.freeze())
                };
                tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| Err(io::Error::other(e)))
            }
        }
    }
}

/// Copies the database at `source` and has `look` at the copy, before it becomes plain bytes.
pub(super) fn copy<T>(
    source: &Path,
    room: &Room,
    look: impl FnOnce(&Connection) -> Result<T, String>,
) -> Result<(Content, T), String> {
    let metadata = std::fs::metadata(source).map_err(|e| e.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    // SQLite would take it as a database without tables; it is rather a name mistyped or a copy cut short
    if metadata.len() == 0 {
        return Err("it is empty; put a table into it first".to_owned());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let from = Connection::open_with_flags(source, flags).map_err(|e| hint(&e))?;
    from.busy_timeout(BUSY).map_err(|e| hint(&e))?;
    let bytes = begin(&from).map_err(|e| hint(&e))?;
    // the pages as SQLite has them, and the same as plain bytes
    match room.take(bytes.saturating_mul(2)) {
        Some(room) if bytes <= MEMORY_COPY_MAX_BYTES => in_memory(&from, room, look),
        _ => in_file(&from, &room.temp_dir, look),
    }
}

/// Takes the snapshot: from here on the source is what it is now. Gives its length in bytes.
fn begin(from: &Connection) -> rusqlite::Result<u64> {
    from.execute_batch("BEGIN")?;
    let pages: u64 = from.pragma_query_value(None, "page_count", |row| row.get(0))?;
    let page_bytes: u64 = from.pragma_query_value(None, "page_size", |row| row.get(0))?;
    Ok(pages * page_bytes)
}

fn in_memory<T>(
    from: &Connection,
    mut room: OwnedSemaphorePermit,
    look: impl FnOnce(&Connection) -> Result<T, String>,
) -> Result<(Content, T), String> {
    // not `:memory:`, which would take every page by itself and never change the header
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let to = Connection::open_with_flags_and_vfs("copy", flags, MEMORY_VFS);
    let mut to = to.map_err(|e| hint(&e))?;
    let seen = fill(from, &mut to, look)?;
    let bytes = BytesMut::from(&*to.serialize(MAIN_DB).map_err(|e| hint(&e))?);
    drop(to);
    drop(room.split(room.num_permits() / 2));
    Ok((Content::Memory(Bytes::from_owner(Held { bytes, _room: room })), seen))
}

fn in_file<T>(
    from: &Connection,
    temp_dir: &Path,
    look: impl FnOnce(&Connection) -> Result<T, String>,
) -> Result<(Content, T), String> {
    let file = tempfile::Builder::new()
        .prefix("trough-put-")
        .suffix(".sqlite")
        .tempfile_in(temp_dir)
        .map_err(|e| format!("no temporary file in {}: {e}", temp_dir.display()))?
        .into_temp_path();
    let mut to = Connection::open(&file).map_err(|e| hint(&e))?;
    let seen = fill(from, &mut to, look)?;
    drop(to);
    Ok((Content::File { path: file.to_path_buf(), _ours: Some(file) }, seen))
}

/// Copies all pages, leaves WAL mode if they are in it, and has a look.
fn fill<T>(
    from: &Connection,
    to: &mut Connection,
    look: impl FnOnce(&Connection) -> Result<T, String>,
) -> Result<T, String> {
    // the copy is thrown away if this process dies
    to.pragma_update(None, "synchronous", "off").map_err(|e| hint(&e))?;
    // nobody else has it; memory that is shared with others, which WAL mode needs else, memory does not offer
    to.pragma_update(None, "locking_mode", "exclusive").map_err(|e| hint(&e))?;
    let backup = Backup::new(from, to).map_err(|e| hint(&e))?;
    match backup.step(-1).map_err(|e| hint(&e))? {
        StepResult::Done => drop(backup),
        other => return Err(format!("not all pages could be copied ({other:?}); try again")),
    }
    let mode: String = to
        .pragma_update_and_check(None, "journal_mode", "delete", |row| row.get(0))
        .map_err(|e| hint(&e))?;
    if mode != "delete" {
        return Err(format!("the copy stays in journal mode {mode}"));
    }
    look(to)
}

/// The page size that a header says; `None` when it is none that SQLite uses.
pub(super) fn page_size(header: &[u8]) -> Option<u32> {
    // SQLite file format, section 1.3: 1 means 65536
    match u32::from(u16::from_be_bytes(header.get(16..18)?.try_into().ok()?)) {
        1 => Some(65_536),
        size if size >= 512 && header.len() >= HEADER_BYTES => Some(size),
        _ => None,
    }
}

pub(super) fn hint(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => {
            format!("{error}; it is no SQLite database, or an encrypted one")
        }
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
            format!("{error}; a writer held it locked for {BUSY:?}, try again")
        }
        Some(rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::CannotOpen) => format!(
            "{error}; a database left by a crash is recovered by opening it once with sqlite3, and one in \
             WAL mode needs a directory that can be written"
        ),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(dir: &Path, page_bytes: u32, setup: &str) -> (PathBuf, Connection) {
        let path = dir.join("source.db");
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
        let db = Connection::open(&path).unwrap();
        db.execute_batch(&format!(
            "PRAGMA page_size = {page_bytes}; {setup}; CREATE TABLE t (n, x); CREATE INDEX i ON t (x);
             WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 2000)
             INSERT INTO t SELECT n, hex(randomblob(50)) FROM c; DELETE FROM t WHERE n % 3 = 0;"
        ))
        .unwrap();
        (path, db)
    }

    fn count(db: &Connection) -> Result<(u32, String), String> {
        let sql = "SELECT count(*), (SELECT * FROM pragma_integrity_check) FROM t";
        db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).map_err(|e| e.to_string())
    }

    #[test]
    fn a_copy_in_memory_and_one_in_a_file_are_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let large = Room::new(64 << 20, None);
        let none = Room::new(0, Some(dir.path().to_owned()));
        let pages = [512, 4096, 65_536];
        for (page_bytes, setup) in pages.into_iter().flat_map(|bytes| {
            ["", "PRAGMA journal_mode = wal", "PRAGMA auto_vacuum = incremental"]
                .map(|setup| (bytes, setup))
        }) {
            let (path, open) = source(dir.path(), page_bytes, setup);
            let mut open = Some(open);
            // in use, and as its last user left it
            for _ in 0..2 {
                let (memory, seen) = copy(&path, &large, count).unwrap();
                assert!(matches!(memory, Content::Memory(_)));
                let (file, seen_in_file) = copy(&path, &none, count).unwrap();
                let Content::File { path: at, .. } = &file else { panic!("{file:?}") };
                let bytes = std::fs::read(at).unwrap();
                assert_eq!(seen, (1334, "ok".to_owned()), "{page_bytes} {setup}");
                assert_eq!(seen, seen_in_file);
                let Content::Memory(held) = &memory else { panic!("{memory:?}") };
                assert!(**held == *bytes, "{page_bytes} {setup}");
                assert_eq!(page_size(&bytes), Some(page_bytes));
                assert_eq!(bytes[18..20], [1, 1], "{setup}");
                assert_eq!(memory.digest().unwrap(), file.digest().unwrap());
                assert_eq!(memory.length().unwrap(), file.length().unwrap());
                drop(open.take());
            }
        }
    }

    #[test]
    fn copies_take_no_more_memory_than_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _open) = source(dir.path(), 4096, "");
        let length = std::fs::metadata(&path).unwrap().len();
        // one that is being made, and one that is done
        let room = Room::new(length * 3 + 2048, Some(dir.path().to_owned()));
        let in_memory = || matches!(copy(&path, &room, count).unwrap().0, Content::Memory(_));
        let first = copy(&path, &room, count).unwrap().0;
        let second = copy(&path, &room, count).unwrap().0;
        assert!(matches!((&first, &second), (Content::Memory(_), Content::Memory(_))));
        assert!(!in_memory(), "a third has no room to be made in");
        let Content::Memory(bytes) = first else { panic!("{first:?}") };
        let sent = bytes.slice(10..20);
        drop((bytes, second));
        assert!(in_memory());
        drop(sent);
        assert_eq!(room.memory.available_permits() as u64, (length * 3 + 2048) / PERMIT_BYTES);
    }

    #[tokio::test]
    async fn a_copy_is_read_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let (path, _open) = source(dir.path(), 4096, "");
        for memory_bytes in [0, 64 << 20] {
            let room = Room::new(memory_bytes, Some(dir.path().to_owned()));
            let (content, ()) = copy(&path, &room, |_| Ok(())).unwrap();
            let length = content.length().unwrap() as usize;
            let mut pieces = content.open().unwrap();
            let mut hasher = blake3::Hasher::new();
            hasher.update(&pieces.next(1_000).await.unwrap());
            hasher.update(&pieces.next(length - 1_000).await.unwrap());
            assert_eq!(Digest::from(hasher.finalize()), content.digest().unwrap());
            assert!(pieces.next(1).await.is_err(), "there are no more");
        }
    }
}
