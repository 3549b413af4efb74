//! The staging directory of one epoch, and the way from there to the final path (DESIGN.md 9).

use bytes::Bytes;
use fsd::failpoint::crash_point;
use fsd::segment::{Digest, SegmentId, Stamp};
use futures::StreamExt;

use super::prepare::Prepared;
use super::{Before, PublishError};
use crate::registry::Epoch;
use crate::seal::Seal;
use crate::store::{Store, StoreError, StoreErrorKind, StorePath};
use crate::write_lock::WriteLock;

/// Where segments are staged, below the store's root; a listing passes over it.
const STAGING: &str = ".staging";
/// The most staging directories of one segment: each put deletes those before it.
const EPOCHS_MAX: usize = 1_000;
/// Bytes of one piece that is written.
const PIECE_BYTES: usize = 1 << 20;

pub(super) struct Staging<'a> {
    store: &'a dyn Store,
    id: &'a SegmentId,
    lock: &'a WriteLock,
    label: String,
    directory: String,
}

impl<'a> Staging<'a> {
    pub(super) fn new(store: &'a dyn Store, id: &'a SegmentId, lock: &'a WriteLock) -> Self {
        let label = format!("{STAGING}/{}", id.label());
        let directory = format!("{label}/{}", lock.epoch());
        Self { store, id, lock, label, directory }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.lock.epoch()
    }

    /// Takes over: deletes what lower epochs staged, makes this epoch's directory once, and only then asks
    /// whether the lock is still ours. Gives back what is published now.
    pub(super) async fn open(&self) -> Result<Before, PublishError> {
        let failed = |source| PublishError::Stage { id: self.id.clone(), source };
        let label = path(&self.label).map_err(failed)?;
        for name in self.store.names(&label, EPOCHS_MAX).await.map_err(failed)? {
            // what is no epoch was not made by a publisher
            let Some(found) = epoch_of(&name) else { continue };
            if found > self.epoch() {
                return Err(PublishError::Fenced { id: self.id.clone(), epoch: found });
            }
            let below = label.join(&name).map_err(|e| failed(invalid(&name, &e)))?;
            self.store.delete_tree(&below).await.map_err(failed)?;
        }
        crash_point("put.lower-deleted");
        let directory = path(&self.directory).map_err(failed)?;
        self.store.mkdir(&directory).await.map_err(failed)?;
        crash_point("put.staging-made");
        self.confirm().await?;
        crash_point("put.confirmed");
        self.store.stat(&StorePath::published(self.id)).await.map_err(failed)
    }

    /// Writes the copy; length and mtime as the store has them.
    pub(super) async fn upload(
        &self,
        prepared: &Prepared,
        wrote: impl Fn(u64),
    ) -> Result<Stamp, PublishError> {
        let failed = |source| PublishError::Upload { id: self.id.clone(), source };
        let target = self.data().map_err(failed)?;
        let local = |error| PublishError::Copy { id: self.id.clone(), error };
        let mut pieces = prepared.content.open().map_err(local)?;
        let mut writer = self.store.create(&target).await.map_err(failed)?;
        let mut left = prepared.length;
        while left > 0 {
            let want = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let piece = pieces.next(want).await.map_err(local)?;
            writer.write(piece).await.map_err(failed)?;
            left -= want as u64;
            wrote(want as u64);
        }
        writer.close().await.map_err(failed)?;
        self.staged_stamp(&target, prepared.length).await
    }

    async fn staged_stamp(&self, target: &StorePath, length: u64) -> Result<Stamp, PublishError> {
        let failed = |source| PublishError::Upload { id: self.id.clone(), source };
        match self.store.stat(target).await.map_err(failed)? {
            Some(stamp) if stamp.length == length => Ok(stamp),
            Some(_) => Err(PublishError::Differs { id: self.id.clone() }),
            // only who took over deletes it
            None => Err(self.fenced()),
        }
    }

