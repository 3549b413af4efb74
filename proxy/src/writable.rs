//! A segment that is open for writing: one SQLite file, one thread that writes it (DESIGN.md 7).
//!
//! ```text
//!   request     a script, or a statement with rows of values
//!   verbs       which statements are run
//!   admission   the allow-list that SQLite asks
//!   connection  the one connection that writes; one transaction a request
//!   thread      runs requests in order, syncs many at once, acknowledges
//!   wal         the sync
//!   compact     a copy of one moment, while writing goes on
//!   rehearsal   requests tried on a private copy
//!   state       what is unpublished
//! ```
//!
//! Invariants (S3): what is acknowledged is durable and stays, whatever becomes of the process or the machine; a request
//! is done whole or not at all, whatever other callers' requests do; nothing is acknowledged after the lease was lost.
//!
//! Left out: whose the lease is, which file this is, and what becomes of the copies: [`crate::writer`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sync::clock::Clock;
use sync::verb::Verb;
use tokio::sync::oneshot;

mod admission;
mod compact;
mod connection;
mod error;
mod rehearsal;
mod request;
mod state;
mod thread;
mod verbs;
mod wal;

use connection::WriteConnection;
pub use error::WriteError;
pub(crate) use rehearsal::Rehearsal;
pub(crate) use request::to_json;
pub use request::{Row, Rows, RowsRequest, WriteRequest};
pub use state::Copied;
use state::Shared;
use thread::{Order, Task};
pub use verbs::Verbs;
pub use wal::SyncData;
use wal::WalSync;

/// How segments are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WritableSettings {
    /// Which statements are run: "insert", "update", "delete", "create table" and so on. A schema may allow more.
    pub verbs: Vec<Verb>,
    /// The longest body of a request, in bytes.
    pub body_bytes_max: u64,
    /// The longest string, blob or row, in bytes. Readers have the same limit: what is longer cannot be read.
    pub value_bytes_max: u32,
    /// How long a request may take with its wait for those before it, in milliseconds.
    pub write_ms: u64,
    /// Requests that may wait for one segment; one more is answered with 429.
    pub queue_max: usize,
    /// Whether foreign keys are checked, as `PRAGMA foreign_keys` says.
    pub foreign_keys: bool,
}

impl Default for WritableSettings {
    fn default() -> Self {
        Self {
            verbs: vec![Verb::Insert, Verb::Update],
            body_bytes_max: 16 << 20,
            value_bytes_max: 4 << 20,
            write_ms: 30_000,
            queue_max: 1024,
            foreign_keys: false,
        }
    }
}

/// The right to write a segment, for as long as it lasts. Its calls block.
pub trait Lease: Send + Sync + fmt::Debug {
    /// Whether it lasts, by this machine's clock.
    fn holds(&self) -> bool;

    /// Tells the others since when there is something unpublished (Unix time in milliseconds), or that there is
    /// nothing. An error means that they may not have heard.
    fn tell(&self, unpublished_since_ms: Option<u64>) -> Result<(), WriteError>;
}

/// What was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Rows that were inserted, updated or deleted, by triggers too.
    pub changes: u64,
}

/// What of a segment is not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unpublished {
    /// Since when there is something; Unix time in milliseconds.
    pub since_ms: Option<u64>,
    /// How many requests since the segment was opened.
    pub commits: u64,
    /// How many bytes of pages they wrote.
    pub bytes: u64,
}

/// How a segment is opened.
#[derive(Debug)]
pub struct Opening<'a> {
    /// Its file, which is there.
    pub database: &'a Path,
    /// What the log calls it.
    pub name: String,
    /// Which statements are run.
    pub verbs: Verbs,
    /// Since when it has something unpublished, if it has; Unix time in milliseconds.
    pub unpublished_since_ms: Option<u64>,
}

/// See the module. Dropping it leaves nothing undone that was acknowledged.
#[derive(Debug)]
pub struct Writable {
    shared: Arc<Shared>,
    orders: SyncSender<Order>,
    thread: Mutex<Option<JoinHandle<Result<(), WriteError>>>>,
    settings: WritableSettings,
}

