//! Tables of the registry: what who reads sees while one writes, fails, is overtaken, and while somebody meddles.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fsd::segment::SegmentId;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use sync::kv::consul::{ConsulKv, ConsulSettings};
use sync::kv::sqlite::SqliteKv;
use sync::kv::{Key, Kv, KvTimeouts, Op, SESSION_TTL_MIN, SessionId, SessionOptions};
use sync::registry::Epoch;
use sync::table::{Change, Part, Row, TableError, TableReader, TableWriter, Written};

#[path = "support/breaking.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod breaking;

use breaking::{Break, BreakingKv};

/// Small, so that a few rows make a table of many parts.
const ROWS_PER_PART: usize = 4;
const PATIENT: KvTimeouts = KvTimeouts { connect_ms: 10_000, call_ms: 20_000 };
/// No test waits for a change: it is there, or it does not come.
const AT_ONCE: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line(SegmentId, String);

impl Row for Line {
    fn id(&self) -> &SegmentId {
        &self.0
    }
}

/// What a table says: a value for each id.
type Rows = BTreeMap<String, String>;

fn lines(rows: &Rows) -> Vec<Line> {
    rows.iter().map(|(id, value)| Line(SegmentId::new(id).unwrap(), value.clone())).collect()
}

fn rows(pairs: &[(&str, &str)]) -> Rows {
    pairs.iter().map(|(id, value)| ((*id).to_owned(), (*value).to_owned())).collect()
}

fn numbered(count: usize, value: &str) -> Rows {
    (0..count).map(|n| (format!("segment-{n:05}"), value.to_owned())).collect()
}

/// A reader with what it was told so far.
struct View {
    reader: TableReader<Line>,
    parts: BTreeMap<Part, Vec<Line>>,
}

impl View {
    fn new() -> Self {
        Self { reader: TableReader::new(table(), AT_ONCE).unwrap(), parts: BTreeMap::new() }
    }

    async fn look(&mut self, kv: &dyn Kv) -> Result<Option<Epoch>, TableError> {
        let Some(Change { epoch, whole, parts }) = self.reader.next(kv).await? else {
            return Ok(None);
        };
        if whole {
            self.parts.clear();
        }
        self.parts.extend(parts);
        Ok(Some(epoch))
    }

    fn rows(&self) -> Rows {
        let all = self.parts.values().flatten();
        all.map(|Line(id, value)| (id.as_str().to_owned(), value.clone())).collect()
    }
}

struct Cluster {
    kv: Arc<dyn Kv>,
    _dir: tempfile::TempDir,
    lead: SessionId,
}

impl Cluster {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = AtomicU64::new(1_000);
        let since_boot = move || Duration::from_millis(clock.load(Ordering::SeqCst));
        let kv = Arc::new(SqliteKv::open(dir.path().join("kv"), since_boot, PATIENT).unwrap());
        let lead = lead(&*kv).await;
        Self { kv, _dir: dir, lead }
    }

    fn fence(&self) -> Op {
        Op::CheckSession { key: lead_key(), session: self.lead.clone() }
    }
}

/// A new session that has the lead's lock.
async fn lead(kv: &dyn Kv) -> SessionId {
    let options = SessionOptions::new("lead", SESSION_TTL_MIN, Duration::ZERO).unwrap();
    let session = kv.create_session(&options).await.unwrap();
    assert!(kv.acquire(&lead_key(), "".into(), &session).await.unwrap());
    session
}

fn lead_key() -> Key {
    Key::new("trough/lead").unwrap()
}

fn table() -> Key {
    Key::new("trough/assign/node-1").unwrap()
}

fn writer() -> TableWriter<Line> {
    TableWriter::new(table()).with_rows_per_part(ROWS_PER_PART)
}

fn epoch(index: u64) -> Epoch {
    Epoch { incarnation: 1, index }
}

