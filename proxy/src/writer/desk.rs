//! All segments that a node writes, by id.
//!
//! Invariants: a segment is opened once, however many ask at the same time; the lease of a segment is written before it
//! is open and taken back before it is closed; what is open is bounded.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fsd::segment::{SegmentId, Version};
use sync::kv::KvError;
use sync::write_lock::Ownership;

use super::error::{OpenError, PromoteError};
use super::segment::{Origin, Segment};
use super::{Files, Outside};
use crate::lease::LeaseFile;
use crate::writable::{Unpublished, WriteError, WriteRequest, Written};

/// Between two looks whether the last request of a segment that is being closed is done.
const UNUSED_TRY_EVERY: Duration = Duration::from_millis(5);

/// A segment's place, open or not.
#[derive(Debug, Default)]
struct Slot {
    /// Held by who opens or closes it.
    gate: tokio::sync::Mutex<()>,
    segment: Mutex<Option<Arc<Segment>>>,
}

/// A segment that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Its length in bytes.
    pub length: Option<u64>,
    /// By which schema it was made.
    pub schema: Option<SegmentId>,
}

/// What is open, for a status.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Which.
    pub id: SegmentId,
    /// What of it is not published.
    pub unpublished: Unpublished,
    /// What is.
    pub version: Option<Version>,
    /// How long nothing was written.
    pub idle: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Desk {
    pub(super) outside: Outside,
    slots: Mutex<HashMap<SegmentId, Arc<Slot>>>,
    lease: Mutex<LeaseFile>,
    stopping: AtomicBool,
    /// Where a lock is kept against a second writer; held for its drop.
    _alone: std::fs::File,
}

impl Desk {
    /// Takes the directory of writable segments, against every other writer, clears up what was never whole, and ends
    /// the sessions of this writer's former life, so that its locks are free.
    pub async fn start(outside: Outside) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let root = outside.files.root();
        let alone = root.join("lock");
        let file = std::fs::File::create(&alone)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .with_context(|| {
                format!(
                    "lock {}: another writer has it; give every writer a `write.dir` of its own",
                    alone.display()
                )
            })?;
        outside.files.sweep()?;
        let mut lease = LeaseFile::new(root)?;
        lease.write([], Duration::ZERO)?;
        let ended = outside.publisher.locks().end_former(&outside.node).await?;
        if ended > 0 {
            tracing::info!(ended, "took the locks back that a former life of this writer held");
        }
        Ok(Self {
            outside,
            slots: Mutex::default(),
            lease: Mutex::new(lease),
            stopping: AtomicBool::new(false),
            _alone: file,
        })
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<SegmentId, Arc<Slot>>> {
        self.slots.lock().expect("a panic ends the process, so no thread has left this poisoned")
    }

    fn slot(&self, id: &SegmentId) -> Arc<Slot> {
        self.slots().entry(id.clone()).or_default().clone()
    }

    pub(super) fn open(&self) -> Vec<Arc<Segment>> {
        let slots: Vec<_> = self.slots().values().cloned().collect();
        slots.iter().filter_map(|slot| slot.segment()).collect()
    }

    fn find(&self, id: &SegmentId) -> Option<Arc<Segment>> {
        let slot = self.slots().get(id).cloned()?;
        slot.segment()
    }

    /// Opens `id` for writing, if it is not open.
    pub async fn provision(
        &self,
        id: &SegmentId,
        schema: Option<&SegmentId>,
    ) -> Result<Opened, OpenError> {
        let slot = self.slot(id);
        let _gate = slot.gate.lock().await;
        let segment = match slot.segment() {
            Some(segment) if segment.holds() => segment,
            lost => {
                if let Some(lost) = lost {
                    self.leave(&slot, lost).await;
                }
                self.make_room(id)?;
                let segment = Segment::open(&self.outside, id, Origin::Asked { schema }).await?;
                let copies = segment.version().is_some();
                self.admit(&slot, segment, copies).await?
            }
        };
        Ok(Opened { length: segment.length(&self.outside.files), schema: segment.schema() })
    }

