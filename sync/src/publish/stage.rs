//! The staging directory of one epoch, and the way from there to the final path (DESIGN.md 9).
//!
//! Invariant: each attempt to publish has file names of its own there, so that a call of an earlier one, which nobody
//! waits for any more, finds no file of a later one when it is done at last.

use bytes::Bytes;
use fsd::failpoint::crash_step;
use fsd::segment::{Digest, SegmentId, Stamp};
use futures::StreamExt;

use super::prepare::Prepared;
use super::{Before, Progress, PublishError, Published};
use crate::registry::Epoch;
use crate::seal::Seal;
use crate::store::{Store, StoreError, StoreErrorKind, StorePath};
use crate::write_lock::WriteLock;

/// Where segments are staged, below the store's root; a listing passes over it.
const STAGING: &str = ".staging";
/// The most staging directories of one segment: each put deletes those before it.
const EPOCHS_MAX: usize = 1_000;
/// The most files of attempts that failed: each attempt deletes those before it, and may leave two.
const LEFTOVERS_MAX: usize = 1_000;
/// Bytes of one piece that is written.
const PIECE_BYTES: usize = 1 << 20;

pub(crate) struct Staging<'a> {
    store: &'a dyn Store,
    id: &'a SegmentId,
    lock: &'a WriteLock,
    /// What the names of its crash points begin with.
    work: &'static str,
    attempt: u64,
    label: String,
    directory: String,
}

impl<'a> Staging<'a> {
    /// That of `lock`, for its first attempt to publish.
    pub(crate) fn new(
        store: &'a dyn Store,
        id: &'a SegmentId,
        lock: &'a WriteLock,
        work: &'static str,
    ) -> Self {
        let label = format!("{STAGING}/{}", id.label());
        let directory = format!("{label}/{}", lock.epoch());
        Self { store, id, lock, work, attempt: 0, label, directory }
    }

    /// The same for a later attempt.
    pub(super) fn again(self, attempt: u64) -> Self {
        Self { attempt, ..self }
    }

    /// A point at which tests end the process.
    fn at(&self, step: &str) {
        crash_step(self.work, step);
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.lock.epoch()
    }

    /// Takes over: deletes what lower epochs staged, makes this epoch's directory once, and only then asks
    /// whether the lock is still ours. Gives back what is published now.
    pub(crate) async fn open(&self) -> Result<Before, PublishError> {
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
        self.at("lower-deleted");
        let directory = path(&self.directory).map_err(failed)?;
        self.store.mkdir(&directory).await.map_err(failed)?;
        self.at("staging-made");
        self.confirm().await?;
        self.at("confirmed");
        self.look().await
    }

    /// What is published now.
    pub(super) async fn look(&self) -> Result<Before, PublishError> {
        let found = self.store.stat(&StorePath::published(self.id)).await;
        found.map_err(|source| PublishError::Look { id: self.id.clone(), source })
    }

