//! A node's directory of verified segments: staging, verification, publication, withdrawal, quarantine.
//!
//! Invariants:
//! - S1: whatever dies at whatever moment, a name below `segments/` leads to a whole, verified object or to
//!   none. Every step is written aside, synced, renamed, and its directory synced before the next step counts on it.
//! - S2: only [`Verified`] can be published.
//! - S10: [`Cache::open`] sets right whatever a crash left; nobody needs to help.
//! - One process changes a cache (flock), and in it one thread at a time changes names (the `changes` lock), so an
//!   object is never removed while a name to it appears. What takes long, writing, hashing and syncing file
//!   contents, happens outside of that lock.
//! - What this process remembers of names and objects ([`State`]) is what is on the disk, also after a failed call.
//!
//! Left out: where segments come from and which of them to evict (crate `sync`), and showing them
//! ([`crate::layout`] is all that the mount needs).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::ledger::{Change, Ledger, ObjectRow, SegmentRow};
use crate::segment::{Digest, SegmentId, Stamp, Version};

pub(crate) mod disk;
mod error;
mod publish;
mod quarantine;
mod remove;
mod staging;
mod start;
mod survey;
mod writer;

pub use error::CacheError;
pub use staging::{Refusal, Rejected, Staged, Staging, Verified};
pub use start::StartReport;

/// The part of the volume that the cache takes when no quota is set, in percent.
const QUOTA_DEFAULT_PERCENT: u64 = 80;

/// Settings of the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheSettings {
    /// The cache directory; set by whoever wires the parts together.
    pub dir: PathBuf,
    /// The most that objects and files being staged may take, in bytes; default: 80 % of the volume's size.
    pub quota_bytes: Option<u64>,
    /// Set the file system's immutable flag on objects, so that not even root changes one by accident. Needs
    /// CAP_LINUX_IMMUTABLE and ext4, XFS or btrfs; where it cannot be set, objects are just mode 0444.
    pub immutable_flag: bool,
    /// The most that quarantine keeps, in bytes, on top of the quota; the oldest leave first.
    pub quarantine_bytes_max: u64,
    /// The most files that quarantine keeps.
    pub quarantine_files_max: usize,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            quota_bytes: None,
            immutable_flag: false,
            quarantine_bytes_max: 1 << 30,
            quarantine_files_max: 1000,
        }
    }
}

/// Where a segment comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its path in the deep store, for people.
    pub path: String,
    /// Its length and mtime there.
    pub stamp: Stamp,
    /// Whether a seal vouches for it.
    pub sealed: bool,
}

/// A segment that was published; it is on the disk to stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Which.
    pub id: SegmentId,
    /// As what.
    pub version: Version,
    /// The digest that the name showed before, if it was another.
    pub replaced: Option<Digest>,
}

/// A segment that the cache has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// Which.
    pub id: SegmentId,
    /// As what.
    pub version: Version,
    /// Its path in the deep store; empty when the ledger was lost and rebuilt.
    pub source: String,
    /// Whether a seal vouched for it.
    pub sealed: bool,
    /// Whether the mount shows it.
    pub published: bool,
    /// Since when it does not, milliseconds since 1970.
    pub withdrawn_at_ms: Option<u64>,
    /// When its bytes were last verified, milliseconds since 1970.
    pub verified_at_ms: u64,
}

/// What the cache takes of the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Objects, published or withdrawn; one that several ids share counts once.
    pub objects_bytes: u64,
    /// Announced lengths of all files being staged.
    pub incoming_bytes: u64,
    /// Quarantine; not part of the quota.
    pub quarantine_bytes: u64,
    /// Published segments.
    pub segments: u64,
}

/// The cache of this process. Cloning is cheap; all calls block.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layout: Layout,
    settings: CacheSettings,
    quota_bytes: u64,
    /// What of it is taken by something else than this cache.
    taken_bytes: AtomicU64,
    /// Held by whoever changes names. Taken before `state`, never the other way round.
    changes: Mutex<Ledger>,
    state: Mutex<State>,
    /// Its flock keeps other processes out for as long as this is open.
    lock: File,
}