    /// Opens `id` again after a crash or the loss of its lock, with what was acknowledged; or sets that aside.
    pub(super) async fn resume(&self, id: &SegmentId) -> Result<(), OpenError> {
        let slot = self.slot(id);
        // who holds it opens or closes it, and then there is nothing to take up, or it is seen the next time
        let Ok(_gate) = slot.gate.try_lock() else { return Ok(()) };
        if slot.segment().is_some() {
            return Ok(());
        }
        self.make_room(id)?;
        let segment = Segment::open(&self.outside, id, Origin::Resumed).await?;
        self.admit(&slot, segment, true).await?;
        Ok(())
    }

    async fn admit(
        &self,
        slot: &Slot,
        segment: Segment,
        copies: bool,
    ) -> Result<Arc<Segment>, OpenError> {
        let segment = Arc::new(segment);
        if copies {
            // a reader that has not heard of this yet answers from a copy: nothing must be newer meanwhile
            tokio::time::sleep(Duration::from_millis(self.outside.settings.view_max_age_ms)).await;
        }
        *slot.lock() = Some(Arc::clone(&segment));
        if let Err(error) = self.write_lease() {
            tracing::warn!(%error, "the reader of this node is not told what is writable");
        }
        tracing::info!(segment = %segment.id(), "open for writing");
        Ok(segment)
    }

