//! A node's side of the cluster: on a SQLite file, and on a real Consul that comes back empty.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fsd::segment::{SegmentId, Stamp};
use sync::clock::since_boot;
use sync::cluster::{AssignRow, HoldsRow, assign_table, holds_table};
use sync::kv::consul::{ConsulKv, ConsulSettings};
use sync::kv::sqlite::SqliteKv;
use sync::kv::{Consistency, Key, Kv, KvTimeouts, Op, SESSION_TTL_MIN, SessionId, Txn};
use sync::local::seat::member::{Member, Served};
use sync::local::seat::{Report, Seat, Seen};
use sync::membership::{Identity, Membership, MembershipError};
use sync::node::{Node, NodeError, NodeName, members};
use sync::planner::CopyState;
use sync::registry::Epoch;
use sync::store::StorePath;
use sync::table::{TableError, TableReader, TableWriter};
use sync::tag::Tag;
use tokio::sync::watch;

#[path = "support/breaking.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod breaking;

use breaking::{Break, BreakingKv};

const PATIENT: KvTimeouts = KvTimeouts { connect_ms: 10_000, call_ms: 20_000 };
/// The bound of every wait for an event.
const PATIENCE: Duration = Duration::from_secs(60);
const V1: Stamp = Stamp { length: 10, mtime_ms: 1 };
const V2: Stamp = Stamp { length: 20, mtime_ms: 2 };

fn id(text: &str) -> SegmentId {
    SegmentId::new(text).unwrap()
}

fn name() -> NodeName {
    NodeName::new("one").unwrap()
}

fn line(text: &str, version: Stamp, state: CopyState) -> AssignRow {
    AssignRow::new(id(text), version, &StorePath::published(&id(text)), state)
}

fn holds(text: &str, version: Stamp) -> (SegmentId, Option<HoldsRow>) {
    let row = HoldsRow { id: id(text), version, tag: Tag::of(text.as_bytes()) };
    (id(text), Some(row))
}

fn member(kv: &Arc<dyn Kv>, session_file: &Path) -> Membership {
    let who = Identity {
        name: name(),
        session_file: session_file.to_owned(),
        session_ttl: SESSION_TTL_MIN,
        since_boot: Arc::new(since_boot),
    };
    Membership::new(kv.clone(), who, Node::new(1_000, "one:6444", "one:6112")).unwrap()
}

fn file() -> (tempfile::TempDir, Arc<dyn Kv>) {
    let dir = tempfile::tempdir().unwrap();
    let kv = SqliteKv::open(dir.path().join("kv"), since_boot, PATIENT).unwrap();
    (dir, Arc::new(kv))
}

async fn set(kv: &dyn Kv, key: &str, value: &str) {
    let op = Op::Set { key: Key::new(key).unwrap(), value: value.to_owned().into() };
    assert!(matches!(kv.txn(&[op]).await.unwrap(), Txn::Committed(_)));
}

/// What the lead reads, when it has not looked before.
async fn held(kv: &dyn Kv) -> BTreeMap<SegmentId, Stamp> {
    let table = holds_table(&name()).unwrap();
    let mut reader = TableReader::<HoldsRow>::new(table, Duration::ZERO).unwrap();
    let change = reader.look(kv).await.unwrap();
    let parts = change.map(|change| change.parts).unwrap_or_default();
    parts.into_iter().flat_map(|(_, rows)| rows).map(|row| (row.id, row.version)).collect()
}

async fn document(kv: &dyn Kv) -> Node {
    members(kv).await.unwrap().remove(0).node.unwrap()
}

/// A lead that tells the node what the test wants.
struct Lead {
    kv: Arc<dyn Kv>,
    table: TableWriter<AssignRow>,
    fence: Op,
}

impl Lead {
    fn new(kv: &Arc<dyn Kv>) -> Self {
        let table = TableWriter::new(assign_table(&name()).unwrap()).with_rows_per_part(2);
        let fence = Op::CheckNotExists { key: Key::new("trough/no-fence").unwrap() };
        Self { kv: kv.clone(), table, fence }
    }

