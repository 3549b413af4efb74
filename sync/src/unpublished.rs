//! What is open for writing anywhere, and what of it is not published: one look at all write locks, for people.
//!
//! Left out: following them ([`crate::owners_view`]).

use serde::{Deserialize, Serialize};

use crate::kv::{self, Consistency, Kv, KvError};
use crate::write_lock::{LOCKS_KEY, Owned, Ownership};

/// The most segments of a kind that are named.
pub const NAMED_MAX: usize = 100;

/// What the write locks say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpublished {
    /// Segments that a writer has open.
    pub open: u64,
    /// Segments with rows that were acknowledged and are not published, their writer there or not.
    pub unpublished: u64,
    /// That for which it is so longest.
    pub oldest: Option<Line>,
    /// Segments that could not be published when that was tried last, the oldest first; at most [`NAMED_MAX`].
    pub failing: Vec<Line>,
    /// Segments with unpublished rows whose writer is gone, the oldest first; at most [`NAMED_MAX`].
    pub abandoned: Vec<Line>,
    /// Locks that say something which this trough does not understand.
    pub unknown: u64,
}

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Which.
    pub segment: String,
    /// The node that has its rows.
    pub node: String,
    /// Since when it has something unpublished, milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Why it was not published.
    pub problem: Option<String>,
}

impl From<&Ownership> for Line {
    fn from(owner: &Ownership) -> Self {
        Self {
            segment: owner.segment.to_string(),
            node: owner.node.to_string(),
            since_ms: owner.dirty_since_ms,
            problem: owner.problem.clone(),
        }
    }
}

impl Unpublished {
    /// What the write locks in `kv` say now.
    pub async fn read(kv: &dyn Kv) -> Result<Self, KvError> {
        let mut unknown = 0;
        let mut owned = Vec::new();
        for entry in kv.list(&kv::key(LOCKS_KEY)?, Consistency::Default).await? {
            match crate::write_lock::understand(&entry.value) {
                Ok(Some(ownership)) => {
                    owned.push(Owned { ownership, held: entry.session.is_some() });
                }
                // one that only holds it for a moment
                Ok(None) => {}
                Err(_) => unknown += 1,
            }
        }
        Ok(Self { unknown, ..Self::of(owned) })
    }

    fn of(mut owned: Vec<Owned>) -> Self {
        owned.sort_by_key(|owned| owned.ownership.dirty_since_ms.unwrap_or(u64::MAX));
        let is_dirty = |owned: &&Owned| owned.ownership.dirty_since_ms.is_some();
        let named = |which: fn(&Owned) -> bool| {
            let all = owned.iter().filter(|owned| which(owned)).take(NAMED_MAX);
            all.map(|owned| Line::from(&owned.ownership)).collect()
        };
        Self {
            open: owned.iter().filter(|owned| owned.held).count() as u64,
            unpublished: owned.iter().filter(is_dirty).count() as u64,
            oldest: owned.iter().find(is_dirty).map(|owned| Line::from(&owned.ownership)),
            failing: named(|owned| owned.held && owned.ownership.problem.is_some()),
            abandoned: named(|owned| !owned.held && owned.ownership.dirty_since_ms.is_some()),
            unknown: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write_lock::ownership;

    #[test]
    fn the_oldest_comes_first_and_who_is_gone_is_told() {
        let owned = |node: &str, since_ms: Option<u64>, held: bool, problem: Option<&str>| {
            let mut ownership = ownership(node);
            ownership.dirty_since_ms = since_ms;
            ownership.problem = problem.map(str::to_owned);
            Owned { ownership, held }
        };
        let seen = Unpublished::of(vec![
            owned("clean", None, true, None),
            owned("young", Some(9), true, Some("no room")),
            owned("gone", Some(7), false, Some("left so")),
            owned("old", Some(5), true, None),
            // it gave its segment up: nobody waits for it
            owned("left", None, false, None),
        ]);
        assert_eq!((seen.open, seen.unpublished), (3, 3));
        assert_eq!(
            seen.oldest.map(|line| (line.node, line.since_ms)),
            Some(("old".into(), Some(5)))
        );
        let nodes = |lines: &[Line]| lines.iter().map(|line| line.node.clone()).collect::<Vec<_>>();
        assert_eq!(nodes(&seen.failing), ["young"]);
        assert_eq!(nodes(&seen.abandoned), ["gone"]);
    }
}
