//! A registry, a deep store and nodes without machines, for tests of the lead.
//!
//! The nodes speak to the registry as real ones do; what they are told to hold they have at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fsd::segment::SegmentId;
use sync::clock::{Clock, SinceBoot, since_boot};
use sync::cluster::{AssignRow, HoldsRow, PoolRow, assign_table, pool_table};
use sync::delete::{DeleteOutside, Deleter, PoolSource};
use sync::kv::sqlite::SqliteKv;
use sync::kv::{Kv, KvTimeouts, SESSION_TTL_MAX, SESSION_TTL_MIN};
use sync::lead::{Candidate, CycleReport, CycleSettings, Lead, LeadOutside, LeadSettings, Term};
use sync::membership::{Identity, Membership, MembershipError};
use sync::node::{Node, NodeName};
use sync::planner::{CopyState, PlanSettings, Rules};
use sync::store::{Store, StorePath, StoreTimeouts, open};
use sync::table::{TableReader, Written};
use sync::tag::Tag;
use sync::tomb::Tombs;
use sync::write_lock::WriteLocks;
use tokio_util::sync::CancellationToken;

pub const DRAIN_MS: u64 = 1_000;
pub const LOST_MS: u64 = 60_000;
/// Of readers that only look.
const NO_WAIT: Duration = Duration::ZERO;
/// Every file of the pool.
pub const LENGTH: usize = 4096;

const PATIENT: KvTimeouts = KvTimeouts { connect_ms: 10_000, call_ms: 20_000 };

pub type PoolRows = BTreeMap<SegmentId, PoolRow>;

pub fn id(n: u64) -> SegmentId {
    SegmentId::new(&format!("s{n:03}")).unwrap()
}

/// The time of day, which only the test moves.
#[derive(Debug, Clone)]
pub struct TestClock(Arc<AtomicU64>);

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

pub struct Place {
    dir: tempfile::TempDir,
    pub kv: Arc<dyn Kv>,
    registries: u32,
    store: Arc<dyn Store>,
    clock: TestClock,
    pub settle_s: u64,
    pub nodes: BTreeMap<String, TestNode>,
    pub term: Option<Term>,
    /// What leads go through, when that is not the nodes' way.
    pub leads_kv: Option<Arc<dyn Kv>>,
    /// What the next lead remembers of an earlier term.
    pub remembered: BTreeSet<NodeName>,
}

