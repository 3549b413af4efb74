//! A SQLite file becomes a published segment of the deep store: once by `put`, again and again under one lock in a
//! [`Tenure`].
//!
//! Invariants: a segment shows in the deep store whole, checked, read back and compared, or not at all; new
//! data never shows without its seal; of two publishers of one segment at most one publishes, even when both
//! believe they hold the lock (S4): who takes over deletes every lower epoch's staging directory first, no
//! directory is made twice, nothing in it is created with its parents, and so a late rename finds no source.
//!
//! Stated limit: a file that somebody puts at the final path by other means between the last look and the
//! rename is overwritten.
//!
//! Left out: what lies in `.staging/<label>/` after a crash is deleted by the next who publishes that segment, not
//! before.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fsd::failpoint::crash_step;
use fsd::segment::{SegmentId, Stamp, Version};
use futures::stream::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clock::{Clock, SinceBoot};
use crate::kv::{InvalidSession, Kv};
use crate::metrics as names;
use crate::registry::Epoch;
use crate::seal::{self, Seal};
use crate::store::{Store, StoreError, StorePath};
use crate::write_lock::{Claimant, WriteLockError, WriteLocks};

mod copy;
mod error;
mod prepare;
pub(crate) mod stage;
mod tenure;

pub use error::PublishError;
pub use tenure::Tenure;

use copy::Room;
use stage::Staging;

/// What the names of the crash points of `put` begin with.
const PUT: &str = "put";

/// How publishing is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PublishSettings {
    /// Segments in flight. HDFS lets a file's close wait half a second, so speed comes from many at once.
    pub concurrency: usize,
    /// Segments being copied and checked at the same time, which is work for processor and disk.
    pub prepare_concurrency: usize,
    /// How long a write lock outlives a publisher that died, in seconds; a registry in Consul may take twice as long.
    pub lock_ttl_s: u64,
    /// Memory, in bytes, that the copies of segments take together while they are checked and sent; one that finds
    /// no room in it goes through a file.
    pub memory_bytes: u64,
    /// Where those files are; `None` is the system's temporary directory. It needs room for `concurrency` segments.
    pub temp_dir: Option<PathBuf>,
}

impl Default for PublishSettings {
    fn default() -> Self {
        Self {
            concurrency: 32,
            prepare_concurrency: 4,
            lock_ttl_s: 60,
            memory_bytes: 512 << 20,
            temp_dir: None,
        }
    }
}

/// How far one segment is, for a progress bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Copied and checked; so many bytes will go.
    Prepared(u64),
    /// So many bytes more were written to the deep store.
    Uploaded(u64),
    /// So many bytes more were read back.
    ReadBack(u64),
    /// It shows.
    Published,
}

/// Is told of every step; must not block.
pub type OnProgress = Arc<dyn Fn(&SegmentId, Progress) + Send + Sync>;

/// A segment that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Which.
    pub id: SegmentId,
    /// Where it lies in the deep store.
    pub path: StorePath,
    /// Length, mtime and digest.
    pub version: Version,
    /// The fence it was published with.
    pub epoch: Epoch,
}

/// What lies at the final path of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its length and mtime.
    pub stamp: Stamp,
    /// Its seal, if it has one that counts.
    pub seal: Option<Seal>,
}

/// Publishes segments. Cloning is cheap; all clones share the limits.
#[derive(Clone)]
pub struct Publisher {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    locks: WriteLocks,
    settings: PublishSettings,
    on_progress: OnProgress,
    preparing: Semaphore,
    room: Arc<Room>,
}

