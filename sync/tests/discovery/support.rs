//! Nodes that tell what they serve, and waits.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use fsd::segment::SegmentId;
use rig::consul::Consul;
use sync::clock::SystemClock;
use sync::discovery::{self, DiscoverySettings};
use sync::kv::consul::ConsulSettings;
use sync::local::seat::member::Served;
use sync::node::NodeName;
use sync::services::consul::ConsulServices;
use sync::services::sqlite::SqliteServices;
use sync::services::{Found, Name, Services};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::one_server::PATIENT;
use crate::page::Page;

/// The bound of every wait for an event.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const READ: &str = discovery::READ_SERVICE;

pub fn id(text: &str) -> SegmentId {
    SegmentId::new(text).unwrap()
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn served(texts: &[&str]) -> Served {
    Some(Arc::new(texts.iter().map(|text| id(text)).collect()))
}

/// As usual, but looking again and trying again sooner.
pub fn settings() -> DiscoverySettings {
    DiscoverySettings {
        look_ms: 200,
        retry_first_ms: 50,
        retry_longest_ms: 200,
        maintenance_ms: 50,
        ..Default::default()
    }
}

pub fn on(consul: &Consul) -> Arc<dyn Services> {
    let address = consul.address().to_owned();
    let settings = ConsulSettings { address, timeouts: PATIENT, ..Default::default() };
    Arc::new(ConsulServices::new(&settings).unwrap())
}

pub fn on_file(dir: &Path) -> Arc<dyn Services> {
    let path = dir.join("registry.sqlite");
    Arc::new(SqliteServices::open(path, Arc::new(SystemClock), PATIENT).unwrap())
}

/// A reader that tells what it serves.
pub struct Reader {
    pub page: Page,
    pub id: Name,
    pub serves: watch::Sender<Served>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Reader {
    /// On an address of this machine.
    pub async fn start(services: &Arc<dyn Services>, node: &str, host: &str) -> Self {
        Self::with(services, node, host, &settings()).await
    }

    pub async fn with(
        services: &Arc<dyn Services>,
        node: &str,
        host: &str,
        settings: &DiscoverySettings,
    ) -> Self {
        Self::behind(services, node, settings, Page::on(host, 200).await)
    }

    /// That has this page.
    pub fn behind(
        services: &Arc<dyn Services>,
        node: &str,
        settings: &DiscoverySettings,
        page: Page,
    ) -> Self {
        let (serves, wanted) = watch::channel(None);
        let node = NodeName::new(node).unwrap();
        let (services, address) = (services.clone(), page.address());
        let announcer = discovery::reader(services, settings, &node, address, wanted).unwrap();
        let (id, shutdown) = (announcer.id().clone(), CancellationToken::new());
        let task = tokio::spawn(announcer.run(shutdown.clone()));
        Self { page, id, serves, shutdown, task }
    }

    pub fn serves(&self, texts: &[&str]) {
        self.serves.send_replace(served(texts));
    }

    /// In good order; its page stays.
    pub async fn stop(self) -> Page {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
        self.page
    }
}

/// What is found of readers.
pub async fn readers(services: &Arc<dyn Services>) -> Vec<Found> {
    services.instances(&name(READ), None, false).await.unwrap()
}

/// The tags of the only reader.
pub async fn tags(services: &Arc<dyn Services>) -> Vec<String> {
    let found = readers(services).await;
    assert!(found.len() < 2, "{found:?}");
    found.into_iter().flat_map(|found| found.tags).map(|tag| tag.to_string()).collect()
}

/// Waits until `what` is so.
pub async fn until(what: &str, is: impl AsyncFn() -> bool) {
    let wait = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("it did not come to be that {what}"));
}

/// What all tests of this program log.
#[derive(Clone)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn here() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        let begin = || {
            let log = Log(Arc::default());
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt().with_ansi(false);
            subscriber.with_writer(move || writer.clone()).init();
            log
        };
        LOG.get_or_init(begin).clone()
    }

    /// Lines that have all of `texts`.
    pub fn count(&self, texts: &[&str]) -> usize {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| texts.iter().all(|text| line.contains(text))).count()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
