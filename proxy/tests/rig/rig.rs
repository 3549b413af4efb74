//! A reader on a directory in place of the mount, and a pool table in memory.
//!
//! What the real mount does (FUSE, digests in extended attributes) is tested with the real one elsewhere.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use fsd::segment::{Digest, SegmentId, Stamp};
use fsd::view::{MountState, Seen, ViewError};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use proxy::catalogue::one_machine::OneMachine;
use proxy::mount::Mount;
use proxy::reader::{Elsewhere, ReaderSettings, serve};
use sync::registry::{
    Lookup, PoolChange, PoolMeta, PoolRow, Registry, RegistryError, SegmentState,
};
use sync::store::StorePath;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub fn id(text: &str) -> SegmentId {
    SegmentId::new(text).unwrap()
}

/// A directory that plays the mount; it is there while `live` says so.
#[derive(Debug)]
pub struct Directory {
    pub root: PathBuf,
    pub state: Mutex<MountState>,
    /// Who writes here lets everybody hang who looks.
    pub hangs: RwLock<()>,
}

impl Directory {
    pub fn set(&self, state: MountState) {
        *self.state.lock().unwrap() = state;
    }

    fn live(&self) -> Result<(), ViewError> {
        drop(self.hangs.read().unwrap());
        match *self.state.lock().unwrap() {
            MountState::Live => Ok(()),
            state => Err(ViewError::NotMounted { path: self.root.clone(), state }),
        }
    }
}

impl Mount for Directory {
    fn path(&self, id: &SegmentId) -> PathBuf {
        self.root.join(id.file_name())
    }
    fn state(&self) -> MountState {
        drop(self.hangs.read().unwrap());
        *self.state.lock().unwrap()
    }
    fn stat(&self, id: &SegmentId) -> Result<Option<Seen>, ViewError> {
        self.live()?;
        let seen =
            |meta: std::fs::Metadata| Seen { dev: meta.dev(), ino: meta.ino(), length: meta.len() };
        Ok(std::fs::metadata(self.path(id)).ok().map(seen))
    }
    fn digest(&self, id: &SegmentId) -> Result<Option<Digest>, ViewError> {
        self.live()?;
        Ok(std::fs::read(self.path(id)).ok().map(|bytes| blake3_of(&bytes)))
    }
}

/// Any digest that differs when the bytes do: the tests compare it with itself only.
pub fn blake3_of(bytes: &[u8]) -> Digest {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{:016x}", hasher.finish()).repeat(4).parse().unwrap()
}

/// A pool table in memory.
#[derive(Debug, Default)]
pub struct Table {
    pub listed: Mutex<bool>,
    pub broken: Mutex<bool>,
    pub rows: Mutex<BTreeMap<SegmentId, PoolRow>>,
}

impl Table {
    pub fn put(&self, text: &str, state: SegmentState, reason: Option<&str>) {
        *self.listed.lock().unwrap() = true;
        let row = PoolRow {
            id: id(text),
            path: StorePath::published(&id(text)),
            stamp: Stamp { length: 1, mtime_ms: 1 },
            state,
            digest: None,
            reason: reason.map(str::to_owned),
        };
        self.rows.lock().unwrap().insert(row.id.clone(), row);
    }

    fn check(&self) -> Result<(), RegistryError> {
        match *self.broken.lock().unwrap() {
            false => Ok(()),
            true => Err(RegistryError {
                attempted: "look up a segment",
                target: "table".into(),
                reason: "it is broken".into(),
            }),
        }
    }
}

#[async_trait]
impl Registry for Table {
    async fn change_pool(&self, _: PoolChange) -> Result<(), RegistryError> {
        unimplemented!()
    }
    async fn pool_meta(&self) -> Result<Option<PoolMeta>, RegistryError> {
        self.check()?;
        let segments = self.rows.lock().unwrap().len() as u64;
        Ok(self.listed.lock().unwrap().then_some(PoolMeta { complete_at_ms: 1, segments }))
    }
    async fn lookup(&self, id: &SegmentId) -> Result<Lookup, RegistryError> {
        self.check()?;
        if !*self.listed.lock().unwrap() {
            return Ok(Lookup::Unknown);
        }
        Ok(self.rows.lock().unwrap().get(id).cloned().map_or(Lookup::Absent, Lookup::Listed))
    }
    async fn pool_page(
        &self,
        after: Option<&SegmentId>,
        limit: usize,
    ) -> Result<Vec<PoolRow>, RegistryError> {
        self.check()?;
        let rows = self.rows.lock().unwrap();
        let later = rows.values().filter(|row| after.is_none_or(|after| row.id > *after));
        Ok(later.take(limit).cloned().collect())
    }
}

