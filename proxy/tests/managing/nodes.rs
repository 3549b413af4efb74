//! A lead and nodes without machines: each takes orders as a test says, and takes locks as a real one does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use fsd::segment::{SegmentId, Stamp};
use proxy::managing::lead::{LeadManager, LeadOutside};
use proxy::route::LOAD_HEADER;
use proxy::segments::Provisioned;
use serde_json::{Value, json};
use sync::clock::{SystemClock, since_boot};
use sync::cluster::{HoldsRow, PoolRow, pool_table};
use sync::delete::{DeleteOutside, Deleter, PoolSource};
use sync::kv::{Key, Kv, Op, SESSION_TTL_MAX, SESSION_TTL_MIN};
use sync::lead::LeadStatus;
use sync::membership::{Identity, Membership};
use sync::node::{Node, NodeName};
use sync::pool::PoolEntry;
use sync::pool_view::PoolView;
use sync::registry::Epoch;
use sync::store::StorePath;
use sync::table::TableWriter;
use sync::tag::Tag;
use sync::write_lock::{Claimant, Takeover, WriteLock, WriteLocks};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::{Place, id, until};

const EPOCH: Epoch = Epoch { incarnation: 1, index: 1 };

pub fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

/// The locks of one process.
pub fn locks(place: &Place, holder: &str) -> WriteLocks {
    let (kv, store, clock) = (place.kv(), place.store(), Arc::new(SystemClock));
    let (boot, holder) = (Arc::new(since_boot), holder.to_owned());
    WriteLocks::new(kv, store, clock, boot, SESSION_TTL_MIN, holder).unwrap()
}

pub fn deleter(place: &Place, pool: PoolSource) -> Arc<Deleter> {
    Arc::new(Deleter::new(DeleteOutside {
        store: place.store(),
        kv: place.kv(),
        locks: Arc::new(locks(place, "a deletion")),
        pool,
        clock: Arc::new(SystemClock),
        on_deleted: Arc::new(|| {}),
    }))
}

/// A candidate, and what it hears.
pub struct Lead {
    pub place: Place,
    pub kv: Arc<dyn Kv>,
    pub manager: Arc<LeadManager>,
    pub status: watch::Sender<Arc<LeadStatus>>,
    pub pool: Arc<PoolView>,
    _following: JoinHandle<()>,
}

impl Lead {
    /// One that leads.
    pub async fn new() -> Self {
        Self::with_token(None).await
    }

    pub async fn with_token(token: Option<&str>) -> Self {
        let place = Place::new();
        let kv = place.kv();
        // there is an incarnation once somebody took a lock
        locks(&place, "the first").acquire(&id("first")).await.unwrap().release().await;
        let leads = LeadStatus { epoch: Some(EPOCH), ..LeadStatus::default() };
        let (status, seen) = watch::channel(Arc::new(leads));
        let pool = Arc::new(PoolView::default());
        let (followed, follower) = (pool.clone(), place.kv());
        let following = tokio::spawn(async move { followed.follow(&*follower).await.unwrap() });
        let manager = LeadManager::new(LeadOutside {
            status: seen,
            kv: kv.clone(),
            pool: pool.clone(),
            deleter: deleter(&place, PoolSource::Table(kv.clone())),
            token: token.map(str::to_owned),
        });
        let manager = Arc::new(manager.unwrap());
        Self { place, kv, manager, status, pool, _following: following }
    }

    /// The pool has these, held by those; nothing else.
    pub async fn pool(&self, rows: &[(&str, &[&str])]) {
        let stamp = Stamp { length: 4096, mtime_ms: 5 };
        let row = |(segment, holders): &(&str, &[&str])| {
            let id = id(segment);
            let path = StorePath::published(&id);
            let mut row = PoolRow::new(id, &PoolEntry { path, stamp });
            row.holders = holders.iter().map(|holder| name(holder)).collect();
            row
        };
        let rows: Vec<_> = rows.iter().map(row).collect();
        let count = rows.len();
        let fence = Op::CheckNotExists { key: Key::new("no/lead").unwrap() };
        let mut table = TableWriter::<PoolRow>::new(pool_table().unwrap());
        table.write(&*self.kv, &fence, EPOCH, rows).await.unwrap();
        until("the pool is heard", async || self.pool.segments() == Some(count)).await;
    }
}

/// What a node does with an order.
#[derive(Debug, Clone)]
pub enum Act {
    /// It takes the lock and says so.
    Open,
    /// It says something else.
    Say(u16, String),
    /// It takes the lock, and breaks off.
    OpenAndBreakOff,
    /// It breaks off.
    BreakOff,
}

/// A node that is registered.
pub struct FakeNode {
    pub name: NodeName,
    hears: Arc<Hears>,
    member: Membership,
    serving: Option<JoinHandle<()>>,
}

struct Hears {
    name: NodeName,
    locks: WriteLocks,
    held: Mutex<BTreeMap<SegmentId, WriteLock>>,
    act: Mutex<Act>,
    load: Mutex<Option<usize>>,
    asked: Mutex<Vec<String>>,
    tokens: Mutex<Vec<String>>,
    /// Orders that it is busy with, and the most that these were at one time.
    busy: Mutex<(usize, usize)>,
}

