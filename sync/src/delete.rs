//! Deletes a segment: from the deep store, the pool and with that from every node.
//!
//! ```text
//!   write lock --> lower epochs' staging deleted --> tombstone --> data --> seal --> lock given back --> a cycle
//! ```
//!
//! Invariants: nobody publishes a segment while it is deleted, and what its owner acknowledged and did not publish is
//! not deleted under it; of a deletion that was overtaken nothing is done late (S4): files leave by a move into this
//! epoch's staging directory, which who takes over deletes first; it can be repeated after a crash anywhere, and ends.
//! The tombstone comes first, so that what goes is never taken for lost (S9); then the data, for a seal alone is
//! nothing, and a segment without its seal would be one still.
//!
//! Stated limits: a file that somebody puts at the path by other means between the look and the move goes, too; of an id
//! that lies at several paths those are deleted that the pool has and where it is published, and any other comes up with
//! the next listing.

use std::fmt;
use std::sync::Arc;

use fsd::failpoint::crash_step;
use fsd::segment::{SegmentId, Stamp};

use crate::clock::Clock;
use crate::cluster::{PoolRow, pool_table};
use crate::kv::{Kv, KvError};
use crate::pool::PoolEntry;
use crate::publish::PublishError;
use crate::publish::stage::Staging;
use crate::registry::{Lookup, Registry, RegistryError};
use crate::seal::{self, Seal};
use crate::store::{Store, StoreError, StorePath};
use crate::table::{self, TableError};
use crate::tomb::{self, Deleted, TombError};
use crate::write_lock::{WriteLock, WriteLockError, WriteLocks};

/// What the names of its crash points begin with.
const DELETE: &str = "delete";

/// Where the pool is written down.
#[derive(Debug, Clone)]
pub enum PoolSource {
    /// Of a cluster: the table that its lead writes.
    Table(Arc<dyn Kv>),
    /// Of a machine on its own.
    Machine(Arc<dyn Registry>),
}

/// What the pool says of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InPool {
    /// Nobody wrote down what there is.
    Unknown,
    /// It has no such segment.
    Absent,
    /// It lies there.
    At(PoolEntry),
}

/// Why a segment was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// Neither the deep store nor the pool has it.
    #[error("delete {0}: there is no such segment; check its name")]
    NotFound(SegmentId),
    /// It is being written or published.
    #[error("delete {id}: it is locked by {holder}; wait until its lock is given back")]
    HeldBy {
        /// Which.
        id: SegmentId,
        /// Who has it.
        holder: String,
    },
    /// A node that is gone has rows of it that are not published.
    #[error("delete {id}: {source}")]
    Dirty {
        /// Which.
        id: SegmentId,
        /// Whose rows, and what to do.
        source: WriteLockError,
    },
    /// Its lock could not be had or confirmed, or the deep store not be prepared.
    #[error("delete {id}")]
    Prepare {
        /// Which.
        id: SegmentId,
        /// Why.
        source: PublishError,
    },
    /// The deep store has none at the usual place, and nobody knows whether it is at another.
    #[error("delete {0}: the pool was not listed yet, so nobody can say where it lies; try again")]
    PoolUnknown(SegmentId),
    /// What the pool says could not be read.
    #[error("delete {id}: {reason}")]
    Pool {
        /// Which.
        id: SegmentId,
        /// Why.
        reason: String,
    },
    /// The tombstone could not be written; nothing was deleted.
    #[error(transparent)]
    Tomb(#[from] TombError),
    /// Another took its lock meanwhile, because this one's time ran out. Its tombstone may be there.
    #[error(
        "delete {0}: the write lock was lost on the way; look what is there, and delete it again"
    )]
    Fenced(SegmentId),
    /// It could not be looked at, or not be moved away. Its tombstone may be there: then readers do not have it any
    /// more, and its bytes are still in the deep store.
    #[error("delete {id} at {path}; delete it again")]
    Store {
        /// Which.
        id: SegmentId,
        /// Which file.
        path: StorePath,
        /// Why.
        source: StoreError,
    },
}

/// Is called when something was deleted: has a cycle begin where that is not brought about by the tombstone. Must not
/// block.
pub type OnDeleted = Arc<dyn Fn() + Send + Sync>;

