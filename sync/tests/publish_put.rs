//! `put` against a local directory and a real HDFS: what shows afterwards, and what never does.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fsd::segment::SegmentId;
use futures::StreamExt;
use rusqlite::Connection;
use sync::clock::SystemClock;
use sync::kv::{Consistency, Key, SESSION_TTL_MIN};
use sync::publish::{Progress, PublishError, Publisher};
use sync::store::StorePath;
use sync::write_lock::WriteLocks;

#[macro_use]
#[path = "support/bench.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
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
use one_server::OneServer;
use places::Place;

on_both!(
    "/put/":
    a_file_is_published_whole_and_sealed,
    a_wal_source_in_use_is_published_as_one_snapshot,
    sources_that_cannot_be_published_change_nothing,
    a_lock_held_by_another_is_a_clear_error,
    many_at_once_are_all_published,
    s4_a_late_publisher_finds_its_staging_gone,
    s4_a_publisher_that_slept_over_its_lock_stops_by_itself,
    a_file_that_somebody_else_put_is_a_conflict,
    a_step_that_fails_publishes_nothing_and_can_be_repeated,
);

async fn a_file_is_published_whole_and_sealed(bench: Bench) {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let told = steps.clone();
    let on_progress = Arc::new(move |_: &SegmentId, p: Progress| told.lock().unwrap().push(p));
    let (store, kv, boot) =
        (bench.store.clone(), bench.registry.open(), bench.registry.since_boot());
    let (day, settings, name) = (Arc::new(SystemClock), bench.settings(), "a test".to_owned());
    let publisher = Publisher::new(store, kv, day, boot, settings, name, on_progress).unwrap();
    let oh = id("strikes-oh");
    let done = publisher.put(&oh, bench.source("oh", 10_000)).await.unwrap();
    assert_eq!(done.path.as_str(), "strikes/strikes-oh.sqlite");
    assert_eq!(bench.rows(&oh).await, 10_000);
    assert_eq!(bench.store.stat(&done.path).await.unwrap(), Some(done.version.stamp));

    let again = publisher.put(&oh, bench.source("oh", 20)).await.unwrap();
    assert!(again.epoch > done.epoch && again.version.stamp != done.version.stamp);
    assert_eq!(bench.rows(&oh).await, 20);
    let short = id("ab");
    publisher.put(&short, bench.source("ab", 1)).await.unwrap();
    let expected = ["ab.sqlite", "strikes/strikes-oh.sqlite"].map(String::from);
    assert_eq!(bench.published().await, BTreeSet::from(expected));
    assert!(bench.staged(&oh).await.is_empty());
    assert_eq!(bench.temp_files(), 0);

    let steps = steps.lock().unwrap();
    let length = done.version.stamp.length;
    let end = steps.iter().position(|p| *p == Progress::Published).unwrap();
    let sum = |of: fn(&Progress) -> u64| steps[..end].iter().map(of).sum::<u64>();
    assert_eq!(sum(|p| if let Progress::Uploaded(n) = p { *n } else { 0 }), length);
    assert_eq!(sum(|p| if let Progress::ReadBack(n) = p { *n } else { 0 }), length);
    assert_eq!(steps[0], Progress::Prepared(length));
}

async fn a_wal_source_in_use_is_published_as_one_snapshot(bench: Bench) {
    let source = bench.source("live", 0);
    let writer = Connection::open(&source).unwrap();
    writer.pragma_update(None, "journal_mode", "wal").unwrap();
    writer.execute_batch("INSERT INTO t VALUES (1, 'a'), (2, 'b')").unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writing = std::thread::spawn({
        let stop = stop.clone();
        move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // two rows in one transaction: an odd number would be half of one
                writer.execute_batch("BEGIN; INSERT INTO t VALUES (3,'c'); INSERT INTO t VALUES (4,'d'); COMMIT;").unwrap();
            }
        }
    });
    let live = id("live-one");
    for _ in 0..3 {
        bench.publisher().put(&live, source.clone()).await.unwrap();
        let rows = bench.rows(&live).await;
        assert!(rows >= 2 && rows.is_multiple_of(2), "{rows} rows are half of a transaction");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writing.join().unwrap();
    assert_eq!(bench.published().await.len(), 1);
}