    /// Deletes what attempts before this one left, never the directory. What they sent and nobody waited for does
    /// nothing any more after that, or has been done.
    pub(super) async fn sweep(&self) -> Result<(), PublishError> {
        let failed = |source| PublishError::Stage { id: self.id.clone(), source };
        let directory = path(&self.directory).map_err(failed)?;
        for name in self.store.names(&directory, LEFTOVERS_MAX).await.map_err(failed)? {
            let leftover = directory.join(&name).map_err(|e| failed(invalid(&name, &e)))?;
            self.store.delete(&leftover).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Writes `prepared`, reads it back, compares, and seals it; what will be published.
    pub(super) async fn stage(
        &self,
        prepared: &Prepared,
        on_progress: impl Fn(Progress),
    ) -> Result<Published, PublishError> {
        let stamp = self.upload(prepared, |bytes| on_progress(Progress::Uploaded(bytes))).await?;
        self.at("staged-data");
        let seal = prepared.seal(self.id, stamp);
        let read_back = async {
            let read = |bytes| on_progress(Progress::ReadBack(bytes));
            self.read_back(&prepared.digest, read).await?;
            self.at("read-back");
            Ok(())
        };
        let sealed = async {
            self.seal(&seal).await?;
            self.at("staged-seal");
            Ok(())
        };
        // side by side, for both wait for HDFS; neither is broken off, so that none comes after the clearing up
        let (read_back, sealed) = tokio::join!(read_back, sealed);
        read_back.and(sealed)?;
        Ok(Published { stamp, seal: Some(seal) })
    }

    /// Writes the copy; length and mtime as the store has them.
    async fn upload(
        &self,
        prepared: &Prepared,
        wrote: impl Fn(u64),
    ) -> Result<Stamp, PublishError> {
        let failed = |source| self.failed(source, |id, source| PublishError::Upload { id, source });
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
    async fn read_back(&self, expected: &Digest, read: impl Fn(u64)) -> Result<(), PublishError> {
        let failed =
            |source| self.failed(source, |id, source| PublishError::ReadBack { id, source });
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
    async fn seal(&self, seal: &Seal) -> Result<(), PublishError> {
        let bytes =
            seal.to_bytes().map_err(|source| PublishError::Seal { id: self.id.clone(), source })?;
        let write = async {
            let target = self.sealed()?;
            let mut writer = self.store.create(&target).await?;
            writer.write(Bytes::from(bytes)).await?;
            writer.close().await
        };
        let written = write.await;
        written
            .map_err(|source| self.failed(source, |id, source| PublishError::Upload { id, source }))
    }

    /// Moves seal and data, which has the stamp `staged`, to the final path, if nobody else changed that since
    /// `before`.
    pub(super) async fn publish(&self, staged: Stamp, before: Before) -> Result<(), PublishError> {
        let to = &StorePath::published(self.id);
        let failed = |source| PublishError::Rename { id: self.id.clone(), source };
        let (data, seal) = (self.data().map_err(failed)?, self.sealed().map_err(failed)?);
        let seal_to = Seal::path(to).map_err(|e| failed(invalid(to.as_str(), &e)))?;
        self.store.mkdir(&to.parent()).await.map_err(failed)?;
        self.confirm().await?;
        self.at("before-rename");
        let now = self.look().await?;
        if !self.lock.holds() {
            return Err(self.fenced());
        }
        if now != before {
            return Err(conflict(to, now));
        }
        match self.store.rename(&seal, &seal_to).await {
            Ok(()) => self.at("seal-renamed"),
            // the final directory was made just now, so it is the source that somebody deleted: the fence
            Err(error) => {
                return Err(self.failed(error, |id, source| PublishError::Rename { id, source }));
            }
        }
        if !self.lock.holds() {
            return Err(self.fenced());
        }
        match self.store.rename(&data, to).await {
            Ok(()) => {}
            Err(error) => self.after_failed_rename(&data, to, staged, before, error).await?,
        }
        self.at("data-renamed");
        Ok(())
    }

    /// What came of moving `data` to `to`, which failed with `error`, and may have been done all the same.
    async fn after_failed_rename(
        &self,
        data: &StorePath,
        to: &StorePath,
        staged: Stamp,
        before: Before,
        error: StoreError,
    ) -> Result<(), PublishError> {
        let unknown = |source| PublishError::Rename { id: self.id.clone(), source };
        // in this order: what is gone from here has arrived there, if it went
        let Ok(source) = self.store.stat(data).await else { return Err(unknown(error)) };
        let Ok(there) = self.store.stat(to).await else { return Err(unknown(error)) };
        let gone = source.is_none();
        if there == Some(staged) && (gone || before != Some(staged)) {
            return Ok(());
        }
        // nobody but who took over deletes what is staged
        if gone && (there == before || error.kind == StoreErrorKind::NotFound) {
            return Err(self.fenced());
        }
        Err(if there == before { unknown(error) } else { conflict(to, there) })
    }

    /// Where something of this epoch may lie that is called `name`. What is moved there late, after another took over,
    /// finds no directory and stays where it is.
    pub(crate) fn place(&self, name: &str) -> Result<StorePath, StoreError> {
        path(&format!("{}/{name}", self.directory))
    }

    /// Asks whether the lock is still ours.
    pub(crate) async fn confirm(&self) -> Result<(), PublishError> {
        match self.lock.confirm().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.fenced()),
            Err(error) => Err(PublishError::Lock { id: self.id.clone(), source: error.into() }),
        }
    }

    /// Deletes this epoch's directory; what cannot be deleted now goes with the next epoch.
    pub(crate) async fn clear(&self) {
        let deleted = match path(&self.directory) {
            Ok(directory) => self.store.delete_tree(&directory).await,
            Err(error) => Err(error),
        };
        if let Err(error) = deleted {
            tracing::warn!(segment = %self.id, %error, "a staging directory is left to the next that publishes it");
        }
    }

    fn data(&self) -> Result<StorePath, StoreError> {
        path(&format!("{}/{}-{}", self.directory, self.attempt, self.id.file_name()))
    }

    fn sealed(&self) -> Result<StorePath, StoreError> {
        let data = self.data()?;
        Seal::path(&data).map_err(|error| invalid(data.as_str(), &error))
    }

    /// Of a call that needs what is staged: nobody but who took over deletes that.
    fn failed(
        &self,
        source: StoreError,
        otherwise: impl FnOnce(SegmentId, StoreError) -> PublishError,
    ) -> PublishError {
        match source.kind {
            StoreErrorKind::NotFound => self.fenced(),
            _ => otherwise(self.id.clone(), source),
        }
    }

    fn fenced(&self) -> PublishError {
        PublishError::Fenced { id: self.id.clone(), epoch: self.epoch() }
    }
}

pub(super) fn conflict(to: &StorePath, now: Before) -> PublishError {
    let found = now.map_or_else(|| "it is gone".to_owned(), |stamp| stamp.to_string());
    PublishError::Conflict { path: to.to_string(), found }
}

fn path(text: &str) -> Result<StorePath, StoreError> {
    StorePath::new(text).map_err(|error| invalid(text, &error))
}

fn invalid(text: &str, error: &dyn std::error::Error) -> StoreError {
    StoreError {
        kind: StoreErrorKind::Corrupt,
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
