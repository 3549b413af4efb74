//! Writers of several nodes in one place.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fsd::segment::{SegmentId, Version};
use proxy::writable::{WriteError, WriteRequest, Written};
use proxy::writer::{Desk, DirtyTakeover, Files, Outside, Readers, WriterSettings, keep_up};
use rusqlite::{Connection, OpenFlags};
use sync::clock::{SystemClock, since_boot};
use sync::kv::Kv;
use sync::kv::sqlite::{FILE_TIMEOUTS, SqliteKv};
use sync::node::NodeName;
use sync::orphans::Reporter;
use sync::publish::{PublishSettings, Publisher};
use sync::schemas::{Schema, Schemas};
use sync::store::{Store, StorePath, StoreTimeouts, open};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The generous bound of every wait.
const WAIT: Duration = Duration::from_secs(60);

pub fn id(text: &str) -> SegmentId {
    SegmentId::new(text).unwrap()
}

/// Says what tests tell it.
#[derive(Debug, Default)]
pub struct TestServed(pub AtomicBool);

#[async_trait]
impl Readers for TestServed {
    async fn have(&self, _: &SegmentId, _: &Version) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    async fn tell(&self) {}
}

/// A directory, which goes with who made it.
pub enum Dir {
    Made(TempDir),
    Found(PathBuf),
}

impl Dir {
    pub fn path(&self) -> &Path {
        match self {
            Self::Made(dir) => dir.path(),
            Self::Found(dir) => dir,
        }
    }
}

/// A deep store and a registry.
pub struct Place {
    pub dir: Dir,
    pub served: Arc<TestServed>,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("store")).unwrap();
        Self { dir: Dir::Made(dir), served: Arc::default() }
    }

    /// That which another process made at `dir`.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir: Dir::Found(dir), served: Arc::default() }
    }

    pub fn kv(&self) -> Arc<dyn Kv> {
        let path = self.dir.path().join("registry.keys.sqlite");
        Arc::new(SqliteKv::open(path, since_boot, FILE_TIMEOUTS).unwrap())
    }

    pub fn store(&self) -> Arc<dyn Store> {
        let root = self.dir.path().join("store");
        open(root.to_str().unwrap(), StoreTimeouts::default()).unwrap()
    }

    pub async fn schema(&self, name: &str, sql: &str) {
        let schema = Schema { id: id(name), sql: sql.to_owned(), verbs: Default::default() };
        Schemas::new(self.kv()).put(&schema).await.unwrap();
    }

    /// Nothing happens by itself but at once.
    pub fn settings() -> WriterSettings {
        WriterSettings {
            promote_after_s: 3600,
            idle_s: 3600,
            view_max_age_ms: 0,
            takeover_dirty_after_s: DirtyTakeover::AfterS(0),
            ..WriterSettings::default()
        }
    }

    pub fn outside(&self, node: &str, settings: WriterSettings) -> Outside {
        let (clock, since_boot) = (Arc::new(SystemClock), Arc::new(since_boot));
        // the shortest that a session may live
        let publish = PublishSettings { lock_ttl_s: 10, ..PublishSettings::default() };
        let publisher = Publisher::new(
            self.store(),
            self.kv(),
            clock.clone(),
            since_boot.clone(),
            publish,
            format!("writer of {node}"),
            Arc::new(|_, _| {}),
        );
        Outside {
            node: NodeName::new(node).unwrap(),
            address: format!("{node}:6222"),
            store: self.store(),
            publisher: publisher.unwrap(),
            files: Files::open(self.writable(node)).unwrap(),
            schemas: Schemas::new(self.kv()),
            orphans: Arc::new(Reporter::new(self.kv(), NodeName::new(node).unwrap())),
            readers: self.served.clone(),
            open: tokio::sync::watch::Sender::new(None),
            sync_data: Arc::new(std::fs::File::sync_data),
            clock,
            since_boot,
            settings,
        }
    }

    /// Ends the session of who writes `name`.
    pub async fn end_session(&self, name: &str) {
        let kv = self.kv();
        let key = sync::kv::Key::new(format!("trough/write/{}", id(name).label())).unwrap();
        let session = kv.get(&key).await.unwrap().unwrap().session.unwrap();
        kv.destroy_session(&session).await.unwrap();
    }

    pub fn writable(&self, node: &str) -> PathBuf {
        self.dir.path().join(format!("writable-{node}"))
    }

    pub async fn start(&self, node: &str) -> Node {
        self.start_with(node, Self::settings()).await
    }

    pub async fn start_with(&self, node: &str, settings: WriterSettings) -> Node {
        let desk = Desk::start(self.outside(node, settings)).await.unwrap();
        let (desk, stop) = (Arc::new(desk), CancellationToken::new());
        let upkeep = tokio::spawn(keep_up(Arc::clone(&desk), stop.clone()));
        Node { desk, stop, upkeep }
    }

    /// The rows of `t` that are published of `name`.
    pub fn published(&self, name: &str) -> Option<Vec<i64>> {
        let path = StorePath::published(&id(name));
        let path = self.dir.path().join("store").join(path.as_str());
        path.try_exists().unwrap().then(|| rows(&path))
    }
}

pub fn rows(path: &Path) -> Vec<i64> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut rows = db.prepare("SELECT n FROM t ORDER BY n").unwrap();
    rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// A writer that runs.
pub struct Node {
    pub desk: Arc<Desk>,
    stop: CancellationToken,
    upkeep: JoinHandle<()>,
}

impl Node {
    pub async fn write(&self, name: &str, sql: &str) -> Option<Result<Written, WriteError>> {
        self.desk.write(&id(name), WriteRequest::Script(sql.to_owned())).await
    }

    /// Writes a row.
    pub async fn insert(&self, name: &str, n: i64) {
        let sql = format!("INSERT INTO t VALUES ({n})");
        self.write(name, &sql).await.expect("it is open").unwrap();
    }

    /// An orderly end.
    pub async fn stop(self) {
        self.stop.cancel();
        self.upkeep.await.unwrap();
    }

    /// An end without a word: its session ends, its files stay as they are.
    pub async fn die(self, place: &Place, name: &str) {
        self.upkeep.abort();
        let _ = self.upkeep.await;
        place.end_session(name).await;
        // what is left of it in this process finds that out, and writes nothing any more
        std::mem::forget(self.desk);
    }
}

/// Waits until `done`.
pub async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(WAIT, waited)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {WAIT:?}"));
}
