//! `put`: a SQLite file becomes a published segment of the deep store.
//!
//! Invariants: a segment shows in the deep store whole, checked, read back and compared, or not at all; new
//! data never shows without its seal; of two publishers of one segment at most one publishes, even when both
//! believe they hold the lock (S4): who takes over deletes every lower epoch's staging directory first, no
//! directory is made twice, nothing in it is created with its parents, and so a late rename finds no source.
//!
//! Stated limit: a file that somebody puts at the final path by other means between the last look and the
//! rename is overwritten.
//!
//! Left out: what lies in `.staging/<label>/` after a crash is deleted by the next `put` of that segment, not
//! before.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fsd::failpoint::crash_point;
use fsd::segment::{SegmentId, Stamp, Version};
use futures::stream::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::clock::{Clock, SinceBoot};
use crate::kv::{InvalidSession, Kv};
use crate::metrics as names;
use crate::registry::Epoch;
use crate::seal::SealError;
use crate::store::{Store, StoreError, StorePath};
use crate::write_lock::{Ownership, WriteLock, WriteLockError, WriteLocks};

mod copy;
mod prepare;
mod stage;

use copy::Room;
use stage::Staging;

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

/// Why a segment was not published. Unless [`Self::Rename`] says otherwise, what was published before is
/// still what shows.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The source cannot be read as a SQLite database.
    #[error("cannot copy {path}: {reason}", path = path.display())]
    Source {
        /// The source.
        path: PathBuf,
        /// What came back, and what to do.
        reason: String,
    },
    /// `PRAGMA integrity_check` of the copy did not say ok.
    #[error("{path} is damaged and was not published: {problems}; repair it with `sqlite3 .recover`", path = path.display())]
    Damaged {
        /// The source.
        path: PathBuf,
        /// The first things that SQLite found.
        problems: String,
    },
    /// The write lock could be neither had nor confirmed.
    #[error("cannot lock {id} for writing")]
    Lock {
        /// The segment.
        id: SegmentId,
        /// Why.
        source: WriteLockError,
    },
    /// Somebody else is publishing or writing it.
    #[error("{id} is locked by {holder}; wait for it to finish, or for its lock to run out")]
    HeldBy {
        /// The segment.
        id: SegmentId,
        /// Who.
        holder: String,
        /// Who, if it is the writer of a node.
        owner: Option<Box<Ownership>>,
    },
    /// The lock was lost on the way, or a later epoch was here already (S4).
    #[error(
        "the write lock of {id} was lost, by its time running out or to another publisher, at epoch {epoch}; nothing was published, try again"
    )]
    Fenced {
        /// The segment.
        id: SegmentId,
        /// The epoch that is over, or the later one that was found.
        epoch: Epoch,
    },
    /// An earlier publisher's staging directory could not be deleted, or ours not be made.
    #[error("cannot make a place to stage {id}")]
    Stage {
        /// The segment.
        id: SegmentId,
        /// Why.
        source: StoreError,
    },
    /// The copy could not be read again on its way.
    #[error("cannot read the copy of {id} that was checked: {error}; look at `publish.temp_dir`")]
    Copy {
        /// The segment.
        id: SegmentId,
        /// What came back.
        error: std::io::Error,
    },
    /// The copy could not be written to the staging directory.
    #[error("cannot write {id} to the deep store")]
    Upload {
        /// The segment.
        id: SegmentId,
        /// Why.
        source: StoreError,
    },
    /// What was written could not be read back.
    #[error("cannot read {id} back from the deep store")]
    ReadBack {
        /// The segment.
        id: SegmentId,
        /// Why.
        source: StoreError,
    },
    /// What was read back is not what was written.
    #[error(
        "{id} reads back from the deep store with other bytes than were written; look at the disks of its DataNodes"
    )]
    Differs {
        /// The segment.
        id: SegmentId,
    },
    /// No seal could be made.
    #[error("cannot seal {id}")]
    Seal {
        /// The segment.
        id: SegmentId,
        /// Why.
        source: SealError,
    },
    /// Somebody put another file at the final path meanwhile, without the lock.
    #[error("{path} was changed by somebody else meanwhile ({found}); look at it and put again")]
    Conflict {
        /// The final path.
        path: String,
        /// What is there now.
        found: String,
    },
    /// The last step failed; it may have happened all the same.
    #[error("cannot move {id} to its final path; `trough status` shows which version is there")]
    Rename {
        /// The segment.
        id: SegmentId,
        /// Why.
        source: StoreError,
    },
}

