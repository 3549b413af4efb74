//! Tombstones: which versions of which segments were deleted, at `trough/tomb/<label>`, so that no listing that is late,
//! and no node that comes back, brings one of them to life again.
//!
//! Invariants: a tombstone speaks of versions, never of an id: a newer file of that id lives; one that is not understood
//! buries nothing and is overwritten by nobody; one is taken away only when it is old ([`KEPT`]) and the deep store
//! shows nothing of what it names.
//!
//! Left out: deleting ([`crate::delete`]). A tombstone is a key of its own, and who follows them reads all: they are for
//! the deletions of a month, not for the turnover of a pool.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use fsd::segment::{Digest, SegmentId, Stamp};
use serde::{Deserialize, Serialize};

use crate::kv::{Consistency, Entry, Index, Key, Kv, KvError, Op, TXN_OPS_MAX, Txn};
use crate::table::document::{pack, unpack};

/// Below it is one key for each segment of which something was deleted.
pub const TOMBS_KEY: &str = "trough/tomb";
/// How long a tombstone stays: a node that was away for longer finds nothing of its assignment either.
pub const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The format of [`Document`].
const FORMAT: u64 = 1;
/// The most versions that one names, the last deleted: who deletes an id more often in a month has no late listings of
/// the first.
const VERSIONS_MAX: usize = 100;
/// How often others may change the same tombstone at the same moment before one gives up.
const ATTEMPTS: u32 = 16;

/// A version that was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deleted {
    length: u64,
    mtime_ms: u64,
    /// What it hashed to, as its seal said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blake3: Option<Digest>,
}

impl Deleted {
    /// The version that had `stamp`, and `digest` if a seal said so.
    pub fn new(stamp: Stamp, digest: Option<Digest>) -> Self {
        Self { length: stamp.length, mtime_ms: stamp.mtime_ms, blake3: digest }
    }

    /// Its length and mtime.
    pub fn stamp(&self) -> Stamp {
        Stamp { length: self.length, mtime_ms: self.mtime_ms }
    }
}

/// Why nothing was buried.
#[derive(Debug, thiserror::Error)]
pub enum TombError {
    /// What is there is not what this trough writes.
    #[error(
        "write the tombstone of {id} at {key} in {address}: what is there is not understood ({reason}); upgrade trough, \
         or remove that key"
    )]
    NotUnderstood {
        /// Which segment.
        id: SegmentId,
        /// Where it lies.
        key: Key,
        /// In which registry.
        address: String,
        /// What is not understood.
        reason: String,
    },
    /// Others changed it at each attempt.
    #[error(
        "write the tombstone of {0}: others did {ATTEMPTS} times at the same moment; try again"
    )]
    Contended(SegmentId),
    /// The registry failed.
    #[error(transparent)]
    Kv(#[from] KvError),
}

/// A tombstone as it is stored. A field more is a later format: what this trough does not know it must not lose.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u64,
    id: SegmentId,
    /// In the order in which they were deleted.
    versions: Vec<Deleted>,
    /// When the last of them was, milliseconds since 1970.
    deleted_ms: u64,
}

/// What every format has.
#[derive(Deserialize)]
struct Any {
    format: u64,
}

/// A tombstone as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tomb {
    versions: Vec<Stamp>,
    deleted_ms: u64,
    key: Key,
    modified: Index,
}

/// All tombstones, as they were read last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tombs {
    by_id: HashMap<SegmentId, Tomb>,
    /// Those that are not understood, as of when they were changed.
    faulty: BTreeMap<Key, Index>,
}

impl Tombs {
    /// Those of a test.
    #[cfg(test)]
    pub(crate) fn of(deleted: impl IntoIterator<Item = (SegmentId, Stamp)>) -> Self {
        let mut tombs = Self::default();
        for (id, stamp) in deleted {
            let tomb = Tomb {
                versions: vec![stamp],
                deleted_ms: 0,
                key: Key::new("trough/tomb/test").unwrap(),
                modified: Index(1),
            };
            tombs.by_id.insert(id, tomb);
        }
        tombs
    }

    /// Reads all that are in `kv` now, in the place of those that were read before. One that is not understood is told
    /// of in the log once for each time that it changed.
    pub async fn look(&mut self, kv: &dyn Kv) -> Result<(), KvError> {
        let entries = kv.list(&crate::kv::key(TOMBS_KEY)?, Consistency::Consistent).await?;
        self.take(entries);
        Ok(())
    }