/// What is on the disk.
#[derive(Debug, Default)]
struct State {
    segments: HashMap<SegmentId, SegmentRow>,
    /// Ordered, so that scrub can go on where it stopped.
    objects: BTreeMap<Digest, Object>,
    objects_bytes: u64,
    incoming_bytes: u64,
    published: u64,
    /// Names and lengths, oldest first.
    quarantine: VecDeque<(String, u64)>,
    quarantine_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Object {
    row: ObjectRow,
    /// How many segments, published or withdrawn, are this object.
    segments: u32,
}

impl State {
    /// Makes `id` what `row` says; returns what it was. The object of `row` must be known.
    fn put(&mut self, id: &SegmentId, row: SegmentRow) -> Option<SegmentRow> {
        if let Some(object) = self.objects.get_mut(&row.digest) {
            object.segments += 1;
        }
        self.published += u64::from(row.withdrawn_at_ms.is_none());
        let old = self.segments.insert(id.clone(), row);
        self.uncount(old.as_ref());
        old
    }

    fn forget(&mut self, id: &SegmentId) {
        let old = self.segments.remove(id);
        self.uncount(old.as_ref());
    }

    fn uncount(&mut self, old: Option<&SegmentRow>) {
        let Some(old) = old else { return };
        if let Some(object) = self.objects.get_mut(&old.digest) {
            object.segments -= 1;
        }
        self.published -= u64::from(old.withdrawn_at_ms.is_none());
    }

    /// Notes an object that is on the disk now.
    fn put_object(&mut self, digest: Digest, row: ObjectRow) {
        let segments = self.forget_object(&digest).map_or(0, |old| old.segments);
        self.objects.insert(digest, Object { row, segments });
        self.objects_bytes += row.fingerprint.length;
    }

    /// Notes that an object is gone.
    fn forget_object(&mut self, digest: &Digest) -> Option<Object> {
        let old = self.objects.remove(digest)?;
        self.objects_bytes -= old.row.fingerprint.length;
        Some(old)
    }

    fn holding(&self, id: &SegmentId, row: &SegmentRow) -> Holding {
        Holding {
            id: id.clone(),
            version: row.version(),
            source: row.source.clone(),
            sealed: row.sealed,
            published: row.withdrawn_at_ms.is_none(),
            withdrawn_at_ms: row.withdrawn_at_ms,
            verified_at_ms: self
                .objects
                .get(&row.digest)
                .map_or(0, |object| object.row.verified_at_ms),
        }
    }
}

impl SegmentRow {
    fn new(digest: Digest, source: &Source) -> Self {
        let Source { path, stamp, sealed } = source;
        Self { digest, stamp: *stamp, source: path.clone(), sealed: *sealed, withdrawn_at_ms: None }
    }

    fn version(&self) -> Version {
        Version { stamp: self.stamp, digest: self.digest }
    }
}

impl Cache {
    /// Opens the cache at `settings.dir`, makes it when it is not there, and sets right what a crash left (S10);
    /// only objects whose fingerprint the ledger does not vouch for are read (S2). The work grows with the number of
    /// segments, not with their bytes.
    pub fn open(settings: &CacheSettings) -> Result<(Self, StartReport), CacheError> {
        start::open(settings)
    }

    /// Whether it is still where it was opened. [`CacheError::Gone`] when somebody moved or deleted its directory or
    /// one of those in it: then nobody sees what is published, and it must be opened anew.
    pub fn check(&self) -> Result<(), CacheError> {
        start::check(&self.0.layout, &self.0.lock)
    }

    /// Where its files are.
    pub fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// The most that objects and files being staged may take, in bytes: the quota without what [`Self::take`] says.
    pub fn quota_bytes(&self) -> u64 {
        self.0.quota_bytes.saturating_sub(self.taken_bytes())
    }

    /// What of the quota is taken by something else, in bytes.
    pub fn taken_bytes(&self) -> u64 {
        self.0.taken_bytes.load(Ordering::Relaxed)
    }

