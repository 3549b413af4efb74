//! The extended attributes of a segment: what it is and where it came from.
//!
//! The digest is always there; the others come from the ledger and are absent where it does not know them.

use crate::segment::{Digest, SegmentId, Stamp};
use crate::view::{XATTR_BLAKE3, XATTR_SOURCE, XATTR_VERIFIED_AT, XATTR_VERSION};

/// What the ledger knows of one published version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Length and mtime in the deep store.
    pub stamp: Stamp,
    /// Path in the deep store.
    pub source: String,
    /// When the bytes were last verified, milliseconds since 1970.
    pub verified_at_ms: u64,
}

/// Where [`Facts`] come from. Asked by the threads that answer the kernel: it must not wait for the network.
pub trait FactsSource: Send + Sync {
    /// The facts of this version; `None` when they are not known.
    fn facts(&self, id: &SegmentId, digest: &Digest) -> Option<Facts>;
}

impl<F: Fn(&SegmentId, &Digest) -> Option<Facts> + Send + Sync> FactsSource for F {
    fn facts(&self, id: &SegmentId, digest: &Digest) -> Option<Facts> {
        self(id, digest)
    }
}

/// The attributes' names, in the form listxattr(2) gives them.
pub fn list(facts: Option<&Facts>) -> Vec<u8> {
    let names: &[&str] = match facts {
        Some(_) => &[XATTR_BLAKE3, XATTR_VERSION, XATTR_SOURCE, XATTR_VERIFIED_AT],
        None => &[XATTR_BLAKE3],
    };
    names.iter().flat_map(|name| name.bytes().chain([0])).collect()
}

/// The value of attribute `name`; `facts` is called only where they are needed.
///
/// The version is JSON (`{"length":8192,"mtime_ms":1}`), the time is milliseconds since 1970.
pub fn value(name: &str, digest: &Digest, facts: impl FnOnce() -> Option<Facts>) -> Option<String> {
    match name {
        XATTR_BLAKE3 => Some(digest.to_hex()),
        XATTR_VERSION => facts().and_then(|facts| serde_json::to_string(&facts.stamp).ok()),
        XATTR_SOURCE => facts().map(|facts| facts.source),
        XATTR_VERIFIED_AT => facts().map(|facts| facts.verified_at_ms.to_string()),
        _ => None,
    }
}
