//! The pages of candidates for the lead, on a registry in a file.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fsd::segment::{SegmentId, Stamp};
use proxy::guarded::ManagerSettings;
use reqwest::{Client, RequestBuilder};
use sync::clock::{SystemClock, since_boot};
use sync::cluster::HoldsRow;
use sync::kv::sqlite::SqliteKv;
use sync::kv::{Kv, KvTimeouts};
use sync::lead::{
    Candidate, CycleSettings, LeadHandle, LeadOutside, LeadService, LeadSettings, LeadStatus,
};
use sync::membership::{Identity, Membership};
use sync::node::{Node, NodeName};
use sync::planner::{PlanSettings, Rules};
use sync::pool_view::PoolView;
use sync::store::{StoreTimeouts, open};
use sync::tag::Tag;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::rig::metrics;

/// The bound of every wait for an event.
const PATIENCE: Duration = Duration::from_secs(60);
/// So long that no session ends while a test holds the registry up.
const SESSION_S: u64 = 600;

fn kv(dir: &Path) -> Arc<dyn Kv> {
    let timeouts = KvTimeouts { connect_ms: 2_000, call_ms: 2_000 };
    Arc::new(SqliteKv::open(dir.join("kv"), since_boot, timeouts).unwrap())
}

struct Lead {
    root: String,
    client: Client,
    handle: LeadHandle,
    pages: JoinHandle<anyhow::Result<()>>,
    service: Option<LeadService>,
    running: Option<JoinHandle<()>>,
    shutdown: CancellationToken,
}

impl Lead {
    /// Its pages are there; it does not run yet.
    async fn new(dir: &Path, node: &str) -> Self {
        let store = open(dir.join("store").to_str().unwrap(), StoreTimeouts::default()).unwrap();
        let (kv, clock) = (kv(dir), Arc::new(SystemClock));
        let election = LeadSettings { session_ttl_s: SESSION_S, lock_delay_s: 0 };
        let candidate = Candidate::new(
            kv.clone(),
            store.clone(),
            clock.clone(),
            Arc::new(since_boot),
            &election,
            node,
            &format!("{node}:6111"),
        );
        let outside = LeadOutside { kv: kv.clone(), store, clock };
        let cycle =
            CycleSettings { period_s: 3_600, settle_s: 0, doubt_s: 3_600, ..Default::default() };
        let rules = Rules::new(PlanSettings::default(), Vec::new()).unwrap();
        let (service, handle) = LeadService::new(candidate.unwrap(), outside, cycle, rules);
        let shutdown = CancellationToken::new();
        let (root, pages) = serve(handle.clone(), kv, &shutdown).await;
        let client = Client::builder().no_proxy().build().unwrap();
        Self { root, client, handle, pages, service: Some(service), running: None, shutdown }
    }

    fn run(&mut self) {
        let service = self.service.take().expect("it does not run yet");
        self.running = Some(tokio::spawn(service.run(self.shutdown.clone())));
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.running.unwrap().await.unwrap();
        self.pages.await.unwrap().unwrap();
    }

    async fn get(&self, path: &str) -> (u16, String) {
        answer(self.client.get(format!("{}{path}", self.root))).await
    }

    async fn post(&self, path: &str) -> (u16, String) {
        answer(self.client.post(format!("{}{path}", self.root))).await
    }

    async fn status(&self) -> LeadStatus {
        let (status, text) = self.get("/status").await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn until_it_leads(&self) {
        let leads = async {
            while self.status().await.epoch.is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, leads).await.expect("it leads");
    }

    /// Waits until a page has this status; its text.
    async fn until(&self, path: &str, wanted: u16) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, text) = self.get(path).await;
            if status == wanted {
                return text;
            }
            assert!(Instant::now() < deadline, "{path} is {status} and not {wanted}: {text}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn serve(
    handle: LeadHandle,
    kv: Arc<dyn Kv>,
    shutdown: &CancellationToken,
) -> (String, JoinHandle<anyhow::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let root = format!("http://{}", listener.local_addr().unwrap());
    let view = Arc::new(PoolView::default());
    let (settings, followed) = (ManagerSettings::default(), view.clone());
    let stop = shutdown.clone();
    tokio::spawn(async move { stop.run_until_cancelled(followed.follow(&*kv)).await });
    let pages =
        proxy::lead::run(settings, listener, handle, view, None, metrics(), shutdown.clone());
    (root, tokio::spawn(pages))
}

async fn answer(request: RequestBuilder) -> (u16, String) {
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// Puts a segment into the store, and has a node say that it holds it.
async fn hold(dir: &Path, id: &str) -> Membership {
    let file = dir.join("store").join(format!("{id}.sqlite"));
    std::fs::write(&file, "bytes").unwrap();
    let meta = file.metadata().unwrap();
    let mtime = meta.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    let version = Stamp { length: 5, mtime_ms: mtime.as_millis().try_into().unwrap() };
    let who = Identity {
        name: NodeName::new("a").unwrap(),
        session_file: dir.join("session"),
        session_ttl: Duration::from_secs(SESSION_S),
        since_boot: Arc::new(since_boot),
    };
    let mut member = Membership::new(kv(dir), who, Node::new(1 << 20, "a:1", "a:2")).unwrap();
    let id = SegmentId::new(id).unwrap();
    let row = HoldsRow { id: id.clone(), version, tag: Tag::of(b"bytes") };
    member.tell([(id, Some(row))], true).await.unwrap();
    member
}

#[tokio::test]
async fn who_leads_takes_orders_and_who_follows_says_who_does() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("store")).unwrap();
    let mut one = Lead::new(dir.path(), "one").await;
    assert_eq!(one.get("/health").await, (503, "nobody leads\n".to_owned()));
    let (status, text) = one.post("/sync?wait=1").await;
    assert!(status == 421 && text.contains("nobody else does"), "{status} {text}");
    assert_eq!(one.get("/health/ohio").await.0, 500);

