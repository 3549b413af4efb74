//! Nodes of the registry: on a SQLite file with a clock of the test's own, and on a real Consul.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sync::clock::{SinceBoot, since_boot};
use sync::kv::consul::{ConsulKv, ConsulSettings};
use sync::kv::sqlite::SqliteKv;
use sync::kv::{Key, Kv, KvTimeouts, Op, SESSION_TTL_MIN, Txn};
use sync::node::{Node, NodeError, NodeName, Registration, members};

const PATIENT: KvTimeouts = KvTimeouts { connect_ms: 10_000, call_ms: 20_000 };
/// The bound of every wait for an event.
const PATIENCE: Duration = Duration::from_secs(60);

/// A registry, and the directory of one node's state.
struct Place {
    kv: Arc<dyn Kv>,
    clock: SinceBoot,
    dir: tempfile::TempDir,
}

impl Place {
    /// On a file; the second is its clock, in milliseconds.
    fn file() -> (Self, Arc<AtomicU64>) {
        let dir = tempfile::tempdir().unwrap();
        let boot_ms = Arc::new(AtomicU64::new(1_000));
        let clock: SinceBoot = {
            let boot_ms = boot_ms.clone();
            Arc::new(move || Duration::from_millis(boot_ms.load(Ordering::SeqCst)))
        };
        let since_boot = clock.clone();
        let kv = SqliteKv::open(dir.path().join("kv"), move || since_boot(), PATIENT).unwrap();
        (Self { kv: Arc::new(kv), clock, dir }, boot_ms)
    }

    fn consul(consul: &rig::consul::Consul) -> Self {
        let address = consul.address().to_owned();
        let settings = ConsulSettings { address, timeouts: PATIENT, ..Default::default() };
        let kv = Arc::new(ConsulKv::new(&settings).unwrap());
        Self { kv, clock: Arc::new(since_boot), dir: tempfile::tempdir().unwrap() }
    }

    /// Registers the node whose state is in `state`.
    async fn register(&self, name: &str, state: &str) -> Result<Registration, NodeError> {
        let name = NodeName::new(name).unwrap();
        let node = Node::new(100, "host:6444", &format!("{state}:6112"));
        let file = self.dir.path().join(state);
        let (kv, clock) = (self.kv.clone(), self.clock.clone());
        Registration::register(kv, name, &node, SESSION_TTL_MIN, &file, clock).await
    }

    async fn registered(&self) -> Vec<String> {
        let all = members(&*self.kv).await.unwrap();
        let there = all.into_iter().filter(|member| member.registered);
        there.map(|member| member.name.as_str().to_owned()).collect()
    }
}

async fn nodes_come_go_and_come_back(place: &Place) {
    assert!(members(&*place.kv).await.unwrap().is_empty());
    let one = place.register("one", "a").await.unwrap();
    let two = place.register("two", "b").await.unwrap();
    assert_eq!(place.registered().await, ["one", "two"]);

    let mut says = Node::new(100, "host:6444", "a:6112");
    (says.stored_bytes, says.announced) = (40, true);
    one.update(&says).await.unwrap();
    let all = members(&*place.kv).await.unwrap();
    assert_eq!(all[0].node.as_ref(), Some(&says));
    assert!(one.holds());

    // another process of that name, on another directory, is told who has it
    let error = place.register("one", "c").await.unwrap_err();
    assert!(error.to_string().contains("a:6112"), "{error}");
    assert_eq!(place.registered().await, ["one", "two"]);

    // it died and starts again, before its session has ended: there at once, and the old one may say nothing
    let again = place.register("one", "a").await.unwrap();
    assert!(matches!(one.update(&says).await, Err(NodeError::Over(_))));
    let key = Key::new("trough/holds/one/0-0").unwrap();
    let late = [one.fence().unwrap(), Op::Set { key: key.clone(), value: "late".into() }];
    assert!(matches!(place.kv.txn(&late).await.unwrap(), Txn::Refused(_)));
    let now = [again.fence().unwrap(), Op::Set { key, value: "now".into() }];
    assert!(matches!(place.kv.txn(&now).await.unwrap(), Txn::Committed(_)));
    let announced = members(&*place.kv).await.unwrap()[0].node.clone().unwrap().announced;
    assert!(!announced, "it has said nothing yet since its start");

    two.leave().await;
    assert_eq!(place.registered().await, ["one"]);
    assert_eq!(members(&*place.kv).await.unwrap().len(), 2, "what it was is still known");
}

#[tokio::test]
async fn nodes_of_a_file_come_go_and_come_back() {
    nodes_come_go_and_come_back(&Place::file().0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_a_real_consul_come_go_and_come_back() {
    let consul = rig::consul::Consul::start();
    let place = Place::consul(&consul);
    nodes_come_go_and_come_back(&place).await;
    // a registry that comes back empty ends it, and it registers again
    let one = place.register("three", "d").await.unwrap();
    consul.restart_empty();
    tokio::time::timeout(PATIENCE, one.over()).await.expect("it hears that it is over");
    assert!(place.registered().await.is_empty());
    place.register("three", "d").await.unwrap();
    assert_eq!(place.registered().await, ["three"]);
}

#[tokio::test]
async fn a_node_that_nobody_hears_of_is_over_by_its_own_clock_too() {
    let (place, boot_ms) = Place::file();
    let one = place.register("one", "a").await.unwrap();
    boot_ms.fetch_add(10_000, Ordering::SeqCst);
    assert!(!one.holds());
    boot_ms.fetch_add(10_000, Ordering::SeqCst);
    assert!(place.registered().await.is_empty());
}

#[tokio::test]
async fn what_names_no_node_or_says_nothing_is_passed_over() {
    let (place, _) = Place::file();
    let one = place.register("one", "a").await.unwrap();
    for (key, value) in [("trough/node/NOT_ONE", "{}"), ("trough/node/two", "garbled")] {
        let key = Key::new(key).unwrap();
        place.kv.txn(&[Op::Set { key, value: value.into() }]).await.unwrap();
    }
    let all = members(&*place.kv).await.unwrap();
    let seen: Vec<_> =
        all.iter().map(|m| (m.name.as_str(), m.node.is_some(), m.registered)).collect();
    assert_eq!(seen, [("one", true, true), ("two", false, false)]);
    // a session file of another hand is no reason not to start
    one.leave().await;
    std::fs::write(place.dir.path().join("a"), "what is this?").unwrap();
    place.register("one", "a").await.unwrap();
}
