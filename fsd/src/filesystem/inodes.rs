//! The inodes that the kernel remembers.
//!
//! Invariant: one inode number is one (id, digest) for ever, and one file of the cache for as long as the kernel knows
//! it: an object that was damaged and pulled again has the digest that it had, and what is open of the old one stays
//! open (S2). The number is a hash of id and digest, so it is the same after a restart; two that meet on one number
//! while the kernel knows both are told apart by probing. The table holds only what the kernel references, so its size
//! is the kernel's choice, not the cache's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use crate::segment::{Digest, SegmentId};

use super::backing::Slot;

/// The root directory.
pub const INO_ROOT: u64 = 1;
/// The directory `.trough`.
pub const INO_SERVICE: u64 = 2;
/// The file `.trough/status.json`.
pub const INO_STATUS: u64 = 3;
/// The first number a segment may have; 0 says "absent" to the kernel.
const INO_FIRST: u64 = 16;

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The segment.
    pub id: SegmentId,
    /// Its content.
    pub digest: Digest,
    /// The inode number of its object in the cache.
    pub object: u64,
    /// Length of the content in bytes.
    pub size: u64,
    /// Modification time shown.
    pub mtime: SystemTime,
}

impl Known {
    fn is_one_with(&self, id: &SegmentId, digest: &Digest) -> bool {
        self.id == *id && self.digest == *digest
    }
}

#[derive(Debug)]
struct Entry {
    known: Known,
    /// How often the kernel was told of it and has not forgotten it.
    lookups: u64,
    slot: Option<Arc<Slot>>,
}

#[derive(Debug, Default)]
struct Table {
    by_ino: HashMap<u64, Entry>,
    /// The last version told for a name.
    by_id: HashMap<SegmentId, u64>,
}

/// The table; its lock is never held across a system call.
#[derive(Debug, Default)]
pub struct Inodes(Mutex<Table>);

impl Inodes {
    /// The number of `known`, which the kernel is now told of once more.
    pub fn remember(&self, known: Known) -> u64 {
        let mut table = self.lock();
        let same = |other: &Known| {
            other.is_one_with(&known.id, &known.digest) && other.object == known.object
        };
        let ino = table.probe(hash(&known.id, &known.digest), same);
        table.by_id.insert(known.id.clone(), ino);
        let entry = table.by_ino.entry(ino).or_insert(Entry { known, lookups: 0, slot: None });
        entry.lookups += 1;
        ino
    }

    /// The number that the kernel was told last, or that a look-up would give now.
    pub fn number(&self, id: &SegmentId, digest: &Digest) -> u64 {
        let table = self.lock();
        let told = table.by_id.get(id).filter(|ino| {
            table.by_ino.get(ino).is_some_and(|entry| entry.known.is_one_with(id, digest))
        });
        told.copied()
            .unwrap_or_else(|| table.probe(hash(id, digest), |other| other.is_one_with(id, digest)))
    }

    /// What `ino` is.
    pub fn get(&self, ino: u64) -> Option<Known> {
        self.lock().by_ino.get(&ino).map(|entry| entry.known.clone())
    }

    /// What `ino` is, and the place of its open object.
    pub fn open(&self, ino: u64) -> Option<(Known, Arc<Slot>)> {
        let mut table = self.lock();
        let entry = table.by_ino.get_mut(&ino)?;
        let slot = entry.slot.get_or_insert_default().clone();
        Some((entry.known.clone(), slot))
    }

    /// The kernel forgets `ino` `times` times.
    pub fn forget(&self, ino: u64, times: u64) {
        let mut table = self.lock();
        let Some(entry) = table.by_ino.get_mut(&ino) else { return };
        entry.lookups = entry.lookups.saturating_sub(times);
        if entry.lookups > 0 {
            return;
        }
        let Some(entry) = table.by_ino.remove(&ino) else { return };
        if table.by_id.get(&entry.known.id) == Some(&ino) {
            table.by_id.remove(&entry.known.id);
        }
    }

