//! Open segments, ready for the next query.
//!
//! Invariants: a connection is handed out only while the mount shows the inode that it was opened on, asked
//! by one stat a query; an inode is one content for ever, so an answer is never older than the mount. The
//! digest is read once, when the segment is opened, between two equal stats. One to a file that is being written is handed
//! out only while the writer's lease holds and that is the writer's file. Connections that lie idle are bounded, in all and
//! per segment; those in use are bounded by the number of queries that may run.
//!
//! Left out: a replaced segment that nobody asks for is closed by [`Pool::sweep`], not at once.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use fsd::segment::SegmentId;
use fsd::view::{Seen, ViewError};
use hashlink::LruCache;
use metrics::{counter, gauge};

use crate::connection::{SegmentConnection, SqliteError};
use crate::metrics::{POOL_CLOSED, POOL_HITS, POOL_MISSES, POOL_OPEN};

mod source;

pub use source::{Shown, Source, Sources};

/// How often a segment may be replaced while it is opened before the open is given up.
const OPEN_ATTEMPTS: usize = 5;

/// A connection in use.
#[derive(Debug)]
pub struct Taken {
    /// The connection.
    pub connection: SegmentConnection,
    /// What it shows.
    pub shown: Shown,
    of: Of,
    seen: Seen,
}

/// Which file of which segment.
type Of = (SegmentId, Source);

/// Why a segment could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The mount did not answer.
    #[error(transparent)]
    View(#[from] ViewError),
    /// Nor did the disk that has the writable file.
    #[error("look at {path}: {error}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What came back.
        error: std::io::Error,
    },
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
    shown: Shown,
    idle: Vec<SegmentConnection>,
}

#[derive(Debug)]
struct State {
    slots: LruCache<Of, Slot>,
    idle: usize,
}

/// The pool.
#[derive(Debug)]
pub struct Pool {
    sources: Sources,
    idle_max: usize,
    idle_per_segment_max: usize,
    state: Mutex<State>,
}

impl Pool {
    /// A pool that keeps at most `idle_max` connections, `idle_per_segment_max` of one segment.
    pub fn new(sources: Sources, idle_max: usize, idle_per_segment_max: usize) -> Self {
        let state = State { slots: LruCache::new_unbounded(), idle: 0 };
        Self { sources, idle_max, idle_per_segment_max, state: Mutex::new(state) }
    }

    /// A connection to the segment as it is now; `None` when it is not there, or may not be read any more. Blocks.
    pub fn take(&self, id: &SegmentId, source: Source) -> Result<Option<Taken>, TakeError> {
        let of = (id.clone(), source);
        let Some(seen) = self.sources.stat(id, source)? else {
            self.drop_slot(&of);
            return Ok(None);
        };
        if let Some(taken) = self.take_idle(&of, seen) {
            counter!(POOL_HITS).increment(1);
            return Ok(Some(taken));
        }
        counter!(POOL_MISSES).increment(1);
        self.open(of, seen)
    }

    /// Takes a connection back for the next query.
    pub fn give_back(&self, taken: Taken) {
        let mut closed = Vec::new();
        let Taken { mut connection, shown, of, seen } = taken;
        connection.rest();
        let mut state = self.lock();
        if state.slots.peek(&of).is_none() {
            state.slots.insert(of.clone(), Slot { seen, shown, idle: Vec::new() });
        }
        match state.slots.get_mut(&of) {
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

    /// Closes what shows something else than `source` does now. Blocks: one stat for each open segment.
    pub fn sweep(&self, source: Source) {
        let open = |(of, slot): (&Of, &Slot)| (of.1 == source).then(|| (of.clone(), slot.seen));
        let open: Vec<(Of, Seen)> = self.lock().slots.iter().filter_map(open).collect();
        for (of, seen) in open {
            match self.sources.stat(&of.0, source) {
                Ok(now) if now != Some(seen) => self.drop_slot(&of),
                // a mount that is away comes back as another device
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn take_idle(&self, of: &Of, seen: Seen) -> Option<Taken> {
        let mut state = self.lock();
        let slot = state.slots.get_mut(of)?;
        if slot.seen != seen {
            drop(state);
            self.drop_slot(of);
            return None;
        }
        let connection = slot.idle.pop()?;
        let shown = slot.shown.clone();
        state.idle -= 1;
        Some(Taken { connection, shown, of: of.clone(), seen })
    }

    fn drop_slot(&self, of: &Of) {
        let mut state = self.lock();
        let Some(slot) = state.slots.remove(of) else { return };
        state.idle -= slot.idle.len();
        drop(state);
        close(slot.idle, "replaced");
    }

    fn open(&self, of: Of, mut seen: Seen) -> Result<Option<Taken>, TakeError> {
        let (id, source) = (&of.0, of.1);
        for _ in 0..OPEN_ATTEMPTS {
            let opened = self.sources.open(id, source);
            let shown = self.sources.shown(id, source)?;
            let again = self.sources.stat(id, source)?;
            let (Some(shown), Some(again)) = (shown, again) else { return Ok(None) };
            if again == seen {
                let connection = opened.map_err(TakeError::Open)?;
                gauge!(POOL_OPEN).increment(1.0);
                return Ok(Some(Taken { connection, shown, of, seen }));
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
