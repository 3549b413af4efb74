//! The right to write one segment: its lock, with what is told of it to others and written down here.
//!
//! Invariant: that there is something unpublished is written down and told before the first write; that there is
//! nothing, only after it was published.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use sync::publish::Tenure;
use tokio::runtime::Handle;

use super::files::{Files, FilesError};
use super::note::Note;
use crate::writable::Lease;

/// See the module.
pub(super) struct Hold {
    tenure: Tenure,
    files: Files,
    note: Mutex<Note>,
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
        Ok(Arc::new(Self { tenure, files, note: Mutex::new(note), runtime }))
    }

    pub(super) fn tenure(&self) -> &Tenure {
        &self.tenure
    }

    pub(super) fn into_tenure(self) -> Tenure {
        self.tenure
    }

    pub(super) fn note(&self) -> Note {
        self.note.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

    fn tell(&self, unpublished_since_ms: Option<u64>) -> Result<(), String> {
        let written = || {
            let written = self.write_down(|note| note.unpublished_since_ms = unpublished_since_ms);
            written.map_err(|error| error.to_string())
        };
        // the note never says less than the registry
        if unpublished_since_ms.is_some() {
            written()?;
        }
        let told = self.runtime.block_on(self.tenure.lock().tell(unpublished_since_ms, false));
        told.map_err(|error| error.to_string())?;
        match unpublished_since_ms {
            Some(_) => Ok(()),
            None => written(),
        }
    }
}
