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

use super::error::{OpenError, PromoteError};
use super::files::{Files, FilesError};
use super::hold::Hold;
use super::note::{self, Note};
use super::{Outside, content};
use crate::causes::causes;
use crate::writable::{
    Lease, Opening, Unpublished, Verbs, Writable, WriteError, WriteRequest, Written,
};

/// Why a segment is opened.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin<'a> {
    /// Somebody wants to write it.
    Asked {
        /// How it is made if there is none.
        schema: Option<&'a SegmentId>,
    },
    /// A crash, or the loss of its lock, left something here.
    Resumed,
}

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
    /// Takes the lock of `id` and opens it: where it was left, with what is published, or empty by `schema`.
    pub(super) async fn open(
        outside: &Outside,
        id: &SegmentId,
        origin: Origin<'_>,
    ) -> Result<Self, OpenError> {
        let left = outside.files.note(id)?;
        let asked = match origin {
            Origin::Asked { schema } => schema.cloned(),
            Origin::Resumed => None,
        };
        // what is there keeps the schema that it was made by
        let schema = left.as_ref().and_then(|left| left.schema.clone()).or(asked);
        let schema = schema.as_ref();
        let sql = match schema {
            Some(schema) => outside.schema(schema).await?,
            None => None,
        };
        let claimant = outside.claimant(schema);
        let tenure = outside.publisher.take_over(id, &claimant).await?;
        crash_point("write.owned");
        let unpublished = tenure.lock().before().and_then(|before| before.dirty_since_ms);
        match Self::prepare(outside, &tenure, origin, schema, sql.as_ref()).await {
            Ok(note) => Self::begin(outside, tenure, note, sql.as_ref()).await,
            // nobody's writes wait for this node any more
            Err(error @ OpenError::SetAside(_)) => {
                tenure.end(None).await;
                Err(error)
            }
            Err(error) => {
                tenure.end(unpublished).await;
                Err(error)
            }
        }
    }

    /// Puts the right file in its place, and says what its note is now.
    async fn prepare(
        outside: &Outside,
        tenure: &Tenure,
        origin: Origin<'_>,
        schema: Option<&SegmentId>,
        sql: Option<&super::SchemaOf>,
    ) -> Result<Note, OpenError> {
        let (files, id) = (&outside.files, tenure.id());
        let (epoch, published) = (tenure.lock().epoch(), tenure.published());
        let left = files.note(id)?.filter(|note| note.segment == *id);
        let fresh = Note {
            format: note::FORMAT,
            segment: id.clone(),
            epoch,
            schema: schema.cloned(),
            from: published.as_ref().map(|published| published.stamp),
            publishing: None,
            unpublished_since_ms: None,
        };
        if let Some(left) = left {
            // a lock that nobody has left is that of a clean end, or of a registry that forgot
            let alone = tenure.lock().before().is_none_or(|before| {
                before.node == outside.node && before.epoch.is_none_or(|epoch| epoch <= left.epoch)
            });
            let whole = files.database(id).try_exists().unwrap_or(false);
            if alone && whole && left.goes_on_from(published.as_ref()) {
                // what was being published is published, or is not and will not be
                let schema = left.schema.clone().or_else(|| schema.cloned());
                let unpublished_since_ms = left.unpublished_since_ms;
                return Ok(Note { schema, unpublished_since_ms, ..fresh });
            }
            match left.unpublished_since_ms {
                Some(_) if whole => {
                    let kept = set_aside(files, left.clone()).await?;
                    tracing::warn!(
                        segment = %id, epoch = %left.epoch, kept = %kept.display(),
                        "writes that were acknowledged here are an orphan: the segment was published or written \
                         elsewhere meanwhile; see `trough orphans list`"
                    );
                }
                Some(_) => {
                    tracing::error!(segment = %id, epoch = %left.epoch, "the file of writes that were acknowledged here is gone");
                    files.forget(id)?;
                }
                None => files.forget(id)?,
            }
        } else {
            // never used without its note
            files.forget(id)?;
        }
        if let Origin::Resumed = origin {
            return Err(OpenError::SetAside(id.clone()));
        }
        let part = match &published {
            Some(published) => {
                content::fetch(&*outside.store, files, id, published, &|_, _| {}).await?
            }
            None => empty(files, sql).await?,
        };
        crash_point("write.fetched");
        files.place(part, id)?;
        Ok(fresh)
    }

    async fn begin(
        outside: &Outside,
        tenure: Tenure,
        note: Note,
        sql: Option<&super::SchemaOf>,
    ) -> Result<Self, OpenError> {
        let (id, since_ms) = (tenure.id().clone(), note.unpublished_since_ms);
        let verbs = outside.verbs(sql.map(|sql| &*sql.verbs).unwrap_or_default());
        let version = tenure.published().and_then(|published| {
            let seal = published.seal?;
            Some(Version { stamp: published.stamp, digest: seal.blake3 })
        });
        let hold = Hold::new(tenure, outside.files.clone(), note)?;
        crash_point("write.noted");
        if since_ms.is_some() {
            // told as what it is, before anybody can take it for clean
            let telling = Arc::clone(&hold);
            let told = tokio::task::spawn_blocking(move || telling.tell(since_ms)).await;
            told.unwrap_or_else(|error| Err(WriteError::Closed(error.to_string())))?;
        }
        let open = Self::open_file(outside, &id, &hold, verbs, since_ms).await?;
        Ok(Self {
            id,
            hold,
            verbs,
            open: RwLock::new(Some(Arc::new(open))),
            promoting: tokio::sync::Mutex::default(),
            used: std::sync::Mutex::new(Instant::now()),
            version: std::sync::Mutex::new(version),
        })
    }

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

/// An empty segment, by its schema if it has one.
async fn empty(files: &Files, schema: Option<&super::SchemaOf>) -> Result<TempPath, OpenError> {
    let part = files.part()?;
    let (id, sql) = match schema {
        Some(schema) => (Some(schema.id.clone()), schema.sql.clone()),
        None => (None, String::new()),
    };
    let make = move || crate::schema::create(&sql, &part).map(|()| part);
    let made = tokio::task::spawn_blocking(make).await;
    let made = made.map_err(|error| OpenError::Disk(error.to_string()))?;
    made.map_err(|error| match id {
        Some(schema) => OpenError::Schema { schema, reason: error.to_string() },
        None => OpenError::Disk(error.to_string()),
    })
}
