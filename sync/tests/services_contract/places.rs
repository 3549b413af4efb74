//! Where the services of the contract are: a SQLite file, and a real Consul.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sync::clock::Clock;
use sync::services::consul::ConsulServices;
use sync::services::sqlite::SqliteServices;
use sync::services::{Name, Services};

use crate::consul_cli::consul_maint;
use crate::one_server::{OneServer, PATIENT};

/// Where services are; opened by as many clients as a case likes.
pub trait Place: Send + Sync {
    fn open(&self) -> Arc<dyn Services>;
    /// A person's word on an instance, or on the machine.
    fn maintain(&self, instance: Option<&Name>, on: bool) -> impl Future<Output = ()> + Send;
    /// Lets time pass, or some of it.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send;
    /// It loses everything.
    fn empty(&self);
}

/// The time of day, which only the test moves.
#[derive(Debug, Clone)]
struct TestClock(Arc<AtomicU64>);

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

pub struct File {
    dir: tempfile::TempDir,
    clock: TestClock,
}

impl File {
    pub fn new() -> Self {
        let clock = TestClock(Arc::new(AtomicU64::new(1_000_000)));
        Self { dir: tempfile::tempdir().unwrap(), clock }
    }

    fn sqlite(&self) -> SqliteServices {
        let path = self.dir.path().join("registry.sqlite");
        SqliteServices::open(path, Arc::new(self.clock.clone()), PATIENT).unwrap()
    }
}

impl Place for File {
    fn open(&self) -> Arc<dyn Services> {
        Arc::new(self.sqlite())
    }

    async fn maintain(&self, instance: Option<&Name>, on: bool) {
        self.sqlite().set_maintenance(instance, on).await.unwrap();
    }

    async fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.clock.0.fetch_add(ms, Ordering::SeqCst);
    }

    fn empty(&self) {
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
}

impl Place for OneServer {
    fn open(&self) -> Arc<dyn Services> {
        Arc::new(ConsulServices::new(&self.settings(PATIENT)).unwrap())
    }

    async fn maintain(&self, instance: Option<&Name>, on: bool) {
        consul_maint(self.consul(), instance.map(Name::as_str), on);
    }

    async fn pass(&self, _: Duration) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    fn empty(&self) {
        self.consul().restart_empty();
    }
}
