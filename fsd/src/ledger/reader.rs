//! The reading end of the ledger, for fsd: a process of its own, perhaps without the right to write here.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use crate::layout::Layout;
use crate::segment::{Digest, SegmentId, Stamp};

use super::{LedgerError, failure};

/// A file system handler waits behind this call, so it is short: a writer in WAL mode does not block readers
/// except for moments while the log is recovered.
const BUSY_TIMEOUT: Duration = Duration::from_millis(100);

/// What is known of one version of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its length and mtime in the deep store.
    pub stamp: Stamp,
    /// Where it lies in the deep store; empty when the ledger was lost and rebuilt from the objects.
    pub source: String,
    /// When its bytes were last verified, milliseconds since 1970.
    pub verified_at_ms: u64,
}

/// Reads the ledger that another process writes.
///
/// It needs read permission on `ledger.sqlite`, `ledger.sqlite-wal` and `ledger.sqlite-shm` and search
/// permission on the cache directory; the writer leaves the latter two files behind when it ends, so no
/// write permission is needed. A ledger that is not there yet, or was replaced, is no error: each call
/// looks which file has the name now.
#[derive(Debug)]
pub struct LedgerReader {
    path: PathBuf,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    connection: Connection,
    dev: u64,
    ino: u64,
}

impl LedgerReader {
    /// A reader of the ledger at `layout`; nothing is opened before the first question.
    pub fn open(layout: &Layout) -> Self {
        Self { path: layout.ledger(), open: Mutex::new(None) }
    }

    /// What the ledger says of `id` at version `digest`; `None` when it says nothing (yet).
    pub fn facts(&self, id: &SegmentId, digest: &Digest) -> Result<Option<Facts>, LedgerError> {
        let Ok(now) = std::fs::metadata(&self.path) else { return Ok(None) };
        let mut open =
            self.open.lock().expect("a panic aborts the process, so the lock is never poisoned");
        if open.as_ref().is_none_or(|open| (open.dev, open.ino) != (now.dev(), now.ino())) {
            let connection =
                connect(&self.path).map_err(|source| failure("open", &self.path, source))?;
            *open = Some(Open { connection, dev: now.dev(), ino: now.ino() });
        }
        let Some(Open { connection, .. }) = open.as_ref() else { return Ok(None) };
        let facts = facts(connection, id, digest);
        facts.map_err(|source| {
            // whatever is wrong with it, the next call starts afresh
            *open = None;
            failure("read", &self.path, source)
        })
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn facts(
    connection: &Connection,
    id: &SegmentId,
    digest: &Digest,
) -> rusqlite::Result<Option<Facts>> {
    let sql = "SELECT segment.length, mtime_ms, source, verified_at_ms FROM segment JOIN object USING (digest)
               WHERE id = ? AND digest = ?";
    let mut statement = connection.prepare_cached(sql)?;
    let row = statement.query_row(params![id.as_str(), digest.as_bytes()], |row| {
        Ok(Facts {
            stamp: Stamp { length: row.get(0)?, mtime_ms: row.get(1)? },
            source: row.get(2)?,
            verified_at_ms: row.get(3)?,
        })
    });
    row.optional()
}

#[cfg(test)]
mod tests {
    use super::super::{Ledger, tests::rows};
    use super::*;

    #[test]
    fn the_reader_follows_a_ledger_that_comes_late_ends_and_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        let reader = LedgerReader::open(&layout);
        let (id, digest) = (SegmentId::new("ohio").unwrap(), Digest::from(blake3::hash(b"golden")));
        assert_eq!(reader.facts(&id, &digest).unwrap(), None);

        let mut ledger = Ledger::open(&layout.ledger()).unwrap();
        assert_eq!(reader.facts(&id, &digest).unwrap(), None);
        ledger.apply(&rows()).unwrap();
        let facts = Facts {
            stamp: Stamp { length: 8192, mtime_ms: 1_700_000_000_000 },
            source: "/segments/o/ohio.sqlite".into(),
            verified_at_ms: 1_700_000_000_123,
        };
        assert_eq!(reader.facts(&id, &digest).unwrap().as_ref(), Some(&facts));
        assert_eq!(reader.facts(&id, &Digest::from(blake3::hash(b"other"))).unwrap(), None);
        drop(ledger);
        assert_eq!(LedgerReader::open(&layout).facts(&id, &digest).unwrap(), Some(facts));

        std::fs::rename(layout.ledger(), directory.path().join("aside")).unwrap();
        for side in ["-wal", "-shm"] {
            std::fs::remove_file(directory.path().join(format!("ledger.sqlite{side}"))).unwrap();
        }
        Ledger::open(&layout.ledger()).unwrap();
        assert_eq!(reader.facts(&id, &digest).unwrap(), None);
    }
}