impl Publisher {
    /// A publisher into `store`, with its locks in `kv`, whose times `since_boot` counts and `clock` tells. `holder` says to others who
    /// holds a lock: host, process, purpose. [`Self::close`] it in the end.
    pub fn new(
        store: Arc<dyn Store>,
        kv: Arc<dyn Kv>,
        clock: Arc<dyn Clock>,
        since_boot: SinceBoot,
        settings: PublishSettings,
        holder: String,
        on_progress: OnProgress,
    ) -> Result<Self, InvalidSession> {
        let ttl = Duration::from_secs(settings.lock_ttl_s);
        let locks = WriteLocks::new(kv, store.clone(), clock, since_boot, ttl, holder)?;
        let preparing = Semaphore::new(settings.prepare_concurrency.max(1));
        let room = Arc::new(Room::new(settings.memory_bytes, settings.temp_dir.clone()));
        let inner = Inner { store, locks, settings, on_progress, preparing, room };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Ends the session that its locks rested on, which else lasts until its time is over.
    pub async fn close(&self) {
        self.inner.locks.close().await;
    }

    /// Publishes every segment of `sources`, up to `concurrency` at a time; results come as they are there.
    pub fn put_all(
        &self,
        sources: impl Stream<Item = (SegmentId, PathBuf)> + Send,
    ) -> impl Stream<Item = (SegmentId, Result<Publication, PublishError>)> + Send {
        let publisher = self.clone();
        let limit = self.inner.settings.concurrency.max(1);
        let put = move |(id, source): (SegmentId, PathBuf)| {
            let publisher = publisher.clone();
            async move {
                let result = publisher.put(&id, source).await;
                (id, result)
            }
        };
        sources.map(put).buffer_unordered(limit)
    }

    /// Publishes the SQLite database at `source` as segment `id`. It may be in use, and in WAL mode.
    ///
    /// Dropping the future leaves the lock to its time to live, and the staging directory to the next `put`.
    pub async fn put(&self, id: &SegmentId, source: PathBuf) -> Result<Publication, PublishError> {
        let result = self.put_one(id, source).await;
        count(&result);
        result
    }

    async fn put_one(&self, id: &SegmentId, source: PathBuf) -> Result<Publication, PublishError> {
        let inner = &*self.inner;
        let on_progress = |progress| (inner.on_progress)(id, progress);
        let prepared = {
            let _permit = inner.may_prepare().await;
            prepare::prepare(source, inner.room.clone()).await?
        };
        on_progress(Progress::Prepared(prepared.length));
        crash_step(PUT, "prepared");

        let lock = inner.locks.acquire(id).await.map_err(|error| locked(id, error))?;
        crash_step(PUT, "locked");
        let staging = Staging::new(&*inner.store, id, &lock, PUT);
        let published = async {
            let before = staging.open().await?;
            let staged = staging.stage(&prepared, on_progress).await?;
            staging.publish(staged.stamp, before).await?;
            Ok(publication(id, &staging, staged.stamp, &prepared))
        };
        let published = published.await;
        staging.clear().await;
        lock.release().await;
        if published.is_ok() {
            on_progress(Progress::Published);
        }
        published
    }

    /// Takes `id` for the writer of a node: its lock, and the right to publish it as often as it likes. What was
    /// published before is seen only after everything that earlier owners might still send has been stopped. Where
    /// that cannot be done nothing is taken, and the lock is as it was.
    pub async fn take_over(
        &self,
        id: &SegmentId,
        claimant: &Claimant,
    ) -> Result<Tenure, PublishError> {
        Tenure::begin(self.inner.clone(), id, claimant).await
    }

    /// The locks that it takes, to ask who has one.
    pub fn locks(&self) -> &WriteLocks {
        &self.inner.locks
    }
}

impl Inner {
    /// Waits until another copy may be checked.
    async fn may_prepare(&self) -> Option<SemaphorePermit<'_>> {
        // never closed, so a refusal cannot come; without a permit there is just no limit
        self.preparing.acquire().await.ok()
    }
}

fn locked(id: &SegmentId, error: WriteLockError) -> PublishError {
    let id = id.clone();
    match error {
        WriteLockError::HeldBy { holder, owner } => PublishError::HeldBy { id, holder, owner },
        source => PublishError::Lock { id, source },
    }
}

fn publication(
    id: &SegmentId,
    staging: &Staging<'_>,
    stamp: Stamp,
    prepared: &prepare::Prepared,
) -> Publication {
    let (path, digest) = (StorePath::published(id), prepared.digest);
    let epoch = staging.epoch();
    Publication { id: id.clone(), path, version: Version { stamp, digest }, epoch }
}

/// Counts what came of publishing.
fn count(result: &Result<Publication, PublishError>) {
    match result {
        Ok(publication) => {
            metrics::counter!(names::PUBLISHED_SEGMENTS).increment(1);
            let bytes = publication.version.stamp.length;
            metrics::counter!(names::PUBLISHED_BYTES).increment(bytes);
        }
        Err(error) => {
            metrics::counter!(names::PUBLISH_FAILURES, "step" => error.step()).increment(1);
            if let PublishError::Fenced { .. } = error {
                metrics::counter!(names::PUBLISH_FENCED).increment(1);
            }
        }
    }
}

/// What is published as `id`, as everybody sees it; `None` is nothing. Who is to publish asks under its lock instead.
pub async fn look(store: &dyn Store, id: &SegmentId) -> Result<Option<Published>, StoreError> {
    let path = StorePath::published(id);
    match store.stat(&path).await? {
        Some(stamp) => with_seal(store, id, stamp).await.map(Some),
        None => Ok(None),
    }
}

/// The version of `id` that has `stamp`, with its seal.
async fn with_seal(
    store: &dyn Store,
    id: &SegmentId,
    stamp: Stamp,
) -> Result<Published, StoreError> {
    let seal = seal::beside(store, id, &StorePath::published(id)).await?;
    let seal = seal.filter(|seal| seal.applies_to(id, &stamp));
    Ok(Published { stamp, seal })
}

/// What was at the final path once this publisher owned it.
type Before = Option<Stamp>;