    /// So many bytes of the quota are taken by something else that lies on the volume, as segments that are written
    /// here. What is held stays, however many they are: whoever assigns segments makes room.
    pub fn take(&self, bytes: u64) {
        self.0.taken_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What its volume has free for it, in bytes; `None` when the volume cannot be looked at.
    pub fn free_bytes(&self) -> Option<u64> {
        disk::space(self.0.layout.dir()).ok().map(|space| space.free_bytes)
    }

    /// What it takes now.
    pub fn usage(&self) -> Usage {
        let state = self.state();
        Usage {
            objects_bytes: state.objects_bytes,
            incoming_bytes: state.incoming_bytes,
            quarantine_bytes: state.quarantine_bytes,
            segments: state.published,
        }
    }

    /// Begins to stage `length` bytes that are to be `id`. Room for them is reserved: over the quota this is
    /// [`CacheError::OverQuota`], on a volume without that much room [`CacheError::DiskFull`].
    ///
    /// A new version of a segment needs room beside the old one until it is published.
    pub fn stage(&self, id: &SegmentId, length: u64) -> Result<Staging, CacheError> {
        Staging::new(self, id, length)
    }

    /// One segment, published or withdrawn.
    pub fn holding(&self, id: &SegmentId) -> Result<Option<Holding>, CacheError> {
        let state = self.state();
        Ok(state.segments.get(id).map(|row| state.holding(id, row)))
    }

    /// Every segment, published or withdrawn, in no order.
    pub fn holdings(&self) -> Result<Vec<Holding>, CacheError> {
        let state = self.state();
        Ok(state.segments.iter().map(|(id, row)| state.holding(id, row)).collect())
    }

    /// The first object after `digest` in the order of digests.
    pub(crate) fn object_after(&self, digest: Option<&Digest>) -> Option<Digest> {
        let from = digest.map_or(Bound::Unbounded, Bound::Excluded);
        self.state().objects.range((from, Bound::Unbounded)).next().map(|(digest, _)| *digest)
    }

    /// Where scrub stood when it last said so.
    pub(crate) fn scrub_checkpoint(&self) -> Result<Option<String>, CacheError> {
        let read = self.changes().scrub();
        read.map_err(|error| CacheError::ledger(&self.0.layout.ledger(), error))
    }

    /// Notes in one step that `verified` were right at `at_ms` and where scrub stands.
    pub(crate) fn save_scrub(
        &self,
        verified: &[Digest],
        at_ms: u64,
        checkpoint: String,
    ) -> Result<(), CacheError> {
        let mut ledger = self.changes();
        let mut changes = vec![Change::Scrub(checkpoint)];
        for digest in verified {
            if let Some(object) = self.state().objects.get_mut(digest) {
                object.row.verified_at_ms = at_ms;
                changes.push(Change::Verified(*digest, at_ms));
            }
        }
        self.write_ledger(&mut ledger, &changes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("a panic aborts the process, so the lock is never poisoned")
    }

    fn changes(&self) -> MutexGuard<'_, Ledger> {
        self.0.changes.lock().expect("a panic aborts the process, so the lock is never poisoned")
    }

    fn reserve(&self, id: &SegmentId, length: u64) -> Result<(), CacheError> {
        let mut state = self.state();
        let used_bytes = state.objects_bytes + state.incoming_bytes;
        let quota_bytes = self.quota_bytes();
        if used_bytes.saturating_add(length) > quota_bytes {
            let (id, needed_bytes) = (id.clone(), length);
            return Err(CacheError::OverQuota { id, needed_bytes, used_bytes, quota_bytes });
        }
        state.incoming_bytes += length;
        Ok(())
    }

    fn write_ledger(&self, ledger: &mut Ledger, changes: &[Change]) -> Result<(), CacheError> {
        let result = ledger.apply(changes);
        result.map_err(|error| CacheError::ledger(&self.0.layout.ledger(), error))
    }

    fn sync_dir(&self, path: &Path) -> Result<(), CacheError> {
        disk::sync_dir(path).map_err(|error| CacheError::io("sync", path, disk::BLOCK_BYTES, error))
    }
}
