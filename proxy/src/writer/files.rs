//! Where the writable segments of a node lie, and how a file is put in its place.
//!
//! ```text
//!   writable/<id>.sqlite             the segment, with SQLite's -wal and -shm beside it
//!   writable/<id>.json               its note: whose epoch it is, which version it goes on from
//!   writable/<random>.part           being fetched, created or copied; swept at start
//!   writable/lease                   until when which segments may be read here, for the reader; with the one before
//!                                    as lease.spare
//!   writable/lock                    held by the one writer
//!   writable/orphans/<id>@<epoch>.sqlite, .json   what was acknowledged here and overtaken elsewhere
//!   writable/orphans/<id>@<epoch>.lock            held by who puts its rows back, or discards it
//! ```
//!
//! Invariants: a file shows under its name whole and durable, or not at all; nothing that was acknowledged is deleted:
//! what is not to be used goes to `orphans`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fsd::segment::SegmentId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempPath;

use super::note::Note;

/// What files are called that are not whole yet.
const PART: &str = ".part";
/// What notes are called.
const NOTE: &str = ".json";
/// What the locks of orphans are called.
const LOCK: &str = "lock";
/// What lies beside a database that is, or was, open.
const BESIDE: [&str; 2] = ["-wal", "-shm"];
/// The longest wait for readers of a file that is set aside.
const READERS_WAIT: Duration = Duration::from_secs(5);
/// Between two tries while they are waited for.
const READERS_PAUSE: Duration = Duration::from_millis(20);
/// Orphans and notes that a listing gives.
const LISTED_MAX: usize = 100_000;

/// See the module.
#[derive(Debug, Clone)]
pub struct Files {
    root: PathBuf,
}

/// A step on these files that failed.
#[derive(Debug, thiserror::Error)]
#[error("{attempted} {path}: {error}", path = path.display())]
pub struct FilesError {
    attempted: &'static str,
    path: PathBuf,
    /// What came back.
    pub error: io::Error,
}

pub(super) fn failed<'a>(
    attempted: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> FilesError + use<'a> {
    move |error| FilesError { attempted, path: path.to_owned(), error }
}