    async fn tell(&mut self, index: u64, lines: Vec<AssignRow>) {
        let epoch = Epoch { incarnation: 1, index };
        self.table.write(&*self.kv, &self.fence, epoch, lines).await.unwrap();
    }
}

#[tokio::test]
async fn only_what_was_told_to_drain_may_be_dropped() {
    let (dir, kv) = file();
    let mut lead = Lead::new(&kv);
    let mut node = member(&kv, &dir.path().join("session"));
    assert_eq!(node.look().await.unwrap(), None, "no table is no word");
    let hold = CopyState::Hold;
    let drain = CopyState::Drain { since_ms: 1 };
    let first: Vec<_> = ["a", "b", "c", "d", "e"].map(|text| line(text, V1, hold)).into();
    lead.tell(1, first.clone()).await;
    let told = node.look().await.unwrap().unwrap();
    let mut lines = told.lines.clone();
    lines.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!((lines, told.dropped.len(), told.kept.len()), (first, 0, 0));
    assert_eq!(node.look().await.unwrap(), None, "nothing is new");

    // one drains, one gets a new version, one goes without a word
    let second = ["b", "d", "e"].map(|text| line(text, V1, hold));
    let mut second = second.to_vec();
    second.extend([line("a", V1, drain), line("b", V2, hold)]);
    second.retain(|row| row.id != id("b") || row.version == V2);
    lead.tell(1, second).await;
    let mut told = node.look().await.unwrap().unwrap();
    told.lines.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(told.lines, [line("a", V1, drain), line("b", V2, hold)]);
    assert_eq!((told.dropped, told.kept), (Vec::new(), vec![id("c")]));

    // another drains, and is taken back while its line is there: nothing may be dropped
    for state in [drain, hold] {
        let lines = [line("a", V1, drain), line("b", V2, hold), line("d", V1, state)];
        lead.tell(1, [lines.to_vec(), vec![line("e", V1, hold)]].concat()).await;
        let told = node.look().await.unwrap().unwrap();
        assert_eq!(told.lines, [line("d", V1, state)]);
        assert_eq!((told.dropped, told.kept), (Vec::new(), Vec::new()));
    }

    // the line of the one that drained goes; and the table is cut differently, which is no news of the others
    let mut third: Vec<_> = ["d", "e"].map(|text| line(text, V1, hold)).into();
    third.push(line("b", V2, hold));
    third.extend((0..40).map(|n| line(&format!("new-{n}"), V1, hold)));
    lead.tell(1, third).await;
    let told = node.look().await.unwrap().unwrap();
    assert_eq!((told.dropped, told.kept), (vec![(id("a"), V1)], Vec::new()));
    assert_eq!(told.lines.len(), 40, "{:?}", told.lines);
    assert!(told.lines.iter().all(|row| row.id.as_str().starts_with("new-")));

    // one that starts again has seen nothing drain, and may drop nothing
    let mut again = member(&kv, &dir.path().join("session"));
    let told = again.look().await.unwrap().unwrap();
    assert_eq!((told.lines.len(), told.dropped.len()), (43, 0));
}

#[tokio::test]
async fn the_room_of_a_node_is_told_before_it_is_there_and_after() {
    let (dir, kv) = file();
    let mut node = member(&kv, &dir.path().join("session"));
    node.room(900).await.unwrap();
    set(&*kv, "trough/incarnation", "1").await;
    node.tell([holds("a", V1)], true).await.unwrap();
    assert_eq!(document(&*kv).await.quota_bytes, 900);
    node.room(700).await.unwrap();
    let said = document(&*kv).await;
    assert!(said.announced);
    assert_eq!((said.quota_bytes, said.stored_bytes), (700, V1.length));
}