    one.run();
    one.until_it_leads().await;
    let _member = hold(dir.path(), "ohio").await;
    let cycles = one.status().await.cycles;
    assert_eq!(one.post("/sync?wait=1").await, (200, "{\"cycle\":\"ended\"}".to_owned()));
    let status = one.status().await;
    assert!(status.cycles > cycles && status.epoch.is_some(), "{status:?}");
    let listed = status.listed.expect("the deep store was listed");
    assert!(listed.at_ms > 0 && listed.report.complete());
    // one that is quick has ended before the answer is written
    let said = one.post("/sync").await;
    let right = [(202, "{\"cycle\":\"ordered\"}"), (200, "{\"cycle\":\"ended\"}")];
    assert!(right.contains(&(said.0, &said.1)), "{said:?}");
    assert_eq!(one.until("/health/ohio", 200).await, "OK\n");
    let (status, text) = one.get("/health/utah").await;
    assert!(status == 500 && text.contains("not in the pool"), "{status} {text}");
    let (status, text) = one.get("/metrics").await;
    assert!(status == 200 && text.contains("trough_lead 1"), "{status} {text}");
    assert_eq!(one.get("/sync").await.0, 405);

    let mut two = Lead::new(dir.path(), "two").await;
    two.run();
    two.until("/health", 200).await;
    two.until("/health/ohio", 200).await;
    let follower = two.status().await;
    assert_eq!((follower.epoch, follower.leader.unwrap().node.as_str()), (None, "one"));
    for path in ["/sync", "/sync?wait=1"] {
        let (status, text) = two.post(path).await;
        assert!(status == 421 && text.contains("one at one:6111 does"), "{status} {text}");
    }

    // a page in a browser, by its own name or by ours
    for (name, value, status) in
        [("origin", "http://evil.example", 403), ("host", "evil.example", 421)]
    {
        let request = one.client.post(format!("{}/sync", one.root)).header(name, value);
        assert_eq!(answer(request).await.0, status, "{name}: {value}");
    }

    one.stop().await;
    two.until_it_leads().await;
    assert_eq!(two.get("/health").await, (200, "OK\n".to_owned()));
    two.stop().await;
}

#[tokio::test]
async fn a_cycle_that_fails_and_a_registry_that_is_away_are_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("store")).unwrap();
    let mut one = Lead::new(dir.path(), "one").await;
    one.run();
    one.until_it_leads().await;
    let mut two = Lead::new(dir.path(), "two").await;
    two.run();
    two.until("/health", 200).await;

    // somebody keeps everybody else from writing
    let lock = rusqlite::Connection::open(dir.path().join("kv")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    std::fs::write(dir.path().join("store/new.sqlite"), "bytes").unwrap();
    let (status, text) = one.post("/sync?wait=1").await;
    assert!(status == 503 && text.contains("came to nothing"), "{status} {text}");
    let text = one.until("/health", 503).await;
    assert!(text.contains("the newest cycle failed"), "{text}");
    lock.execute_batch("ROLLBACK").unwrap();
    drop(lock);
    assert_eq!(one.post("/sync?wait=1").await.0, 200);
    one.until("/health", 200).await;

    // the registry cannot be asked
    std::fs::remove_file(dir.path().join("kv")).unwrap();
    std::fs::create_dir(dir.path().join("kv")).unwrap();
    let text = two.until("/health", 503).await;
    assert!(text.contains("cannot see who does"), "{text}");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn an_address_that_others_reach_is_refused_unless_wanted() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("store")).unwrap();
    let open = async |settings: ManagerSettings| {
        let lead = Lead::new(dir.path(), "one").await;
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let stopped = CancellationToken::new();
        stopped.cancel();
        let (handle, view) = (lead.handle.clone(), Arc::new(PoolView::default()));
        proxy::lead::run(settings, listener, handle, view, None, metrics(), stopped).await
    };
    let error = open(ManagerSettings::default()).await.unwrap_err();
    assert!(error.to_string().contains("insecure_open"), "{error}");
    open(ManagerSettings { insecure_open: true, ..ManagerSettings::default() }).await.unwrap();
}