    /// Takes what lies below [`TOMBS_KEY`]; whether that is anything new.
    pub(crate) fn take(&mut self, entries: Vec<Entry>) -> bool {
        let mut read = Self::default();
        for Entry { key, value, modified, .. } in entries {
            match understand(&value).and_then(|document| right_place(&key, document)) {
                Ok(Document { id, versions, deleted_ms, .. }) => {
                    let versions = versions.iter().map(Deleted::stamp).collect();
                    read.by_id.insert(id, Tomb { versions, deleted_ms, key, modified });
                }
                Err(reason) => {
                    if self.faulty.get(&key) != Some(&modified) {
                        tracing::error!(%key, %reason, "a tombstone is not understood; upgrade trough, or remove the key");
                    }
                    read.faulty.insert(key, modified);
                }
            }
        }
        let changed = read != *self;
        *self = read;
        changed
    }

    /// Whether `stamp` is a version of `id` that was deleted.
    pub fn names(&self, id: &SegmentId, stamp: Stamp) -> bool {
        self.by_id.get(id).is_some_and(|tomb| tomb.versions.contains(&stamp))
    }

    /// Whether it is by a deletion that a version of `id` is there no more: it was deleted, or replaced before by one
    /// that was.
    pub fn explain(&self, id: &SegmentId, stamp: Stamp) -> bool {
        let newest = |tomb: &Tomb| tomb.versions.iter().map(|one| one.mtime_ms).max();
        self.names(id, stamp)
            || self.by_id.get(id).and_then(newest).is_some_and(|newest| stamp.mtime_ms < newest)
    }

    /// The segments of which something was deleted, in no order.
    pub fn ids(&self) -> impl Iterator<Item = &SegmentId> {
        self.by_id.keys()
    }

    /// Takes away what is older than [`KEPT`] at `now_ms`, but for those of `shown`, of which the deep store still shows
    /// a version that was deleted. `fence` must hold; how many went.
    pub(crate) async fn prune(
        &self,
        kv: &dyn Kv,
        fence: &Op,
        now_ms: u64,
        shown: &HashSet<SegmentId>,
    ) -> Result<usize, KvError> {
        let kept_ms = u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX);
        let is_old = |tomb: &Tomb| tomb.deleted_ms.saturating_add(kept_ms) <= now_ms;
        let old = self.by_id.iter().filter(|(id, tomb)| is_old(tomb) && !shown.contains(*id));
        let remove =
            |(_, tomb): (_, &Tomb)| Op::DeleteCas { key: tomb.key.clone(), index: tomb.modified };
        // no more than one transaction: the rest goes with the next cycle
        let mut ops = vec![fence.clone()];
        ops.extend(old.map(remove).take(TXN_OPS_MAX - 1));
        if ops.len() == 1 {
            return Ok(0);
        }
        match kv.txn(&ops).await? {
            Txn::Committed(_) => Ok(ops.len() - 1),
            // one of them was written anew, or the fence is gone: who goes on sees which
            Txn::Refused(_) => Ok(0),
        }
    }
}

/// Which versions of `id` a tombstone names.
pub(crate) async fn named(kv: &dyn Kv, id: &SegmentId) -> Result<Vec<Stamp>, TombError> {
    let before = look(kv, id, &key(id)?).await?;
    Ok(before.map_or_else(Vec::new, |(document, _)| {
        document.versions.iter().map(Deleted::stamp).collect()
    }))
}

/// Says that `versions` of `id` are deleted at `now_ms`, besides what was said before. `false`, and nothing was said:
/// `fence` does not hold any more.
pub(crate) async fn add(
    kv: &dyn Kv,
    fence: &Op,
    id: &SegmentId,
    versions: &[Deleted],
    now_ms: u64,
) -> Result<bool, TombError> {
    let at = key(id)?;
    for _ in 0..ATTEMPTS {
        let (before, index) = match look(kv, id, &at).await? {
            Some((document, index)) => (document.versions, index),
            None => (Vec::new(), Index::ABSENT),
        };
        let is_new = |one: &Deleted| versions.iter().all(|new| new.stamp() != one.stamp());
        let mut all: Vec<Deleted> = before.into_iter().filter(is_new).collect();
        all.extend(versions);
        all.drain(..all.len().saturating_sub(VERSIONS_MAX));
        let value = write(id, all, now_ms);
        let ops = [fence.clone(), Op::Cas { key: at.clone(), value, index }];
        match kv.txn(&ops).await? {
            Txn::Committed(_) => return Ok(true),
            Txn::Refused(refusals) if refusals.iter().any(|refusal| refusal.op == 0) => {
                return Ok(false);
            }
            Txn::Refused(_) => {}
        }
    }
    Err(TombError::Contended(id.clone()))
}