#[tokio::test]
async fn what_is_absent_garbled_or_overtaken_changes_nothing() {
    let (dir, kv) = file();
    let mut lead = Lead::new(&kv);
    let mut node = member(&kv, &dir.path().join("session"));
    lead.tell(5, vec![line("a", V1, CopyState::Hold)]).await;
    node.look().await.unwrap().unwrap();
    for (value, garbled) in [("", true), ("what is this?", true), ("", false)] {
        for entry in
            kv.list(&assign_table(&name()).unwrap(), Consistency::Consistent).await.unwrap()
        {
            match garbled {
                true => set(&*kv, entry.key.as_str(), value).await,
                false => drop(kv.txn(&[Op::Delete { key: entry.key }]).await.unwrap()),
            }
        }
        match node.look().await {
            Ok(told) => assert_eq!(told, None),
            Err(MembershipError::Table(TableError::Undecodable { .. })) => assert!(garbled),
            Err(error) => panic!("{error}"),
        }
    }
    // a lead of before, which sleeps no longer
    let mut old = Lead::new(&kv);
    old.tell(4, vec![line("b", V1, CopyState::Hold)]).await;
    let error = node.look().await.unwrap_err();
    assert!(matches!(error, MembershipError::Table(TableError::Older { .. })), "{error}");
    let mut new = Lead::new(&kv);
    new.tell(6, vec![line("a", V1, CopyState::Hold), line("c", V1, CopyState::Hold)]).await;
    let told = node.look().await.unwrap().unwrap();
    assert_eq!(told.lines, [line("c", V1, CopyState::Hold)]);
    assert_eq!((told.dropped, told.kept), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn what_it_says_is_whole_before_it_counts() {
    let (dir, kv) = file();
    let breaking = BreakingKv::new(kv.clone());
    let through: Arc<dyn Kv> = breaking.clone();
    let mut node = member(&through, &dir.path().join("session"));
    // while there is more to come, it is there and says nothing
    node.tell([holds("a", V1)], false).await.unwrap();
    assert_eq!((document(&*kv).await.announced, held(&*kv).await.len()), (false, 0));
    // nor before somebody leads: it would count as old
    let early = node.tell([holds("b", V1)], true).await.unwrap_err();
    assert!(matches!(early, MembershipError::NoIncarnation(_)), "{early}");
    assert_eq!((document(&*kv).await.announced, held(&*kv).await.len()), (false, 0));
    set(&*kv, "trough/incarnation", "1").await;
    node.tell([], false).await.unwrap();
    let all = BTreeMap::from([(id("a"), V1), (id("b"), V1)]);
    assert_eq!(held(&*kv).await, all, "what could not be said before is said now");
    assert!(document(&*kv).await.announced);
    node.tell([holds("b", V2), (id("a"), None)], true).await.unwrap();
    let says = document(&*kv).await;
    assert_eq!((says.announced, says.stored_bytes), (true, 20));
    assert_eq!(held(&*kv).await, BTreeMap::from([(id("b"), V2)]));

    // a look that finds nothing to mend tells nobody anything
    let at = async || members(&*kv).await.unwrap()[0].modified;
    let before = at().await;
    node.mend().await.unwrap();
    assert_eq!(at().await, before);

    // another process took its place: the next word is refused, and the one after takes it back
    let mut other = member(&kv, &dir.path().join("session"));
    other.tell([holds("z", V1)], true).await.unwrap();
    let refused = node.tell([], true).await.unwrap_err();
    let over = matches!(
        refused,
        MembershipError::Table(TableError::Fenced { .. })
            | MembershipError::Node(NodeError::Over(_))
    );
    assert!(over, "{refused}");
    assert_eq!(held(&*kv).await, BTreeMap::from([(id("z"), V1)]));
    // back, but its holdings cannot be said yet: nobody is to take the other's for them
    breaking.break_at(0, Break::Refused);
    node.tell([], true).await.unwrap_err();
    breaking.mend();
    assert!(!document(&*kv).await.announced);
    node.tell([], true).await.unwrap();
    assert!(document(&*kv).await.announced);
    assert_eq!(held(&*kv).await, BTreeMap::from([(id("b"), V2)]));
    node.leave().await;
    assert!(!members(&*kv).await.unwrap()[0].registered);
}

/// What others are sent to a node for.
struct Sent {
    member: Member,
    served: watch::Receiver<Served>,
}

impl Sent {
    /// `None` as long as nobody is sent there.
    fn ids(&self) -> Option<String> {
        let served = self.served.borrow();
        let ids: Vec<_> = served.as_ref()?.iter().map(SegmentId::as_str).collect();
        Some(ids.join(" "))
    }

    async fn tell(&self, holds: Vec<(SegmentId, Option<HoldsRow>)>, all: bool) -> bool {
        let report = Report { holds, all, ..Report::default() };
        self.member.tell(&report).await.is_ok()
    }

    async fn look(&self) {
        let seen = self.member.look().await;
        assert!(matches!(seen, Seen::Lead { told: Some(_), .. }), "{seen:?}");
    }
}

#[tokio::test]
async fn others_are_sent_for_what_was_said_and_is_not_about_to_go() {
    let (dir, kv) = file();
    let breaking = BreakingKv::new(kv.clone());
    let through: Arc<dyn Kv> = breaking.clone();
    let membership = member(&through, &dir.path().join("session"));
    let member = Member::new(through, membership, Duration::from_secs(3_600));
    let node = Sent { served: member.served(), member };
    let mut lead = Lead::new(&kv);
    let (hold, drain) = (CopyState::Hold, CopyState::Drain { since_ms: 1 });

    // while there is more to come, and before somebody leads
    assert!(node.tell(vec![holds("a", V1)], false).await);
    assert!(!node.tell(vec![holds("b", V1)], true).await);
    assert_eq!(node.ids(), None);
    set(&*kv, "trough/incarnation", "1").await;
    node.member.look().await;
    assert_eq!(node.ids().unwrap(), "a b");

    // what could not be said is not counted on
    breaking.break_at(0, Break::Refused);
    assert!(!node.tell(vec![holds("c", V1), (id("a"), None)], true).await);
    assert_eq!(node.ids().unwrap(), "a b");
    breaking.mend();
    assert!(node.tell(vec![holds("a", V1)], true).await);
    assert_eq!(node.ids().unwrap(), "a b c");

    // from when it drains until it is gone, though it is held all the time
    lead.tell(1, vec![line("a", V1, drain), line("b", V1, hold), line("c", V1, hold)]).await;
    node.look().await;
    assert_eq!(node.ids().unwrap(), "b c");
    assert!(held(&*kv).await.contains_key(&id("a")));
    lead.tell(1, vec![line("b", V1, hold), line("c", V1, hold)]).await;
    node.look().await;
    assert_eq!(node.ids().unwrap(), "b c");
    assert!(node.tell(vec![(id("a"), None)], true).await);
    assert_eq!(node.ids().unwrap(), "b c");
    assert!(node.tell(vec![holds("a", V2)], true).await);
    assert_eq!(node.ids().unwrap(), "a b c", "it came again");

    // it is to stay after all: while it drains, and just before it goes
    for gone in [false, true] {
        lead.tell(1, vec![line("b", V1, drain), line("c", V1, hold)]).await;
        node.look().await;
        assert_eq!(node.ids().unwrap(), "a c");
        if gone {
            lead.tell(1, vec![line("c", V1, hold)]).await;
            node.look().await;
            assert_eq!(node.ids().unwrap(), "a c");
        }
        lead.tell(1, vec![line("b", V1, hold), line("c", V1, hold)]).await;
        node.look().await;
        assert_eq!(node.ids().unwrap(), "a b c", "gone: {gone}");
    }

    // another version than the one that drained stays, and so does what goes without a word
    assert!(node.tell(vec![holds("b", V2)], true).await);
    lead.tell(1, vec![line("b", V1, drain), line("c", V1, hold)]).await;
    node.look().await;
    assert_eq!(node.ids().unwrap(), "a c");
    lead.tell(1, vec![line("d", V1, hold)]).await;
    node.look().await;
    assert_eq!(node.ids().unwrap(), "a b c");

    // nobody is sent away because the registry is empty
    for entry in kv.list(&Key::new("trough").unwrap(), Consistency::Consistent).await.unwrap() {
        kv.txn(&[Op::Delete { key: entry.key }]).await.unwrap();
    }
    assert!(!node.tell(vec![holds("e", V1)], true).await);
    node.member.look().await;
    assert_eq!(node.ids().unwrap(), "a b c");
}

/// The registry is empty, nobody leads yet, and nothing changes on the node that would make it speak.
#[tokio::test]
async fn s10_a_node_says_everything_again_as_soon_as_somebody_leads() {
    let (dir, kv) = file();
    let session_file = dir.path().join("session");
    let member = Member::new(kv.clone(), member(&kv, &session_file), Duration::from_secs(3_600));
    set(&*kv, "trough/incarnation", "1").await;
    let report =
        Report { holds: vec![holds("a", V1), holds("b", V2)], all: true, ..Report::default() };
    member.tell(&report).await.unwrap();
    let before = held(&*kv).await;
    assert_eq!(before.len(), 2);

    let trough = Key::new("trough").unwrap();
    let session = SessionId::new(std::fs::read_to_string(&session_file).unwrap().trim()).unwrap();
    kv.destroy_session(&session).await.unwrap();
    for entry in kv.list(&trough, Consistency::Consistent).await.unwrap() {
        kv.txn(&[Op::Delete { key: entry.key }]).await.unwrap();
    }
    let there = async || members(&*kv).await.unwrap().iter().any(|member| member.registered);
    let looks = async {
        // it does not know yet that its session is over
        while !there().await {
            member.look().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(matches!(member.look().await, Seen::Nothing(_)), "nobody leads");
        set(&*kv, "trough/incarnation", "2").await;
        let seen = member.look().await;
        assert!(matches!(seen, Seen::Lead { told: None, registered: true, .. }), "{seen:?}");
    };
    tokio::time::timeout(PATIENCE, looks).await.unwrap();
    assert_eq!(held(&*kv).await, before);
    assert!(document(&*kv).await.announced);
}

/// As soon as it is deleted, and also of what was deleted while it was away.
#[tokio::test]
async fn a_node_hears_what_was_deleted() {
    let (dir, kv) = file();
    let tomb = async |id: &str| {
        let text = format!(
            r#"{{"format":1,"id":"{id}","versions":[{{"length":10,"mtime_ms":1}}],"deleted_ms":5}}"#
        );
        let (key, value) = (Key::new(format!("trough/tomb/{id}")).unwrap(), text.into_bytes());
        let value = zstd::bulk::compress(&value, 3).unwrap().into();
        kv.txn(&[Op::Set { key, value }]).await.unwrap();
    };
    tomb("a").await;
    let membership = member(&kv, &dir.path().join("session"));
    let member = Member::new(kv.clone(), membership, Duration::from_secs(3_600));
    set(&*kv, "trough/incarnation", "1").await;
    let hears = async |text: &str| {
        loop {
            let seen = member.look().await;
            let Seen::Lead { tombs, .. } = seen else { panic!("{seen:?}") };
            if tombs.names(&id(text), V1) {
                break;
            }
            assert!(!tombs.names(&id(text), V2));
            member.changed().await;
        }
    };
    tokio::time::timeout(PATIENCE, hears("a")).await.expect("it hears of the one before");
    let heard = async { tokio::join!(hears("b"), tomb("b")) };
    tokio::time::timeout(PATIENCE, heard).await.expect("it hears of the other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s10_a_consul_that_comes_back_empty_is_told_everything_again() {
    let consul = rig::consul::Consul::start();
    let address = consul.address().to_owned();
    let settings = ConsulSettings { address, timeouts: PATIENT, ..Default::default() };
    let kv: Arc<dyn Kv> = Arc::new(ConsulKv::new(&settings).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut node = member(&kv, &dir.path().join("session"));
    set(&*kv, "trough/incarnation", "1").await;
    node.tell([holds("a", V1), holds("b", V2)], true).await.unwrap();
    let before = held(&*kv).await;
    assert_eq!(before.len(), 2);
    let over = node.ending().unwrap();
    consul.restart_empty();
    tokio::time::timeout(PATIENCE, over.cancelled()).await.expect("it hears that it is over");
    assert!(members(&*kv).await.unwrap().is_empty());
    set(&*kv, "trough/incarnation", "2").await;
    node.tell([], false).await.unwrap();
    assert_eq!(held(&*kv).await, before);
    assert!(document(&*kv).await.announced, "it had said everything, and has again");
}