impl Place {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        std::fs::create_dir(&root).unwrap();
        let store = open(root.to_str().unwrap(), StoreTimeouts::default()).unwrap();
        let kv = sqlite(&dir, 0);
        let clock = TestClock(Arc::new(AtomicU64::new(1_000_000)));
        let (nodes, term) = (BTreeMap::new(), None);
        Self {
            dir,
            kv,
            registries: 0,
            store,
            clock,
            settle_s: 0,
            nodes,
            term,
            leads_kv: None,
            remembered: BTreeSet::new(),
        }
    }

    /// `segments` of them on nodes with room for all, two copies each.
    pub async fn at_rest(segments: u64, nodes: &[&str]) -> (Self, Lead) {
        let mut place = Self::new().await;
        let lead = place.rest(segments, nodes).await;
        (place, lead)
    }

    /// [`Self::at_rest`], here.
    pub async fn rest(&mut self, segments: u64, nodes: &[&str]) -> Lead {
        self.put(0..segments, 1);
        for node in nodes {
            self.join(node, 1 << 20).await;
        }
        let mut lead = self.lead().await;
        self.announce().await;
        self.converge(&mut lead).await;
        lead
    }

    /// Another registry, in which nothing is. The nodes still have the old one, until they rejoin.
    pub async fn empty_the_registry(&mut self) {
        self.registries += 1;
        self.kv = sqlite(&self.dir, self.registries);
        self.term = None;
    }

    pub fn pass_ms(&self, ms: u64) {
        self.clock.0.fetch_add(ms, Ordering::SeqCst);
    }

    /// Puts segments into the store, in a version of their own.
    pub fn put(&self, ids: std::ops::Range<u64>, version: u64) {
        for n in ids {
            let path = self.file(n);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, vec![b'x'; LENGTH]).unwrap();
            let mtime: SystemTime = UNIX_EPOCH + Duration::from_secs(1_000 * version);
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(mtime).unwrap();
        }
    }

    pub fn unput(&self, n: u64) {
        std::fs::remove_file(self.file(n)).unwrap();
    }

    /// Deletes a segment as a person does.
    pub async fn delete(&self, n: u64) {
        let LeadOutside { kv, store, clock } = self.outside();
        let (boot, holder): (SinceBoot, _) = (Arc::new(since_boot), "a deletion".to_owned());
        let (day, ttl) = (clock.clone(), SESSION_TTL_MIN);
        let locks = WriteLocks::new(kv.clone(), store.clone(), day, boot, ttl, holder).unwrap();
        let outside = DeleteOutside {
            locks: Arc::new(locks),
            store,
            pool: PoolSource::Table(kv.clone()),
            kv,
            clock,
            on_deleted: Arc::new(|| {}),
        };
        Deleter::new(outside).delete(&id(n)).await.unwrap();
    }

    /// The same with a file that is still there, as it was.
    pub async fn delete_late(&self, n: u64) {
        let modified = std::fs::metadata(self.file(n)).unwrap().modified().unwrap();
        self.delete(n).await;
        let version = modified.duration_since(UNIX_EPOCH).unwrap().as_secs() / 1_000;
        self.put(n..n + 1, version);
    }

    /// Of which segments something was deleted.
    pub async fn tombs(&self) -> Vec<SegmentId> {
        let mut tombs = Tombs::default();
        tombs.look(&*self.kv).await.unwrap();
        let mut ids: Vec<_> = tombs.ids().cloned().collect();
        ids.sort();
        ids
    }

    fn file(&self, n: u64) -> std::path::PathBuf {
        self.dir.path().join("store").join(StorePath::published(&id(n)).as_str())
    }

    pub fn outside(&self) -> LeadOutside {
        let kv = self.leads_kv.as_ref().unwrap_or(&self.kv).clone();
        let store = self.store.clone();
        LeadOutside { kv, store, clock: Arc::new(self.clock.clone()) }
    }

    pub fn candidate(&self, node: &str) -> Candidate {
        let outside = self.outside();
        let settings = LeadSettings { session_ttl_s: 600, lock_delay_s: 0 };
        let (kv, store, clock) = (outside.kv, outside.store, outside.clock);
        let boot: SinceBoot = Arc::new(since_boot);
        Candidate::new(kv, store, clock, boot, &settings, node, &format!("{node}:6111")).unwrap()
    }

    /// One that leads.
    pub async fn lead(&mut self) -> Lead {
        let term =
            self.candidate("lead").campaign(&CancellationToken::new()).await.unwrap().unwrap();
        let lead = self.begin(&term).await;
        self.term = Some(term);
        lead
    }

    /// The one that leads after `term`, whose session was ended behind its back.
    pub async fn after(&mut self, term: Term) -> Lead {
        self.kv.destroy_session(term.session()).await.unwrap();
        self.lead().await
    }

    pub async fn begin(&self, term: &Term) -> Lead {
        let settle_s = self.settle_s;
        let settings = CycleSettings { settle_s, doubt_s: 0, ..CycleSettings::default() };
        let rules = Arc::new(rules());
        Lead::begin(self.outside(), settings, rules, self.remembered.clone(), term).await.unwrap()
    }

    /// A node that has nothing.
    pub async fn join(&mut self, name: &str, quota_bytes: u64) {
        self.join_with(name, quota_bytes, BTreeMap::new()).await;
    }

    /// A node that has something on its disk.
    pub async fn join_with(
        &mut self,
        name: &str,
        quota_bytes: u64,
        held: BTreeMap<SegmentId, HoldsRow>,
    ) {
        let mut node = TestNode::new(&self.kv, &self.dir, name, quota_bytes, held);
        match node.announce().await {
            // it is registered, and says it as soon as somebody leads
            Ok(()) | Err(MembershipError::NoIncarnation(_)) => {}
            Err(error) => panic!("{error}"),
        }
        self.nodes.insert(name.to_owned(), node);
    }

    /// A node that is there, and has not said what it has.
    pub async fn join_silent(&mut self, name: &str, held: BTreeMap<SegmentId, HoldsRow>) {
        let _ = std::fs::remove_file(self.dir.path().join(name));
        let mut node = TestNode::new(&self.kv, &self.dir, name, 1 << 20, held);
        node.member.tell([], false).await.unwrap();
        self.nodes.insert(name.to_owned(), node);
    }

    /// The node goes; gives back what it has on its disk.
    pub async fn leave(&mut self, name: &str) -> BTreeMap<SegmentId, HoldsRow> {
        let node = self.nodes.remove(name).unwrap();
        node.member.leave().await;
        node.held
    }

    /// The node registers with the registry of now, with what it holds.
    pub async fn rejoin(&mut self, name: &str) {
        let node = self.nodes.remove(name).unwrap();
        let _ = std::fs::remove_file(self.dir.path().join(name));
        self.join_with(name, node.member.node().quota_bytes, node.held).await;
    }

    /// Every node does what it is told; whether that was anything new.
    pub async fn follow(&mut self) -> bool {
        let mut changed = false;
        for node in self.nodes.values_mut() {
            changed |= node.follow().await;
        }
        changed
    }

    /// Every node says all that it holds, though nothing changed.
    pub async fn announce(&mut self) {
        for node in self.nodes.values_mut() {
            node.announce().await.unwrap();
        }
    }

    /// Goes around until nothing is written any more.
    pub async fn converge(&mut self, lead: &mut Lead) -> CycleReport {
        for _ in 0..50 {
            if let Some(at) = lead.settled_at() {
                tokio::time::sleep_until(at).await;
            }
            let changed = self.follow().await;
            self.pass_ms(DRAIN_MS);
            let report = lead.cycle(true).await.unwrap();
            if !changed && report.written == Written::default() && report.unplanned.is_none() {
                return report;
            }
        }
        panic!("it does not come to rest");
    }

    /// The pool table, as a reader that knows nothing yet sees it.
    pub async fn pool(&self) -> PoolRows {
        let mut reader = TableReader::<PoolRow>::new(pool_table().unwrap(), NO_WAIT).unwrap();
        let change = reader.look(&*self.kv).await.unwrap();
        let parts = change.map(|change| change.parts).unwrap_or_default();
        parts.into_iter().flat_map(|(_, rows)| rows).map(|row| (row.id.clone(), row)).collect()
    }

    /// Make before break: whoever asks by the pool table as it is now is answered, whatever the nodes have done already
    /// of what they are told, and nobody is named who was told to drain.
    pub async fn is_answered(&mut self, case: &str) {
        let pool = self.pool().await;
        for (name, node) in &self.nodes {
            let name = NodeName::new(name).unwrap();
            for row in node.assigned_anew().await {
                let named = pool.get(&row.id).is_some_and(|at| at.holders.contains(&name));
                let drains = matches!(row.state, CopyState::Drain { .. });
                assert!(!(named && drains), "{case}: {name} drains {}", row.id);
            }
        }
        self.follow().await;
        for row in pool.values() {
            for holder in &row.holders {
                assert!(self.nodes[holder.as_str()].held.contains_key(&row.id), "{case}: {row:?}");
            }
        }
    }

    pub fn held(&self) -> BTreeMap<String, Vec<SegmentId>> {
        let held = |node: &TestNode| node.held.keys().cloned().collect();
        self.nodes.iter().map(|(name, node)| (name.clone(), held(node))).collect()
    }
}

