//! Requests tried on a copy that nobody else has, as the writer of a segment would run them.
//!
//! Invariants: what the writer would refuse is refused here, in the same words; nothing is durable, and nobody is told.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use sync::verb::Verb;

use super::connection::{WriteConnection, as_published};
use super::{Verbs, WritableSettings, WriteError, WriteRequest};

/// See the module.
#[derive(Debug)]
pub(crate) struct Rehearsal {
    connection: WriteConnection,
    copy: PathBuf,
    settings: WritableSettings,
    stop: Arc<AtomicBool>,
}

impl Rehearsal {
    /// Opens `copy`, which is changed. `stop` ends what is under way.
    pub(crate) fn begin(
        copy: &Path,
        settings: &WritableSettings,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, WriteError> {
        // what the schema of the segment allows beyond the settings is not known here
        let verbs = settings.verbs.iter().copied().chain([Verb::Insert]).collect::<Verbs>();
        let connection = WriteConnection::open(copy, settings, verbs);
        let connection = connection.map_err(|error| WriteError::of_sqlite(&error))?;
        Ok(Self { connection, copy: copy.to_owned(), settings: settings.clone(), stop })
    }

    /// Does all of `request`, or nothing; `Ok` has the number of changed rows.
    pub(crate) fn run(&mut self, request: &WriteRequest) -> Result<u64, WriteError> {
        let deadline = Instant::now() + Duration::from_millis(self.settings.write_ms);
        self.connection.run(request, deadline, &self.stop)
    }

    /// Ends it; the copy is one file again.
    pub(crate) fn end(self) -> Result<(), WriteError> {
        let Self { connection, copy, .. } = self;
        connection.close().map_err(|error| WriteError::of_sqlite(&error))?;
        as_published(&copy).map_err(|error| WriteError::of_sqlite(&error.into()))
    }
}