/// One recorder for all tests of a process: the figures are the process's.
pub fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap()).clone()
}

/// A reader with its directory.
pub struct Rig {
    pub directory: Arc<Directory>,
    pub table: Arc<Table>,
    pub address: std::net::SocketAddr,
    pub client: reqwest::Client,
    pub shutdown: CancellationToken,
    pub served: tokio::task::JoinHandle<()>,
    pub temp: TempDir,
}

impl Rig {
    pub async fn new() -> Self {
        Self::with(ReaderSettings::default()).await
    }

    pub async fn with(settings: ReaderSettings) -> Self {
        let table = Arc::new(Table::default());
        let catalogue = Arc::new(OneMachine::new(Arc::clone(&table) as Arc<dyn Registry>));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let elsewhere = Elsewhere {
            catalogue,
            route: None,
            owners: None,
            leases: None,
            tokens: Arc::default(),
        };
        let rig = Self::start(settings, listener, elsewhere, table);
        rig.segment("ohio", "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'one'), (2, 'two');");
        rig
    }

    /// One with nothing in its mount.
    pub fn start(
        settings: ReaderSettings,
        listener: TcpListener,
        elsewhere: Elsewhere,
        table: Arc<Table>,
    ) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("mount");
        std::fs::create_dir(&root).unwrap();
        let directory = Arc::new(Directory {
            root,
            state: Mutex::new(MountState::Live),
            hangs: RwLock::default(),
        });
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let mount = Arc::clone(&directory) as Arc<dyn Mount>;
        let serving = serve(settings, listener, mount, elsewhere, metrics(), shutdown.clone());
        let served = tokio::spawn(serving);
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { directory, table, address, client, shutdown, served, temp }
    }

    /// Publishes a segment made by `sql`: a new file, renamed over what was there.
    pub fn segment(&self, name: &str, sql: &str) -> PathBuf {
        let path = self.directory.path(&id(name));
        let aside = self.temp.path().join("aside");
        let connection = rusqlite::Connection::open(&aside).unwrap();
        connection.execute_batch(sql).unwrap();
        drop(connection);
        std::fs::rename(&aside, &path).unwrap();
        path
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// POSTs `sql` to the segment `ohio`.
    pub async fn ask(&self, sql: impl Into<reqwest::Body>) -> (u16, String) {
        self.ask_of("ohio", sql).await
    }

    pub async fn ask_of(&self, name: &str, sql: impl Into<reqwest::Body>) -> (u16, String) {
        let url = format!("{}?segment={name}", self.url());
        let response = self.client.post(url).body(sql).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.text().await.unwrap_or_else(|error| format!("broken: {error}")))
    }

    pub async fn begin(&self, sql: &str) -> reqwest::Response {
        let url = format!("{}?segment=ohio", self.url());
        self.client.post(url).body(sql.to_owned()).send().await.unwrap()
    }

    /// As `ask_of`, by a `Host` header and nothing else.
    pub async fn ask_host(&self, host: &str, query: &str) -> (u16, String) {
        let url = format!("{}{query}", self.url());
        let request = self.client.post(url).header("host", host).body("SELECT a FROM t LIMIT 1");
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// One figure of the process, summed over its labels that contain `label`; 0 before it was ever counted.
pub fn figure(name: &str, label: &str) -> f64 {
    let text = metrics().render();
    let lines = text.lines().filter(|line| {
        line.starts_with(name) && line[name.len()..].starts_with([' ', '{']) && line.contains(label)
    });
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// Waits until `what` is true, at most `bound`.
pub async fn wait_for(what: &str, bound: Duration, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + bound;
    while !is() {
        assert!(Instant::now() < until, "not within {bound:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Every file below `directory` with a hash of its bytes.
pub fn fingerprint(directory: &Path) -> BTreeMap<PathBuf, u64> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut all = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let mut hasher = DefaultHasher::new();
            std::fs::read(&path).unwrap().hash(&mut hasher);
            all.insert(path, hasher.finish());
        }
    }
    all
}
