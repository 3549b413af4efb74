//! The file as callers of an async runtime share it.
//!
//! Invariant: a call ends by its answer or by its time-out, and blocks no thread of the runtime.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::super::{KvError, KvErrorKind, KvTimeouts};
use super::Failure;
use super::file::File;

/// See the module. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct SharedFile {
    path: Arc<Path>,
    file: Arc<Mutex<File>>,
    timeouts: KvTimeouts,
}

impl SharedFile {
    /// Opens the file at `path`, or makes it, and brings its schema up to date.
    pub(crate) fn open(path: PathBuf, timeouts: KvTimeouts) -> Result<Self, KvError> {
        let path: Arc<Path> = path.into();
        let file = File::open(path.clone(), timeouts.call()).map_err(|failure| KvError {
            kind: failure.kind(),
            attempted: "open",
            target: path.display().to_string(),
            reason: failure.to_string(),
        })?;
        Ok(Self { path, file: Arc::new(Mutex::new(file)), timeouts })
    }

    /// Where it is.
    pub(crate) fn address(&self) -> String {
        self.path.display().to_string()
    }

    /// Runs `call` when the file is free.
    pub(crate) async fn on<T: Send + 'static>(
        &self,
        attempted: &'static str,
        call: impl FnOnce(&mut File) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, KvError> {
        let file = self.file.clone();
        let task = tokio::task::spawn_blocking(move || {
            call(&mut file.lock().expect("no code panics while it holds the file"))
        });
        let limit = self.timeouts.call();
        let (kind, reason) = match tokio::time::timeout(limit, task).await {
            Ok(Ok(Ok(value))) => return Ok(value),
            Ok(Ok(Err(failure))) => (failure.kind(), failure.to_string()),
            Ok(Err(join)) => (KvErrorKind::Unavailable, join.to_string()),
            Err(_) => {
                (KvErrorKind::TimedOut, format!("no answer within {limit:?}; is the disk well?"))
            }
        };
        Err(KvError { kind, attempted, target: self.address(), reason })
    }
}