#[tokio::test]
async fn a_table_reads_back_and_only_what_changed_is_written_and_fetched() {
    let cluster = Cluster::new().await;
    let (kv, fence) = (&*cluster.kv, cluster.fence());
    let (mut writer, mut view) = (writer(), View::new());
    assert_eq!(view.look(kv).await.unwrap(), None, "there is no table");
    assert!(writer.load(kv).await.unwrap().is_none());

    let mut wanted = numbered(100, "first");
    let written = writer.write(kv, &fence, epoch(1), lines(&wanted)).await.unwrap();
    assert!(written.documents > 100 / ROWS_PER_PART / 2, "{written:?}");
    assert_eq!(view.look(kv).await.unwrap(), Some(epoch(1)));
    assert_eq!(view.rows(), wanted);
    assert_eq!(view.look(kv).await.unwrap(), None, "nothing changed");
    let again = writer.write(kv, &fence, epoch(1), lines(&wanted)).await.unwrap();
    assert_eq!(again, Written::default());

    wanted.insert("segment-00042".to_owned(), "second".to_owned());
    let written = writer.write(kv, &fence, epoch(1), lines(&wanted)).await.unwrap();
    assert_eq!((written.transactions, written.documents), (1, 2), "the part and the meta document");
    let change = view.reader.next(kv).await.unwrap().unwrap();
    assert_eq!((change.whole, change.parts.len()), (false, 1));
    view.parts.extend(change.parts);
    assert_eq!(view.rows(), wanted);

    // another writer goes on where this one stopped, in an epoch of its own
    let mut next = self::writer();
    let (found, there) = next.load(kv).await.unwrap().unwrap();
    assert_eq!((found, there.len()), (epoch(1), 100));
    let written = next.write(kv, &fence, epoch(2), lines(&wanted)).await.unwrap();
    assert_eq!((written.transactions, written.documents), (1, 1), "the meta document alone");
    assert_eq!(view.look(kv).await.unwrap(), Some(epoch(2)));
    next.write(kv, &fence, epoch(2), Vec::new()).await.unwrap();
    view.look(kv).await.unwrap();
    assert_eq!(view.rows(), Rows::new());
    assert_eq!(kv.list(&table(), sync::kv::Consistency::Consistent).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_table_that_grows_and_shrinks_is_cut_anew_and_leaves_nothing_behind() {
    let cluster = Cluster::new().await;
    let (kv, fence) = (&*cluster.kv, cluster.fence());
    let (mut writer, mut view) = (writer(), View::new());
    for count in [1, 5, 40, 400, 390, 30, 3] {
        let wanted = numbered(count, "x");
        writer.write(kv, &fence, epoch(1), lines(&wanted)).await.unwrap();
        view.look(kv).await.unwrap();
        assert_eq!(view.rows(), wanted, "{count}");
        let mut fresh = View::new();
        fresh.look(kv).await.unwrap();
        assert_eq!(fresh.rows(), wanted, "{count}");
        let there = kv.list(&table(), sync::kv::Consistency::Consistent).await.unwrap().len();
        assert_eq!(there, 1 + fresh.parts.len(), "{count}");
    }
}

/// Also a part that is not wanted any more, so that nothing of it is written again.
#[tokio::test]
async fn a_part_that_somebody_removed_is_not_named_any_more_when_its_rows_are_gone_too() {
    let cluster = Cluster::new().await;
    let (kv, fence) = (&*cluster.kv, cluster.fence());
    let mut writer = writer();
    let mut wanted = numbered(60, "right");
    writer.write(kv, &fence, epoch(1), lines(&wanted)).await.unwrap();
    for meddle in [|key| Op::Delete { key }, |key| Op::Set { key, value: "garbled".into() }] {
        let mut view = View::new();
        view.look(kv).await.unwrap();
        let (part, rows) = view.parts.iter().find(|(_, rows)| !rows.is_empty()).unwrap();
        let key = table().join(&format!("{}-{}", part.bits, part.index)).unwrap();
        kv.txn(&[meddle(key.clone())]).await.unwrap();
        for Line(id, _) in rows {
            wanted.remove(id.as_str());
        }
        writer.doubt();
        writer.write(kv, &fence, epoch(1), lines(&wanted)).await.unwrap();
        let mut fresh = View::new();
        fresh.look(kv).await.unwrap();
        assert_eq!(fresh.rows(), wanted);
        assert_eq!(kv.get(&key).await.unwrap(), None);
    }
}

/// A reading that failed is made up for at once, not when the table changes again or the wait is over.
#[tokio::test]
async fn what_could_not_be_fetched_is_fetched_by_the_next_call() {
    let cluster = Cluster::new().await;
    let (long, bound) = (Duration::from_secs(60), Duration::from_secs(20));
    let reader = TableReader::new(table(), long).unwrap();
    let mut view = View { reader, parts: BTreeMap::new() };
    let kv = BreakingKv::new(cluster.kv.clone());
    for n in 1..=3 {
        let wanted = numbered(20 * n, "x");
        writer().write(&*kv, &cluster.fence(), epoch(n as u64), lines(&wanted)).await.unwrap();
        kv.break_reads();
        tokio::time::timeout(bound, view.look(&*kv)).await.unwrap().unwrap_err();
        kv.mend();
        let seen = tokio::time::timeout(bound, view.look(&*kv)).await.expect("it looks at once");
        assert_eq!(seen.unwrap(), Some(epoch(n as u64)));
        assert_eq!(view.rows(), wanted);
    }
}

#[tokio::test]
async fn who_lost_the_lock_writes_nothing() {
    let cluster = Cluster::new().await;
    let (kv, fence) = (&*cluster.kv, cluster.fence());
    let mut old = writer();
    let wanted = numbered(30, "old");
    old.write(kv, &fence, epoch(1), lines(&wanted)).await.unwrap();
    kv.destroy_session(&cluster.lead).await.unwrap();
    let next = lead(kv).await;
    for count in [30, 31, 300, 0] {
        let error = old.write(kv, &fence, epoch(1), lines(&numbered(count, "late"))).await;
        assert!(matches!(error, Err(TableError::Fenced { .. })), "{error:?}");
    }
    let fence = Op::CheckSession { key: lead_key(), session: next };
    let mut view = View::new();
    view.look(kv).await.unwrap();
    assert_eq!(view.rows(), wanted);
    writer().write(kv, &fence, epoch(2), lines(&wanted)).await.unwrap();
    assert_eq!(view.look(kv).await.unwrap(), Some(epoch(2)));
}

#[tokio::test]
async fn a_table_of_a_lower_epoch_is_refused_until_a_higher_one_comes() {
    let cluster = Cluster::new().await;
    let (kv, fence) = (&*cluster.kv, cluster.fence());
    let (mut writer, mut view) = (writer(), View::new());
    let wanted = rows(&[("a", "1")]);
    writer.write(kv, &fence, Epoch { incarnation: 2, index: 5 }, lines(&wanted)).await.unwrap();
    view.look(kv).await.unwrap();
    for older in [Epoch { incarnation: 2, index: 4 }, Epoch { incarnation: 1, index: 900 }] {
        writer.write(kv, &fence, older, lines(&rows(&[("a", "stale")]))).await.unwrap();
        let error = view.look(kv).await.unwrap_err();
        assert!(matches!(error, TableError::Older { .. }), "{error}");
        assert_eq!(view.rows(), wanted);
    }
    let newer = rows(&[("a", "2")]);
    writer.write(kv, &fence, Epoch { incarnation: 3, index: 1 }, lines(&newer)).await.unwrap();
    view.look(kv).await.unwrap();
    assert_eq!(view.rows(), newer);
}

/// An absent, empty or garbled document changes nothing for who reads, and the next look of the writer mends it.
#[tokio::test]
async fn what_somebody_meddles_with_changes_nothing_and_is_mended() {
    let cluster = Cluster::new().await;
    let (kv, fence) = (&*cluster.kv, cluster.fence());
    let mut writer = writer();
    let wanted = numbered(60, "right");
    writer.write(kv, &fence, epoch(1), lines(&wanted)).await.unwrap();
    let documents = kv.list(&table(), sync::kv::Consistency::Consistent).await.unwrap();
    assert!(documents.len() > 8);
    for document in [documents.first().unwrap(), documents.last().unwrap()] {
        let garbled = document.value.iter().map(|byte| byte ^ 0x40).collect::<Vec<_>>();
        let other = kv.get(&documents[1].key).await.unwrap().unwrap().value;
        let key = || document.key.clone();
        for meddle in [
            Op::Delete { key: key() },
            Op::Set { key: key(), value: "".into() },
            Op::Set { key: key(), value: garbled.into() },
            Op::Set { key: key(), value: document.value.slice(..document.value.len() / 2) },
            Op::Set { key: key(), value: other },
        ] {
            let mut view = View::new();
            view.look(kv).await.unwrap();
            kv.txn(std::slice::from_ref(&meddle)).await.unwrap();
            let _ = view.look(kv).await;
            assert_eq!(view.rows(), wanted, "{meddle:?}");
            let mut fresh = View::new();
            let _ = fresh.look(kv).await;
            assert!(fresh.rows().is_empty(), "{meddle:?}: half a table was shown");
            writer.doubt();
            writer.write(kv, &fence, epoch(1), lines(&wanted)).await.unwrap();
            for mut view in [view, fresh] {
                view.look(kv).await.unwrap();
                assert_eq!(view.rows(), wanted, "{meddle:?} is not mended");
            }
        }
    }
    let stray = table().join("9-400").unwrap();
    kv.txn(&[Op::Set { key: stray.clone(), value: "x".into() }]).await.unwrap();
    writer.doubt();
    writer.write(kv, &fence, epoch(1), lines(&wanted)).await.unwrap();
    assert_eq!(kv.get(&stray).await.unwrap(), None);
}

#[derive(Debug, Clone)]
enum Step {
    /// Write these: so many rows from that one on, with a value of that letter.
    Write { from: usize, count: usize, letter: char },
    /// The same, broken off at that transaction.
    Broken { from: usize, count: usize, letter: char, at: usize, how: Break },
    /// Another writer goes on.
    HandOver,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let some = || (0..40_usize, 0..120_usize, prop::char::range('a', 'c'));
    let broken = (some(), 0..4_usize, prop_oneof![Just(Break::Refused), Just(Break::AnswerLost)]);
    let step = prop_oneof![
        3 => some().prop_map(|(from, count, letter)| Step::Write { from, count, letter }),
        3 => broken.prop_map(|((from, count, letter), at, how)| {
            Step::Broken { from, count, letter, at, how }
        }),
        1 => Just(Step::HandOver),
    ];
    prop::collection::vec(step, 1..12)
}

fn wanted(from: usize, count: usize, letter: char) -> Rows {
    (from..from + count).map(|n| (format!("segment-{n:05}"), letter.to_string())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whoever reads, from the start or from any moment, sees rows of the last write or of those that broke off since
    /// the last that did not; after one that did not, exactly its rows.
    #[test]
    fn who_reads_sees_what_was_written(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let cluster = Cluster::new().await;
            let fence = cluster.fence();
            let kv = BreakingKv::new(cluster.kv.clone());
            let (mut writer, mut view) = (writer(), View::new());
            let mut possible = vec![Rows::new()];
            for (n, step) in (1..).zip(steps) {
                let whole = match &step {
                    Step::Write { from, count, letter } => {
                        let rows = wanted(*from, *count, *letter);
                        writer.write(&*kv, &fence, epoch(n), lines(&rows)).await.unwrap();
                        possible = vec![rows];
                        true
                    }
                    Step::Broken { from, count, letter, at, how } => {
                        let rows = wanted(*from, *count, *letter);
                        kv.break_at(*at, *how);
                        let result = writer.write(&*kv, &fence, epoch(n), lines(&rows)).await;
                        kv.mend();
                        match result {
                            Ok(_) => possible = vec![rows],
                            Err(_) => possible.push(rows),
                        }
                        possible.len() == 1
                    }
                    Step::HandOver => {
                        writer = self::writer();
                        possible.len() == 1
                    }
                };
                let mut fresh = View::new();
                for view in [&mut view, &mut fresh] {
                    view.look(&*cluster.kv).await.unwrap();
                    let seen = view.rows();
                    if whole {
                        assert_eq!(&seen, &possible[0], "{step:?}");
                    }
                    for (id, value) in &seen {
                        let known = possible.iter().any(|rows| rows.get(id) == Some(value));
                        assert!(known, "{id} {value} was never written: {step:?}");
                    }
                    for id in possible[0].keys() {
                        let every = possible.iter().all(|rows| rows.contains_key(id));
                        assert!(!every || seen.contains_key(id), "{id} is missing: {step:?}");
                    }
                }
            }
        });
    }
}

/// A real Consul takes the longest documents and transactions that a table makes of a pool of this size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_table_goes_through_a_real_consul() {
    let consul = rig::consul::Consul::start();
    let address = consul.address().to_owned();
    let kv = ConsulKv::new(&ConsulSettings { address, timeouts: PATIENT, ..Default::default() });
    let kv = kv.unwrap();
    let fence = Op::CheckSession { key: lead_key(), session: lead(&kv).await };
    let noise = |n: u32| blake3::hash(&n.to_le_bytes()).to_hex()[..32].to_owned();
    let mut wanted: Rows = (0..60_000).map(|n| (format!("segment-{n:05}"), noise(n))).collect();
    let mut writer: TableWriter<Line> = TableWriter::new(table());
    let written = writer.write(&kv, &fence, epoch(1), lines(&wanted)).await.unwrap();
    assert!(written.bytes > 1_000_000 && written.transactions > 2, "{written:?}");
    let mut view = View::new();
    view.look(&kv).await.unwrap();
    assert_eq!(view.rows(), wanted);
    // rows of one part only, until it does not fit any more and the table is cut anew
    for value in wanted.values_mut() {
        value.push_str(&value.clone());
        value.push_str(&noise(value.len() as u32));
    }
    let written = writer.write(&kv, &fence, epoch(2), lines(&wanted)).await.unwrap();
    println!("{written:?}");
    view.look(&kv).await.unwrap();
    assert_eq!(view.rows(), wanted);
}
