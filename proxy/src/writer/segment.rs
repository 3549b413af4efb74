//! One segment that this node writes, from the taking of its lock until it is given back.
//!
//! Invariants: a file goes on only where nobody published anything since ([`Note::goes_on_from`]) and nobody else has
//! written meanwhile; what was acknowledged in one that may not go on is set aside, never published and never deleted
//! (S4). A file is deleted only when all of it is published.

use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use fsd::failpoint::crash_point;
use fsd::segment::{Digest, SegmentId, Version};
use sync::publish::{OnProgress, Publication, Tenure};
use tempfile::TempPath;

use super::Outside;
use super::error::PromoteError;
use super::files::{Files, FilesError};
use super::hold::Hold;
use super::note::Note;
use crate::causes::causes;
use crate::writable::{
    Lease, Opening, Unpublished, Verbs, Writable, WriteError, WriteRequest, Written,
};

mod opening;

pub(super) use opening::Origin;

/// A segment that is open for writing.
#[derive(Debug)]
pub(super) struct Segment {
    id: SegmentId,
    hold: Arc<Hold>,
    verbs: Verbs,
    /// `None` while it is closed and opened again after its disk failed, and when it was left.
    open: RwLock<Option<Arc<Writable>>>,
    /// One publication at a time.
    promoting: tokio::sync::Mutex<()>,
    used: std::sync::Mutex<Instant>,
    /// What was published last in this tenure, or found published.
    version: std::sync::Mutex<Option<Version>>,
}

impl Segment {
    async fn open_file(
        outside: &Outside,
        id: &SegmentId,
        hold: &Arc<Hold>,
        verbs: Verbs,
        unpublished_since_ms: Option<u64>,
    ) -> Result<Writable, WriteError> {
        let (database, name) = (outside.files.database(id), id.to_string());
        let (settings, clock) = (outside.settings.write.clone(), outside.clock.clone());
        let sync_data = Arc::clone(&outside.sync_data);
        let lease: Arc<dyn Lease> = hold.clone();
        let open = move || {
            let opening = Opening { database: &database, name, verbs, unpublished_since_ms };
            Writable::open(opening, &settings, lease, clock, sync_data)
        };
        let task = tokio::task::spawn_blocking(open).await;
        task.unwrap_or_else(|error| Err(WriteError::Disk(error.to_string())))
    }

    fn current(&self) -> Result<Arc<Writable>, WriteError> {
        let open = self.open.read().expect("a panic ends the process");
        open.clone().ok_or_else(|| WriteError::Closed("it is being closed".to_owned()))
    }

    pub(super) fn id(&self) -> &SegmentId {
        &self.id
    }

    pub(super) fn schema(&self) -> Option<SegmentId> {
        self.hold.note().schema
    }

    /// Whether its lock holds, by this machine's clock.
    pub(super) fn holds(&self) -> bool {
        self.hold.holds()
    }

    /// The right to publish it.
    pub(super) fn tenure(&self) -> &Tenure {
        self.hold.tenure()
    }

    /// Until when it does; time since boot.
    pub(super) fn holds_until(&self) -> Duration {
        self.hold.tenure().lock().holds_until()
    }

    /// Its length in bytes, without its log.
    pub(super) fn length(&self, files: &Files) -> Option<u64> {
        std::fs::metadata(files.database(&self.id)).ok().map(|file| file.len())
    }

    /// The version that is published.
    pub(super) fn version(&self) -> Option<Version> {
        *self.version.lock().expect("a panic ends the process")
    }

    pub(super) fn idle(&self) -> Duration {
        self.used.lock().expect("a panic ends the process").elapsed()
    }

    /// Writes.
    pub(super) async fn write(&self, request: WriteRequest) -> Result<Written, WriteError> {
        *self.used.lock().expect("a panic ends the process") = Instant::now();
        self.current()?.write(request).await
    }

    /// What is not published.
    pub(super) fn unpublished(&self) -> Unpublished {
        match self.current() {
            Ok(open) => open.unpublished(),
            Err(_) => Unpublished {
                since_ms: self.hold.note().unpublished_since_ms,
                ..Unpublished::default()
            },
        }
    }

    /// Publishes it as it is now; what was published already when nothing was written since.
    pub(super) async fn promote(&self, outside: &Outside) -> Result<Version, PromoteError> {
        let _one = self.promoting.lock().await;
        let open = self.current()?;
        if let (None, Some(version)) = (open.unpublished().since_ms, self.version()) {
            return Ok(version);
        }
        self.hold.tell_promoting().await;
        let promoted = self.publish_now(outside, &open).await;
        let problem = promoted.as_ref().err().map(|error| causes(error));
        self.hold.tell_promoted(problem).await;
        let version = promoted?;
        outside.readers.tell().await;
        Ok(version)
    }