    /// Reads the staged file and compares.
    pub(super) async fn read_back(
        &self,
        expected: &Digest,
        read: impl Fn(u64),
    ) -> Result<(), PublishError> {
        let failed = |source| PublishError::ReadBack { id: self.id.clone(), source };
        let target = self.data().map_err(failed)?;
        let mut hasher = blake3::Hasher::new();
        let mut pieces = self.store.read(&target).await.map_err(failed)?;
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(failed)?;
            hasher.update(&piece);
            read(piece.len() as u64);
        }
        match Digest::from(hasher.finalize()) == *expected {
            true => Ok(()),
            false => Err(PublishError::Differs { id: self.id.clone() }),
        }
    }

    /// Writes the seal beside the staged file.
    pub(super) async fn seal(&self, seal: &Seal) -> Result<(), PublishError> {
        let bytes =
            seal.to_bytes().map_err(|source| PublishError::Seal { id: self.id.clone(), source })?;
        let write = async {
            let target = self.sealed()?;
            let mut writer = self.store.create(&target).await?;
            writer.write(Bytes::from(bytes)).await?;
            writer.close().await
        };
        write.await.map_err(|source| PublishError::Upload { id: self.id.clone(), source })
    }

    /// Moves seal and data to the final path, if nobody else changed it since `before`.
    pub(super) async fn publish(&self, to: &StorePath, before: Before) -> Result<(), PublishError> {
        let failed = |source| PublishError::Rename { id: self.id.clone(), source };
        let (data, seal) = (self.data().map_err(failed)?, self.sealed().map_err(failed)?);
        let seal_to = Seal::path(to).map_err(|e| failed(invalid(to.as_str(), &e)))?;
        self.store.mkdir(&to.parent()).await.map_err(failed)?;
        self.confirm().await?;
        crash_point("put.before-rename");
        let now = self.store.stat(to).await.map_err(failed)?;
        if now != before {
            let found = now.map_or_else(|| "it is gone".to_owned(), |stamp| stamp.to_string());
            return Err(PublishError::Conflict { path: to.to_string(), found });
        }
        self.rename(&seal, &seal_to).await?;
        crash_point("put.seal-renamed");
        self.rename(&data, to).await?;
        crash_point("put.data-renamed");
        Ok(())
    }

    async fn rename(&self, from: &StorePath, to: &StorePath) -> Result<(), PublishError> {
        if !self.lock.holds() {
            return Err(self.fenced());
        }
        match self.store.rename(from, to).await {
            Ok(()) => Ok(()),
            // the final directory was made just now, so it is the source that somebody deleted: the fence
            Err(error) if error.kind == StoreErrorKind::NotFound => Err(self.fenced()),
            Err(source) => Err(PublishError::Rename { id: self.id.clone(), source }),
        }
    }

    async fn confirm(&self) -> Result<(), PublishError> {
        match self.lock.confirm().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.fenced()),
            Err(error) => Err(PublishError::Lock { id: self.id.clone(), source: error.into() }),
        }
    }

    /// Deletes this epoch's directory; what cannot be deleted now goes with the next put.
    pub(super) async fn clear(&self) {
        let deleted = match path(&self.directory) {
            Ok(directory) => self.store.delete_tree(&directory).await,
            Err(error) => Err(error),
        };
        if let Err(error) = deleted {
            tracing::warn!(segment = %self.id, %error, "a staging directory is left to the next put");
        }
    }

    fn data(&self) -> Result<StorePath, StoreError> {
        path(&format!("{}/{}", self.directory, self.id.file_name()))
    }

    fn sealed(&self) -> Result<StorePath, StoreError> {
        let data = self.data()?;
        Seal::path(&data).map_err(|error| invalid(data.as_str(), &error))
    }

    fn fenced(&self) -> PublishError {
        PublishError::Fenced { id: self.id.clone(), epoch: self.epoch() }
    }
}

fn path(text: &str) -> Result<StorePath, StoreError> {
    StorePath::new(text).map_err(|error| invalid(text, &error))
}

fn invalid(text: &str, error: &dyn std::error::Error) -> StoreError {
    StoreError {
        kind: StoreErrorKind::NotFound,
        attempted: "name",
        target: text.to_owned(),
        reason: error.to_string(),
    }
}

/// The epoch that a staging directory's name says; see `Epoch`'s `Display`.
fn epoch_of(name: &str) -> Option<Epoch> {
    let (incarnation, index) = name.split_once('-')?;
    Some(Epoch { incarnation: incarnation.parse().ok()?, index: index.parse().ok()? })
}
