//! What the threads of a writable segment and those who ask for it share: what is unpublished, and whether it still is
//! writable.
//!
//! Invariants: a segment is told to have something unpublished before the first write after a publication begins, and
//! told to have nothing only when every commit is published; both by the thread that commits, so in this order.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use sync::clock::Clock;

use super::{Lease, Unpublished, WriteError};

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) database: PathBuf,
    pub(super) write_ms: u64,
    pub(super) lease: Arc<dyn Lease>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Bytes that went into the log since it was emptied.
    log_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Since the segment was opened.
    commits: u64,
    bytes: u64,
    /// As they were at the last publication.
    published: Copied,
    /// When the oldest commit that is not published began; Unix time in milliseconds.
    since_ms: Option<u64>,
    /// When the first commit after the last copy began.
    after_copy_ms: Option<u64>,
    poisoned: Option<String>,
}

/// What a copy has: commits and bytes since the segment was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// How many commits.
    pub commits: u64,
    /// How many bytes of pages they wrote.
    pub bytes: u64,
}

impl Shared {
    /// `since_ms`: since when it has something unpublished from before it was opened.
    pub(super) fn new(
        name: String,
        database: PathBuf,
        write_ms: u64,
        lease: Arc<dyn Lease>,
        clock: Arc<dyn Clock>,
        since_ms: Option<u64>,
    ) -> Self {
        let state = State { since_ms, ..State::default() };
        let state = Mutex::new(state);
        Self { name, database, write_ms, lease, clock, state, log_bytes: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("a panic ends the process, so no thread has left this lock poisoned")
    }

    /// Why nothing can be written, if so.
    pub(super) fn writable(&self) -> Result<(), WriteError> {
        if let Some(reason) = self.poisoned() {
            return Err(WriteError::Disk(reason));
        }
        match self.lease.holds() {
            true => Ok(()),
            false => Err(WriteError::Closed("its write lock ran out".to_owned())),
        }
    }

    pub(super) fn poisoned(&self) -> Option<String> {
        self.lock().poisoned.clone()
    }

    pub(super) fn poison(&self, reason: &str) {
        self.lock().poisoned.get_or_insert_with(|| reason.to_owned());
    }

    /// Tells, before a write begins, that there will be something unpublished, unless that is told already.
    pub(super) fn unsettle(&self) -> Result<(), WriteError> {
        let now_ms = self.clock.now_ms();
        {
            let mut state = self.lock();
            if state.since_ms.is_some() {
                state.after_copy_ms.get_or_insert(now_ms);
                return Ok(());
            }
        }
        self.lease.tell(Some(now_ms))?;
        let mut state = self.lock();
        state.since_ms = Some(now_ms);
        state.after_copy_ms = Some(now_ms);
        Ok(())
    }

    pub(super) fn committed(&self, bytes: u64) {
        let mut state = self.lock();
        state.commits += 1;
        state.bytes += bytes;
    }

    /// What a copy has that begins now.
    pub(super) fn copied(&self) -> Copied {
        let mut state = self.lock();
        state.after_copy_ms = None;
        Copied { commits: state.commits, bytes: state.bytes }
    }

    /// `copied` is published; `true` when that is all there is.
    pub(super) fn settle(&self, copied: Copied) -> Result<bool, WriteError> {
        let (settled, since_ms) = {
            let mut state = self.lock();
            state.published = copied;
            let settled = state.commits == copied.commits;
            (settled, if settled { None } else { state.after_copy_ms })
        };
        self.lease.tell(since_ms)?;
        self.lock().since_ms = since_ms;
        Ok(settled)
    }

    pub(super) fn unpublished(&self) -> Unpublished {
        let state = self.lock();
        Unpublished {
            since_ms: state.since_ms,
            commits: state.commits - state.published.commits,
            bytes: state.bytes - state.published.bytes,
        }
    }

    /// The log's length at most, with `bytes` more.
    pub(super) fn log_grew(&self, bytes: u64) -> u64 {
        self.log_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    pub(super) fn log_emptied(&self) {
        self.log_bytes.store(0, Ordering::Relaxed);
    }
}