impl Files {
    /// Those below `root`, to look at: it need not be there.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Those below `root`, which is made if it is not there.
    pub fn open(root: PathBuf) -> Result<Self, FilesError> {
        let orphans = root.join("orphans");
        std::fs::create_dir_all(&orphans).map_err(failed("make", &orphans))?;
        let files = Self { root };
        files.sync()?;
        Ok(files)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where `id` is written.
    pub fn database(&self, id: &SegmentId) -> PathBuf {
        self.root.join(id.file_name())
    }

    /// A name for something that is not whole yet, which goes when it is dropped. Nothing is there.
    pub fn part(&self) -> Result<TempPath, FilesError> {
        let builder = &mut tempfile::Builder::new();
        let made = builder.suffix(PART).make_in(&self.root, |_| Ok(()));
        made.map(tempfile::NamedTempFile::into_temp_path)
            .map_err(failed("find a name in", &self.root))
    }

    /// Deletes what was never whole.
    pub fn sweep(&self) -> Result<(), FilesError> {
        for name in self.names(&self.root)? {
            let part = BESIDE.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
            if part.ends_with(PART) || part.ends_with(&format!("{PART}-journal")) {
                remove(&self.root.join(&name))?;
            }
        }
        Ok(())
    }

    /// Puts the whole file at `part` where `id` is written. Durable when this returns.
    pub fn place(&self, part: TempPath, id: &SegmentId) -> Result<(), FilesError> {
        let target = self.database(id);
        let file = File::open(&part).map_err(failed("open", &part))?;
        file.sync_all().map_err(failed("sync", &part))?;
        let from = part.to_path_buf();
        part.persist(&target).map_err(|error| failed("rename", &from)(error.error))?;
        self.sync()
    }

    /// The note of `id`; `None` when there is none.
    pub fn note(&self, id: &SegmentId) -> Result<Option<Note>, FilesError> {
        read(&self.note_path(id))
    }

    /// Writes the note of its segment. Durable when this returns.
    pub fn write_note(&self, note: &Note) -> Result<(), FilesError> {
        self.write(&self.note_path(&note.segment), note)
    }

    /// The notes of all segments that are written here, or were when the writer ended.
    pub fn notes(&self) -> Result<Vec<Note>, FilesError> {
        self.notes_in(&self.root)
    }

    /// The notes of all orphans.
    pub fn orphans(&self) -> Result<Vec<Note>, FilesError> {
        let notes = self.notes_in(&self.root.join("orphans"))?;
        // a note whose file has not come yet is that of a process that ended in between
        let there = |note: &Note| self.orphan(note).try_exists().unwrap_or(true);
        Ok(notes.into_iter().filter(there).collect())
    }

    /// Where the orphan that `note` tells of lies.
    pub fn orphan(&self, note: &Note) -> PathBuf {
        self.root.join("orphans").join(format!("{}.sqlite", note.orphan_name()))
    }

    /// Makes an orphan of what was written to `id`: it is kept, and never published from here. May wait for its readers.
    pub fn set_aside(&self, note: &Note) -> Result<PathBuf, FilesError> {
        let (from, to) = (self.database(&note.segment), self.orphan(note));
        self.write(&to.with_extension("json"), note)?;
        // its log belongs to it: then it is one file, which is here or there whenever this process ends
        fold_log(&from)?;
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("rename", &from)(error));
            }
            _ => {}
        }
        let orphans = self.root.join("orphans");
        sync_directory(&orphans)?;
        remove(&self.note_path(&note.segment))?;
        self.sync()?;
        Ok(to)
    }

    /// Deletes what was written to `id`, its note first: without one a file is never used.
    pub fn forget(&self, id: &SegmentId) -> Result<(), FilesError> {
        remove(&self.note_path(id))?;
        self.sync()?;
        let database = self.database(id);
        for end in ["", BESIDE[0], BESIDE[1]] {
            remove(&with_end(&database, end))?;
        }
        Ok(())
    }

    /// Deletes the orphan that `note` tells of. For good when this returns.
    pub fn discard(&self, note: &Note) -> Result<(), FilesError> {
        let orphan = self.orphan(note);
        for end in ["", BESIDE[0], BESIDE[1]] {
            remove(&with_end(&orphan, end))?;
        }
        for kind in ["json", LOCK] {
            remove(&orphan.with_extension(kind))?;
        }
        sync_directory(&self.root.join("orphans"))
    }

    /// Where the lock of the orphan that `note` tells of is.
    pub(super) fn orphan_lock(&self, note: &Note) -> PathBuf {
        self.orphan(note).with_extension(LOCK)
    }

    /// The names of all files of orphans, in order: whoever sees the same as before need not look closer.
    pub(super) fn orphan_names(&self) -> Result<Vec<String>, FilesError> {
        self.names(&self.root.join("orphans"))
    }

    /// Bytes that all of it takes; what cannot be looked at counts as none.
    pub fn stored_bytes(&self) -> u64 {
        let length = |dir: &Path| {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let files = entries.filter_map(|entry| entry.metadata().ok());
            files.filter(std::fs::Metadata::is_file).map(|file| file.len()).sum::<u64>()
        };
        length(&self.root) + length(&self.root.join("orphans"))
    }

    fn note_path(&self, id: &SegmentId) -> PathBuf {
        self.root.join(format!("{id}{NOTE}"))
    }

    fn notes_in(&self, dir: &Path) -> Result<Vec<Note>, FilesError> {
        let mut notes = Vec::new();
        for name in self.names(dir)? {
            if name.ends_with(NOTE) {
                notes.extend(read::<Note>(&dir.join(name))?);
            }
        }
        Ok(notes)
    }

    fn names(&self, dir: &Path) -> Result<Vec<String>, FilesError> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(failed("list", dir))?.take(LISTED_MAX) {
            let entry = entry.map_err(failed("list", dir))?;
            names.extend(entry.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn write(&self, path: &Path, document: &impl Serialize) -> Result<(), FilesError> {
        let directory = path.parent().unwrap_or(&self.root);
        let write = || {
            let mut part = tempfile::Builder::new().suffix(PART).tempfile_in(&self.root)?;
            part.write_all(&serde_json::to_vec(document)?)?;
            part.as_file().sync_all()?;
            part.persist(path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(failed("write", path))?;
        sync_directory(directory)
    }

    fn sync(&self) -> Result<(), FilesError> {
        sync_directory(&self.root)
    }
}

/// Moves the log of the database at `path`, if both are there, into its file, durably.
fn fold_log(path: &Path) -> Result<(), FilesError> {
    let fold = || -> rusqlite::Result<()> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
        let database = rusqlite::Connection::open_with_flags(path, flags)?;
        database.pragma_update(None, "synchronous", "full")?;
        let until = Instant::now() + READERS_WAIT;
        loop {
            let mode =
                database.pragma_update_and_check(None, "journal_mode", "delete", |row| row.get(0));
            match mode {
                // a reader that has it open lets go of it soon; SQLite's own wait does not wait for this
                Err(error) if is_busy(&error) && Instant::now() < until => {
                    std::thread::sleep(READERS_PAUSE);
                }
                Err(error) => return Err(error),
                Ok(mode) if String::eq(&mode, "delete") => return Ok(()),
                Ok(_) => return Err(rusqlite::Error::InvalidQuery),
            }
        }
    };
    match path.try_exists() {
        Ok(false) => Ok(()),
        Ok(true) => {
            fold().map_err(|error| failed("fold the log into", path)(io::Error::other(error)))
        }
        Err(error) => Err(failed("look at", path)(error)),
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
}

fn sync_directory(path: &Path) -> Result<(), FilesError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("sync", path))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FilesError> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(failed("read", path))?,
    };
    let document = serde_json::from_slice(&text);
    document.map(Some).map_err(|error| failed("understand", path)(io::Error::other(error)))
}

fn remove(path: &Path) -> Result<(), FilesError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("delete", path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}