/// What is at `at`, and when it was last changed.
async fn look(
    kv: &dyn Kv,
    id: &SegmentId,
    at: &Key,
) -> Result<Option<(Document, Index)>, TombError> {
    let Some(Entry { key, value, modified, .. }) = kv.get(at).await? else { return Ok(None) };
    match understand(&value).and_then(|document| right_place(&key, document)) {
        Ok(document) => Ok(Some((document, modified))),
        Err(reason) => {
            let (id, address) = (id.clone(), kv.address());
            Err(TombError::NotUnderstood { id, key, address, reason })
        }
    }
}

fn key(id: &SegmentId) -> Result<Key, KvError> {
    crate::kv::key(&format!("{TOMBS_KEY}/{}", id.label()))
}

fn write(id: &SegmentId, versions: Vec<Deleted>, deleted_ms: u64) -> Bytes {
    let document = Document { format: FORMAT, id: id.clone(), versions, deleted_ms };
    // a hundred lines of numbers and digests: this fits
    pack(&document).unwrap_or_default()
}

fn understand(value: &[u8]) -> Result<Document, String> {
    let Any { format } = unpack(value)?;
    match format {
        FORMAT => unpack(value),
        _ => Err(format!("its format is {format}, and this trough knows {FORMAT}")),
    }
}

/// A document that lies where another's belongs was put there by a mistake.
fn right_place(at: &Key, document: Document) -> Result<Document, String> {
    match key(&document.id) {
        Ok(right) if right == *at => Ok(document),
        _ => Err(format!("it is that of segment {}", document.id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SegmentId {
        SegmentId::new(text).unwrap()
    }

    fn stamp(mtime_ms: u64) -> Stamp {
        Stamp { length: 4096, mtime_ms }
    }

    fn entry(text: &str, value: Bytes) -> Entry {
        let key = Key::new(text).unwrap();
        let (created, modified) = (Index(1), Index(1));
        Entry { key, value, created, modified, session: None }
    }

    #[test]
    fn s11_a_document_of_format_1_is_what_it_always_was() {
        let digest = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        let json = format!(
            r#"{{"format":1,"id":"Ohio_1","versions":[{{"length":4096,"mtime_ms":7}},{{"length":4096,"mtime_ms":9,"blake3":"{digest}"}}],"deleted_ms":10}}"#
        );
        let sealed = Deleted::new(stamp(9), Some(blake3::hash(b"").into()));
        let written = write(&id("Ohio_1"), vec![Deleted::new(stamp(7), None), sealed], 10);
        let plain = zstd::stream::decode_all(&written[..]).unwrap();
        assert_eq!(String::from_utf8(plain).unwrap(), json);
        let read = understand(&zstd::bulk::compress(json.as_bytes(), 3).unwrap()).unwrap();
        assert_eq!((read.versions[1], read.deleted_ms), (sealed, 10));
    }

    #[test]
    fn it_speaks_of_versions_and_not_of_an_id() {
        let mut tombs = Tombs::default();
        let one = id("Ohio_1");
        let versions = [5, 9].map(|mtime_ms| Deleted::new(stamp(mtime_ms), None));
        let at = key(&one).unwrap();
        let entries = vec![entry(at.as_str(), write(&one, versions.to_vec(), 10))];
        assert!(tombs.take(entries.clone()) && !tombs.take(entries));
        for (mtime_ms, named, explained) in
            [(5, true, true), (9, true, true), (7, false, true), (10, false, false)]
        {
            assert_eq!(tombs.names(&one, stamp(mtime_ms)), named, "{mtime_ms}");
            assert_eq!(tombs.explain(&one, stamp(mtime_ms)), explained, "{mtime_ms}");
        }
        assert!(!tombs.names(&one, Stamp { length: 1, mtime_ms: 9 }));
        assert!(!tombs.names(&id("texas"), stamp(9)) && !tombs.explain(&id("texas"), stamp(5)));
    }

    #[test]
    fn what_is_not_understood_or_lies_elsewhere_buries_nothing() {
        let versions = || vec![Deleted::new(stamp(5), None)];
        let zipped = |json: &str| Bytes::from(zstd::bulk::compress(json.as_bytes(), 3).unwrap());
        let newer =
            r#"{"format":2,"id":"ohio","versions":[{"length":4096,"mtime_ms":5}],"deleted_ms":1}"#;
        let more = r#"{"format":1,"id":"ohio","versions":[],"deleted_ms":1,"why":"x"}"#;
        for value in [
            Bytes::new(),
            Bytes::from("?"),
            zipped(newer),
            zipped(more),
            write(&id("texas"), versions(), 1),
        ] {
            let mut tombs = Tombs::default();
            tombs.take(vec![
                entry("trough/tomb/ohio", value),
                entry("trough/tomb/utah", write(&id("utah"), versions(), 1)),
            ]);
            assert_eq!(tombs.ids().collect::<Vec<_>>(), [&id("utah")]);
            assert_eq!(tombs.faulty.len(), 1);
        }
    }
}
