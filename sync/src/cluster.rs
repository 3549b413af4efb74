//! What the tables of a cluster say.
//!
//! ```text
//!   trough/assign/<node>   by the lead    what the node is to hold and drain    --- read by the node
//!   trough/holds/<node>    by the node    what it serves                        --- read by the lead
//!   trough/pool            by the lead    every segment, and who answers for it --- read by every reader
//! ```
//!
//! Invariant: a row stands for itself; nothing in it is a number that only another document explains. What is as
//! usual is left out of a row, and zstd makes little of names that come again and again.
//!
//! Left out: how a table is kept ([`crate::table`]), and when its rows change ([`crate::lead`]).

use fsd::segment::{SegmentId, Stamp};
use serde::{Deserialize, Serialize};

use crate::kv::{Key, KvError};
use crate::node::NodeName;
use crate::planner::{CopyState, Why};
use crate::pool::PoolEntry;
use crate::store::StorePath;
use crate::table::Row;
use crate::tag::Tag;

/// Where the pool table is.
pub fn pool_table() -> Result<Key, KvError> {
    crate::kv::key("trough/pool")
}

/// Where the lead says what `node` is to hold.
pub fn assign_table(node: &NodeName) -> Result<Key, KvError> {
    crate::kv::key(&format!("trough/assign/{node}"))
}

/// Where `node` says what it holds.
pub fn holds_table(node: &NodeName) -> Result<Key, KvError> {
    crate::kv::key(&format!("trough/holds/{node}"))
}

/// What a node is to do with one segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignRow {
    /// Which segment.
    pub id: SegmentId,
    /// Which version of it.
    #[serde(flatten)]
    pub version: Stamp,
    /// Where it lies in the deep store, when that is not where `trough put` puts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<StorePath>,
    /// What to do with it.
    #[serde(default = "hold", skip_serializing_if = "is_hold")]
    pub state: CopyState,
}

/// What a node serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldsRow {
    /// Which segment.
    pub id: SegmentId,
    /// Which version of it.
    #[serde(flatten)]
    pub version: Stamp,
    /// The beginning of its digest.
    pub tag: Tag,
}

/// A segment of the deep store, as readers need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRow {
    /// Which segment.
    pub id: SegmentId,
    /// The version that the deep store has.
    #[serde(flatten)]
    pub version: Stamp,
    /// Where it lies, when that is not where `trough put` puts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<StorePath>,
    /// The beginning of the digest of what the holders serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// Who answers for it, in order of name: of several versions the holders of the newest that any holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<NodeName>,
    /// Who else has it, in an older version: asked when none of the holders answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub older: Vec<NodeName>,
    /// Why a copy of it has no place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unplaced: Option<Why>,
    /// The deep store does not show it any more; it stays until a person says that it is meant to go (S9).
    #[serde(default, skip_serializing_if = "is_false")]
    pub vanished: bool,
}

impl AssignRow {
    /// A row for the segment that lies at `path`.
    pub fn new(id: SegmentId, version: Stamp, path: &StorePath, state: CopyState) -> Self {
        Self { path: unusual(&id, path), id, version, state }
    }

    /// Where the segment lies in the deep store.
    pub fn path(&self) -> StorePath {
        self.path.clone().unwrap_or_else(|| StorePath::published(&self.id))
    }
}

impl PoolRow {
    /// A row for a segment that nobody holds.
    pub fn new(id: SegmentId, entry: &PoolEntry) -> Self {
        let path = unusual(&id, &entry.path);
        let (version, holders, older) = (entry.stamp, Vec::new(), Vec::new());
        Self { id, version, path, tag: None, holders, older, unplaced: None, vanished: false }
    }

    /// Where it lies in the deep store, and in which version.
    pub fn entry(&self) -> PoolEntry {
        let path = self.path.clone().unwrap_or_else(|| StorePath::published(&self.id));
        PoolEntry { path, stamp: self.version }
    }
}

impl Row for AssignRow {
    fn id(&self) -> &SegmentId {
        &self.id
    }
}

impl Row for HoldsRow {
    fn id(&self) -> &SegmentId {
        &self.id
    }
}

impl Row for PoolRow {
    fn id(&self) -> &SegmentId {
        &self.id
    }
}

fn unusual(id: &SegmentId, path: &StorePath) -> Option<StorePath> {
    (*path != StorePath::published(id)).then(|| path.clone())
}

fn hold() -> CopyState {
    CopyState::Hold
}

fn is_hold(state: &CopyState) -> bool {
    *state == CopyState::Hold
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SegmentId {
        SegmentId::new(text).unwrap()
    }

    const V1: Stamp = Stamp { length: 4096, mtime_ms: 7 };

    fn both_ways<T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(
        row: &T,
        text: &str,
    ) {
        assert_eq!(serde_json::to_string(row).unwrap(), text);
        assert_eq!(&serde_json::from_str::<T>(text).unwrap(), row);
    }

    #[test]
    fn a_row_says_only_what_is_not_as_usual() {
        let published = StorePath::published(&id("nevada"));
        let elsewhere = StorePath::new("old/nevada.sqlite").unwrap();
        let row = AssignRow::new(id("nevada"), V1, &published, CopyState::Hold);
        both_ways(&row, r#"{"id":"nevada","length":4096,"mtime_ms":7}"#);
        assert_eq!(row.path(), published);
        let row = AssignRow::new(id("nevada"), V1, &elsewhere, CopyState::Drain { since_ms: 9 });
        both_ways(
            &row,
            r#"{"id":"nevada","length":4096,"mtime_ms":7,"path":"old/nevada.sqlite","state":{"drain":{"since_ms":9}}}"#,
        );
        assert_eq!(row.path(), elsewhere);

        let entry = PoolEntry { path: elsewhere, stamp: V1 };
        let mut row = PoolRow::new(id("nevada"), &entry);
        assert_eq!(row.entry(), entry);
        row.tag = Some(Tag::of(b"x"));
        row.holders = vec![NodeName::new("n1").unwrap()];
        row.older = vec![NodeName::new("n2").unwrap()];
        row.vanished = true;
        both_ways(
            &row,
            r#"{"id":"nevada","length":4096,"mtime_ms":7,"path":"old/nevada.sqlite","tag":"3ae7d805f6789a64","holders":["n1"],"older":["n2"],"vanished":true}"#,
        );
    }
}