/// The outside world of who deletes.
#[derive(Clone)]
pub struct DeleteOutside {
    /// The deep store.
    pub store: Arc<dyn Store>,
    /// Where locks and tombstones are.
    pub kv: Arc<dyn Kv>,
    /// Takes the locks.
    pub locks: Arc<WriteLocks>,
    /// Says where segments lie.
    pub pool: PoolSource,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Is called after each deletion.
    pub on_deleted: OnDeleted,
}

/// Deletes segments.
pub struct Deleter(DeleteOutside);

impl fmt::Debug for Deleter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Deleter").field(&self.0.store.address()).finish()
    }
}

/// A file that goes.
struct Found {
    path: StorePath,
    stamp: Stamp,
    seal: Option<Seal>,
}

impl PoolSource {
    /// What it says of `id`.
    pub async fn find(&self, id: &SegmentId) -> Result<InPool, DeleteError> {
        let failed = |reason| DeleteError::Pool { id: id.clone(), reason };
        match self {
            Self::Table(kv) => {
                let of_key = |error: KvError| failed(error.to_string());
                let of_table = |error: TableError| failed(error.to_string());
                let table = pool_table().map_err(of_key)?;
                let row = table::find::<PoolRow>(&**kv, &table, id).await.map_err(of_table)?;
                Ok(match row {
                    None => InPool::Unknown,
                    Some(None) => InPool::Absent,
                    Some(Some(row)) => InPool::At(row.entry()),
                })
            }
            Self::Machine(registry) => {
                let failed = |error: RegistryError| failed(error.to_string());
                Ok(match registry.lookup(id).await.map_err(failed)? {
                    Lookup::Unknown => InPool::Unknown,
                    Lookup::Absent => InPool::Absent,
                    Lookup::Listed(row) => {
                        InPool::At(PoolEntry { path: row.path, stamp: row.stamp })
                    }
                })
            }
        }
    }
}

impl Deleter {
    /// One that deletes in `outside`.
    pub fn new(outside: DeleteOutside) -> Self {
        Self(outside)
    }

    /// The locks that it takes, to ask who has one.
    pub fn locks(&self) -> &WriteLocks {
        &self.0.locks
    }

    /// Deletes `id`. Dropping the future leaves the lock to its time to live, and the rest to the next call.
    pub async fn delete(&self, id: &SegmentId) -> Result<(), DeleteError> {
        let lock = self.0.locks.acquire(id).await.map_err(|error| locked(id, error))?;
        crash_step(DELETE, "locked");
        let staging = Staging::new(&*self.0.store, id, &lock, DELETE);
        let deleted = self.delete_locked(id, &lock, &staging).await;
        staging.clear().await;
        lock.release().await;
        if deleted.is_ok() {
            tracing::info!(segment = %id, "deleted");
            (self.0.on_deleted)();
        }
        deleted
    }

    async fn delete_locked(
        &self,
        id: &SegmentId,
        lock: &WriteLock,
        staging: &Staging<'_>,
    ) -> Result<(), DeleteError> {
        let prepare = |source| match source {
            PublishError::Fenced { .. } => DeleteError::Fenced(id.clone()),
            source => DeleteError::Prepare { id: id.clone(), source },
        };
        staging.open().await.map_err(prepare)?;
        let in_pool = self.0.pool.find(id).await?;
        let found = self.look(id, &in_pool).await?;
        let versions = self.versions(id, &found, &in_pool).await?;
        if found.is_empty() && versions.is_empty() {
            // what a deletion left that was broken off; nobody publishes now, so it is nobody's
            self.remove_seal(id, lock, staging, &StorePath::published(id)).await?;
            return Err(match in_pool {
                InPool::Unknown => DeleteError::PoolUnknown(id.clone()),
                InPool::Absent | InPool::At(_) => DeleteError::NotFound(id.clone()),
            });
        }
        let now_ms = self.0.clock.now_ms();
        if !tomb::add(&*self.0.kv, &lock.fence(), id, &versions, now_ms).await? {
            return Err(DeleteError::Fenced(id.clone()));
        }
        crash_step(DELETE, "buried");
        for Found { path, .. } in &found {
            self.move_away(id, lock, staging, path).await?;
            crash_step(DELETE, "data-gone");
            self.remove_seal(id, lock, staging, path).await?;
            crash_step(DELETE, "seal-gone");
        }
        Ok(())
    }

