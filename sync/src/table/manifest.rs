//! Which part a row lies in, and the document that names all parts.

use std::collections::BTreeMap;

use fsd::segment::SegmentId;
use serde::{Deserialize, Serialize};

use super::document::unpack;
use super::{Row, TableError};
use crate::kv::{InvalidKey, Key};
use crate::registry::Epoch;
use crate::tag::Tag;

/// The format of all documents of a table. A trough refuses one that it does not know.
const FORMAT: u32 = 1;
/// At most 4096 parts: their tags still fit into the meta document, and with [`ROWS_PER_PART`] rows each they hold
/// sixteen million.
pub(super) const BITS_MAX: u8 = 12;
/// The bytes of values in one transaction: with the longest keys and the JSON around them, and in base64, they stay
/// below `kv::TXN_BYTES_MAX`.
pub(super) const VALUES_BYTES_MAX: usize = 355_000;
/// Rows of one part on average, at most: about 150 KB packed for the pool, of whose rows a third is noise.
pub(super) const ROWS_PER_PART: usize = 4_096;

/// A part of a table: the rows whose hash begins with `index`, a number of `bits` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part {
    /// How many bits.
    pub bits: u8,
    /// Which.
    pub index: u16,
}

impl Part {
    /// Where the row of `id` lies in a table of `bits`.
    pub(super) fn of(id: &SegmentId, bits: u8) -> Self {
        Self::of_hash(hash_of(id.as_str()), bits)
    }

    /// The same for an id whose BLAKE3 begins with `hash`.
    pub(crate) fn of_hash(hash: u64, bits: u8) -> Self {
        // a shift by all 64 bits would be none; and there are never more than 16
        let index = hash.checked_shr(64 - u32::from(bits)).unwrap_or(0);
        Self { bits, index: index as u16 }
    }

    /// Its document's key.
    pub(super) fn key(self, table: &Key) -> Result<Key, InvalidKey> {
        table.join(&format!("{}-{}", self.bits, self.index))
    }
}

/// The first 8 bytes of the BLAKE3 of an id.
pub(crate) fn hash_of(id: &str) -> u64 {
    let hash = blake3::hash(id.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_be_bytes(first)
}

/// The fewest bits with which `rows` rows lie `rows_per_part` to a part, going out from `bits` as they are: parts
/// are only joined when they have become nearly empty, so that a table at the edge is not written to and fro.
pub(super) fn bits_for(rows: usize, rows_per_part: usize, bits: u8) -> Option<u8> {
    let fits = |bits: u8| rows <= rows_per_part << bits;
    let least = (0..=BITS_MAX).find(|bits| fits(*bits))?;
    Some(if fits(bits) && least + 2 > bits { bits } else { least })
}

/// The key of a table's meta document.
pub(super) fn meta_key(table: &Key) -> Result<Key, InvalidKey> {
    table.join("meta")
}

/// The meta document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    /// Of whoever wrote it last.
    pub(super) epoch: Epoch,
    /// Of all its parts.
    pub(super) bits: u8,
    /// The tag of each part that has rows.
    pub(super) parts: BTreeMap<u16, Tag>,
}

impl Manifest {
    pub(super) fn new(epoch: Epoch, bits: u8) -> Self {
        Self { format: FORMAT, epoch, bits, parts: BTreeMap::new() }
    }

    /// Reads the meta document at `key`.
    pub(super) fn read(key: &Key, packed: &[u8]) -> Result<Self, TableError> {
        let undecodable = |reason| TableError::Undecodable { key: key.clone(), reason };
        let manifest = unpack::<Self>(packed).map_err(undecodable)?;
        let Self { format, bits, .. } = manifest;
        if format != FORMAT {
            return Err(undecodable(format!(
                "its format is {format}, and this trough knows {FORMAT}"
            )));
        }
        let in_range = |index: &u16| u32::from(*index) < 1_u32 << bits;
        if bits > BITS_MAX || !manifest.parts.keys().all(in_range) {
            return Err(undecodable("it names parts that cannot be".to_owned()));
        }
        Ok(manifest)
    }

    /// What it takes at most as it is stored.
    pub(super) fn bytes_bound(&self) -> usize {
        // `"4095":"0123456789abcdef",` before it is packed, which makes nothing longer but for a frame
        512 + 25 * self.parts.len()
    }