async fn sources_that_cannot_be_published_change_nothing(bench: Bench) {
    let one = id("one-segment");
    let publisher = bench.publisher();
    publisher.put(&one, bench.source("good", 10)).await.unwrap();
    let before = bench.store.stat(&StorePath::published(&one)).await.unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = bench.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let mut damaged = std::fs::read(bench.source("whole", 5_000)).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle - 3_000..middle + 3_000].fill(0xff);
    let refused = [
        (bench.dir.path().join("none.db"), "No such file"),
        (write("empty.db", b""), "empty"),
        (write("text.db", &b"not a database ".repeat(1_000)), "no SQLite database"),
        (bench.dir.path().to_owned(), "not a file"),
        (write("damaged.db", &damaged), "damaged"),
    ];
    for (source, expected) in refused {
        let error = publisher.put(&one, source.clone()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains(source.to_str().unwrap()), "{text}");
    }
    assert_eq!(bench.store.stat(&StorePath::published(&one)).await.unwrap(), before);
    assert_eq!(bench.rows(&one).await, 10);
    assert_eq!(bench.temp_files(), 0);
}

async fn a_lock_held_by_another_is_a_clear_error(bench: Bench) {
    let one = id("one-segment");
    let (kv, boot) = (bench.registry.open(), bench.registry.since_boot());
    let (store, day) = (bench.store.clone(), Arc::new(SystemClock));
    let somebody = "somebody on node-7".to_owned();
    let locks = WriteLocks::new(kv, store, day, boot, SESSION_TTL_MIN, somebody);
    let lock = locks.unwrap().acquire(&one).await.unwrap();
    let error = bench.publisher().put(&one, bench.source("s", 1)).await.unwrap_err();
    assert!(matches!(error, PublishError::HeldBy { .. }), "{error}");
    assert!(error.to_string().contains("somebody on node-7"), "{error}");
    lock.release().await;
    bench.publisher().put(&one, bench.source("s", 1)).await.unwrap();
}

async fn many_at_once_are_all_published(bench: Bench) {
    const MANY: usize = 40;
    let source = bench.source("many", 50);
    let sources = (0..MANY).map(|n| (id(&format!("many-{n:03}")), source.clone()));
    let publisher = bench.publisher();
    let results: Vec<_> = publisher.put_all(futures::stream::iter(sources)).collect().await;
    for (id, result) in results {
        result.unwrap_or_else(|error| panic!("{id}: {error:?}"));
    }
    assert_eq!(bench.published().await.len(), MANY);
    assert_eq!(bench.rows(&id("many-039")).await, 50);
    assert_eq!(bench.temp_files(), 0);
}

/// The locks of a cluster are in Consul.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_with_locks_in_a_consul_leaves_nothing_there() {
    const MANY: usize = 40;
    let (bench, consul) = (Bench::new(None), OneServer::own());
    let source = bench.source("many", 50);
    let publisher = bench.publisher_on(bench.store.clone(), &consul);
    let sources = (0..MANY).map(|n| (id(&format!("many-{n:03}")), source.clone()));
    let results: Vec<_> = publisher.put_all(futures::stream::iter(sources)).collect().await;
    let epochs: BTreeSet<_> =
        results.into_iter().map(|(_, result)| result.unwrap().epoch).collect();
    assert_eq!((epochs.len(), bench.published().await.len()), (MANY, MANY));
    publisher.close().await;
    let locks = Key::new("trough/write").unwrap();
    assert_eq!(consul.open().list(&locks, Consistency::Consistent).await.unwrap(), []);

    // two at once of one segment
    let one = id("many-000");
    let other = bench.publisher_on(bench.store.clone(), &consul);
    let (a, b) = tokio::join!(publisher.put(&one, source.clone()), other.put(&one, source));
    let held = |result: &Result<_, _>| matches!(result, Err(PublishError::HeldBy { .. }));
    assert!((a.is_ok() || held(&a)) && (b.is_ok() || held(&b)) && (a.is_ok() || b.is_ok()));
    assert_eq!(bench.rows(&one).await, 50);
}

/// What becomes of a publisher whose `call` number `after` is held up while `meanwhile` happens.
async fn held_up(
    bench: &Bench,
    call: &'static str,
    after: usize,
    meanwhile: impl AsyncFnOnce(&SegmentId),
) -> PublishError {
    let one = id("contested");
    let store = FaultyStore::new(bench.store.clone(), call, after, Fault::HeldUp);
    let late = bench.publisher_on(store.clone(), &bench.registry);
    let source = bench.source("late", 111);
    let late = tokio::spawn({
        let one = one.clone();
        async move { late.put(&one, source).await }
    });
    store.reached().await;
    meanwhile(&one).await;
    store.let_go();
    late.await.unwrap().unwrap_err()
}

