//! The pool table's rows: every segment, and who answers for it.
//!
//! Invariants: who is named goes on answering for as long as the drain grace at least. So a node that is told to drain
//! a copy, was told so before, or is about to be told so, is no holder of it, and the table is written before the
//! nodes are told. Holders are those of the newest version that anybody holds; who has an older one is named as well,
//! for a single node has the newest at first, and that one may be silent. A node whose holdings cannot be read yet holds
//! what the table said before.

use std::collections::{BTreeMap, HashMap, HashSet};

use fsd::segment::{SegmentId, Stamp};

use super::nodes::{Known, Nodes, to_hold};
use crate::cluster::{AssignRow, PoolRow};
use crate::node::NodeName;
use crate::planner::Why;
use crate::pool::Pool;
use crate::tag::Tag;

/// A row that is being made.
struct Growing {
    row: PoolRow,
    /// How new the version is that its holders have.
    rank: Option<(bool, u64)>,
}

impl Growing {
    fn holder(&mut self, name: &NodeName, version: Stamp, tag: Option<Tag>) {
        let rank = Some((version == self.row.version, version.mtime_ms));
        if rank < self.rank {
            self.row.older.push(name.clone());
            return;
        }
        if rank > self.rank {
            self.row.older.append(&mut self.row.holders);
            (self.rank, self.row.tag) = (rank, tag);
        }
        self.row.holders.push(name.clone());
    }
}

/// What the rows are made from.
pub(super) struct Sources<'a> {
    /// Every segment.
    pub pool: &'a Pool,
    /// Of those, what waits for a person's word.
    pub vanished: &'a HashSet<SegmentId>,
    /// Who holds what.
    pub nodes: &'a Nodes,
    /// What nodes will be told as soon as the rows are written.
    pub planned: &'a BTreeMap<NodeName, Vec<AssignRow>>,
    /// What the table said when the term began.
    pub earlier: &'a [PoolRow],
    /// What has no place.
    pub unplaced: &'a HashMap<SegmentId, Why>,
}

/// The rows, in no order, and whether there will be more holders as soon as `planned` was told.
pub(super) fn pool_rows(from: &Sources<'_>) -> (Vec<PoolRow>, bool) {
    let growing = |(id, entry): (&'_ SegmentId, _)| {
        let mut row = PoolRow::new(id.clone(), entry);
        row.unplaced = from.unplaced.get(id).copied();
        row.vanished = from.vanished.contains(id);
        Growing { row, rank: None }
    };
    let mut rows: HashMap<&SegmentId, Growing> =
        from.pool.iter().map(|(id, entry)| (id, growing((id, entry)))).collect();
    let mut more = false;
    for (name, known) in from.nodes.iter().filter(|(_, known)| known.registered()) {
        let now = known.answers_for();
        let then = from.planned.get(name).map(|rows| to_hold(rows));
        let answers = |told: &Option<HashSet<&SegmentId>>, id| {
            told.as_ref().is_none_or(|told| told.contains(id))
        };
        for (id, version, tag) in held(name, known, from.earlier) {
            let Some(row) = rows.get_mut(id) else { continue };
            match (answers(&now, id), answers(&then, id)) {
                (true, true) => row.holder(name, version, tag),
                (false, true) => more |= from.planned.contains_key(name),
                (_, false) => {}
            }
        }
    }
    let rows = rows.into_values().map(|mut growing| {
        growing.row.older.sort_unstable();
        growing.row
    });
    (rows.collect(), more)
}

/// What `known` holds, or held when that could be read last.
fn held<'a>(
    name: &'a NodeName,
    known: &'a Known,
    earlier: &'a [PoolRow],
) -> Box<dyn Iterator<Item = (&'a SegmentId, Stamp, Option<Tag>)> + 'a> {
    match known.held() {
        Some(rows) => Box::new(rows.map(|row| (&row.id, row.version, Some(row.tag)))),
        None => {
            let held = earlier.iter().filter(move |row| row.holders.contains(name));
            Box::new(held.map(|row| (&row.id, row.version, row.tag)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::PoolEntry;
    use crate::store::StorePath;

    #[test]
    fn who_has_an_older_version_is_named_beside_the_holders_of_the_newest() {
        let id = SegmentId::new("ohio").unwrap();
        let at = |mtime_ms| Stamp { length: 1, mtime_ms };
        let name = |name: &str| NodeName::new(name).unwrap();
        let growing = |versions: &[(&str, u64)]| {
            let entry = PoolEntry { path: StorePath::published(&id), stamp: at(3) };
            let mut growing = Growing { row: PoolRow::new(id.clone(), &entry), rank: None };
            for (node, mtime_ms) in versions {
                let tag = Some(Tag::of(&mtime_ms.to_be_bytes()));
                growing.holder(&name(node), at(*mtime_ms), tag);
            }
            (growing.row.holders, growing.row.older, growing.row.tag)
        };
        let tag = |mtime_ms: u64| Some(Tag::of(&mtime_ms.to_be_bytes()));
        for (versions, holders, older, newest) in [
            (&[("a", 2), ("b", 2)][..], &["a", "b"][..], &[][..], 2),
            (&[("a", 3), ("b", 2), ("c", 3)], &["a", "c"], &["b"], 3),
            (&[("a", 1), ("b", 2), ("c", 3)], &["c"], &["a", "b"], 3),
            // the pool's own version goes before one that is newer still
            (&[("a", 4), ("b", 3)], &["b"], &["a"], 3),
        ] {
            let names = |all: &[&str]| all.iter().map(|one| name(one)).collect::<Vec<_>>();
            assert_eq!(
                growing(versions),
                (names(holders), names(older), tag(newest)),
                "{versions:?}"
            );
        }
    }
}