    /// Its parts with their tags.
    pub(super) fn parts(&self) -> impl Iterator<Item = (Part, Tag)> {
        let bits = self.bits;
        self.parts.iter().map(move |(index, tag)| (Part { bits, index: *index }, *tag))
    }
}

/// The rows of one part at `key`, if it is the one that `tag` tells of.
pub(super) fn read_part<R: Row>(
    key: &Key,
    packed: Option<&[u8]>,
    tag: Tag,
) -> Result<Vec<R>, TableError> {
    let undecodable = |reason| TableError::Undecodable { key: key.clone(), reason };
    let packed = packed.ok_or_else(|| undecodable("it is not there".to_owned()))?;
    let found = Tag::of(packed);
    if found != tag {
        return Err(undecodable(format!("it is {found}, and the meta document names {tag}")));
    }
    unpack(packed).map_err(undecodable)
}

#[cfg(test)]
mod tests {
    use super::super::document::{DOCUMENT_BYTES_MAX, pack};
    use super::*;
    use crate::kv::{TXN_BYTES_MAX, TXN_OPS_MAX};

    #[test]
    fn parts_are_beginnings_of_one_hash() {
        let id = SegmentId::new("some-segment").unwrap();
        assert_eq!(Part::of(&id, 0).index, 0);
        for bits in 1..=BITS_MAX {
            assert_eq!(Part::of(&id, bits).index >> 1, Part::of(&id, bits - 1).index);
        }
    }

    #[test]
    fn bits_grow_at_once_and_shrink_late() {
        assert_eq!(bits_for(0, ROWS_PER_PART, 0), Some(0));
        assert_eq!(bits_for(ROWS_PER_PART, ROWS_PER_PART, 0), Some(0));
        assert_eq!(bits_for(ROWS_PER_PART + 1, ROWS_PER_PART, 0), Some(1));
        assert_eq!(bits_for(ROWS_PER_PART * 5, ROWS_PER_PART, 0), Some(3));
        assert_eq!(bits_for(ROWS_PER_PART * 4, ROWS_PER_PART, 3), Some(3), "one bit less would do");
        assert_eq!(bits_for(ROWS_PER_PART * 2, ROWS_PER_PART, 3), Some(1), "two bits less do");
        assert_eq!(bits_for(ROWS_PER_PART << BITS_MAX, ROWS_PER_PART, 0), Some(BITS_MAX));
        assert_eq!(bits_for((ROWS_PER_PART << BITS_MAX) + 1, ROWS_PER_PART, 0), None);
    }

    #[test]
    fn a_meta_document_that_cannot_be_is_refused() {
        let key = Key::new("t/meta").unwrap();
        let read = |manifest: &Manifest| Manifest::read(&key, &pack(manifest).unwrap());
        let epoch = Epoch { incarnation: 1, index: 2 };
        let tag = Tag::of(b"x");
        let mut manifest = Manifest::new(epoch, 2);
        manifest.parts.insert(3, tag);
        assert_eq!(read(&manifest).unwrap(), manifest);
        manifest.parts.insert(4, tag);
        assert!(read(&manifest).is_err(), "two bits make four parts");
        assert!(read(&Manifest::new(epoch, BITS_MAX + 1)).is_err());
        let newer = Manifest { format: FORMAT + 1, ..Manifest::new(epoch, 0) };
        assert!(read(&newer).unwrap_err().to_string().contains("format"));
    }

    #[test]
    fn the_largest_meta_document_goes_into_a_transaction_with_a_part() {
        let mut manifest = Manifest::new(Epoch { incarnation: 1, index: 1 }, BITS_MAX);
        let tag = |n: u16| Tag::of(&n.to_le_bytes());
        manifest.parts = (0..1 << BITS_MAX).map(|n| (n, tag(n))).collect();
        let bytes = pack(&manifest).unwrap().len();
        assert!(bytes <= manifest.bytes_bound(), "{bytes}");
        assert!(manifest.bytes_bound() + DOCUMENT_BYTES_MAX <= VALUES_BYTES_MAX);
        // 512 bytes is the longest key, and an operation takes 192 besides
        let longest = VALUES_BYTES_MAX.div_ceil(3) * 4 + TXN_OPS_MAX * (512 + 192);
        assert!(longest <= TXN_BYTES_MAX, "{longest}");
    }
}
