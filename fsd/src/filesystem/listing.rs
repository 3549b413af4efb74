//! The names of one listing, taken when the directory is opened.
//!
//! Invariant: one listing shows each name at most once, however the cache changes meanwhile; a name that
//! goes while it is listed is left out.

use std::io;

use crate::layout::Layout;
use crate::segment::SegmentId;

/// The published names at one moment.
#[derive(Debug)]
pub struct Listing(Vec<SegmentId>);

impl Listing {
    /// Reads the names of all symlinks in `segments/` that are segment files; others are not shown.
    pub fn read(layout: &Layout) -> io::Result<Self> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(layout.segments())? {
            let entry = entry?;
            if let Some(Ok(id)) = SegmentId::from_file_name(&entry.file_name())
                && entry.file_type()?.is_symlink()
            {
                ids.push(id);
            }
        }
        Ok(Self(ids))
    }

    /// The names.
    pub fn ids(&self) -> &[SegmentId] {
        &self.0
    }
}