impl PublishError {
    /// The step that failed, as metrics call it.
    pub fn step(&self) -> &'static str {
        match self {
            Self::Source { .. } => "source",
            Self::Damaged { .. } => "damaged",
            Self::Lock { .. } => "lock",
            Self::HeldBy { .. } => "held",
            Self::Fenced { .. } => "fenced",
            Self::Stage { .. } => "stage",
            Self::Copy { .. } => "copy",
            Self::Upload { .. } => "upload",
            Self::ReadBack { .. } => "read_back",
            Self::Differs { .. } => "differs",
            Self::Seal { .. } => "seal",
            Self::Conflict { .. } => "conflict",
            Self::Rename { .. } => "rename",
        }
    }
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
        match &result {
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
        result
    }

    async fn put_one(&self, id: &SegmentId, source: PathBuf) -> Result<Publication, PublishError> {
        let inner = &self.inner;
        let prepared = {
            // never closed, so a refusal cannot come; without a permit there is just no limit
            let _permit = inner.preparing.acquire().await.ok();
            prepare::prepare(source, inner.room.clone()).await?
        };
        self.tell(id, Progress::Prepared(prepared.length));
        crash_point("put.prepared");

        let lock = self.lock(id).await?;
        crash_point("put.locked");
        let staging = Staging::new(inner.store.as_ref(), id, &lock);
        let published = self.publish(id, &prepared, &staging).await;
        staging.clear().await;
        lock.release().await;
        if published.is_ok() {
            self.tell(id, Progress::Published);
        }
        published
    }

    async fn lock(&self, id: &SegmentId) -> Result<WriteLock, PublishError> {
        match self.inner.locks.acquire(id).await {
            Ok(lock) => Ok(lock),
            Err(WriteLockError::HeldBy { holder, owner }) => {
                Err(PublishError::HeldBy { id: id.clone(), holder, owner })
            }
            Err(source) => Err(PublishError::Lock { id: id.clone(), source }),
        }
    }

    async fn publish(
        &self,
        id: &SegmentId,
        prepared: &prepare::Prepared,
        staging: &Staging<'_>,
    ) -> Result<Publication, PublishError> {
        let fenced_before = staging.open().await?;
        let path = StorePath::published(id);
        let digest = prepared.digest;
        let stamp =
            staging.upload(prepared, |bytes| self.tell(id, Progress::Uploaded(bytes))).await?;
        crash_point("put.staged-data");
        let seal = prepared.seal(id, stamp);
        let read_back = async {
            staging.read_back(&digest, |bytes| self.tell(id, Progress::ReadBack(bytes))).await?;
            crash_point("put.read-back");
            Ok(())
        };
        let sealed = async {
            staging.seal(&seal).await?;
            crash_point("put.staged-seal");
            Ok(())
        };
        // side by side, for both wait for HDFS; neither is broken off, so that none comes after the clearing up
        let (read_back, sealed) = tokio::join!(read_back, sealed);
        read_back.and(sealed)?;
        staging.publish(&path, fenced_before).await?;
        let epoch = staging.epoch();
        Ok(Publication { id: id.clone(), path, version: Version { stamp, digest }, epoch })
    }

    fn tell(&self, id: &SegmentId, progress: Progress) {
        (self.inner.on_progress)(id, progress);
    }
}

/// What was at the final path once this publisher owned it.
type Before = Option<Stamp>;
