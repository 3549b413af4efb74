//! The seal: a small JSON file beside a segment in the deep store that says what was checked before it was
//! published, so that whoever pulls it can verify its bytes without opening it.
//!
//! Invariant: a seal counts only for the file whose length and mtime it names ([`Seal::applies_to`]); a seal
//! of a format this version does not know is no seal, and its reader is told so. An older reader's fields are
//! never given another meaning (S11); `sync/testdata/seal-1.json` is read by a test for ever.
//!
//! Left out: the check of the bytes themselves (fsd's cache) and of the database (`publish`).

use std::collections::BTreeMap;

use fsd::segment::{Digest, SegmentId, Stamp};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use crate::store::{InvalidStorePath, Store, StoreError, StoreErrorKind, StorePath};

/// The format written here.
pub const FORMAT: u32 = 1;
/// What a seal's name adds to that of its segment file.
pub const SUFFIX: &str = ".seal";
/// The longest seal that is read or written, in bytes. Row counts make it grow: 100 bytes for a long table
/// name leave room for thousands of tables.
pub const BYTES_MAX: usize = 1 << 20;

/// What a publisher vouches for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// [`FORMAT`].
    pub format: u32,
    /// The segment.
    pub id: SegmentId,
    /// Length of the file in bytes.
    pub length: u64,
    /// Modification time of the file in the deep store, milliseconds since 1970; rename keeps it.
    pub mtime_ms: u64,
    /// What its bytes hash to.
    pub blake3: Digest,
    /// SQLite's page size in bytes.
    pub page_size: u32,
    /// BLAKE3 of the schema's SQL, to see whether two segments have the same tables.
    pub schema_blake3: Digest,
    /// How many rows each table has.
    pub rows: BTreeMap<String, u64>,
    /// Whether `PRAGMA integrity_check` said ok, or `quick_check` of what VACUUM had just built anew with its indexes.
    pub integrity_checked: bool,
    /// The version of trough that sealed it.
    pub sealed_by: String,
}

/// Why bytes are no seal that can be used.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Over [`BYTES_MAX`].
    #[error("a seal of {0} bytes is longer than {BYTES_MAX}; publish the segment again")]
    TooLong(usize),
    /// Not what this format says.
    #[error("not a seal: {0}; publish the segment again")]
    Malformed(#[from] serde_json::Error),
    /// Written by a newer trough. The segment counts as unsealed.
    #[error("a seal of format {0}, and this trough knows {FORMAT}; upgrade this node")]
    Unknown(u32),
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Seal {
    /// Where the seal of the segment file at `segment` lies.
    pub fn path(segment: &StorePath) -> Result<StorePath, InvalidStorePath> {
        segment.parent().join(&format!("{}{SUFFIX}", segment.file_name()))
    }

    /// Reads a seal.
    pub fn parse(bytes: &[u8]) -> Result<Self, SealError> {
        if bytes.len() > BYTES_MAX {
            return Err(SealError::TooLong(bytes.len()));
        }
        let Format { format } = serde_json::from_slice(bytes)?;
        if format != FORMAT {
            return Err(SealError::Unknown(format));
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Writes a seal; one that no reader would take is refused.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SealError> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        if bytes.len() > BYTES_MAX {
            return Err(SealError::TooLong(bytes.len()));
        }
        Ok(bytes)
    }

    /// Whether this seal speaks of the file of segment `id` that has `stamp`.
    pub fn applies_to(&self, id: &SegmentId, stamp: &Stamp) -> bool {
        self.id == *id && self.stamp() == *stamp
    }

    /// Length and mtime of the file it speaks of.
    pub fn stamp(&self) -> Stamp {
        Stamp { length: self.length, mtime_ms: self.mtime_ms }
    }
}

/// The seal beside the file of `id` at `segment`, whatever it vouches for; `None` when there is none that can be read.
pub(crate) async fn beside(
    store: &dyn Store,
    id: &SegmentId,
    segment: &StorePath,
) -> Result<Option<Seal>, StoreError> {
    let Ok(path) = Seal::path(segment) else { return Ok(None) };
    let mut chunks = match store.read(&path).await {
        Ok(chunks) => chunks,
        Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() > BYTES_MAX {
            break;
        }
    }
    match Seal::parse(&bytes) {
        Ok(seal) => Ok(Some(seal)),
        Err(error) => {
            tracing::warn!(segment = %id, %path, "{error}; the segment counts as unsealed");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOLDEN: &[u8] = include_bytes!("../testdata/seal-1.json");

    #[test]
    fn s11_the_seal_of_format_1_reads_and_writes_as_it_always_did() {
        let seal = Seal::parse(GOLDEN).unwrap();
        assert_eq!(seal.id.as_str(), "strikes-oh");
        assert_eq!(seal.stamp(), Stamp { length: 8_388_608, mtime_ms: 1_795_364_008_524 });
        assert_eq!(seal.blake3, Digest::from(blake3::hash(b"")));
        assert_eq!(seal.rows["strikes"], 174_104);
        assert!(seal.integrity_checked);
        assert_eq!(String::from_utf8(seal.to_bytes().unwrap()).unwrap().as_bytes(), GOLDEN);
    }

    #[test]
    fn it_speaks_of_one_version_of_one_segment_only() {
        let seal = Seal::parse(GOLDEN).unwrap();
        let (id, stamp) = (seal.id.clone(), seal.stamp());
        assert!(seal.applies_to(&id, &stamp));
        assert!(!seal.applies_to(&SegmentId::new("other").unwrap(), &stamp));
        assert!(!seal.applies_to(&id, &Stamp { length: stamp.length + 1, ..stamp }));
        assert!(!seal.applies_to(&id, &Stamp { mtime_ms: stamp.mtime_ms + 1, ..stamp }));
    }

    #[test]
    fn a_newer_format_is_told_from_a_broken_seal() {
        let newer = br#"{"format": 2, "of": "another form"}"#;
        assert!(matches!(Seal::parse(newer), Err(SealError::Unknown(2))));
        assert!(matches!(Seal::parse(b"{}"), Err(SealError::Malformed(_))));
        assert!(matches!(Seal::parse(&vec![b' '; BYTES_MAX + 1]), Err(SealError::TooLong(_))));
        let text = String::from_utf8(GOLDEN.to_vec()).unwrap();
        let with_more = text.replacen('{', "{\"later\": 1,", 1);
        assert!(Seal::parse(with_more.as_bytes()).is_ok(), "a field more does no harm");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Seal::parse(&bytes);
        }
    }
}
