//! Open segments, ready for the next query.
//!
//! Invariants: a connection is handed out only while the mount shows the inode that it was opened on, asked
//! by one stat a query; an inode is one content for ever, so an answer is never older than the mount. The
//! digest is read once, when the segment is opened, between two equal stats. Connections that lie idle are
//! bounded, in all and per segment; those in use are bounded by the number of queries that may run.
//!
//! Left out: a replaced segment that nobody asks for is closed by [`Pool::sweep`], not at once.

use std::sync::{Arc, Mutex, MutexGuard};

use fsd::segment::{Digest, SegmentId};
use fsd::view::{Seen, ViewError};
use hashlink::LruCache;
use metrics::{counter, gauge};

use crate::connection::{SegmentConnection, SqliteError, SqliteSettings};
use crate::metrics::{POOL_CLOSED, POOL_HITS, POOL_MISSES, POOL_OPEN};
use crate::mount::Mount;

/// How often a segment may be replaced while it is opened before the open is given up.
const OPEN_ATTEMPTS: usize = 5;

/// A connection in use.
#[derive(Debug)]
pub struct Taken {
    /// The connection.
    pub connection: SegmentConnection,
    /// What version it shows.
    pub digest: Digest,
    id: SegmentId,
    seen: Seen,
}

/// Why a segment could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The mount did not answer.
    #[error(transparent)]
    View(#[from] ViewError),
    /// SQLite did not open it.
    #[error(transparent)]
    Open(SqliteError),
    /// It was replaced again and again meanwhile.
    #[error("the segment was replaced {OPEN_ATTEMPTS} times while it was being opened")]
    Changing,
}

#[derive(Debug)]
struct Slot {
    seen: Seen,
    digest: Digest,
    idle: Vec<SegmentConnection>,
}

#[derive(Debug)]
struct State {
    slots: LruCache<SegmentId, Slot>,
    idle: usize,
}

/// The pool.
#[derive(Debug)]
pub struct Pool {
    mount: Arc<dyn Mount>,
    sqlite: SqliteSettings,
    idle_max: usize,
    idle_per_segment_max: usize,
    state: Mutex<State>,
}

impl Pool {
    /// A pool that keeps at most `idle_max` connections, `idle_per_segment_max` of one segment.
    pub fn new(
        mount: Arc<dyn Mount>,
        sqlite: SqliteSettings,
        idle_max: usize,
        idle_per_segment_max: usize,
    ) -> Self {
        let state = State { slots: LruCache::new_unbounded(), idle: 0 };
        Self { mount, sqlite, idle_max, idle_per_segment_max, state: Mutex::new(state) }
    }

    /// A connection to the segment as the mount shows it now; `None` when it is not there. Blocks.
    pub fn take(&self, id: &SegmentId) -> Result<Option<Taken>, TakeError> {
        let Some(seen) = self.mount.stat(id)? else {
            self.drop_slot(id);
            return Ok(None);
        };
        if let Some(taken) = self.take_idle(id, seen) {
            counter!(POOL_HITS).increment(1);
            return Ok(Some(taken));
        }
        counter!(POOL_MISSES).increment(1);
        self.open(id, seen)
    }

    /// Takes a connection back for the next query.
    pub fn give_back(&self, taken: Taken) {
        let mut closed = Vec::new();
        let Taken { mut connection, digest, id, seen } = taken;
        connection.rest();
        let mut state = self.lock();
        if state.slots.peek(&id).is_none() {
            state.slots.insert(id.clone(), Slot { seen, digest, idle: Vec::new() });
        }
        match state.slots.get_mut(&id) {
            Some(slot) if slot.seen == seen && slot.idle.len() < self.idle_per_segment_max => {
                slot.idle.push(connection);
                state.idle += 1;
            }
            // replaced meanwhile, or enough of them
            Some(_) | None => closed.push(connection),
        }
        while state.idle > self.idle_max {
            let Some((_, slot)) = state.slots.remove_lru() else { break };
            state.idle -= slot.idle.len();
            closed.extend(slot.idle);
        }
        drop(state);
        close(closed, "room");
    }

    /// Closes a connection that failed.
    pub fn close_failed(&self, taken: Taken) {
        close(vec![taken.connection], "failed");
    }

    /// Closes what shows something else than the mount does now. Blocks: one stat for each open segment.
    pub fn sweep(&self) {
        let open: Vec<(SegmentId, Seen)> =
            self.lock().slots.iter().map(|(id, slot)| (id.clone(), slot.seen)).collect();
        for (id, seen) in open {
            match self.mount.stat(&id) {
                Ok(now) if now != Some(seen) => self.drop_slot(&id),
                // a mount that is away comes back as another device
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn take_idle(&self, id: &SegmentId, seen: Seen) -> Option<Taken> {
        let mut state = self.lock();
        let slot = state.slots.get_mut(id)?;
        if slot.seen != seen {
            drop(state);
            self.drop_slot(id);
            return None;
        }
        let connection = slot.idle.pop()?;
        let digest = slot.digest;
        state.idle -= 1;
        Some(Taken { connection, digest, id: id.clone(), seen })
    }

    fn drop_slot(&self, id: &SegmentId) {
        let mut state = self.lock();
        let Some(slot) = state.slots.remove(id) else { return };
        state.idle -= slot.idle.len();
        drop(state);
        close(slot.idle, "replaced");
    }

    fn open(&self, id: &SegmentId, mut seen: Seen) -> Result<Option<Taken>, TakeError> {
        for _ in 0..OPEN_ATTEMPTS {
            let opened = SegmentConnection::open(&self.mount.path(id), &self.sqlite);
            let digest = self.mount.digest(id)?;
            let again = self.mount.stat(id)?;
            let (Some(digest), Some(again)) = (digest, again) else { return Ok(None) };
            if again == seen {
                let connection = opened.map_err(TakeError::Open)?;
                gauge!(POOL_OPEN).increment(1.0);
                return Ok(Some(Taken { connection, digest, id: id.clone(), seen }));
            }
            seen = again;
        }
        Err(TakeError::Changing)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("a panic ends the process, so no thread has left this lock poisoned")
    }
}

/// Closes outside of the lock: unmapping and closing files takes time.
fn close(connections: Vec<SegmentConnection>, reason: &'static str) {
    if connections.is_empty() {
        return;
    }
    gauge!(POOL_OPEN).decrement(connections.len() as f64);
    counter!(POOL_CLOSED, "reason" => reason).increment(connections.len() as u64);
}