impl Writable {
    /// Opens a segment, and recovers what a crash left in its log. `sync_data` makes what was written durable. Blocks.
    pub fn open(
        opening: Opening<'_>,
        settings: &WritableSettings,
        lease: Arc<dyn Lease>,
        clock: Arc<dyn Clock>,
        sync_data: SyncData,
    ) -> Result<Self, WriteError> {
        let Opening { database, name, verbs, unpublished_since_ms } = opening;
        let opened = WriteConnection::open(database, settings, verbs);
        let connection = opened.map_err(|error| WriteError::of_sqlite(&error))?;
        let sync = WalSync::new(database, sync_data);
        let (write_ms, since_ms) = (settings.write_ms, unpublished_since_ms);
        let shared = Shared::new(name, database.to_owned(), write_ms, lease, clock, since_ms);
        let shared = Arc::new(shared);
        let queue_max = settings.queue_max.max(1);
        let (orders, queue) = sync_channel(queue_max);
        let thread = thread::start(connection, sync, Arc::clone(&shared), queue, queue_max);
        let thread =
            thread.map_err(|error| WriteError::Disk(format!("start a thread: {error}")))?;
        let thread = Mutex::new(Some(thread));
        Ok(Self { shared, orders, thread, settings: settings.clone() })
    }

    /// Writes. Dropping the future stops a request that has not ended; whether it was done is not known then.
    pub async fn write(&self, request: WriteRequest) -> Result<Written, WriteError> {
        self.shared.writable()?;
        let deadline = Instant::now() + Duration::from_millis(self.settings.write_ms);
        let gone = Gone::default();
        let (reply, answer) = oneshot::channel();
        let task = Task { request, deadline, gone: Arc::clone(&gone.0), reply };
        self.order(Order::Write(task))?;
        let written = answer.await;
        written.unwrap_or_else(|_| Err(WriteError::Unknown("its thread ended".to_owned())))
    }

    /// Writes a compacted copy of the segment, as it is now, to `target`, which is not there. Writes go on meanwhile.
    /// Dropping the future ends it; what is at `target` then is the caller's to remove, as after an error.
    pub async fn copy(&self, target: PathBuf) -> Result<Copied, WriteError> {
        let (reply, begun) = oneshot::channel();
        self.order(Order::Copy(target, reply))?;
        let ended = || WriteError::Closed("its thread ended".to_owned());
        let (copying, copied) = begun.await.map_err(|_| ended())??;
        let _gone = Gone(Arc::clone(&copying.stop));
        let finished = tokio::task::spawn_blocking(move || copying.finish()).await;
        finished.unwrap_or_else(|_| Err(ended()))?;
        Ok(copied)
    }

    /// Takes note, and tells, that `copied` is published; `true` when nothing else is unpublished.
    pub async fn settle(&self, copied: Copied) -> Result<bool, WriteError> {
        let (reply, settled) = oneshot::channel();
        self.order(Order::Settle(copied, reply))?;
        let settled = settled.await;
        settled.unwrap_or_else(|_| Err(WriteError::Closed("its thread ended".to_owned())))
    }

    /// What is not published.
    pub fn unpublished(&self) -> Unpublished {
        self.shared.unpublished()
    }

    /// Why it can only be closed and opened again, if that is so: its disk failed.
    pub fn poisoned(&self) -> Option<String> {
        self.shared.poisoned()
    }

    /// Ends it when all that waits has been answered, and moves the log into the file. Blocks.
    pub fn close(self) -> Result<(), WriteError> {
        let Self { orders, thread, .. } = self;
        drop(orders);
        let thread = thread.into_inner().unwrap_or_else(PoisonError::into_inner);
        let ended = thread.map(|thread| thread.join());
        match ended {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(_)) => Err(WriteError::Disk("its thread ended without a word".to_owned())),
        }
    }

    fn order(&self, order: Order) -> Result<(), WriteError> {
        self.orders.try_send(order).map_err(|error| match error {
            TrySendError::Full(_) => WriteError::Busy { waiting: self.settings.queue_max },
            TrySendError::Disconnected(_) => WriteError::Closed("its thread ended".to_owned()),
        })
    }
}

/// Says that nobody waits any more, when it is dropped.
#[derive(Debug, Default)]
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
