//! A private, checked copy of the source, in the form in which segments are published: one file, no WAL.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fsd::segment::{Digest, SegmentId, Stamp};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use tempfile::TempPath;

use super::PublishError;
use crate::seal::{FORMAT, Seal};

/// How long a copy waits for a writer that holds the source exclusively.
const BUSY: Duration = Duration::from_secs(30);
/// The pause between two looks at such a source.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// How many damages are told of.
const PROBLEMS: usize = 3;

/// A copy that may be published; the file goes when this is dropped.
#[derive(Debug)]
pub(super) struct Prepared {
    pub file: TempPath,
    pub length: u64,
    page_size: u32,
    schema_blake3: Digest,
    rows: BTreeMap<String, u64>,
}

impl Prepared {
    /// The seal of this copy once it lies in the deep store with `stamp`.
    pub(super) fn seal(&self, id: &SegmentId, digest: Digest, stamp: Stamp) -> Seal {
        Seal {
            format: FORMAT,
            id: id.clone(),
            length: stamp.length,
            mtime_ms: stamp.mtime_ms,
            blake3: digest,
            page_size: self.page_size,
            schema_blake3: self.schema_blake3,
            rows: self.rows.clone(),
            integrity_checked: true,
            sealed_by: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Copies `source` through SQLite's backup API, so that one snapshot is taken whoever writes meanwhile, and
/// checks the copy.
pub(super) async fn prepare(
    source: PathBuf,
    temp_dir: Option<PathBuf>,
) -> Result<Prepared, PublishError> {
    let path = source.clone();
    let task = tokio::task::spawn_blocking(move || {
        let failed = |reason: String| PublishError::Source { path: source.clone(), reason };
        let temp_dir = temp_dir.unwrap_or_else(std::env::temp_dir);
        let file = tempfile::Builder::new()
            .prefix("trough-put-")
            .suffix(".sqlite")
            .tempfile_in(&temp_dir)
            .map_err(|e| failed(format!("no temporary file in {}: {e}", temp_dir.display())))?
            .into_temp_path();
        let copy = copy(&source, &file).map_err(failed)?;
        let problems = integrity(&copy).map_err(|e| failed(e.to_string()))?;
        if !problems.is_empty() {
            return Err(PublishError::Damaged { path: source, problems: problems.join("; ") });
        }
        let (schema_blake3, rows) = content(&copy).map_err(|e| failed(e.to_string()))?;
        drop(copy);
        let (length, page_size) = form(&file).map_err(failed)?;
        Ok(Prepared { file, length, page_size, schema_blake3, rows })
    });
    task.await.unwrap_or_else(|e| Err(PublishError::Source { path, reason: e.to_string() }))
}

fn copy(source: &Path, file: &Path) -> Result<Connection, String> {
    let metadata = std::fs::metadata(source).map_err(|e| e.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    // SQLite would take it as a database without tables; it is rather a name mistyped or a copy cut short
    if metadata.len() == 0 {
        return Err("it is empty; put a table into it first".to_owned());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let from = Connection::open_with_flags(source, flags).map_err(|e| e.to_string())?;
    let mut to = Connection::open(file).map_err(|e| e.to_string())?;
    // the copy is thrown away if this process dies
    to.pragma_update(None, "synchronous", "off").map_err(|e| e.to_string())?;
    {
        let backup = Backup::new(&from, &mut to).map_err(|e| e.to_string())?;
        let started = std::time::Instant::now();
        loop {
            // all pages in one step are one snapshot
            match backup.step(-1).map_err(|e| hint(&e))? {
                StepResult::Done => break,
                StepResult::More => {}
                StepResult::Busy | StepResult::Locked if started.elapsed() < BUSY => {
                    std::thread::sleep(BUSY_PAUSE);
                }
                _ => return Err(format!("a writer held it locked for {BUSY:?}; try again")),
            }
        }
    }
    let mode: String = to
        .pragma_update_and_check(None, "journal_mode", "delete", |row| row.get(0))
        .map_err(|e| hint(&e))?;
    if mode != "delete" {
        return Err(format!("the copy stays in journal mode {mode}"));
    }
    Ok(to)
}

fn hint(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => {
            format!("{error}; it is no SQLite database, or an encrypted one")
        }
        Some(rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::CannotOpen) => format!(
            "{error}; a database left by a crash is recovered by opening it once with sqlite3, and one in \
             WAL mode needs a directory that can be written"
        ),
        _ => error.to_string(),
    }
}

fn integrity(copy: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = match copy.prepare(&format!("PRAGMA integrity_check({PROBLEMS})")) {
        Err(error) if corrupt(&error) => return Ok(vec![error.to_string()]),
        other => other?,
    };
    let found = statement.query_map([], |row| row.get::<_, String>(0))?;
    match found.collect::<rusqlite::Result<Vec<_>>>() {
        Ok(lines) if lines.iter().map(String::as_str).eq(["ok"]) => Ok(Vec::new()),
        Ok(lines) => Ok(lines),
        Err(error) if corrupt(&error) => Ok(vec![error.to_string()]),
        Err(error) => Err(error),
    }
}

fn corrupt(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt)
}

/// The hash of the schema, and the rows of each ordinary table.
fn content(copy: &Connection) -> rusqlite::Result<(Digest, BTreeMap<String, u64>)> {
    let mut hasher = blake3::Hasher::new();
    let mut tables = Vec::new();
    let sql =
        "SELECT type, name, tbl_name, sql, rootpage > 0 FROM sqlite_schema ORDER BY type, name";
    let mut statement = copy.prepare(sql)?;
    let mut entries = statement.query([])?;
    while let Some(entry) = entries.next()? {
        let (kind, name): (String, String) = (entry.get(0)?, entry.get(1)?);
        let (of, sql): (String, Option<String>) = (entry.get(2)?, entry.get(3)?);
        for text in [&kind, &name, &of, sql.as_deref().unwrap_or_default()] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        let stored: bool = entry.get(4)?;
        if kind == "table" && stored && !name.starts_with("sqlite_") {
            tables.push(name);
        }
    }
    let mut rows = BTreeMap::new();
    for name in tables {
        let sql = format!("SELECT count(*) FROM \"{}\"", name.replace('"', "\"\""));
        rows.insert(name, copy.query_row(&sql, [], |row| row.get(0))?);
    }
    Ok((Digest::from(hasher.finalize()), rows))
}

/// Length and page size, after a look at the header: what is published opens without a WAL.
fn form(file: &Path) -> Result<(u64, u32), String> {
    let length = std::fs::metadata(file).map_err(|e| e.to_string())?.len();
    let mut header = [0; 20];
    std::fs::File::open(file)
        .and_then(|mut file| file.read_exact(&mut header))
        .map_err(|e| e.to_string())?;
    // SQLite file format, section 1.3: a page size of 1 means 65536
    let page_size = match u32::from(header[16]) << 8 | u32::from(header[17]) {
        1 => 65_536,
        size => size,
    };
    match (&header[18..], page_size) {
        ([1, 1], 512..) if length.is_multiple_of(page_size.into()) => Ok((length, page_size)),
        _ => Err(format!(
            "its copy of {length} bytes with pages of {page_size} has a header that is not right"
        )),
    }
}
