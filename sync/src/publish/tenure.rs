//! The time in which one writer owns a segment: it publishes version after version under one lock, from one staging
//! directory.
//!
//! Invariants: what was published when it began was looked at after every earlier epoch's staging directory was gone,
//! so nothing of theirs can show later; a version goes over the one that this tenure saw or made last, and over no
//! other; whether an attempt that failed at its last step was done after all is settled before the next begins.
//!
//! Left out: what the versions are made from, and when; what the lock tells ([`WriteLock::tell`]).

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use fsd::failpoint::crash_step;
use fsd::segment::{Digest, SegmentId, Stamp};

use super::stage::{Staging, conflict};
use super::{
    Inner, OnProgress, Progress, Publication, PublishError, Published, count, locked, prepare,
    publication, with_seal,
};
use crate::store::StorePath;
use crate::write_lock::{Claimant, WriteLock};

/// What the names of its crash points begin with.
const PROMOTE: &str = "promote";

/// A segment that this process may publish. Dropped without [`Self::end`] it leaves the lock to its time to live, and
/// the staging directory to the next owner.
pub struct Tenure {
    inner: Arc<Inner>,
    id: SegmentId,
    lock: WriteLock,
    published: Mutex<Option<Published>>,
    /// Held by the one that publishes.
    attempts: tokio::sync::Mutex<Attempts>,
}

/// Attempts to publish.
#[derive(Default)]
struct Attempts {
    made: u64,
    /// Whether the last one did not come to its end: what it staged may be there.
    broken_off: bool,
    /// What it may have published.
    doubt: Option<Published>,
}

impl fmt::Debug for Tenure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tenure").field(&self.id).field(&self.lock).finish()
    }
}

impl Tenure {
    pub(super) async fn begin(
        inner: Arc<Inner>,
        id: &SegmentId,
        claimant: &Claimant,
    ) -> Result<Self, PublishError> {
        let lock = inner.locks.own(id, claimant).await.map_err(|error| locked(id, error))?;
        crash_step(PROMOTE, "locked");
        let staging = Staging::new(&*inner.store, id, &lock, PROMOTE);
        match published(&staging, &inner, id).await {
            Ok(published) => {
                let (published, attempts) = (Mutex::new(published), tokio::sync::Mutex::default());
                Ok(Self { inner, id: id.clone(), lock, published, attempts })
            }
            Err(error) => {
                staging.clear().await;
                lock.put_back().await;
                Err(error)
            }
        }
    }

    /// The segment.
    pub fn id(&self) -> &SegmentId {
        &self.id
    }

    /// Its lock, to tell by and to ask.
    pub fn lock(&self) -> &WriteLock {
        &self.lock
    }

