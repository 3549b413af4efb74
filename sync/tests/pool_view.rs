//! The pool table in a reader's memory: random histories against what was written, and what changes nothing.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fsd::segment::{SegmentId, Stamp};
use proptest::prelude::*;
use sync::clock::since_boot;
use sync::cluster::{PoolRow, pool_table};
use sync::kv::sqlite::SqliteKv;
use sync::kv::{Consistency, Key, Kv, KvTimeouts, Op};
use sync::node::NodeName;
use sync::planner::Why;
use sync::pool::PoolEntry;
use sync::pool_view::{Found, PoolView, Rows, Whereabouts};
use sync::registry::Epoch;
use sync::store::StorePath;
use sync::table::{TableReader, TableWriter};
use sync::tag::Tag;

const PATIENT: KvTimeouts = KvTimeouts { connect_ms: 10_000, call_ms: 20_000 };
/// The bound of every wait for an event.
const PATIENCE: Duration = Duration::from_secs(60);

fn kv() -> (tempfile::TempDir, Arc<dyn Kv>) {
    let dir = tempfile::tempdir().unwrap();
    let kv = SqliteKv::open(dir.path().join("kv"), since_boot, PATIENT).unwrap();
    (dir, Arc::new(kv))
}

/// Half of the ids are labels themselves.
fn id(n: u16) -> SegmentId {
    let text = if n.is_multiple_of(2) { format!("segment-{n}") } else { format!("Segment_{n}") };
    SegmentId::new(&text).unwrap()
}

fn row(n: u16, mtime_ms: u64, holders: &[u8]) -> PoolRow {
    let path = StorePath::published(&id(n));
    let stamp = Stamp { length: 4096, mtime_ms };
    let mut row = PoolRow::new(id(n), &PoolEntry { path, stamp });
    row.holders = holders.iter().map(|n| NodeName::new(&format!("node-{n}")).unwrap()).collect();
    // while a new version comes
    row.older = n.is_multiple_of(3).then(|| NodeName::new("node-9").unwrap()).into_iter().collect();
    row.tag = (!holders.is_empty()).then(|| Tag::of(&mtime_ms.to_be_bytes()));
    row.unplaced = holders.is_empty().then_some(Why::NoRoom);
    row
}

fn found(row: &PoolRow) -> Found {
    let PoolRow { version, tag, holders, older, unplaced, .. } = row.clone();
    Found::Listed(Whereabouts { version, tag, holders, older, unplaced })
}

struct Lead {
    kv: Arc<dyn Kv>,
    table: TableWriter<PoolRow>,
}

impl Lead {
    fn new(kv: &Arc<dyn Kv>, rows_per_part: usize) -> Self {
        let table = TableWriter::new(pool_table().unwrap()).with_rows_per_part(rows_per_part);
        Self { kv: kv.clone(), table }
    }

    async fn tell(&mut self, index: u64, rows: Vec<PoolRow>) {
        let fence = Op::CheckNotExists { key: Key::new("trough/no-fence").unwrap() };
        let epoch = Epoch { incarnation: 1, index };
        self.table.write(&*self.kv, &fence, epoch, rows).await.unwrap();
    }
}

fn reader() -> TableReader<PoolRow> {
    TableReader::new(pool_table().unwrap(), Duration::ZERO).unwrap()
}

type Written = BTreeMap<u16, (u64, Vec<u8>)>;

fn rows() -> impl Strategy<Value = Written> {
    let row = (1_u64..4, prop::collection::btree_set(0_u8..5, 0..3));
    let row = row.prop_map(|(mtime, holders)| (mtime, holders.into_iter().collect()));
    prop::collection::btree_map(0_u16..60, row, 0..50)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    /// Whatever is written, cut however: what is found is what was written last.
    #[test]
    fn what_is_found_is_what_was_written(
        history in prop::collection::vec(rows(), 1..6),
        rows_per_part in 1_usize..20,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_dir, kv) = kv();
            let mut lead = Lead::new(&kv, rows_per_part);
            let (view, mut reader) = (PoolView::default(), reader());
            prop_assert_eq!(view.find(&id(0)), Found::Unknown);
            prop_assert_eq!(view.find_label("segment-0"), None);
            for (index, rows) in (1..).zip(history) {
                let row = |(n, (mtime, holders)): (&u16, &(u64, Vec<u8>))| row(*n, *mtime, holders);
                lead.tell(index, rows.iter().map(row).collect()).await;
                view.heard(reader.look_with(&*kv, &Rows::pack).await.unwrap());
                prop_assert_eq!(view.segments(), Some(rows.len()));
                prop_assert_eq!(view.epoch(), Some(Epoch { incarnation: 1, index }));
                for n in 0..61 {
                    let wanted = rows.get(&n).map(|of| row((&n, of)));
                    let expected = wanted.as_ref().map_or(Found::Absent, found);
                    prop_assert_eq!(view.find(&id(n)), expected, "{}", n);
                    let label = id(n).label();
                    prop_assert_eq!(view.find_label(label.as_str()), wanted.map(|row| row.id));
                }
                prop_assert_eq!(view.find_label("x--nothing"), None);
                prop_assert_eq!(view.find_label("Segment_1"), None, "an id that is no label");
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn s9_a_registry_that_says_nothing_leaves_what_was_known() {
    let (_dir, kv) = kv();
    let mut lead = Lead::new(&kv, 4);
    let (view, mut reader) = (PoolView::default(), reader());
    view.heard(reader.look_with(&*kv, &Rows::pack).await.unwrap());
    assert_eq!(view.find(&id(1)), Found::Unknown, "no table is no pool");
    let rows: Vec<PoolRow> = (0..20).map(|n| row(n, 1, &[1, 2])).collect();
    lead.tell(1, rows.clone()).await;
    view.heard(reader.look_with(&*kv, &Rows::pack).await.unwrap());
    let documents = kv.list(&pool_table().unwrap(), Consistency::Consistent).await.unwrap();
    for garbled in [true, false] {
        for entry in &documents {
            let key = entry.key.clone();
            let op = match garbled {
                true => Op::Set { key, value: "garbled".into() },
                false => Op::Delete { key },
            };
            kv.txn(&[op]).await.unwrap();
        }
        match reader.look_with(&*kv, &Rows::pack).await {
            Ok(change) => view.heard(change),
            Err(_) => assert!(garbled),
        }
        assert_eq!(view.find(&id(7)), found(&rows[7]));
        assert_eq!(view.find(&id(20)), Found::Absent);
    }
    // an empty pool is something else than none
    Lead::new(&kv, 4).tell(2, Vec::new()).await;
    view.heard(reader.look_with(&*kv, &Rows::pack).await.unwrap());
    assert_eq!((view.find(&id(7)), view.segments()), (Found::Absent, Some(0)));
}

#[tokio::test]
async fn it_follows_what_is_written() {
    let (_dir, kv) = kv();
    let mut lead = Lead::new(&kv, 4);
    let view = PoolView::default();
    let steps = async {
        for mtime_ms in 1..4 {
            let row = row(7, mtime_ms, &[1]);
            lead.tell(mtime_ms, vec![row.clone()]).await;
            while view.find(&id(7)) != found(&row) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        assert!(view.heard_at().is_some());
    };
    tokio::select! {
        ended = view.follow(&*kv) => panic!("it ended: {ended:?}"),
        waited = tokio::time::timeout(PATIENCE, steps) => waited.unwrap(),
    }
}