    /// Every name the kernel may remember a version of.
    pub fn ids(&self) -> Vec<SegmentId> {
        self.lock().by_id.keys().cloned().collect()
    }

    /// How many inodes the kernel remembers.
    pub fn len(&self) -> usize {
        self.lock().by_ino.len()
    }

    /// Whether the kernel remembers none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("a panic ends the process, so no lock is poisoned")
    }
}

impl Table {
    /// The first number from `start` on that is free, or that of the `same`.
    fn probe(&self, start: u64, same: impl Fn(&Known) -> bool) -> u64 {
        let mut ino = start.max(INO_FIRST);
        while let Some(entry) = self.by_ino.get(&ino) {
            if same(&entry.known) {
                break;
            }
            ino = ino.wrapping_add(1).max(INO_FIRST);
        }
        ino
    }
}

fn hash(id: &SegmentId, digest: &Digest) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(digest.as_bytes());
    hasher.update(id.as_str().as_bytes());
    let mut bytes = [0_u8; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(id: &str, content: &[u8]) -> Known {
        Known {
            id: SegmentId::new(id).unwrap(),
            digest: blake3::hash(content).into(),
            object: 7,
            size: content.len() as u64,
            mtime: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_number_is_one_id_and_one_content() {
        let inodes = Inodes::default();
        let a = inodes.remember(known("a", b"1"));
        assert_eq!(inodes.remember(known("a", b"1")), a);
        let all = [a, inodes.remember(known("a", b"2")), inodes.remember(known("b", b"1"))];
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), 3);
        assert_eq!(Inodes::default().remember(known("a", b"1")), a, "not the same after a restart");
    }

    #[test]
    fn s2_an_object_that_was_pulled_again_has_a_number_of_its_own_while_the_old_one_is_known() {
        let inodes = Inodes::default();
        let (damaged, healed) = (known("a", b"1"), Known { object: 8, ..known("a", b"1") });
        let old = inodes.remember(damaged.clone());
        let new = inodes.remember(healed.clone());
        assert_ne!(old, new);
        assert_eq!(inodes.number(&healed.id, &healed.digest), new);
        assert_eq!((inodes.get(old), inodes.get(new)), (Some(damaged), Some(healed.clone())));
        inodes.forget(old, 1);
        assert_eq!(inodes.number(&healed.id, &healed.digest), new);
        inodes.forget(new, 1);
        assert_eq!(inodes.remember(healed), old);
    }

    #[test]
    fn an_entry_lives_as_long_as_the_kernel_knows_it() {
        let inodes = Inodes::default();
        let ino = inodes.remember(known("a", b"1"));
        inodes.remember(known("a", b"1"));
        inodes.forget(ino, 1);
        assert_eq!(inodes.get(ino).unwrap().size, 1);
        inodes.forget(ino, 1);
        assert!(inodes.is_empty() && inodes.ids().is_empty());
        inodes.forget(ino, 1);
    }

    #[test]
    fn forgetting_the_old_version_keeps_the_new_one() {
        let inodes = Inodes::default();
        let old = inodes.remember(known("a", b"1"));
        let new = inodes.remember(known("a", b"2"));
        inodes.forget(old, 1);
        assert_eq!(inodes.ids(), [known("a", b"2").id]);
        inodes.forget(new, 1);
        assert!(inodes.ids().is_empty());
    }

    #[test]
    fn two_on_one_number_are_told_apart() {
        let mut table = Table::default();
        let (a, b) = (known("a", b"1"), known("b", b"1"));
        for start in [100, u64::MAX, 0] {
            table.by_ino.clear();
            let first = table.probe(start, |other| *other == a);
            assert!(first >= INO_FIRST);
            table.by_ino.insert(first, Entry { known: a.clone(), lookups: 1, slot: None });
            assert_eq!(table.probe(start, |other| *other == a), first);
            let second = table.probe(start, |other| *other == b);
            assert!(second != first && second >= INO_FIRST);
        }
    }
}
