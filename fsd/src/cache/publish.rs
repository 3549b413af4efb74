//! Publication: a batch of verified files becomes visible, in the order of DESIGN.md 4.1.
//!
//! Invariant (S1): contents are synced before a name in `objects/` leads to them, that name before a symlink does,
//! the symlink before the ledger tells of it, all of it before the caller hears of success. A batch shares the
//! directory syncs and the ledger's transaction; one item's failure is its own.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use crate::failpoint::crash_point;
use crate::ledger::{Change, Ledger, ObjectRow, SegmentRow};
use crate::metrics;
use crate::segment::{Digest, SegmentId};

use super::{Cache, CacheError, Published, Source, Verified, disk};

/// How many files or directories of one batch are synced at a time: those that wait together share one commit of
/// the file system's journal. Measured for small segments; for large ones the disk is the limit with 4 already.
const SYNC_THREADS: usize = 16;

/// One item of a batch on its way.
struct Item {
    verified: Verified,
    source: Source,
    /// What the name showed before; known once the new symlink is in place.
    replaced: Option<Digest>,
    error: Option<CacheError>,
}

impl Item {
    fn digest(&self) -> Digest {
        self.verified.digest()
    }

    fn run(&mut self, step: impl FnOnce(&mut Self) -> Result<(), CacheError>) {
        if self.error.is_none() {
            self.error = step(self).err();
        }
    }
}

fn fail_all(items: &mut [Item], error: &CacheError) {
    for item in items {
        item.error.get_or_insert_with(|| error.clone());
    }
}

impl Cache {
    /// Publishes each of `batch`; the results are in its order. What a result calls published survives a power cut
    /// (S1). The object of a replaced version goes, unless another segment is that object too.
    ///
    /// After an error in the last steps the new version may be visible all the same; publish it again.
    pub fn publish(&self, batch: Vec<(Verified, Source)>) -> Vec<Result<Published, CacheError>> {
        let new = |(verified, source)| Item { verified, source, replaced: None, error: None };
        let mut items: Vec<Item> = batch.into_iter().map(new).collect();
        sync_contents(&mut items);
        crash_point("admission.fsynced");

        let mut ledger = self.changes();
        self.place_objects(&mut items);
        let mut unused = self.link(&mut items);
        let linked = items.iter().any(|item| item.error.is_none());
        let synced = if linked { self.sync_dir(&self.layout().segments()) } else { Ok(()) };
        crash_point("admission.segments-dir-synced");
        match synced {
            Err(error) => fail_all(&mut items, &error),
            Ok(()) => {
                unused.extend(items.iter().map(Item::digest));
                if let Err(error) = self.record(&mut ledger, &items, unused) {
                    fail_all(&mut items, &error);
                }
                crash_point("admission.ledgered");
            }
        }
        drop(ledger);
        items.into_iter().map(finish).collect()
    }

    /// Moves each object to its place and syncs the directories that changed.
    fn place_objects(&self, items: &mut [Item]) {
        self.make_object_dirs(items);
        let mut changed: BTreeSet<PathBuf> = BTreeSet::new();
        for item in &mut *items {
            item.run(|item| {
                self.place_object(item)?;
                // also where the object was there: what placed it may have failed to sync it, and to remove it then
                changed.insert(self.layout().object_dir(&item.digest()));
                Ok(())
            });
            crash_point("admission.renamed");
        }
        let mut changed: Vec<_> = changed.into_iter().map(|directory| (directory, None)).collect();
        in_threads(&mut changed, |(directory, error)| *error = self.sync_dir(directory).err());
        for (directory, error) in changed {
            let Some(error) = error else { continue };
            for item in &mut *items {
                if self.layout().object_dir(&item.digest()) == directory {
                    item.error.get_or_insert_with(|| error.clone());
                }
            }
        }
        crash_point("admission.object-dir-synced");
    }

    /// Makes the directories that are not there yet; all of them cost one sync, which in an empty cache nearly
    /// every object would else cost.
    fn make_object_dirs(&self, items: &mut [Item]) {
        let mut made = Vec::new();
        for item in &mut *items {
            item.run(|item| {
                let directory = self.layout().object_dir(&item.digest());
                match std::fs::create_dir(&directory) {
                    Ok(()) => made.push(directory),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => {
                        return Err(CacheError::io("make", &directory, disk::BLOCK_BYTES, error));
                    }
                }
                Ok(())
            });
        }
        if !made.is_empty()
            && let Err(error) = self.sync_dir(&self.layout().objects())
        {
            // left there, the next publication would take them for synced
            for directory in made {
                let _ = std::fs::remove_dir(directory);
            }
            fail_all(items, &error);
        }
    }

