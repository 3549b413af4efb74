//! What is looked at before anything shows: that the deep store has the bytes it was given, and that the registry still
//! holds for the owner who takes itself for that.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::Connection;
use sync::kv::Key;
use sync::node::NodeName;
use sync::publish::{OnProgress, PublishError, Tenure};
use sync::write_lock::{Claimant, Takeover};

#[macro_use]
#[path = "support/bench.rs"]
#[allow(dead_code, unused_macros, reason = "each test file uses its part")]
mod bench;
#[path = "support/faulty.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod faulty;
#[path = "support/one_server.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod one_server;
#[path = "support/places.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod places;

use bench::{Bench, id};
use faulty::{Fault, FaultyStore};
use places::Place;

fn claimant(node: &str) -> Claimant {
    Claimant {
        node: NodeName::new(node).unwrap(),
        write_address: format!("{node}:6222"),
        schema: None,
        takeover: Takeover::After(std::time::Duration::ZERO),
        unpublished_since_ms: None,
    }
}

/// Publishes so many rows, as a writer does.
async fn publish(bench: &Bench, tenure: &Tenure, rows: u32) -> Result<(), PublishError> {
    let from = Connection::open(bench.source("source", rows)).unwrap();
    let copy = bench.dir.path().join("copy");
    let _ = std::fs::remove_file(&copy);
    from.execute("VACUUM INTO ?", [copy.to_str().unwrap()]).unwrap();
    let quiet: OnProgress = Arc::new(|_, _| {});
    tenure.publish(copy, |_| Ok(()), &quiet).await.map(drop)
}

/// The data that a tenure has staged in the local store.
fn staged_data(bench: &Bench, tenure: &Tenure) -> PathBuf {
    let label = bench.dir.path().join(format!("store/.staging/{}", tenure.id().label()));
    let staged = std::fs::read_dir(label.join(tenure.lock().epoch().to_string())).unwrap();
    let mut staged = staged.map(|entry| entry.unwrap().path());
    staged.find(|path| path.extension().is_some_and(|end| end == "sqlite")).unwrap()
}

/// Another bit in the middle of a file, which looks as it did from outside.
fn damage(file: &std::path::Path) {
    let open = std::fs::File::options().read(true).write(true).open(file).unwrap();
    let (was, mut byte) = (open.metadata().unwrap(), [0]);
    open.read_exact_at(&mut byte, was.len() / 2).unwrap();
    open.write_all_at(&[byte[0] ^ 1], was.len() / 2).unwrap();
    open.set_modified(was.modified().unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_s4_what_the_deep_store_damages_is_not_published() {
    let (bench, one) = (Arc::new(Bench::new(None)), id("damaged"));
    let store = FaultyStore::new(bench.store.clone(), "nothing", 0, Fault::Refused);
    let publisher = bench.publisher_on(store.clone(), &bench.registry);
    let tenure = Arc::new(publisher.take_over(&one, &claimant("north")).await.unwrap());
    publish(&bench, &tenure, 7).await.unwrap();
    store.arm("read", 0, Fault::HeldUp).await;
    let publishing = tokio::spawn({
        let (bench, tenure) = (bench.clone(), tenure.clone());
        async move { publish(&bench, &tenure, 500).await }
    });
    store.reached().await;
    damage(&staged_data(&bench, &tenure));
    store.let_go();
    let error = publishing.await.unwrap().unwrap_err();
    assert!(matches!(error, PublishError::Differs { .. }), "{error:?}");
    assert_eq!(bench.rows(&one).await, 7);
    publish(&bench, &tenure, 500).await.unwrap();
    assert_eq!(bench.rows(&one).await, 500);
}

/// Its own clock says that it holds the lock, and the registry that another does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_who_loses_the_lock_while_it_takes_over_owns_nothing() {
    let (bench, one) = (Bench::new(None), id("lost"));
    // the incarnation begins here, for which a directory is made too
    bench.publisher().put(&one, bench.source("put", 3)).await.unwrap();
    let store = FaultyStore::new(bench.store.clone(), "mkdir", 0, Fault::HeldUp);
    let north = bench.publisher_on(store.clone(), &bench.registry);
    let opening = tokio::spawn({
        let one = one.clone();
        async move { north.take_over(&one, &claimant("north")).await }
    });
    store.reached().await;
    let kv = bench.registry.open();
    let key = Key::new(format!("trough/write/{}", one.label())).unwrap();
    let session = kv.get(&key).await.unwrap().unwrap().session.unwrap();
    kv.destroy_session(&session).await.unwrap();
    let new = bench.publisher().take_over(&one, &claimant("south")).await.unwrap();
    publish(&bench, &new, 5).await.unwrap();
    store.let_go();
    let error = opening.await.unwrap().unwrap_err();
    assert!(matches!(error, PublishError::Fenced { .. }), "{error:?}");
    assert_eq!(bench.rows(&one).await, 5);
    assert_eq!(bench.staged(&one).await, [new.lock().epoch().to_string()]);
    publish(&bench, &new, 6).await.unwrap();
    assert_eq!(bench.rows(&one).await, 6);
}
