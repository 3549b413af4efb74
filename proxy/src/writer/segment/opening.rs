//! How a segment is opened: its lock is taken, the right file put in its place, and what was acknowledged in one that may
//! not go on is set aside.

use std::sync::{Arc, RwLock};
use std::time::Instant;

use fsd::failpoint::crash_point;
use fsd::segment::{SegmentId, Version};
use sync::publish::Tenure;
use tempfile::TempPath;

use super::{Segment, set_aside};
use crate::writable::{Lease, WriteError};
use crate::writer::error::OpenError;
use crate::writer::files::Files;
use crate::writer::hold::Hold;
use crate::writer::note::{self, Note};
use crate::writer::{Outside, SchemaOf, content};

/// Why a segment is opened.
#[derive(Debug, Clone, Copy)]
pub(in crate::writer) enum Origin<'a> {
    /// Somebody wants to write it.
    Asked {
        /// How it is made if there is none.
        schema: Option<&'a SegmentId>,
    },
    /// A crash, or the loss of its lock, left something here.
    Resumed,
}

impl Segment {
    /// Takes the lock of `id` and opens it: where it was left, with what is published, or empty by `schema`.
    pub(in crate::writer) async fn open(
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
        let unpublished = left.as_ref().and_then(|left| left.unpublished_since_ms);
        let claimant = outside.claimant(schema, unpublished);
        let tenure = outside.publisher.take_over(id, &claimant).await?;
        crash_point("write.owned");
        match Self::prepare(outside, &tenure, origin, schema, sql.as_ref()).await {
            Ok(note) => Self::begin(outside, tenure, note, sql.as_ref()).await,
            // nobody's writes wait for this node any more
            Err(error @ OpenError::SetAside(_)) => {
                tenure.end(None).await;
                Err(error)
            }
            Err(error) => {
                let others = tenure.lock().before().is_some_and(|left| left.node != outside.node);
                // a note that cannot be read may say that there are some
                let ours = outside.files.note(id).map_or(true, |note| {
                    note.is_some_and(|note| note.unpublished_since_ms.is_some())
                });
                match others || ours {
                    true => tenure.put_back().await,
                    // what was unpublished here is set aside
                    false => tenure.end(None).await,
                }
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
        sql: Option<&SchemaOf>,
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
        sql: Option<&SchemaOf>,
    ) -> Result<Self, OpenError> {
        let (id, since_ms) = (tenure.id().clone(), note.unpublished_since_ms);
        let verbs = outside.verbs(sql.map(|sql| &*sql.verbs).unwrap_or_default());
        let version = tenure.published().and_then(|published| {
            let seal = published.seal?;
            Some(Version { stamp: published.stamp, digest: seal.blake3 })
        });
        let hold = Hold::new(tenure, outside.files.clone(), note)?;
        crash_point("write.noted");
        if since_ms.is_some() || hold.tenure().lock().told_since_ms().await.is_some() {
            // told as what it is, before anybody can take it for clean; what was set aside is told no more
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
}

/// An empty segment, by its schema if it has one.
async fn empty(files: &Files, schema: Option<&SchemaOf>) -> Result<TempPath, OpenError> {
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