    fn make_room(&self, id: &SegmentId) -> Result<(), OpenError> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(OpenError::Stopping);
        }
        let open_max = self.outside.settings.open_max;
        let mut slots = self.slots();
        slots.retain(|other, slot| {
            other == id || Arc::strong_count(slot) > 1 || slot.segment().is_some()
        });
        match slots.len() > open_max {
            true => Err(OpenError::TooMany { open_max }),
            false => Ok(()),
        }
    }

    /// Writes to `id`.
    pub async fn write(
        &self,
        id: &SegmentId,
        request: WriteRequest,
    ) -> Option<Result<Written, WriteError>> {
        let segment = self.find(id)?;
        Some(segment.write(request).await)
    }

    /// Publishes `id` as it is now.
    pub async fn promote(&self, id: &SegmentId) -> Result<Version, PromoteError> {
        let segment = self.find(id).ok_or_else(|| PromoteError::NotOpen(id.clone()))?;
        segment.promote(&self.outside).await
    }

    /// Publishes `id` over whatever somebody else put there.
    pub async fn keep_ours(&self, id: &SegmentId) -> Result<Version, PromoteError> {
        let segment = self.find(id).ok_or_else(|| PromoteError::NotOpen(id.clone()))?;
        segment.tenure().accept().await?;
        segment.promote(&self.outside).await
    }

    /// Closes `id` and leaves what somebody else put there; what was not published becomes an orphan, whose name this
    /// is.
    pub async fn keep_theirs(&self, id: &SegmentId) -> Result<Option<String>, PromoteError> {
        let slot = self.slot(id);
        let _gate = slot.gate.lock().await;
        let segment = slot.segment().ok_or_else(|| PromoteError::NotOpen(id.clone()))?;
        if !segment.tenure().is_contested().await? {
            return Err(PromoteError::NoConflict(id.clone()));
        }
        self.close(&slot);
        segment.close().await;
        let orphan = segment.give_up(&self.outside.files).await;
        self.end(segment).await;
        Ok(orphan?)
    }

    /// Who writes `id`, if anybody does, whichever node that is.
    pub async fn owner(&self, id: &SegmentId) -> Result<Option<Ownership>, KvError> {
        let owner = self.outside.publisher.locks().owner(id).await?;
        Ok(owner.filter(|owner| owner.held).map(|owner| owner.ownership))
    }

    /// What is open.
    pub fn entries(&self) -> Vec<Entry> {
        let open = self.open();
        let entry = |segment: &Arc<Segment>| Entry {
            id: segment.id().clone(),
            unpublished: segment.unpublished(),
            version: segment.version(),
            idle: segment.idle(),
        };
        open.iter().map(entry).collect()
    }

    /// Where they lie.
    pub fn files(&self) -> &Files {
        &self.outside.files
    }

    /// Gives `id` back: `false` when something is unpublished, or it is not open.
    pub async fn hand_back(&self, id: &SegmentId) -> bool {
        let slot = self.slot(id);
        let _gate = slot.gate.lock().await;
        let Some(segment) = slot.segment() else { return false };
        if segment.unpublished().since_ms.is_some() {
            return false;
        }
        // first nobody writes any more, then it is seen whether somebody has
        self.close(&slot);
        if segment.close().await {
            tracing::info!(segment = %id, "given back");
            self.end(segment).await;
            return true;
        }
        match segment.reopen(&self.outside).await {
            Ok(()) => {
                *slot.lock() = Some(segment);
                if let Err(error) = self.write_lease() {
                    tracing::warn!(%error, "the reader of this node is not told what is writable");
                }
            }
            Err(error) => {
                tracing::error!(segment = %id, %error, "a segment with unpublished writes cannot be opened again");
                self.end(segment).await;
            }
        }
        false
    }

    /// Lets go of a segment whose lock is lost, or all at the end.
    async fn leave(&self, slot: &Slot, segment: Arc<Segment>) {
        self.close(slot);
        segment.close().await;
        self.end(segment).await;
    }

    pub(super) async fn leave_lost(&self, id: &SegmentId) {
        let slot = self.slot(id);
        let _gate = slot.gate.lock().await;
        if let Some(segment) = slot.segment().filter(|segment| !segment.holds()) {
            tracing::warn!(segment = %id, "its write lock was lost; nothing more is written");
            self.leave(&slot, segment).await;
        }
    }

    /// Ends everything: what is unpublished stays, told as such, and goes on with the next start.
    pub async fn leave_all(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let slots: Vec<_> = self.slots().values().cloned().collect();
        for slot in slots {
            let _gate = slot.gate.lock().await;
            if let Some(segment) = slot.segment() {
                self.leave(&slot, segment).await;
            }
        }
        self.outside.publisher.close().await;
    }

    fn close(&self, slot: &Slot) {
        *slot.lock() = None;
        if let Err(error) = self.write_lease() {
            tracing::warn!(%error, "the reader of this node is told late what is not writable any more");
        }
    }

    async fn end(&self, segment: Arc<Segment>) {
        let mut segment = segment;
        loop {
            match Arc::try_unwrap(segment) {
                Ok(alone) => return alone.give_back(&self.outside.files).await,
                Err(shared) => segment = shared,
            }
            tokio::time::sleep(UNUSED_TRY_EVERY).await;
        }
    }

    /// Tells this node's reader what it may read, and others what is open here.
    pub(super) fn write_lease(&self) -> std::io::Result<()> {
        // first: what is said last is what is so last
        let mut lease = self
            .lease
            .lock()
            .expect("a panic ends the process, so no thread has left this poisoned");
        let open = self.open();
        self.outside.open.send_if_modified(|told| {
            let now: BTreeSet<_> = open.iter().map(|segment| segment.id().clone()).collect();
            let changed = told.as_deref() != Some(&now);
            if changed {
                *told = Some(Arc::new(now));
            }
            changed
        });
        let until = open.iter().map(|segment| segment.holds_until()).min().unwrap_or_default();
        lease.write(open.iter().map(|segment| segment.id().clone()), until)
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Segment>>> {
        self.segment.lock().expect("a panic ends the process, so no thread has left this poisoned")
    }

    fn segment(&self) -> Option<Arc<Segment>> {
        self.lock().clone()
    }
}