/// The same while its lock runs out and another one publishes.
async fn overtaken(bench: &Bench, call: &'static str, after: usize) -> PublishError {
    let mut winner = None;
    let error = held_up(bench, call, after, async |one| {
        let source = bench.source("winner", 222);
        let error = bench.publisher().put(one, source.clone()).await.unwrap_err();
        assert!(matches!(error, PublishError::HeldBy { .. }), "{error}");
        bench.registry.pass(SESSION_TTL_MIN).await;
        winner = Some(bench.publisher().put(one, source).await.unwrap());
    });
    let (error, winner) = (error.await, winner.unwrap());
    assert_eq!(bench.rows(&winner.id).await, 222, "the late publisher published");
    let now = bench.store.stat(&winner.path).await.unwrap();
    assert_eq!(now, Some(winner.version.stamp));
    error
}

async fn s4_a_late_publisher_finds_its_staging_gone(bench: Bench) {
    // inside the rename call itself: its own checks are behind it, only the deep store can stop it
    let error = overtaken(&bench, "rename", 0).await;
    assert!(matches!(error, PublishError::Fenced { .. }), "{error:?}");
    let error = overtaken(&bench, "rename", 1).await;
    assert!(
        matches!(error, PublishError::Fenced { .. } | PublishError::Rename { .. }),
        "{error:?}"
    );
}

async fn s4_a_publisher_that_slept_over_its_lock_stops_by_itself(bench: Bench) {
    for (call, after) in [("names", 1), ("mkdir", 1), ("create", 1), ("read", 0), ("stat", 2)] {
        let error = overtaken(&bench, call, after).await;
        println!("held up at {call} {after}: {error}");
    }
    // also where nobody came meanwhile, so that nothing but its own clock stops it
    for (call, after) in [("mkdir", 1), ("stat", 2)] {
        let slept = async |_: &_| bench.registry.pass(SESSION_TTL_MIN).await;
        let error = held_up(&bench, call, after, slept).await;
        assert!(matches!(error, PublishError::Fenced { .. }), "{call} {after}: {error:?}");
        assert_eq!(bench.rows(&id("contested")).await, 222);
    }
}

async fn a_file_that_somebody_else_put_is_a_conflict(bench: Bench) {
    let one = id("contested");
    let store = FaultyStore::new(bench.store.clone(), "read", 0, Fault::HeldUp);
    let publisher = bench.publisher_on(store.clone(), &bench.registry);
    let source = bench.source("mine", 5);
    let put = tokio::spawn({
        let one = one.clone();
        async move { publisher.put(&one, source).await }
    });
    store.reached().await;
    let path = StorePath::published(&one);
    bench.store.mkdir(&path.parent()).await.unwrap();
    let mut foreign = bench.store.create(&path).await.unwrap();
    foreign.write(Bytes::from_static(b"from elsewhere")).await.unwrap();
    foreign.close().await.unwrap();
    store.let_go();
    let error = put.await.unwrap().unwrap_err();
    assert!(matches!(error, PublishError::Conflict { .. }), "{error:?}");
    assert_eq!(bench.bytes(&path).await, b"from elsewhere");
    assert!(bench.staged(&one).await.is_empty());
}

async fn a_step_that_fails_publishes_nothing_and_can_be_repeated(bench: Bench) {
    let one = id("one-segment");
    let old = bench.source("old", 7);
    bench.publisher().put(&one, old.clone()).await.unwrap();
    let source = bench.source("new", 8);
    let faults = [
        ("names", 0),
        ("mkdir", 0),
        ("stat", 0),
        ("create", 0),
        ("stat", 1),
        ("read", 0),
        ("create", 1),
        ("mkdir", 1),
        ("rename", 0),
        ("rename", 1),
    ];
    for (call, after) in faults {
        for fault in [Fault::Refused, Fault::AnswerLost] {
            let store = FaultyStore::new(bench.store.clone(), call, after, fault);
            let publisher = bench.publisher_on(store, &bench.registry);
            let result = publisher.put(&one, source.clone()).await;
            let published = bench.published().await;
            assert_eq!(published.len(), 1, "{call} {after} {fault:?}: {published:?}");
            assert!(bench.staged(&one).await.is_empty(), "{call} {after} {fault:?}");
            match result {
                // the answer to the last rename was lost: put looks, and finds that it was done
                Ok(done) if (call, after, fault) == ("rename", 1, Fault::AnswerLost) => {
                    assert_eq!(bench.rows(&one).await, 8);
                    assert_eq!(
                        bench.store.stat(&done.path).await.unwrap(),
                        Some(done.version.stamp)
                    );
                    bench.publisher().put(&one, old.clone()).await.unwrap();
                }
                Ok(_) => panic!("{call} {after} {fault:?} was not noticed"),
                Err(_) => assert_eq!(bench.rows_unsealed(&one).await, 7),
            }
        }
    }
    bench.publisher().put(&one, source).await.unwrap();
    assert_eq!(bench.rows(&one).await, 8);
}
