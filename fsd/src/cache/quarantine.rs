//! What failed verification, kept for people to look at: `quarantine/<time>.<id>.<random>` and beside each a `.json`
//! that says what it is and why it is here.
//!
//! Invariant: bounded by count and bytes, the oldest leave first, and not part of the quota: quarantine never pushes
//! a segment out. Nothing reads it back; it may be emptied by hand while nothing runs.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use crate::metrics;
use crate::segment::{Digest, SegmentId};

use super::{Cache, CacheError, Rejected, Source, State, disk};

const RECORD_SUFFIX: &str = ".json";

/// What stands in the `.json` beside a file.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    ids: Vec<SegmentId>,
    source: String,
    digest: Option<Digest>,
    why: String,
    at_ms: u64,
}

impl Record {
    pub fn new(
        ids: Vec<SegmentId>,
        source: String,
        digest: Option<Digest>,
        why: impl ToString,
    ) -> Self {
        Self { ids, source, digest, why: why.to_string(), at_ms: disk::now_ms() }
    }
}

impl Cache {
    /// Keeps a refused file.
    pub fn quarantine_staged(&self, rejected: Rejected, source: &Source) -> Result<(), CacheError> {
        let Rejected { refusal, staged } = rejected;
        let ids = vec![staged.id().clone()];
        let record = Record::new(ids, source.path.clone(), Some(staged.digest()), refusal);
        self.quarantine_file(&staged.part.path, &record)
    }

    /// Moves whatever is at `path` into quarantine.
    pub(super) fn quarantine_file(&self, path: &Path, record: &Record) -> Result<(), CacheError> {
        let directory = self.layout().quarantine();
        let what = record.ids.first().map_or("foreign", |id| id.as_str());
        let name = format!("{:013}.{what}.{}", record.at_ms, disk::random_name());
        let kept = directory.join(&name);
        let fail = |error: io::Error| CacheError::io("quarantine", path, disk::BLOCK_BYTES, error);
        disk::clear_immutable(path);
        let length = std::fs::symlink_metadata(path).map_err(fail)?.len();
        let text = serde_json::to_vec_pretty(record).map_err(|error| fail(error.into()))?;
        let write = |text: &[u8]| {
            let mut file = File::create_new(directory.join(format!("{name}{RECORD_SUFFIX}")))?;
            file.write_all(text)?;
            file.sync_all()
        };
        write(&text).map_err(fail)?;
        std::fs::rename(path, &kept).map_err(fail)?;
        self.sync_dir(&directory)?;
        ::metrics::counter!(metrics::CACHE_QUARANTINED).increment(1);
        let mut state = self.state();
        state.quarantine.push_back((name, length));
        state.quarantine_bytes += length;
        self.trim_quarantine(&mut state);
        Ok(())
    }

    fn trim_quarantine(&self, state: &mut State) {
        let settings = &self.0.settings;
        while state.quarantine.len() > settings.quarantine_files_max
            || state.quarantine_bytes > settings.quarantine_bytes_max
        {
            let Some((name, length)) = state.quarantine.pop_front() else { return };
            state.quarantine_bytes -= length;
            let path = self.layout().quarantine().join(&name);
            let removed = match std::fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&path),
                Ok(_) | Err(_) => disk::remove_file(&path),
            };
            let record = self.layout().quarantine().join(format!("{name}{RECORD_SUFFIX}"));
            match removed.and_then(|()| disk::remove_file(&record)) {
                Ok(()) => {
                    tracing::info!(name, length, "quarantine is full, the oldest file left");
                }
                Err(error) => {
                    tracing::warn!(name, %error, "file left in quarantine beyond its bounds");
                }
            }
        }
    }

    /// Notes what is there, at start.
    pub(super) fn load_quarantine(&self) -> io::Result<()> {
        let directory = self.layout().quarantine();
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            match name.strip_suffix(RECORD_SUFFIX) {
                None => files.push((name, entry.metadata()?.len())),
                Some(of) => {
                    // a crash came between the record and its file
                    if let Err(error) = std::fs::symlink_metadata(directory.join(of))
                        && error.kind() == io::ErrorKind::NotFound
                    {
                        disk::remove_file(&entry.path())?;
                    }
                }
            }
        }
        files.sort_unstable();
        let mut state = self.state();
        state.quarantine_bytes = files.iter().map(|(_, length)| length).sum();
        state.quarantine = VecDeque::from(files);
        self.trim_quarantine(&mut state);
        Ok(())
    }
}
