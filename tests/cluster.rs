//! Nodes of a cluster: real caches, mounts and leads on a real Consul, in one process so that each can be looked into.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fsd::cache::{Cache, CacheSettings};
use fsd::scrub::ScrubSettings;
use fsd::segment::SegmentId;
use fsd::view::{MountState, MountView};
use rusqlite::{Connection, OpenFlags};
use sync::clock::{SystemClock, since_boot};
use sync::cluster::{PoolRow, pool_table};
use sync::kv::consul::{ConsulKv, ConsulSettings};
use sync::kv::{Kv, KvTimeouts, SESSION_TTL_MIN};
use sync::lead::{
    Candidate, CycleSettings, LeadHandle, LeadOutside, LeadService, LeadSettings, Orders,
};
use sync::local::seat::member::Member;
use sync::local::{Local, LocalHandle, LocalSettings, Outside};
use sync::membership::{Identity, Membership};
use sync::node::{Node, NodeName};
use sync::planner::{PlanSettings, Rules};
use sync::store::{Store, StorePath, StoreTimeouts};
use sync::table::TableReader;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[path = "support/segment.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod segment;

const BINARY: &str = env!("CARGO_BIN_EXE_trough");
const PATIENT: KvTimeouts = KvTimeouts { connect_ms: 10_000, call_ms: 20_000 };
/// The bound of every wait for an event: five times what a session that nobody renews may take to end, and its grace.
const PATIENCE: Duration = Duration::from_secs(120);
/// Copies of each segment.
const COPIES: usize = 2;

/// Waits until `holds`, or fails saying `what` did not happen.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn id(n: i64) -> SegmentId {
    SegmentId::new(&format!("s{n:03}")).unwrap()
}

/// What all share: a Consul, a deep store, and a place for the nodes' directories.
struct Cluster {
    consul: rig::consul::Consul,
    kv: Arc<dyn Kv>,
    dir: tempfile::TempDir,
    nodes: BTreeMap<String, TestNode>,
}

impl Cluster {
    fn new() -> Self {
        let consul = rig::consul::Consul::start();
        let kv = kv(&consul);
        let dir = tempfile::Builder::new().prefix("trough-test.").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("store")).unwrap();
        Self { consul, kv, dir, nodes: BTreeMap::new() }
    }

    fn store(&self) -> Arc<dyn Store> {
        let root = self.dir.path().join("store");
        sync::store::open(root.to_str().unwrap(), StoreTimeouts::default()).unwrap()
    }

    fn file(&self, n: i64) -> PathBuf {
        self.dir.path().join("store").join(StorePath::published(&id(n)).as_str())
    }

    /// Puts segment `n` into the store, with `value` in it.
    fn put(&self, n: i64, value: i64) {
        let file = self.file(n);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        segment::lay(&file, &segment::sound(value, 0));
    }

    async fn join(&mut self, name: &str) {
        let node = TestNode::start(name, self.dir.path(), kv(&self.consul), self.store()).await;
        self.nodes.insert(name.to_owned(), node);
    }

    fn lead(&self, node: &str) -> Lead {
        Lead::start(node, kv(&self.consul), self.store())
    }

    async fn pool(&self) -> BTreeMap<SegmentId, PoolRow> {
        let mut reader =
            TableReader::<PoolRow>::new(pool_table().unwrap(), Duration::ZERO).unwrap();
        let parts = match reader.look(&*self.kv).await {
            Ok(change) => change.map(|change| change.parts).unwrap_or_default(),
            // while Consul is away or begins anew
            Err(_) => Vec::new(),
        };
        parts.into_iter().flat_map(|(_, rows)| rows).map(|row| (row.id.clone(), row)).collect()
    }

    /// Waits until every one of `values` has its copies and each of its holders shows it.
    async fn settled(&self, what: &str, values: &BTreeMap<i64, i64>) {
        until(what, async || {
            let pool = self.pool().await;
            let ids: BTreeSet<SegmentId> = values.keys().map(|n| id(*n)).collect();
            pool.keys().eq(ids.iter())
                && values.iter().all(|(n, value)| {
                    let holders = &pool[&id(*n)].holders;
                    holders.len() == COPIES
                        && holders.iter().all(|name| {
                            let node = self.nodes.get(name.as_str());
                            node.is_some_and(|node| node.answer(&id(*n)) == Some(*value))
                        })
                })
        })
        .await;
    }

    /// Every segment as the pool table sends a reader for it: some holder that is up has it.
    async fn all_answered(&self, case: &str, values: &BTreeMap<i64, i64>) {
        for (id, row) in self.pool().await {
            let up = row.holders.iter().filter_map(|name| self.nodes.get(name.as_str()));
            let answers: Vec<Option<i64>> = up.map(|node| node.answer(&id)).collect();
            assert!(answers.iter().any(Option::is_some), "{case}: nobody answers for {row:?}");
            let n: i64 = id.as_str()[1..].parse().unwrap();
            for answer in answers.into_iter().flatten() {
                // the version of before, or the one that is coming
                assert!(
                    values.get(&n).is_none_or(|value| answer % 1_000 == value % 1_000),
                    "{case}"
                );
            }
        }
    }

    fn published(&self) -> u64 {
        self.nodes.values().map(|node| node.local.status().work.published_total).sum()
    }
}

