//! The names of one listing, taken when the directory is opened.
//!
//! Invariant: one listing shows each name at most once, however the cache changes meanwhile; a name that
//! goes while it is listed is left out.
//!
//! A listing of 100,000 names is a few megabytes and one `readlinkat` a name: all names lie in one string.

use std::ffi::OsStr;
use std::io;

use rustix::fs::{Dir, FileType};

use crate::layout::{Layout, Links};
use crate::segment::{Digest, SegmentId};

/// The published names at one moment.
#[derive(Debug)]
pub struct Listing {
    links: Links,
    /// File names, one after another.
    names: String,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl Listing {
    /// Reads the names of all symlinks in `segments/` that are segment files; others are not shown.
    pub fn read(layout: &Layout) -> io::Result<Self> {
        let links = Links::open(layout)?;
        let (mut names, mut ends) = (String::new(), Vec::new());
        for entry in Dir::read_from(&links)? {
            let entry = entry?;
            let name = entry.file_name().to_str().ok();
            // where the file system does not tell the type, reading the link does
            if let Some(name) = name.filter(|name| id_of(name).is_some())
                && matches!(entry.file_type(), FileType::Symlink | FileType::Unknown)
            {
                names.push_str(name);
                ends.push(names.len());
            }
        }
        Ok(Self { links, names, ends })
    }

    /// The file names from number `first` on, each with its number.
    pub fn names(&self, first: u64) -> impl Iterator<Item = (u64, &str)> {
        let skipped = usize::try_from(first).unwrap_or(usize::MAX).min(self.ends.len());
        let mut start = skipped.checked_sub(1).map_or(0, |last| self.ends[last]);
        let cut = move |&end: &usize| &self.names[std::mem::replace(&mut start, end)..end];
        (first..).zip(self.ends[skipped..].iter().map(cut))
    }

    /// What `name` is published as now; `None` when it is gone, or was never a segment.
    pub fn published(&self, name: &str) -> Option<(SegmentId, Digest)> {
        id_of(name).zip(self.links.published(name).ok().flatten())
    }
}

fn id_of(name: &str) -> Option<SegmentId> {
    SegmentId::from_file_name(OsStr::new(name)).and_then(Result::ok)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_listing_can_be_taken_up_at_any_number() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path());
        std::fs::create_dir(layout.segments()).unwrap();
        assert_eq!(Listing::read(&layout).unwrap().names(0).count(), 0);
        let digest = Digest::from(blake3::hash(b"x"));
        for name in ["a.sqlite", "bcd.sqlite", "..sqlite", "a.sqlite-wal"] {
            symlink(Layout::link_target(&digest), layout.segments().join(name)).unwrap();
        }
        std::fs::write(layout.segments().join("file.sqlite"), "").unwrap();
        let listing = Listing::read(&layout).unwrap();
        let all: Vec<_> = listing.names(0).collect();
        assert_eq!(all.len(), 2);
        for first in 0..4 {
            let rest: Vec<_> = listing.names(first).collect();
            assert_eq!(rest, all[(first as usize).min(2)..]);
        }
        assert_eq!(listing.published("a.sqlite"), Some((SegmentId::new("a").unwrap(), digest)));
        std::fs::remove_file(layout.segments().join(all[0].1)).unwrap();
        assert_eq!(listing.published(all[0].1), None);
    }
}
