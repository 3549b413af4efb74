//! The right to write one segment: its lock, with what is told of it to others and written down here.
//!
//! Invariant: that there is something unpublished is written down and told before the first write; that there is
//! nothing, only after it was published.

use std::fmt;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};

use sync::publish::Tenure;
use sync::write_lock::WriteLockError;
use tokio::runtime::Handle;

use super::files::{Files, FilesError};
use super::note::Note;
use crate::writable::{Lease, WriteError};

/// How much of why a segment was not published goes into the registry.
const PROBLEM_CHARS_MAX: usize = 400;

/// See the module.
pub(super) struct Hold {
    tenure: Tenure,
    files: Files,
    note: Mutex<Note>,
    /// Whether it is being published; held by who tells anything, so that what is told last is what is so.
    promoting: tokio::sync::Mutex<bool>,
    runtime: Handle,
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hold").field(&self.tenure.id()).finish()
    }
}

impl Hold {
    /// Writes `note` down.
    pub(super) fn new(tenure: Tenure, files: Files, note: Note) -> Result<Arc<Self>, FilesError> {
        files.write_note(&note)?;
        let runtime = Handle::current();
        Ok(Arc::new(Self {
            tenure,
            files,
            note: Mutex::new(note),
            promoting: tokio::sync::Mutex::default(),
            runtime,
        }))
    }

    pub(super) fn tenure(&self) -> &Tenure {
        &self.tenure
    }

    pub(super) fn into_tenure(self) -> Tenure {
        self.tenure
    }

    /// Tells others that it is being published. That is for people, so it is no matter if nobody hears it.
    pub(super) async fn tell_promoting(&self) {
        let mut promoting = self.promoting.lock().await;
        *promoting = true;
        let told = self.tenure.lock().tell(self.note().unpublished_since_ms, true).await;
        self.heard(told);
    }

    /// Tells others that it is not being published any more, and why it could not be, in the same way.
    pub(super) async fn tell_promoted(&self, problem: Option<String>) {
        let mut promoting = self.promoting.lock().await;
        *promoting = false;
        let problem = problem.map(|text| text.chars().take(PROBLEM_CHARS_MAX).collect());
        let since_ms = self.note().unpublished_since_ms;
        let told = self.tenure.lock().tell_outcome(since_ms, problem).await;
        self.heard(told);
    }

    fn heard(&self, told: Result<(), WriteLockError>) {
        if let Err(error) = told {
            tracing::debug!(segment = %self.tenure.id(), %error, "others do not hear how far its publication is");
        }
    }

    pub(super) fn note(&self) -> Note {
        self.note.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was unpublished lies elsewhere now, and this segment's file and note are gone.
    pub(super) fn forget_unpublished(&self) {
        let mut note = self.note.lock().unwrap_or_else(PoisonError::into_inner);
        note.unpublished_since_ms = None;
    }

    /// Changes the note and writes it down.
    pub(super) fn write_down(&self, change: impl FnOnce(&mut Note)) -> Result<(), FilesError> {
        let mut note = self.note.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = note.clone();
        change(&mut next);
        self.files.write_note(&next)?;
        *note = next;
        Ok(())
    }
}

impl Lease for Hold {
    fn holds(&self) -> bool {
        self.tenure.lock().holds()
    }

    fn tell(&self, unpublished_since_ms: Option<u64>) -> Result<(), WriteError> {
        let written = || {
            let written = self.write_down(|note| note.unpublished_since_ms = unpublished_since_ms);
            written.map_err(|failed| match failed.error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    WriteError::Full(failed.to_string())
                }
                _ => WriteError::Closed(failed.to_string()),
            })
        };
        let promoting = self.runtime.block_on(self.promoting.lock());
        // the note never says less than the registry
        if unpublished_since_ms.is_some() {
            written()?;
        }
        let told = self.runtime.block_on(self.tenure.lock().tell(unpublished_since_ms, *promoting));
        told.map_err(|error| WriteError::Closed(error.to_string()))?;
        match unpublished_since_ms {
            Some(_) => Ok(()),
            None => written(),
        }
    }
}
