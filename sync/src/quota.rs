//! What of the pool this node should hold, when the cluster does not say: everything, up to the quota.
//!
//! Invariant: the answer depends on nothing but its arguments, so an over-full pool settles: the same pool
//! under the same quota keeps the same segments, and none goes for one of lower order. The order is pinned,
//! then newest mtime, then id.
//!
//! Left out: doing it ([`crate::local`]). An assignment from the cluster's lead takes this module's place
//! behind [`Assignment`].

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use fsd::segment::{SegmentId, Stamp};

use crate::pool::Pool;

/// What a node should hold now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// To hold, the most important first: pulls go in this order.
    pub hold: Vec<SegmentId>,
    /// What has no place, and why.
    pub no_place: HashMap<SegmentId, String>,
}

/// Decides what this node holds.
pub trait Assignment: Send {
    /// What to hold of `pool`, when `held` is here now and `quota_bytes` is what the cache may take.
    fn wanted(&self, pool: &Pool, held: &HashMap<SegmentId, Stamp>, quota_bytes: u64) -> Wanted;
}

/// The assignment of a machine on its own: the whole pool, as far as the quota goes.
#[derive(Debug, Clone, Default)]
pub struct WholePool {
    /// Segments that come before all others.
    pub pinned: HashSet<SegmentId>,
}

impl Assignment for WholePool {
    fn wanted(&self, pool: &Pool, held: &HashMap<SegmentId, Stamp>, quota_bytes: u64) -> Wanted {
        let mut order: Vec<_> = pool.iter().collect();
        order.sort_unstable_by_key(|(id, entry)| {
            (!self.pinned.contains(*id), Reverse(entry.stamp.mtime_ms), *id)
        });
        let mut wanted = Wanted::default();
        let mut taken = 0_u64;
        for (id, entry) in order {
            let cost = cost(entry.stamp, held.get(id).copied());
            if taken.saturating_add(cost) <= quota_bytes {
                taken += cost;
                wanted.hold.push(id.clone());
            } else {
                let reason = no_place(entry.stamp, cost, quota_bytes);
                wanted.no_place.insert(id.clone(), reason);
            }
        }
        wanted
    }
}

/// What holding a segment takes: while another version is being replaced, both lie on the disk.
fn cost(wanted: Stamp, held: Option<Stamp>) -> u64 {
    match held {
        Some(held) if held != wanted => wanted.length.saturating_add(held.length),
        _ => wanted.length,
    }
}

fn no_place(stamp: Stamp, cost: u64, quota_bytes: u64) -> String {
    if cost > quota_bytes {
        return format!(
            "it needs {cost} bytes of cache and the whole quota is {quota_bytes}; raise cache.quota_bytes"
        );
    }
    format!(
        "no place within the quota of {quota_bytes} bytes for its {} bytes: newer segments come first; \
         raise cache.quota_bytes or pin it in sync.pinned",
        stamp.length
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::PoolEntry;
    use crate::store::StorePath;
    use proptest::prelude::*;

    fn pool(entries: &[(u64, u64)]) -> Pool {
        let entry = |(n, &(length, mtime_ms)): (usize, &(u64, u64))| {
            let id = SegmentId::new(&format!("s{n:03}")).unwrap();
            let path = StorePath::published(&id);
            (id, PoolEntry { path, stamp: Stamp { length, mtime_ms } })
        };
        entries.iter().enumerate().map(entry).collect()
    }

    fn ids(wanted: &Wanted) -> Vec<&str> {
        wanted.hold.iter().map(SegmentId::as_str).collect()
    }

    #[test]
    fn pinned_come_first_then_the_newest_then_by_id() {
        let pool = pool(&[(10, 1), (10, 3), (10, 2), (10, 2)]);
        let mut whole = WholePool::default();
        assert_eq!(ids(&whole.wanted(&pool, &HashMap::new(), 30)), ["s001", "s002", "s003"]);
        whole.pinned.insert(SegmentId::new("s000").unwrap());
        assert_eq!(ids(&whole.wanted(&pool, &HashMap::new(), 20)), ["s000", "s001"]);
    }

    #[test]
    fn a_replacement_counts_both_versions_until_it_is_done() {
        let pool = pool(&[(10, 9), (10, 1)]);
        let held = |mtime_ms| {
            let stamp = Stamp { length: 10, mtime_ms };
            let other = Stamp { length: 10, mtime_ms: 1 };
            HashMap::from([
                (SegmentId::new("s000").unwrap(), stamp),
                (SegmentId::new("s001").unwrap(), other),
            ])
        };
        let whole = WholePool::default();
        assert_eq!(ids(&whole.wanted(&pool, &held(9), 20)), ["s000", "s001"]);
        assert_eq!(ids(&whole.wanted(&pool, &held(8), 20)), ["s000"]);
        assert_eq!(ids(&whole.wanted(&pool, &held(8), 30)), ["s000", "s001"]);
    }

    #[test]
    fn what_has_no_place_says_why() {
        let wanted =
            WholePool::default().wanted(&pool(&[(10, 2), (10, 1), (99, 0)]), &HashMap::new(), 15);
        let reason = |id: &str| wanted.no_place[&SegmentId::new(id).unwrap()].clone();
        assert!(reason("s001").contains("newer segments come first"));
        assert!(reason("s002").contains("whole quota"));
    }

    proptest! {
        /// An over-full pool settles: once what is wanted is held, nothing more is pulled or evicted.
        #[test]
        fn it_settles_within_the_quota(
            entries in prop::collection::vec((1_u64..50, 0_u64..9), 0..40),
            held in prop::collection::vec((any::<prop::sample::Index>(), 1_u64..50), 0..20),
            quota in 0_u64..500,
        ) {
            let pool = pool(&entries);
            let whole = WholePool::default();
            let all: Vec<_> = pool.keys().cloned().collect();
            let mut held: HashMap<_, _> = held
                .iter()
                .filter(|_| !all.is_empty())
                .map(|(index, length)| (index.get(&all).clone(), Stamp { length: *length, mtime_ms: 99 }))
                .collect();
            let mut rounds = 0;
            loop {
                let wanted = whole.wanted(&pool, &held, quota);
                let bytes: u64 = wanted.hold.iter().map(|id| pool[id].stamp.length).sum();
                prop_assert!(bytes <= quota);
                prop_assert_eq!(wanted.hold.len() + wanted.no_place.len(), pool.len());
                let next: HashMap<_, _> =
                    wanted.hold.iter().map(|id| (id.clone(), pool[id].stamp)).collect();
                if next == held {
                    break;
                }
                held = next;
                rounds += 1;
                prop_assert!(rounds <= 3, "it does not settle");
            }
        }

        /// Nothing is left out for something of lower order that would not have fitted beside it anyway.
        #[test]
        fn nothing_goes_for_one_of_lower_order(
            entries in prop::collection::vec((1_u64..50, 0_u64..9), 1..40),
            quota in 0_u64..500,
        ) {
            let pool = pool(&entries);
            let wanted = WholePool::default().wanted(&pool, &HashMap::new(), quota);
            let order = |id: &SegmentId| (Reverse(pool[id].stamp.mtime_ms), id.clone());
            for left in wanted.no_place.keys() {
                let above: u64 = wanted.hold.iter()
                    .filter(|id| order(id) < order(left))
                    .map(|id| pool[id].stamp.length)
                    .sum();
                prop_assert!(above + pool[left].stamp.length > quota);
            }
        }
    }
}
