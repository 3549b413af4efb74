//! The two threads of a segment that is open for writing: one runs requests one after the other and commits each, the
//! other makes commits durable, as many at a time as have come meanwhile, and acknowledges them (S3).
//!
//! ```text
//!   queue ──► run, COMMIT ──► queue ──► fdatasync of the log, once for all that came ──► is the lease still held? ──► OK
//! ```
//!
//! Invariants: nothing is acknowledged that is not durable, nor after the lease was lost; nothing is run while the lease
//! is not held, nor before it is written down that the segment has what is not published; a sync that failed ends the
//! segment: nothing after it is acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fsd::failpoint::crash_point;
use tokio::sync::oneshot;

use super::compact::Copying;
use super::connection::WriteConnection;
use super::state::Shared;
use super::wal::WalSync;
use super::{Copied, WriteError, WriteRequest, Written};

/// The log is emptied when it is longer, even if writes must wait for readers: they could keep it growing for ever.
const LOG_BYTES_MAX: u64 = 64 << 20;
/// The longest wait for readers of the log.
const LOG_WAIT: Duration = Duration::from_millis(200);
/// Between two tries to empty the log.
const LOG_TRY_EVERY: Duration = Duration::from_secs(2);

/// A request and who waits for it.
pub(super) struct Task {
    pub(super) request: WriteRequest,
    pub(super) deadline: Instant,
    /// Its client is gone; what has not begun need not.
    pub(super) gone: Arc<AtomicBool>,
    pub(super) reply: oneshot::Sender<Result<Written, WriteError>>,
}

/// What the thread that runs requests is told.
pub(super) enum Order {
    Write(Task),
    /// Begin a copy: see [`Copying`].
    Copy(std::path::PathBuf, oneshot::Sender<Result<(Copying, Copied), WriteError>>),
    /// What was copied so is published now.
    Settle(Copied, oneshot::Sender<Result<bool, WriteError>>),
}

/// A commit that waits for its sync.
struct Committed {
    written: Written,
    reply: oneshot::Sender<Result<Written, WriteError>>,
}

/// Starts both; the first ends when all senders of `orders` are gone, and then closes the database.
pub(super) fn start(
    connection: WriteConnection,
    sync: WalSync,
    shared: Arc<Shared>,
    orders: Receiver<Order>,
    queue_max: usize,
) -> std::io::Result<JoinHandle<Result<(), WriteError>>> {
    // never full: the requests that wait are bounded together
    let (to_sync, committed) = sync_channel(queue_max);
    let syncing = Arc::clone(&shared);
    let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let syncer = named("sync").spawn(move || sync_all(sync, &syncing, &committed))?;
    named("write").spawn(move || {
        let mut runner = Runner { connection, shared, log_tried: None };
        for order in orders {
            runner.obey(order, &to_sync);
        }
        drop(to_sync);
        // it has acknowledged what it could
        let _ = syncer.join();
        runner.connection.close().map_err(|error| WriteError::of_sqlite(&error))
    })
}

struct Runner {
    connection: WriteConnection,
    shared: Arc<Shared>,
    log_tried: Option<Instant>,
}

impl Runner {
    fn obey(&mut self, order: Order, to_sync: &SyncSender<Committed>) {
        match order {
            Order::Write(task) => self.write(task, to_sync),
            Order::Copy(target, reply) => {
                let begun = self.begin_copy(&target);
                if let Err(Ok((copying, _))) = reply.send(begun) {
                    copying.stop.store(true, Ordering::Relaxed);
                }
            }
            Order::Settle(copied, reply) => {
                // who does not wait any more asks again
                let _ = reply.send(self.shared.settle(copied));
            }
        }
    }

    fn write(&mut self, task: Task, to_sync: &SyncSender<Committed>) {
        let Task { request, deadline, gone, reply } = task;
        let done = match self.admit(deadline, &gone) {
            Ok(()) => self.connection.run(&request, deadline, &gone),
            Err(error) => Err(error),
        };
        // nobody may wait any more, here and below: then nobody is told
        match done {
            Err(error) => drop(reply.send(Err(error))),
            Ok(changes) => {
                crash_point("write.committed");
                let bytes = self.connection.written_bytes();
                self.shared.committed(bytes);
                let committed = Committed { written: Written { changes }, reply };
                if let Err(lost) = to_sync.send(committed) {
                    let error = WriteError::Unknown("its thread ended".to_owned());
                    drop(lost.0.reply.send(Err(error)));
                }
                self.keep_log_short(bytes);
            }
        }
    }

    fn admit(&self, deadline: Instant, gone: &AtomicBool) -> Result<(), WriteError> {
        if gone.load(Ordering::Relaxed) {
            return Err(WriteError::Closed("its client is gone".to_owned()));
        }
        if Instant::now() >= deadline {
            return Err(WriteError::TimeLimit { limit_ms: self.shared.write_ms });
        }
        self.shared.writable()?;
        self.shared.unsettle()
    }

    fn keep_log_short(&mut self, bytes: u64) {
        let long = self.shared.log_grew(bytes) > LOG_BYTES_MAX;
        if !long || self.log_tried.is_some_and(|at| at.elapsed() < LOG_TRY_EVERY) {
            return;
        }
        self.log_tried = Some(Instant::now());
        match self.connection.truncate_log(LOG_WAIT) {
            Ok(true) => self.shared.log_emptied(),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(segment = %self.shared.name, %error, "the log of a writable segment cannot be emptied");
            }
        }
    }

    fn begin_copy(&self, target: &std::path::Path) -> Result<(Copying, Copied), WriteError> {
        self.shared.writable()?;
        let copying = Copying::begin(&self.shared.database, target)?;
        Ok((copying, self.shared.copied()))
    }
}

/// Syncs and acknowledges until there is nobody more to come.
fn sync_all(mut sync: WalSync, shared: &Shared, committed: &Receiver<Committed>) {
    let mut group = Vec::new();
    while let Ok(first) = committed.recv() {
        group.push(first);
        group.extend(committed.try_iter());
        let synced = match shared.poisoned() {
            Some(reason) => Err(WriteError::Disk(reason)),
            None => sync.sync().map_err(|error| {
                let reason = format!("sync the log: {error}");
                shared.poison(&reason);
                WriteError::Disk(reason)
            }),
        };
        crash_point("write.synced");
        let known = synced.and_then(|()| match shared.lease.holds() {
            true => Ok(()),
            false => Err(WriteError::Unknown(
                "the write lock ran out before the write was acknowledged".to_owned(),
            )),
        });
        for Committed { written, reply } in group.drain(..) {
            // who left is not told
            drop(reply.send(known.clone().map(|()| written)));
        }
        crash_point("write.acknowledged");
    }
}