    /// Moves the file to its place, unless the same object is there already, untouched since it was verified.
    fn place_object(&self, item: &mut Item) -> Result<(), CacheError> {
        let digest = item.digest();
        let path = self.layout().object(&digest);
        let fail =
            |error: io::Error| CacheError::io("place object", &path, disk::BLOCK_BYTES, error);
        let known = self.state().objects.get(&digest).map(|object| object.row.fingerprint);
        if let Some(known) = known {
            if disk::fingerprint(&path).is_ok_and(|now| now == known) {
                return Ok(());
            }
            disk::clear_immutable(&path);
        }
        let part = &mut item.verified.0.part;
        std::fs::rename(&part.path, &path).map_err(fail)?;
        if self.0.settings.immutable_flag {
            disk::set_immutable(&path);
        }
        // taken last, for rename and flag change the ctime
        let fingerprint = disk::fingerprint(&path).map_err(fail)?;
        let mut state = self.state();
        state.put_object(digest, ObjectRow { fingerprint, verified_at_ms: disk::now_ms() });
        part.release(&mut state);
        Ok(())
    }

    /// Points each name to its object; returns the digests of versions that were replaced.
    fn link(&self, items: &mut [Item]) -> Vec<Digest> {
        let mut unused = Vec::new();
        for item in items {
            item.run(|item| {
                let (id, digest) = (item.verified.id(), item.digest());
                self.point(id, &digest)?;
                let old = self.state().put(id, SegmentRow::new(digest, &item.source));
                if let Some(old) = old.filter(|old| old.digest != digest) {
                    item.replaced = old.withdrawn_at_ms.is_none().then_some(old.digest);
                    unused.push(old.digest);
                }
                Ok(())
            });
            crash_point("admission.linked");
        }
        unused
    }

    /// Makes the symlink of `id` name the object `digest`; the caller syncs `segments/`.
    pub(super) fn point(&self, id: &SegmentId, digest: &Digest) -> Result<(), CacheError> {
        let link = self.layout().link(id);
        // in incoming/, so that a crash leaves nothing in segments/ and whoever watches it sees one event
        let beside = self.layout().incoming().join(format!("{id}.{}.link", disk::random_name()));
        let target = crate::layout::Layout::link_target(digest);
        let fail = |error| CacheError::io("publish as", &link, disk::BLOCK_BYTES, error);
        std::os::unix::fs::symlink(target, &beside).map_err(fail)?;
        std::fs::rename(&beside, &link).map_err(|error| {
            let _ = disk::remove_file(&beside);
            fail(error)
        })
    }

    /// Removes the objects of `unused` that nothing uses any more and writes all of it to the ledger.
    fn record(
        &self,
        ledger: &mut Ledger,
        items: &[Item],
        unused: Vec<Digest>,
    ) -> Result<(), CacheError> {
        let mut changes = Vec::with_capacity(2 * items.len() + unused.len());
        for item in items.iter().filter(|item| item.error.is_none()) {
            if let Some(object) = self.state().objects.get(&item.digest()) {
                changes.push(Change::Object(item.digest(), object.row));
            }
            let row = SegmentRow::new(item.digest(), &item.source);
            changes.push(Change::Segment(item.verified.id().clone(), row));
        }
        for digest in unused {
            if self.state().objects.get(&digest).is_some_and(|object| object.segments == 0) {
                match self.remove_object(&digest) {
                    Ok(()) => changes.push(Change::ForgetObject(digest)),
                    // it is counted and the next start removes it
                    Err(error) => tracing::warn!(%digest, %error, "unused object left in place"),
                }
            }
        }
        self.write_ledger(ledger, &changes)
    }
}

/// Brings every file's bytes to the disk.
fn sync_contents(items: &mut [Item]) {
    in_threads(items, |item| {
        item.run(|item| item.verified.make_durable(item.source.stamp));
    });
}

/// `work` on each of `items`, in any order.
fn in_threads<T: Send>(items: &mut [T], work: impl Fn(&mut T) + Sync) {
    if items.len() <= 1 {
        return items.iter_mut().for_each(work);
    }
    let (per_thread, work) = (items.len().div_ceil(SYNC_THREADS), &work);
    std::thread::scope(|scope| {
        for chunk in items.chunks_mut(per_thread) {
            scope.spawn(move || chunk.iter_mut().for_each(work));
        }
    });
}

fn finish(item: Item) -> Result<Published, CacheError> {
    if let Some(error) = item.error {
        return Err(error);
    }
    ::metrics::counter!(metrics::CACHE_PUBLISHED).increment(1);
    let version = SegmentRow::new(item.digest(), &item.source).version();
    Ok(Published { id: item.verified.id().clone(), version, replaced: item.replaced })
}
