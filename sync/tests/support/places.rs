//! Where the stores of the contracts are: a SQLite file with a clock of the test's own, and a real Consul.
//!
//! Time is passed, not asserted: on the file by that clock, on Consul by waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sync::clock::{SinceBoot, since_boot};
use sync::kv::Kv;
use sync::kv::consul::ConsulKv;
use sync::kv::sqlite::SqliteKv;

use crate::one_server::{OneServer, PATIENT};

/// Where a store is; opened by as many clients as a case likes.
pub trait Place: Send + Sync {
    fn open(&self) -> Arc<dyn Kv>;
    /// The clock that a holder counts its time on there.
    fn since_boot(&self) -> SinceBoot;
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
        let since_boot = self.since_boot();
        Arc::new(SqliteKv::open(self.path(), move || since_boot(), PATIENT).unwrap())
    }

    fn since_boot(&self) -> SinceBoot {
        let clock = self.since_boot_ms.clone();
        Arc::new(move || Duration::from_millis(clock.load(Ordering::SeqCst)))
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

impl Place for OneServer {
    const SHORT_OF_TTL: Duration = Duration::from_secs(1);

    fn open(&self) -> Arc<dyn Kv> {
        Arc::new(ConsulKv::new(&self.settings(PATIENT)).unwrap())
    }

    fn since_boot(&self) -> SinceBoot {
        Arc::new(since_boot)
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn empty(&self) {
        self.consul().restart_empty();
    }
}
