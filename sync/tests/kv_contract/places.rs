//! Where the stores of the contract are: a SQLite file with a clock of the test's own, and a real Consul.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rig::consul::Consul;
use sync::kv::consul::{ConsulKv, ConsulSettings};
use sync::kv::sqlite::SqliteKv;
use sync::kv::{Kv, KvTimeouts};

/// A loaded machine may be slow; what hangs is seen all the same.
pub const PATIENT: KvTimeouts = KvTimeouts { connect_ms: 10_000, call_ms: 20_000 };

/// Where a store is; opened by as many clients as a case likes.
pub trait Place: Send + Sync {
    fn open(&self) -> Arc<dyn Kv>;
    /// Lets time pass for sessions and lock-delays.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send;
    /// The store loses everything.
    fn empty(&self);
    /// A part of a session's time to live: most of it, where passing time costs nothing.
    const SHORT_OF_TTL: Duration;
}

pub struct File {
    dir: tempfile::TempDir,
    since_boot_ms: Arc<AtomicU64>,
}

impl File {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), since_boot_ms: Arc::new(AtomicU64::new(1_000)) }
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("kv.sqlite")
    }
}

impl Place for File {
    const SHORT_OF_TTL: Duration = Duration::from_secs(9);

    fn open(&self) -> Arc<dyn Kv> {
        let clock = self.since_boot_ms.clone();
        let since_boot = move || Duration::from_millis(clock.load(Ordering::SeqCst));
        Arc::new(SqliteKv::open(self.path(), since_boot, PATIENT).unwrap())
    }

    async fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.since_boot_ms.fetch_add(ms, Ordering::SeqCst);
    }

    fn empty(&self) {
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", self.path().display()));
        }
    }
}

/// A Consul; the cases that do it no harm share one.
pub struct OneServer(Option<Consul>);

impl OneServer {
    pub fn shared() -> Self {
        Self(None)
    }

    pub fn own() -> Self {
        Self(Some(Consul::start()))
    }

    pub fn consul(&self) -> &Consul {
        static SHARED: OnceLock<Consul> = OnceLock::new();
        self.0.as_ref().unwrap_or_else(|| SHARED.get_or_init(Consul::start))
    }

    pub fn client(&self, timeouts: KvTimeouts) -> ConsulKv {
        let address = self.consul().address().to_owned();
        ConsulKv::new(&ConsulSettings { address, timeouts, ..Default::default() }).unwrap()
    }
}

impl Place for OneServer {
    const SHORT_OF_TTL: Duration = Duration::from_secs(1);

    fn open(&self) -> Arc<dyn Kv> {
        Arc::new(self.client(PATIENT))
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn empty(&self) {
        self.consul().restart_empty();
    }
}
