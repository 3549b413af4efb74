//! The cache against a model of a few lines: a random list of operations, and after each of them the disk, the holdings
//! and the counters must be what the model says.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::{BTreeMap, BTreeSet};

use fsd::cache::Cache;
use fsd::segment::{Digest, SegmentId, Stamp};
use proptest::prelude::*;

#[path = "support/cache.rs"]
mod support;
use support::*;

const IDS: [&str; 4] = ["a", "b", "c.d", "e-f"];
const CONTENTS: u64 = 3;

#[derive(Debug, Clone)]
enum Op {
    /// A batch of (id, content, mtime).
    Publish(Vec<(usize, u64, u64)>),
    StageAndDrop(usize, u64),
    Quarantine(usize),
    Unpublish(usize),
    Republish(usize, u64, u64),
    Remove(usize),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let item = || (0..IDS.len(), 0..CONTENTS, 1_u64..3);
    prop_oneof![
        4 => prop::collection::vec(item(), 1..4).prop_map(Op::Publish),
        1 => (0..IDS.len(), 0..CONTENTS).prop_map(|(id, content)| Op::StageAndDrop(id, content)),
        1 => (0..IDS.len()).prop_map(Op::Quarantine),
        2 => (0..IDS.len()).prop_map(Op::Unpublish),
        2 => item().prop_map(|(id, content, mtime)| Op::Republish(id, content, mtime)),
        2 => (0..IDS.len()).prop_map(Op::Remove),
        1 => Just(Op::Reopen),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Entry {
    digest: Digest,
    stamp: Stamp,
    published: bool,
}

type Model = BTreeMap<SegmentId, Entry>;

fn assert_matches(cache: &Cache, model: &Model) {
    let holdings = cache.holdings().unwrap();
    let entries = holdings.into_iter().map(|holding| {
        let (version, published) = (holding.version, holding.published);
        (holding.id, Entry { digest: version.digest, stamp: version.stamp, published })
    });
    assert_eq!(&entries.collect::<Model>(), model);
    let objects: BTreeSet<(Digest, u64)> =
        model.values().map(|entry| (entry.digest, entry.stamp.length)).collect();
    assert_eq!(cache.usage().objects_bytes, objects.iter().map(|(_, length)| length).sum::<u64>());
    // names, objects and counters on the disk agree with the holdings
    assert_consistent(cache);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn s1_the_cache_is_what_the_model_says(ops in prop::collection::vec(op(), 1..25)) {
        let contents: Vec<Vec<u8>> = (0..CONTENTS).map(database).collect();
        let directory = tempfile::tempdir().unwrap();
        let (mut cache, _) = open(directory.path());
        let mut model = Model::new();
        for op in ops {
            match op {
                Op::Publish(items) => {
                    let batch = items.iter().map(|&(at, content, mtime_ms)| {
                        let bytes = &contents[content as usize];
                        (verified(&cache, &id(IDS[at]), bytes), source(bytes, mtime_ms))
                    });
                    let results = cache.publish(batch.collect());
                    for (result, (at, content, mtime_ms)) in results.into_iter().zip(items) {
                        let bytes = &contents[content as usize];
                        let new = Entry { digest: digest(bytes), stamp: source(bytes, mtime_ms).stamp, published: true };
                        let old = model.insert(id(IDS[at]), new).filter(|old| old.published && old.digest != new.digest);
                        prop_assert_eq!(result.unwrap().replaced, old.map(|old| old.digest));
                    }
                }
                Op::StageAndDrop(at, content) => drop(verified(&cache, &id(IDS[at]), &contents[content as usize])),
                Op::Quarantine(at) => {
                    let rejected = stage(&cache, &id(IDS[at]), b"bad").unwrap().verify(None).unwrap_err();
                    cache.quarantine_staged(rejected, &source(b"bad", 1)).unwrap();
                }
                Op::Unpublish(at) => {
                    let entry = model.get_mut(&id(IDS[at])).filter(|entry| entry.published);
                    prop_assert_eq!(cache.unpublish(&id(IDS[at])).unwrap(), entry.is_some());
                    if let Some(entry) = entry {
                        entry.published = false;
                    }
                }
                Op::Republish(at, content, mtime_ms) => {
                    let source = source(&contents[content as usize], mtime_ms);
                    let entry = model.get_mut(&id(IDS[at])).filter(|entry| entry.stamp == source.stamp);
                    let published = cache.republish(&id(IDS[at]), &source).unwrap();
                    prop_assert_eq!(published.map(|published| published.version.digest), entry.as_ref().map(|entry| entry.digest));
                    if let Some(entry) = entry {
                        entry.published = true;
                    }
                }
                Op::Remove(at) => {
                    let removed = model.remove(&id(IDS[at])).is_some();
                    prop_assert_eq!(cache.remove(&id(IDS[at])).unwrap(), removed);
                }
                Op::Reopen => {
                    drop(cache);
                    let (opened, report) = open(directory.path());
                    prop_assert_eq!((report.rehashed, report.relearned, report.orphans_removed), (0, 0, 0));
                    cache = opened;
                }
            }
            assert_matches(&cache, &model);
        }
    }
}
