//! Withdrawal, return and removal of segments, in the order of DESIGN.md 4.3: symlink, its directory, object, ledger.
//!
//! Invariant: an object goes only when no symlink names it and no withdrawn segment is it, and after the removal of
//! its last name has reached the disk. So no crash leaves a name without an object.

use std::io;

use crate::failpoint::crash_point;
use crate::ledger::{Change, Fingerprint, SegmentRow};
use crate::metrics;
use crate::segment::{Digest, SegmentId};

use super::quarantine::Record;
use super::{Cache, CacheError, Published, Source, disk};

impl Cache {
    /// Takes the name away and keeps the object; `false` when `id` is not published.
    pub fn unpublish(&self, id: &SegmentId) -> Result<bool, CacheError> {
        let mut ledger = self.changes();
        let Some(row) = self.row(id).filter(|row| row.withdrawn_at_ms.is_none()) else {
            return Ok(false);
        };
        let row = self.withdraw(id, row)?;
        self.sync_dir(&self.layout().segments())?;
        crash_point("removal.segments-dir-synced");
        self.write_ledger(&mut ledger, &[Change::Segment(id.clone(), row)])?;
        crash_point("removal.ledgered");
        Ok(true)
    }

    /// Publishes a withdrawn segment again, without a pull, when `source` has the very version that the cache has
    /// and the object was not touched since it was verified (S2); else `None`. A published one is left as it is.
    pub fn republish(
        &self,
        id: &SegmentId,
        source: &Source,
    ) -> Result<Option<Published>, CacheError> {
        let mut ledger = self.changes();
        let Some(row) = self.row(id).filter(|row| row.stamp == source.stamp) else {
            return Ok(None);
        };
        let published = Published { id: id.clone(), version: row.version(), replaced: None };
        if row.withdrawn_at_ms.is_none() {
            return Ok(Some(published));
        }
        let known = self.state().objects.get(&row.digest).map(|object| object.row.fingerprint);
        let now = disk::fingerprint(&self.layout().object(&row.digest)).ok();
        if known.is_none() || known != now {
            return Ok(None);
        }
        self.point(id, &row.digest)?;
        // the seal, if there was one, was checked when the bytes came
        let row = SegmentRow { source: source.path.clone(), withdrawn_at_ms: None, ..row };
        self.state().put(id, row.clone());
        self.sync_dir(&self.layout().segments())?;
        self.write_ledger(&mut ledger, &[Change::Segment(id.clone(), row)])?;
        Ok(Some(published))
    }

    /// Removes a segment, published or withdrawn, and its object if no other segment is it; `false` when the cache
    /// does not have it.
    pub fn remove(&self, id: &SegmentId) -> Result<bool, CacheError> {
        let mut ledger = self.changes();
        let Some(row) = self.row(id) else { return Ok(false) };
        let digest = row.digest;
        if row.withdrawn_at_ms.is_none() {
            self.withdraw(id, row)?;
            self.sync_dir(&self.layout().segments())?;
            crash_point("removal.segments-dir-synced");
        }
        let mut changes = vec![Change::ForgetSegment(id.clone())];
        if self.state().objects.get(&digest).is_some_and(|object| object.segments == 1) {
            self.remove_object(&digest)?;
            crash_point("removal.object-removed");
            changes.push(Change::ForgetObject(digest));
        }
        self.state().forget(id);
        self.write_ledger(&mut ledger, &changes)?;
        crash_point("removal.ledgered");
        Ok(true)
    }

    /// Withdraws every name of a damaged object, keeps its bytes in quarantine, and returns the names (S2).
    ///
    /// `read` is what was found damaged, `None` when nothing was there. `None` comes back when the object has been
    /// replaced or removed since: that is no damage.
    pub(crate) fn condemn(
        &self,
        digest: &Digest,
        read: Option<Fingerprint>,
        why: &str,
    ) -> Result<Option<Vec<SegmentId>>, CacheError> {
        let mut ledger = self.changes();
        let path = self.layout().object(digest);
        let same = match (disk::fingerprint(&path), read) {
            (Ok(now), Some(read)) => (now.dev, now.ino) == (read.dev, read.ino),
            (Err(error), None) => error.kind() == io::ErrorKind::NotFound,
            (Ok(_), None) | (Err(_), Some(_)) => false,
        };
        if !same || !self.state().objects.contains_key(digest) {
            return Ok(None);
        }
        let users: Vec<(SegmentId, SegmentRow)> = {
            let state = self.state();
            let uses = state.segments.iter().filter(|(_, row)| row.digest == *digest);
            uses.map(|(id, row)| (id.clone(), row.clone())).collect()
        };
        let source = users.first().map_or(String::new(), |(_, row)| row.source.clone());
        let ids: Vec<SegmentId> = users.iter().map(|(id, _)| id.clone()).collect();
        for (id, row) in users {
            if row.withdrawn_at_ms.is_none() {
                self.withdraw(&id, row)?;
            }
        }
        self.sync_dir(&self.layout().segments())?;
        crash_point("removal.segments-dir-synced");
        if read.is_some() {
            let record = Record::new(ids.clone(), source, Some(*digest), why);
            if let Err(error) = self.quarantine_file(&path, &record) {
                // damaged bytes that stay in their place could be published again
                tracing::warn!(%digest, %error, "damaged object is removed, for it cannot be kept");
                self.remove_object(digest)?;
            }
            crash_point("removal.quarantined");
        }
        let mut changes = vec![Change::ForgetObject(*digest)];
        {
            let mut state = self.state();
            for id in &ids {
                state.forget(id);
                changes.push(Change::ForgetSegment(id.clone()));
            }
            state.forget_object(digest);
        }
        ::metrics::counter!(metrics::SCRUB_CORRUPTIONS).increment(1);
        self.write_ledger(&mut ledger, &changes)?;
        crash_point("removal.ledgered");
        Ok(Some(ids))
    }

    fn row(&self, id: &SegmentId) -> Option<SegmentRow> {
        self.state().segments.get(id).cloned()
    }

    /// Unlinks the name; the caller syncs `segments/`. Returns the row as it is then.
    fn withdraw(&self, id: &SegmentId, row: SegmentRow) -> Result<SegmentRow, CacheError> {
        let link = self.layout().link(id);
        disk::remove_file(&link).map_err(|error| CacheError::io("withdraw", &link, 0, error))?;
        crash_point("removal.unlinked");
        let row = SegmentRow { withdrawn_at_ms: Some(disk::now_ms()), ..row };
        self.state().put(id, row.clone());
        Ok(row)
    }

    /// Unlinks the object; that nothing uses it is the caller's business.
    pub(super) fn remove_object(&self, digest: &Digest) -> Result<(), CacheError> {
        let path = self.layout().object(digest);
        disk::clear_immutable(&path);
        disk::remove_file(&path).map_err(|error| CacheError::io("remove", &path, 0, error))?;
        self.state().forget_object(digest);
        Ok(())
    }
}
