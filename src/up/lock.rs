//! One `trough up` per directory.
//!
//! Invariant: the lock is the kernel's (flock), so it is gone with its holder however that ended; what the
//! file says is only for people.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

/// The lock's file in the directory.
pub const FILE_NAME: &str = "lock";

/// The most bytes of the lock's file that are read.
const HOLDER_BYTES_MAX: u64 = 64 << 10;

/// Holds the directory until it is dropped or the process ends. Children do not inherit it.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// Who holds a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// When it started, milliseconds since 1970.
    pub started_at_ms: u64,
    /// How it was called.
    pub command: String,
}

impl Holder {
    /// This process.
    pub fn this() -> Self {
        let arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
        Self {
            pid: std::process::id(),
            started_at_ms: now_ms(),
            command: arguments.collect::<Vec<_>>().join(" "),
        }
    }
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is in use by {}; stop that one, or name another directory with --dir", dir.display(), describe(holder.as_ref()))]
    Held {
        /// The directory.
        dir: PathBuf,
        /// Who, when the file could be read.
        holder: Option<Holder>,
    },
    /// The file could not be used.
    #[error("lock {}: {source}", path.display())]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// What came back.
        source: std::io::Error,
    },
}

fn describe(holder: Option<&Holder>) -> String {
    let Some(holder) = holder else { return "another process".to_owned() };
    let age = Duration::from_millis(now_ms().saturating_sub(holder.started_at_ms));
    let age = indicatif::HumanDuration(Duration::from_secs(age.as_secs()));
    format!("process {} (`{}`, started {age} ago)", holder.pid, holder.command)
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl DirLock {
    /// Takes the lock of `dir` for `holder`, without waiting.
    pub fn take(dir: &Path, holder: &Holder) -> Result<Self, LockError> {
        let path = dir.join(FILE_NAME);
        let fail = |source| LockError::Io { path: path.clone(), source };
        let mut options = File::options();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fail)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // an unreadable name of the holder changes nothing
                let _ = file.take(HOLDER_BYTES_MAX).read_to_string(&mut text);
                let holder = serde_json::from_str(&text).ok();
                return Err(LockError::Held { dir: dir.to_owned(), holder });
            }
            Err(errno) => return Err(fail(errno.into())),
        }
        let text = serde_json::to_string(holder).map_err(|error| fail(error.into()))?;
        file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).map_err(fail)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_refused_and_told_who_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let holder = Holder { pid: 4711, started_at_ms: now_ms(), command: "trough up".into() };
        let first = DirLock::take(directory.path(), &holder).unwrap();
        let refused = DirLock::take(directory.path(), &Holder::this()).unwrap_err().to_string();
        assert!(refused.contains("process 4711 (`trough up`, started"), "{refused}");
        drop(first);
        DirLock::take(directory.path(), &Holder::this()).unwrap();
    }
}
