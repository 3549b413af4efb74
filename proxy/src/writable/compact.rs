//! A compacted copy of a segment as it is at one moment, made while writing goes on.
//!
//! Invariants: the copy has exactly the commits that were done when [`Copying::begin`] returned, for the thread that
//! commits waits for that. SQLite's VACUUM INTO reads within one transaction, which it begins after it has attached its
//! target and before it asks for the first time what the schema is; the authorizer sees both. Nothing of the segment itself
//! is written here, not even when this connection is its last: it does not sync.
//!
//! Left out: whose the copy is, and that it goes when it failed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use super::WriteError;
use super::connection::{COPY_CACHE_KIB, as_published};

/// The longest wait for the copy's transaction to begin; writes wait so long.
const BEGIN_MAX: Duration = Duration::from_secs(5);
/// Steps of SQLite between two looks whether the copy is still wanted.
const OPS_BETWEEN_CHECKS: i32 = 10_000;

/// A copy that is being made.
#[derive(Debug)]
pub(super) struct Copying {
    thread: JoinHandle<Result<(), WriteError>>,
    /// Ends the copy when it is set.
    pub(super) stop: Arc<AtomicBool>,
}

impl Copying {
    /// Begins to copy `database` to `target`, which is not there. Returns when what will be in it is decided.
    pub(super) fn begin(database: &Path, target: &Path) -> Result<Self, WriteError> {
        let (begun, wait) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let (from, to, stopped) = (database.to_owned(), target.to_owned(), Arc::clone(&stop));
        let copy = move || copy(&from, &to, &stopped, begun);
        let thread = std::thread::Builder::new().name("copy".to_owned()).spawn(copy);
        let thread =
            thread.map_err(|error| WriteError::Disk(format!("start a thread: {error}")))?;
        match wait_for(&wait) {
            true => Ok(Self { thread, stop }),
            false => {
                // one that failed is gone, and says why
                let late = matches!(wait.try_recv(), Err(TryRecvError::Empty));
                stop.store(late, Ordering::Relaxed);
                match thread.join() {
                    Ok(Err(error)) if !late => Err(error),
                    _ => {
                        let reason = format!("the copy did not begin within {BEGIN_MAX:?}");
                        Err(WriteError::Disk(reason))
                    }
                }
            }
        }
    }

    /// Waits for the whole copy. Blocks.
    pub(super) fn finish(self) -> Result<(), WriteError> {
        let lost = |_| Err(WriteError::Disk("the copying thread ended without a word".to_owned()));
        self.thread.join().unwrap_or_else(lost)
    }
}

fn wait_for(begun: &Receiver<()>) -> bool {
    begun.recv_timeout(BEGIN_MAX).is_ok()
}

fn copy(
    from: &Path,
    to: &Path,
    stop: &Arc<AtomicBool>,
    begun: SyncSender<()>,
) -> Result<(), WriteError> {
    let failed = |error: rusqlite::Error| match stop.load(Ordering::Relaxed) {
        true => WriteError::Closed("its copy is not wanted any more".to_owned()),
        false => WriteError::of_sqlite(&error.into()),
    };
    let target = utf8(to)?;
    let make = || -> rusqlite::Result<()> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let mut connection = Connection::open_with_flags(from, flags)?;
        connection.pragma_update(None, "cache_size", -COPY_CACHE_KIB)?;
        // a copy that a crash cuts short is thrown away; a sync of all of it would hold up those of the writes
        connection.pragma_update(None, "synchronous", "off")?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
        let stop = Arc::clone(stop);
        let stopped = move || stop.load(Ordering::Relaxed);
        connection.progress_handler(OPS_BETWEEN_CHECKS, Some(stopped))?;
        let (mut attached, mut told) = (false, false);
        connection.authorizer(Some(move |context: AuthContext<'_>| {
            match context.action {
                AuthAction::Attach { .. } => attached = true,
                AuthAction::Select if attached && !told => {
                    told = true;
                    // who waited too long for it does not listen any more
                    let _ = begun.send(());
                }
                _ => {}
            }
            Authorization::Allow
        }))?;
        connection.execute("VACUUM INTO ?1", [&target])?;
        drop(connection);
        as_published(to)
    };
    make().map_err(failed)
}

fn utf8(path: &Path) -> Result<String, WriteError> {
    let text = PathBuf::from(path).into_os_string().into_string();
    text.map_err(|_| {
        WriteError::Disk(format!("{} is no UTF-8 path; choose another", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_a_copy_that_outlives_the_writer_leaves_the_log_to_the_next_which_syncs() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a.sqlite"), dir.path().join("b.sqlite"));
        let writer = Connection::open(&from).unwrap();
        writer.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        writer
            .execute_batch(
                "PRAGMA journal_mode = wal; CREATE TABLE t (n); INSERT INTO t VALUES (7)",
            )
            .unwrap();
        drop(writer);
        let log = crate::writable::wal::log_of(&from);
        let before = std::fs::read(&log).unwrap();
        let (begun, wait) = sync_channel(1);
        copy(&from, &to, &Arc::default(), begun).unwrap();
        assert!(wait_for(&wait));
        assert_eq!(std::fs::read(&log).unwrap(), before);
        let copied = Connection::open(&to).unwrap();
        let n: i64 = copied.query_row("SELECT n FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(n, 7);
    }
}