fn kv(consul: &rig::consul::Consul) -> Arc<dyn Kv> {
    let address = consul.address().to_owned();
    let settings = ConsulSettings { address, timeouts: PATIENT, ..ConsulSettings::default() };
    Arc::new(ConsulKv::new(&settings).unwrap())
}

/// A synchronizer with the mount that shows its cache.
struct TestNode {
    dir: PathBuf,
    mount: Child,
    view: MountView,
    local: LocalHandle,
    shutdown: CancellationToken,
    running: Option<JoinHandle<()>>,
}

impl TestNode {
    async fn start(name: &str, root: &Path, kv: Arc<dyn Kv>, store: Arc<dyn Store>) -> Self {
        let dir = root.join(name);
        let cache_dir = dir.join("cache");
        let settings = CacheSettings {
            dir: cache_dir,
            quota_bytes: Some(1 << 30),
            ..CacheSettings::default()
        };
        let (cache, _) = Cache::open(&settings).unwrap();
        let log = std::fs::File::create(dir.join("fsd.log")).unwrap();
        let mut command = Command::new(BINARY);
        command.args(["fsd", "--dir"]).arg(&dir).stdin(Stdio::null()).stderr(log);
        let mount = command.env_remove("TROUGH_LOG").spawn().unwrap();
        let view = MountView::new(dir.join("mount"));

        let who = Identity {
            name: NodeName::new(name).unwrap(),
            session_file: dir.join("session"),
            session_ttl: SESSION_TTL_MIN,
            since_boot: Arc::new(since_boot),
        };
        let node = Node::new(1 << 30, &format!("{name}:6444"), &format!("{name}:6112"));
        let membership = Membership::new(kv.clone(), who, node).unwrap();
        let member = Member::new(kv, membership, Duration::from_secs(60));
        let assignment = Box::new(member.assignment());
        let outside = Outside {
            node: name.to_owned(),
            cache,
            store,
            seat: Arc::new(member),
            view: view.clone(),
            clock: Arc::new(SystemClock),
        };
        let settings = LocalSettings {
            period_s: 5,
            drain_ms: 100,
            retry_first_ms: 100,
            retry_longest_ms: 500,
            ..LocalSettings::default()
        };
        let scrub = ScrubSettings::default();
        let local = Local::start(settings, scrub, outside, assignment).await.unwrap();
        let (handle, shutdown) = (local.handle(), CancellationToken::new());
        let stop = shutdown.clone();
        let running = tokio::spawn(async move { local.run(stop).await.unwrap() });
        Self { dir, mount, view, local: handle, shutdown, running: Some(running) }
    }

    /// What the segment says, read as a reader does.
    fn answer(&self, id: &SegmentId) -> Option<i64> {
        if self.view.state() != MountState::Live {
            return None;
        }
        let uri = format!("file:{}?immutable=1", self.view.path(id).display());
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let connection = Connection::open_with_flags(uri, flags).ok()?;
        connection.query_row("SELECT n FROM t", [], |row| row.get(0)).ok()
    }

    /// It stops, mount and all; what it has stays on its disk.
    async fn stop(mut self) {
        self.shutdown.cancel();
        if let Some(running) = self.running.take() {
            running.await.unwrap();
        }
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.mount),
            rustix::process::Signal::TERM,
        );
        let _ = self.mount.wait();
        let _ = trough::up::leftover::detach(&self.dir.join("mount"));
    }
}

/// A candidate that runs.
struct Lead {
    handle: LeadHandle,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

impl Lead {
    fn start(node: &str, kv: Arc<dyn Kv>, store: Arc<dyn Store>) -> Self {
        let election = LeadSettings { session_ttl_s: 10, lock_delay_s: 1 };
        let clock = Arc::new(SystemClock);
        let candidate = Candidate::new(
            kv.clone(),
            store.clone(),
            clock.clone(),
            Arc::new(since_boot),
            &election,
            node,
            &format!("{node}:6111"),
        );
        let cycle =
            CycleSettings { period_s: 1, settle_s: 8, doubt_s: 5, ..CycleSettings::default() };
        let plan =
            PlanSettings { drain_grace_ms: 1_000, lost_grace_ms: 1_000, ..PlanSettings::default() };
        let rules = Rules::new(plan, Vec::new()).unwrap();
        let outside = LeadOutside { kv, store, clock };
        let (service, handle) = LeadService::new(candidate.unwrap(), outside, cycle, rules);
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(service.run(shutdown.clone()));
        Self { handle, shutdown, running }
    }