impl FakeNode {
    /// It has `quota_bytes` of room of which it uses `stored_bytes`.
    pub async fn new(lead: &Lead, node: &str, stored_bytes: u64, quota_bytes: u64) -> Self {
        let hears = Arc::new(Hears {
            name: name(node),
            locks: locks(&lead.place, node),
            held: Mutex::default(),
            act: Mutex::new(Act::Open),
            load: Mutex::new(Some(0)),
            asked: Mutex::default(),
            tokens: Mutex::default(),
            busy: Mutex::default(),
        });
        let router = Router::new()
            .route("/provision", post(order))
            .route("/promote", post(order))
            .route("/resolve", post(order))
            .route("/health", get(health))
            .with_state(Arc::clone(&hears));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let who = Identity {
            name: name(node),
            session_file: lead.place.dir.path().join(format!("session-{node}")),
            session_ttl: SESSION_TTL_MAX,
            since_boot: Arc::new(since_boot),
        };
        let said = Node::new(quota_bytes, &address, &address);
        let mut member = Membership::new(lead.kv.clone(), who, said).unwrap();
        let stored = HoldsRow {
            id: id("something"),
            version: Stamp { length: stored_bytes, mtime_ms: 1 },
            tag: Tag::of(b"x"),
        };
        member.tell([(stored.id.clone(), Some(stored))], true).await.unwrap();
        Self { name: name(node), hears, member, serving: Some(serving) }
    }

    pub fn does(&self, act: Act) {
        *self.hears.act.lock().unwrap() = act;
    }

    /// What its reader has to do; `None`: it never says.
    pub fn has_to_do(&self, load: Option<usize>) {
        *self.hears.load.lock().unwrap() = load;
    }

    /// A person takes it out.
    pub async fn maintain(&mut self) {
        self.member.maintain(true).await.unwrap();
    }

    /// The orders that it heard since the last call.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.hears.asked.lock().unwrap())
    }

    pub fn tokens(&self) -> Vec<String> {
        self.hears.tokens.lock().unwrap().clone()
    }

    /// With how many orders it was busy at one time, at the most.
    pub fn busy_with(&self) -> usize {
        self.hears.busy.lock().unwrap().1
    }

    pub async fn own(&self, segment: &str) {
        self.hears.own(&id(segment)).await;
    }

    /// Gives the lock back; `dirty`: with rows that are not published.
    pub async fn leave(&self, segment: &str, dirty: bool) {
        let lock = self.hears.held.lock().unwrap().remove(&id(segment)).unwrap();
        lock.leave(dirty.then_some(1)).await;
    }

    /// Nothing answers at its address any more.
    pub async fn vanish(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
    }

    /// It is not registered any more; what it left at locks stays.
    pub async fn go(mut self) {
        self.vanish().await;
        self.member.leave().await;
    }

    pub fn write_url(&self, segment: &str) -> String {
        format!("http://{}:6222/?segment={segment}", self.name)
    }
}

impl Hears {
    async fn own(&self, id: &SegmentId) {
        if self.held.lock().unwrap().contains_key(id) {
            return;
        }
        let claimant = Claimant {
            node: self.name.clone(),
            write_address: format!("{}:6222", self.name),
            schema: Some(SegmentId::new("web").unwrap()),
            takeover: Takeover::Never,
            unpublished_since_ms: None,
        };
        let lock = self.locks.own(id, &claimant).await.unwrap();
        // nobody waits for two at once
        self.held.lock().unwrap().insert(id.clone(), lock);
    }
}

async fn order(State(hears): State<Arc<Hears>>, request: Request) -> Response {
    let page = request.uri().path().to_owned();
    if let Some(token) = request.headers().get("authorization") {
        hears.tokens.lock().unwrap().push(token.to_str().unwrap().to_owned());
    }
    assert_eq!(request.headers()["host"], "localhost");
    let body = axum::body::to_bytes(request.into_body(), 9999).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let segment = body["segment"].as_str().unwrap().to_owned();
    hears.asked.lock().unwrap().push(format!("{page} {segment}"));
    let act = hears.act.lock().unwrap().clone();
    let opens = matches!(act, Act::Open | Act::OpenAndBreakOff) && page == "/provision";
    if opens {
        {
            let mut busy = hears.busy.lock().unwrap();
            *busy = (busy.0 + 1, busy.1.max(busy.0 + 1));
        }
        // so long that another would come meanwhile
        tokio::time::sleep(Duration::from_millis(20)).await;
        hears.own(&id(&segment)).await;
        hears.busy.lock().unwrap().0 -= 1;
    }
    match act {
        Act::Say(status, text) => (StatusCode::from_u16(status).unwrap(), text).into_response(),
        Act::BreakOff | Act::OpenAndBreakOff => {
            // hyper closes the connection of a handler that panics
            std::panic::resume_unwind(Box::new("as the test asked"))
        }
        Act::Open if page == "/provision" => Json(json!({
            "write_url": format!("http://{}:6222/?segment={segment}", hears.name),
            "result": "success",
            "size": 8192,
            "schema": body["schema"].as_str().unwrap_or("default"),
            "view_max_age_ms": 2000,
        }))
        .into_response(),
        Act::Open => Json(json!({
            "remote_path": format!("/pool/{segment}.sqlite"),
            "size": 4096,
            "blake3": blake3::hash(b"x").to_hex().as_str(),
        }))
        .into_response(),
    }
}

async fn health(State(hears): State<Arc<Hears>>) -> Response {
    let load = *hears.load.lock().unwrap();
    match load {
        Some(load) => ([(LOAD_HEADER, load.to_string())], "{}").into_response(),
        None => std::future::pending().await,
    }
}

/// What a node says of a segment that it opened.
pub fn opened(node: &FakeNode, segment: &str) -> Provisioned {
    Provisioned {
        write_url: node.write_url(segment),
        size: Some(8192),
        schema: Some(id("web")),
        view_max_age_ms: Some(2000),
    }
}

/// A generous bound for what must not take for ever.
pub async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work)
        .await
        .unwrap_or_else(|_| panic!("{what}: not in time"))
}
