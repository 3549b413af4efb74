//! The inodes that the kernel remembers.
//!
//! Invariant: one inode number is one (id, digest) for ever. The number is a hash of both, so it is the same
//! after a restart; two that meet on one number while the kernel knows both are told apart by probing. The
//! table holds only what the kernel references, so its size is the kernel's choice, not the cache's.

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
    /// Length of the content in bytes.
    pub size: u64,
    /// Modification time shown.
    pub mtime: SystemTime,
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
        let ino = table.number(&known.id, &known.digest);
        table.by_id.insert(known.id.clone(), ino);
        let entry = table.by_ino.entry(ino).or_insert(Entry { known, lookups: 0, slot: None });
        entry.lookups += 1;
        ino
    }

    /// The number that a lookup would give now.
    pub fn number(&self, id: &SegmentId, digest: &Digest) -> u64 {
        self.lock().number(id, digest)
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
    fn number(&self, id: &SegmentId, digest: &Digest) -> u64 {
        self.probe(hash(id, digest), id, digest)
    }

    fn probe(&self, start: u64, id: &SegmentId, digest: &Digest) -> u64 {
        let mut ino = start.max(INO_FIRST);
        while let Some(entry) = self.by_ino.get(&ino) {
            if entry.known.id == *id && entry.known.digest == *digest {
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
            let first = table.probe(start, &a.id, &a.digest);
            assert!(first >= INO_FIRST);
            table.by_ino.insert(first, Entry { known: a.clone(), lookups: 1, slot: None });
            assert_eq!(table.probe(start, &a.id, &a.digest), first);
            let second = table.probe(start, &b.id, &b.digest);
            assert!(second != first && second >= INO_FIRST);
        }
    }
}
