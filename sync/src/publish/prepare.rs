//! A private copy that was checked, and what its seal says of it.
//!
//! Invariant: the digest is that of the bytes that were checked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use fsd::segment::{Digest, SegmentId, Stamp};
use rusqlite::{Connection, OpenFlags};

use super::PublishError;
use super::copy::{Content, Room, copy, hint, page_size};
use crate::seal::{FORMAT, Seal};

/// How many damages are told of.
const PROBLEMS: usize = 3;
/// Compares indexes with their tables as well.
const ALL: &str = "integrity_check";
/// Passes over that: VACUUM has just built the indexes from the tables.
const QUICK: &str = "quick_check";

/// A copy that may be published.
#[derive(Debug)]
pub(super) struct Prepared {
    pub content: Content,
    pub length: u64,
    /// Of the copy as it was checked; what goes to the deep store must have it.
    pub digest: Digest,
    page_size: u32,
    schema_blake3: Digest,
    rows: BTreeMap<String, u64>,
}

impl Prepared {
    /// The seal of this copy once it lies in the deep store with `stamp`.
    pub(super) fn seal(&self, id: &SegmentId, stamp: Stamp) -> Seal {
        Seal {
            format: FORMAT,
            id: id.clone(),
            length: stamp.length,
            mtime_ms: stamp.mtime_ms,
            blake3: self.digest,
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
pub(super) async fn prepare(source: PathBuf, room: Arc<Room>) -> Result<Prepared, PublishError> {
    let path = source.clone();
    let task = tokio::task::spawn_blocking(move || {
        let failed = |reason: String| PublishError::Source { path: source.clone(), reason };
        let (content, seen) = copy(&source, &room, |copy| look(copy, ALL)).map_err(failed)?;
        let (schema_blake3, rows) = seen.map_err(|problems| PublishError::Damaged {
            path: source.clone(),
            problems: problems.join("; "),
        })?;
        let (length, page_size) = form(&content).map_err(failed)?;
        let digest = content.digest().map_err(|e| failed(e.to_string()))?;
        Ok(Prepared { content, length, digest, page_size, schema_blake3, rows })
    });
    task.await.unwrap_or_else(|e| Err(PublishError::Source { path, reason: e.to_string() }))
}

/// Checks `copy`, which VACUUM has just made and nobody else has. It is not deleted.
pub(super) async fn check(copy: PathBuf) -> Result<Prepared, PublishError> {
    let path = copy.clone();
    let task = tokio::task::spawn_blocking(move || {
        let failed = |reason: String| PublishError::Source { path: copy.clone(), reason };
        let content = Content::of(copy.clone());
        // before SQLite sees it, which would look for a WAL
        let (length, page_size) = form(&content).map_err(failed)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Connection::open_with_flags(&copy, flags).map_err(|e| failed(hint(&e)))?;
        let (schema_blake3, rows) =
            look(&database, QUICK).map_err(failed)?.map_err(|problems| PublishError::Damaged {
                path: copy.clone(),
                problems: problems.join("; "),
            })?;
        drop(database);
        let digest = content.digest().map_err(|e| failed(e.to_string()))?;
        Ok(Prepared { content, length, digest, page_size, schema_blake3, rows })
    });
    task.await.unwrap_or_else(|e| Err(PublishError::Source { path, reason: e.to_string() }))
}

/// The hash of the schema, and the rows of each ordinary table; or what is damaged.
type Seen = Result<(Digest, BTreeMap<String, u64>), Vec<String>>;

fn look(copy: &Connection, check: &str) -> Result<Seen, String> {
    let problems = integrity(copy, check).map_err(|e| hint(&e))?;
    match problems.is_empty() {
        true => content(copy).map(Ok).map_err(|e| e.to_string()),
        false => Ok(Err(problems)),
    }
}

fn integrity(copy: &Connection, check: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = match copy.prepare(&format!("PRAGMA {check}({PROBLEMS})")) {
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
fn form(content: &Content) -> Result<(u64, u32), String> {
    let length = content.length().map_err(|e| e.to_string())?;
    let header = content.header().map_err(|e| e.to_string())?;
    match (page_size(&header), &header[18..20]) {
        (Some(size), [1, 1]) if length.is_multiple_of(size.into()) => Ok((length, size)),
        (size, _) => Err(format!(
            "its copy of {length} bytes with pages of {size:?} has a header that is not right"
        )),
    }
}