    async fn publish_now(
        &self,
        outside: &Outside,
        open: &Writable,
    ) -> Result<Version, PromoteError> {
        let part: TempPath = outside.files.part()?;
        let copied = open.copy(part.to_path_buf()).await?;
        crash_point("promote.copied");
        let publication = self.publish(part.to_path_buf()).await?;
        crash_point("promote.published");
        let Publication { version, .. } = publication;
        *self.version.lock().expect("a panic ends the process") = Some(version);
        self.hold.write_down(|note| {
            note.from = Some(version.stamp);
            note.publishing = None;
        })?;
        crash_point("promote.noted");
        open.settle(copied).await.map_err(PromoteError::Settle)?;
        Ok(version)
    }

    async fn publish(&self, copy: PathBuf) -> Result<Publication, PromoteError> {
        let about_to = |digest: &Digest| {
            // an attempt that failed may have published all the same, which the tenure has found out by now
            let from = self.hold.tenure().published().map(|published| published.stamp);
            let noted = self.hold.write_down(|note| {
                note.from = from;
                note.publishing = Some(*digest);
            });
            noted.map_err(|error| std::io::Error::other(error.to_string()))
        };
        let quiet: OnProgress = Arc::new(|_, _| {});
        Ok(self.hold.tenure().publish(copy, about_to, &quiet).await?)
    }

    /// Closes and opens it again if its disk failed; says what went wrong.
    pub(super) async fn recover(&self, outside: &Outside) -> Option<String> {
        let poisoned = self.current().ok()?.poisoned()?;
        let _one = self.promoting.lock().await;
        self.close().await;
        let since_ms = self.hold.note().unpublished_since_ms;
        match Self::open_file(outside, &self.id, &self.hold, self.verbs, since_ms).await {
            Ok(open) => {
                *self.open.write().expect("a panic ends the process") = Some(Arc::new(open));
                Some(poisoned)
            }
            Err(error) => Some(format!("{poisoned}; open it again: {error}")),
        }
    }

    /// Ends writing; `false` when something is still unpublished.
    pub(super) async fn close(&self) -> bool {
        let open = self.open.write().expect("a panic ends the process").take();
        let Some(open) = open else { return self.hold.note().unpublished_since_ms.is_none() };
        // requests that are under way hold it for as long as they may take
        let mut open = Some(open);
        while let Some(shared) = open.take() {
            match Arc::try_unwrap(shared) {
                Ok(alone) => {
                    let closed = tokio::task::spawn_blocking(move || alone.close()).await;
                    if let Ok(Err(error)) = closed {
                        tracing::warn!(segment = %self.id, %error, "close a writable segment");
                    }
                }
                Err(shared) => {
                    open = Some(shared);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
        self.hold.note().unpublished_since_ms.is_none()
    }

    /// Opens it again after [`Self::close`].
    pub(super) async fn reopen(&self, outside: &Outside) -> Result<(), WriteError> {
        let since_ms = self.hold.note().unpublished_since_ms;
        let open = Self::open_file(outside, &self.id, &self.hold, self.verbs, since_ms).await?;
        *self.open.write().expect("a panic ends the process") = Some(Arc::new(open));
        Ok(())
    }

    /// Makes an orphan of it after [`Self::close`], if something is unpublished; what that is called.
    pub(super) async fn give_up(&self, files: &Files) -> Result<Option<String>, FilesError> {
        let _one = self.promoting.lock().await;
        let note = self.hold.note();
        if note.unpublished_since_ms.is_none() {
            return Ok(None);
        }
        let name = note.orphan_name();
        let kept = set_aside(files, note).await?;
        tracing::warn!(
            segment = %self.id, kept = %kept.display(),
            "writes that were acknowledged here are an orphan: a person kept another version; see `trough orphans list`"
        );
        self.hold.forget_unpublished();
        Ok(Some(name))
    }

    /// Gives the lock back after [`Self::close`]; the file goes when all of it is published.
    pub(super) async fn give_back(self, files: &Files) {
        let Self { id, hold, .. } = self;
        let unpublished = hold.note().unpublished_since_ms;
        let Some(hold) = Arc::into_inner(hold) else { return };
        if unpublished.is_none() && hold.holds() {
            // first: with the lock another may begin, and this one too
            if let Err(error) = files.forget(&id) {
                tracing::warn!(segment = %id, %error, "a file that is published stays");
            }
        }
        hold.into_tenure().end(unpublished).await;
    }
}

/// [`Files::set_aside`], which waits.
async fn set_aside(files: &Files, note: Note) -> Result<PathBuf, FilesError> {
    let files = files.clone();
    let task = tokio::task::spawn_blocking(move || files.set_aside(&note)).await;
    task.expect("a panic ends the process, and nobody ends this task")
}