    fn leads(&self) -> bool {
        self.handle.status().epoch.is_some()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn s9_s10_three_nodes_hold_what_the_lead_says_through_what_goes_wrong() {
    let mut cluster = Cluster::new();
    let mut values: BTreeMap<i64, i64> = (0..12).map(|n| (n, n)).collect();
    for (n, value) in &values {
        cluster.put(*n, *value);
    }
    for name in ["a", "b", "c"] {
        cluster.join(name).await;
    }
    let (one, two) = (cluster.lead("a"), cluster.lead("b"));
    cluster.settled("the pool to be spread over the nodes", &values).await;

    // a new version, a new segment, one that goes
    cluster.put(3, 1_003);
    values.insert(3, 1_003);
    cluster.put(12, 12);
    values.insert(12, 12);
    std::fs::remove_file(cluster.file(7)).unwrap();
    values.remove(&7);
    cluster.settled("what changed in the store", &values).await;
    until("what left the store to leave the mounts", async || {
        cluster.nodes.values().all(|node| node.answer(&id(7)).is_none())
    })
    .await;

    // the lead is told to stop: another leads, and nothing moves
    let pulled = cluster.published();
    let (leading, other) = if one.leads() { (one, two) } else { (two, one) };
    leading.stop().await;
    until("the other to lead", async || other.leads()).await;
    assert!(other.handle.cycle_now(PATIENCE).await);
    cluster.settled("what was there", &values).await;
    assert_eq!(cluster.published(), pulled);

    // a node dies: the others answer for all that it had, and make it good
    cluster.nodes.remove("b").unwrap().stop().await;
    let whole = async |cluster: &Cluster| {
        let pool = cluster.pool().await;
        pool.len() == values.len()
            && pool.values().all(|row| {
                row.holders.len() == COPIES && row.holders.iter().all(|name| name.as_str() != "b")
            })
    };
    until("the dead node's copies to be made good", async || {
        cluster.all_answered("while a node is dead", &values).await;
        whole(&cluster).await
    })
    .await;

    // it is back, with what it had
    cluster.join("b").await;
    until("the node to be counted on again", async || {
        cluster.all_answered("while a node returns", &values).await;
        let status = other.handle.status();
        let nodes = &status.cycle.as_ref().unwrap().nodes;
        nodes.iter().all(|node| node.node.announced)
    })
    .await;
    cluster.settled("the node to have its share again", &values).await;

    // a node is to be emptied: nothing is missing meanwhile
    let empty = NodeName::new("c").unwrap();
    Orders::change(&*cluster.kv, |orders| orders.decommission.extend([empty.clone()]))
        .await
        .unwrap();
    until("the node to be empty", async || {
        cluster.all_answered("while a node is emptied", &values).await;
        let node = &cluster.nodes["c"];
        values.keys().all(|n| node.answer(&id(*n)).is_none())
    })
    .await;
    Orders::change(&*cluster.kv, |orders| orders.decommission.clear()).await.unwrap();

    cluster.settled("the node to have its share again", &values).await;
    let copies = (values.len() * COPIES) as u64;
    until("rest", async || {
        let status = other.handle.status();
        status.cycle.as_ref().is_some_and(|cycle| {
            let nodes = &cycle.nodes;
            cycle.moves == 0
                && nodes.iter().all(|node| node.told > 0 && node.holds == Some(node.told))
                && nodes.iter().map(|node| node.told).sum::<u64>() == copies
                && nodes.iter().all(|node| node.draining == 0)
        })
    })
    .await;

    // Consul comes back empty: what is mounted goes on being served, and nothing is pulled again
    let (pulled, before) = (cluster.published(), cluster.pool().await);
    cluster.consul.restart_empty();
    until("the pool to be known again", async || {
        for row in before.values() {
            for holder in &row.holders {
                let node = &cluster.nodes[holder.as_str()];
                let (served, lead) = (node.answer(&row.id), other.handle.status());
                assert!(served.is_some(), "{holder} dropped {}: {lead:#?}", row.id);
            }
        }
        cluster.pool().await == before
    })
    .await;
    assert_eq!(cluster.published(), pulled, "something was pulled again");

    other.stop().await;
    for (_, node) in std::mem::take(&mut cluster.nodes) {
        node.stop().await;
    }
}
