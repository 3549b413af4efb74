//! Makes what was committed to the write-ahead log durable (S3).
//!
//! Invariant: after [`WalSync::sync`] every commit that was there before the call outlives a power cut: SQLite itself
//! syncs what it moves from the log into the file (synchronous=NORMAL), and this what is still in the log. The log's
//! name is durable, too: it lives as long as the connection, and its directory is synced when it is first seen.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fsd::failpoint::crash_point;

/// How a log is synced; another in tests of what happens when the disk refuses.
pub type SyncData = Arc<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

/// See the module.
pub(super) struct WalSync {
    path: PathBuf,
    open: Option<File>,
    sync_data: SyncData,
}

impl fmt::Debug for WalSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WalSync").field(&self.path).finish()
    }
}

impl WalSync {
    /// For the log of the database at `database`.
    pub(super) fn new(database: &Path, sync_data: SyncData) -> Self {
        Self { path: log_of(database), open: None, sync_data }
    }

    /// See the module. Blocks.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if let Some(log) = &self.open {
            crash_point("write.before-sync");
            return (self.sync_data)(log);
        }
        let log = File::open(&self.path)?;
        crash_point("write.before-sync");
        (self.sync_data)(&log)?;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()?;
        self.open = Some(log);
        Ok(())
    }
}

/// Where SQLite keeps the log of `database`.
pub(super) fn log_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}