    /// What it last saw or made at the final path; `None` is nothing.
    pub fn published(&self) -> Option<Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn saw(&self, published: Published) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = Some(published);
    }

    /// Publishes `copy`, which VACUUM has just made from the segment and which nobody changes; the caller deletes it.
    /// Those who call at once take turns. After an error it may be called again, unless that is
    /// [`PublishError::Fenced`]: then this tenure is over. After [`PublishError::Conflict`] it goes on when a person
    /// has put back what was there.
    ///
    /// `about_to` is told what the copy hashes to before anything of it shows in the deep store, and can stop it.
    pub async fn publish(
        &self,
        copy: PathBuf,
        about_to: impl FnOnce(&Digest) -> io::Result<()> + Send,
        on_progress: &OnProgress,
    ) -> Result<Publication, PublishError> {
        let mut attempts = self.attempts.lock().await;
        let on_progress = |progress| on_progress(&self.id, progress);
        let result = self.attempt(&mut attempts, copy, about_to, on_progress).await;
        count(&result);
        result
    }

    async fn attempt(
        &self,
        attempts: &mut Attempts,
        copy: PathBuf,
        about_to: impl FnOnce(&Digest) -> io::Result<()> + Send,
        on_progress: impl Fn(Progress),
    ) -> Result<Publication, PublishError> {
        if !self.lock.holds() {
            return Err(PublishError::Fenced { id: self.id.clone(), epoch: self.lock.epoch() });
        }
        let prepared = {
            let _permit = self.inner.may_prepare().await;
            prepare::check(copy).await?
        };
        on_progress(Progress::Prepared(prepared.length));
        crash_step(PROMOTE, "prepared");
        attempts.made += 1;
        let staging = self.staging().again(attempts.made);
        self.settle(&staging, attempts).await?;
        // the last look is right before the rename; this one spares sending what would be refused there
        let before = self.published().map(|published| published.stamp);
        let now = staging.look().await?;
        if !self.lock.holds() {
            return Err(PublishError::Fenced { id: self.id.clone(), epoch: self.lock.epoch() });
        }
        if now != before {
            return Err(conflict(&StorePath::published(&self.id), now));
        }
        about_to(&prepared.digest)
            .map_err(|error| PublishError::Note { id: self.id.clone(), error })?;
        // until the end is reached, also if nobody waits for it any more
        attempts.broken_off = true;
        let staged = staging.stage(&prepared, &on_progress).await?;
        attempts.doubt = Some(staged.clone());
        let stamp = staged.stamp;
        staging.publish(stamp, before).await?;
        self.saw(staged);
        *attempts = Attempts { made: attempts.made, ..Attempts::default() };
        on_progress(Progress::Published);
        Ok(publication(&self.id, &staging, stamp, &prepared))
    }

    /// Whether something else lies at the final path than this tenure saw or made last.
    pub async fn is_contested(&self) -> Result<bool, PublishError> {
        let mut attempts = self.attempts.lock().await;
        let staging = self.staging();
        // an attempt that was broken off and was done all the same is nobody else's file
        self.settle(&staging, &mut attempts).await?;
        Ok(staging.look().await? != self.published().map(|published| published.stamp))
    }

    /// Looks at what lies at the final path now, and has the next version go over that: the answer of a person to
    /// [`PublishError::Conflict`]. What was found there; `None` is nothing.
    pub async fn accept(&self) -> Result<Option<Stamp>, PublishError> {
        let mut attempts = self.attempts.lock().await;
        let staging = self.staging();
        self.settle(&staging, &mut attempts).await?;
        let found = sealed(&self.inner, &self.id, staging.look().await?).await?;
        let stamp = found.as_ref().map(|found| found.stamp);
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(stamp)
    }

    /// Finds out what became of an attempt that was broken off.
    async fn settle(
        &self,
        staging: &Staging<'_>,
        attempts: &mut Attempts,
    ) -> Result<(), PublishError> {
        if !attempts.broken_off {
            return Ok(());
        }
        // first, so that it cannot be done any more after the look
        staging.sweep().await?;
        if let Some(doubt) = &attempts.doubt
            && staging.look().await? == Some(doubt.stamp)
        {
            self.saw(doubt.clone());
        }
        (attempts.broken_off, attempts.doubt) = (false, None);
        Ok(())
    }

    fn staging(&self) -> Staging<'_> {
        Staging::new(&*self.inner.store, &self.id, &self.lock, PROMOTE)
    }

    /// Ends it for who could not begin; the lock is as it was found: see [`WriteLock::put_back`].
    pub async fn put_back(self) {
        self.staging().clear().await;
        self.lock.put_back().await;
    }

    /// Ends it in good order. `dirty_since_ms` says since when there are rows that are not published, if there are
    /// any: see [`WriteLock::leave`].
    pub async fn end(self, dirty_since_ms: Option<u64>) {
        self.staging().clear().await;
        self.lock.leave(dirty_since_ms).await;
    }
}

/// What is published once nobody else can publish any more.
async fn published(
    staging: &Staging<'_>,
    inner: &Inner,
    id: &SegmentId,
) -> Result<Option<Published>, PublishError> {
    sealed(inner, id, staging.open().await?).await
}

/// What was found at the final path, with its seal.
async fn sealed(
    inner: &Inner,
    id: &SegmentId,
    found: Option<Stamp>,
) -> Result<Option<Published>, PublishError> {
    let Some(stamp) = found else { return Ok(None) };
    let published = with_seal(&*inner.store, id, stamp).await;
    published.map(Some).map_err(|source| PublishError::Look { id: id.clone(), source })
}