    /// The files of `id`: where it is published, and where the pool has it.
    async fn look(&self, id: &SegmentId, in_pool: &InPool) -> Result<Vec<Found>, DeleteError> {
        let store = &*self.0.store;
        let mut paths = vec![StorePath::published(id)];
        if let InPool::At(entry) = in_pool
            && entry.path != paths[0]
        {
            paths.push(entry.path.clone());
        }
        let mut found = Vec::new();
        for path in paths {
            let failed = |source| failed(id, &path, source);
            let Some(stamp) = store.stat(&path).await.map_err(failed)? else { continue };
            let seal = seal::beside(store, id, &path).await.map_err(failed)?;
            let seal = seal.filter(|seal| seal.applies_to(id, &stamp));
            found.push(Found { path, stamp, seal });
        }
        Ok(found)
    }

    /// What the tombstone is to name besides what it names: what is there, and what the pool still has, which is older
    /// or gone by other means.
    async fn versions(
        &self,
        id: &SegmentId,
        found: &[Found],
        in_pool: &InPool,
    ) -> Result<Vec<Deleted>, DeleteError> {
        let deleted =
            |one: &Found| Deleted::new(one.stamp, one.seal.as_ref().map(|seal| seal.blake3));
        let mut versions: Vec<Deleted> = Vec::new();
        if let InPool::At(entry) = in_pool
            && found.iter().all(|one| one.stamp != entry.stamp)
            && !tomb::named(&*self.0.kv, id).await?.contains(&entry.stamp)
        {
            versions.push(Deleted::new(entry.stamp, None));
        }
        versions.extend(found.iter().map(deleted));
        Ok(versions)
    }

    async fn remove_seal(
        &self,
        id: &SegmentId,
        lock: &WriteLock,
        staging: &Staging<'_>,
        segment: &StorePath,
    ) -> Result<(), DeleteError> {
        // a path of a segment's is not so long that this fails
        let Ok(seal) = Seal::path(segment) else { return Ok(()) };
        let there = self.0.store.stat(&seal).await.map_err(|source| failed(id, &seal, source))?;
        match there {
            Some(_) => self.move_away(id, lock, staging, &seal).await,
            None => Ok(()),
        }
    }

    /// Moves `path` to where it goes with this epoch's staging directory.
    async fn move_away(
        &self,
        id: &SegmentId,
        lock: &WriteLock,
        staging: &Staging<'_>,
        path: &StorePath,
    ) -> Result<(), DeleteError> {
        let failed = |source| failed(id, path, source);
        if !lock.holds() {
            return Err(DeleteError::Fenced(id.clone()));
        }
        // two files of one segment may have one name
        let name = format!("deleted-{}", path.as_str().replace('/', "%"));
        let away = staging.place(&name).map_err(failed)?;
        let Err(error) = self.0.store.rename(path, &away).await else { return Ok(()) };
        // it may have been done all the same; or it was fenced off, or somebody else was faster
        if self.0.store.stat(path).await.map_err(failed)?.is_none() {
            return Ok(());
        }
        match staging.confirm().await {
            Ok(()) => Err(failed(error)),
            Err(PublishError::Fenced { .. }) => Err(DeleteError::Fenced(id.clone())),
            Err(source) => Err(DeleteError::Prepare { id: id.clone(), source }),
        }
    }
}

fn failed(id: &SegmentId, path: &StorePath, source: StoreError) -> DeleteError {
    DeleteError::Store { id: id.clone(), path: path.clone(), source }
}

fn locked(id: &SegmentId, error: WriteLockError) -> DeleteError {
    let id = id.clone();
    match error {
        WriteLockError::HeldBy { holder, .. } => DeleteError::HeldBy { id, holder },
        source @ WriteLockError::Dirty { .. } => DeleteError::Dirty { id, source },
        source => {
            DeleteError::Prepare { source: PublishError::Lock { id: id.clone(), source }, id }
        }
    }
}