pub fn rules() -> Rules {
    let plan = PlanSettings {
        drain_grace_ms: DRAIN_MS,
        lost_grace_ms: LOST_MS,
        ..PlanSettings::default()
    };
    Rules::new(plan, Vec::new()).unwrap()
}

fn sqlite(dir: &tempfile::TempDir, n: u32) -> Arc<dyn Kv> {
    let file = dir.path().join(format!("kv-{n}"));
    Arc::new(SqliteKv::open(file, since_boot, PATIENT).unwrap())
}

pub struct TestNode {
    kv: Arc<dyn Kv>,
    name: NodeName,
    member: Membership,
    pub held: BTreeMap<SegmentId, HoldsRow>,
}

impl TestNode {
    fn new(
        kv: &Arc<dyn Kv>,
        dir: &tempfile::TempDir,
        name: &str,
        quota_bytes: u64,
        held: BTreeMap<SegmentId, HoldsRow>,
    ) -> Self {
        let node = Node::new(quota_bytes, &format!("{name}:6444"), &format!("{name}:6112"));
        let who = Identity {
            name: NodeName::new(name).unwrap(),
            session_file: dir.path().join(name),
            session_ttl: SESSION_TTL_MAX,
            since_boot: Arc::new(since_boot),
        };
        let (kv, name) = (kv.clone(), who.name.clone());
        let member = Membership::new(kv.clone(), who, node).unwrap();
        Self { kv, name, member, held }
    }

    /// Does what it is told, and says so; whether it was told anything new.
    pub async fn follow(&mut self) -> bool {
        let Some(told) = self.member.look().await.unwrap() else { return false };
        let mut changes = Vec::new();
        for AssignRow { id, version, state, .. } in told.lines {
            if let CopyState::Hold | CopyState::Leave = state {
                let tag = Tag::of(format!("{id} {version}").as_bytes());
                let row = HoldsRow { id: id.clone(), version, tag };
                self.held.insert(id.clone(), row.clone());
                changes.push((id, Some(row)));
            }
        }
        for (id, version) in told.dropped {
            if self.held.get(&id).is_some_and(|row| row.version == version) {
                self.held.remove(&id);
                changes.push((id, None));
            }
        }
        self.member.tell(changes, true).await.unwrap();
        true
    }

    /// Says all that it holds.
    pub async fn announce(&mut self) -> Result<(), MembershipError> {
        let all: Vec<_> =
            self.held.iter().map(|(id, row)| (id.clone(), Some(row.clone()))).collect();
        self.member.tell(all, true).await
    }

    /// Looks whether its table is still what it wrote.
    pub async fn mend(&mut self) {
        self.member.mend().await.unwrap();
    }

    /// Its table as one sees it who knows nothing yet.
    pub async fn assigned_anew(&self) -> Vec<AssignRow> {
        let table = assign_table(&self.name).unwrap();
        let mut reader = TableReader::<AssignRow>::new(table, NO_WAIT).unwrap();
        let change = reader.look(&*self.kv).await.unwrap();
        let parts = change.map(|change| change.parts).unwrap_or_default();
        parts.into_iter().flat_map(|(_, rows)| rows).collect()
    }
}
