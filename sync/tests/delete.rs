//! Deletion against a local directory and a real HDFS: what is gone afterwards, what never goes, and what brings nothing
//! back.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use fsd::segment::{SegmentId, Stamp};
use sync::clock::SystemClock;
use sync::delete::{DeleteError, DeleteOutside, Deleter, PoolSource};
use sync::kv::{Key, SESSION_TTL_MIN};
use sync::local::seat::alone::Alone;
use sync::local::seat::{Seat, Seen};
use sync::node::NodeName;
use sync::registry::sqlite::SqliteRegistry;
use sync::registry::{PoolChange, PoolRow, Registry, SegmentState};
use sync::seal::Seal;
use sync::store::{Store, StorePath};
use sync::tomb::Tombs;
use sync::write_lock::{Claimant, Takeover, WriteLocks};

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
    "/delete/":
    what_is_deleted_leaves_a_tombstone_and_nothing_else,
    what_is_written_or_has_rows_that_are_not_published_stays,
    what_lies_elsewhere_in_the_pool_is_deleted_there,
    a_deletion_that_breaks_off_anywhere_is_hidden_or_undone_and_ends_when_it_is_repeated,
    s4_a_late_deletion_takes_nothing_of_who_took_over,
    a_listing_of_this_machine_passes_over_what_was_deleted_and_takes_what_is_newer,
);

/// A pool of this machine's own, beside the bench.
fn pool(bench: &Bench) -> Arc<SqliteRegistry> {
    Arc::new(SqliteRegistry::open(bench.dir.path().join("pool.sqlite")).unwrap())
}

/// The pool has these, and nothing else.
async fn listed(bench: &Bench, rows: &[(&SegmentId, StorePath, Stamp)]) {
    let row = |(id, path, stamp): &(&SegmentId, StorePath, Stamp)| PoolRow {
        id: (*id).clone(),
        path: path.clone(),
        stamp: *stamp,
        state: SegmentState::Pending,
        digest: None,
        reason: None,
    };
    let upsert = rows.iter().map(row).collect();
    let change = PoolChange { upsert, complete_at_ms: Some(1), ..PoolChange::default() };
    pool(bench).change_pool(change).await.unwrap();
}

fn locks(store: Arc<dyn Store>, registry: &impl Place, who: &str) -> WriteLocks {
    let (kv, boot) = (registry.open(), registry.since_boot());
    WriteLocks::new(kv, store, Arc::new(SystemClock), boot, SESSION_TTL_MIN, who.to_owned())
        .unwrap()
}

fn deleter_on(
    bench: &Bench,
    store: Arc<dyn Store>,
    registry: &impl Place,
) -> (Deleter, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let deleter = Deleter::new(DeleteOutside {
        locks: Arc::new(locks(store.clone(), registry, "a deletion")),
        store,
        kv: registry.open(),
        pool: PoolSource::Machine(pool(bench)),
        clock: Arc::new(SystemClock),
        on_deleted: Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        }),
    });
    (deleter, asked)
}

fn deleter(bench: &Bench) -> Deleter {
    deleter_on(bench, bench.store.clone(), &bench.registry).0
}

async fn tombs(registry: &impl Place) -> Tombs {
    let mut tombs = Tombs::default();
    tombs.look(&*registry.open()).await.unwrap();
    tombs
}

/// Whether nothing of `id` is in the deep store, not even its seal.
async fn is_gone(bench: &Bench, path: &StorePath) -> bool {
    let seal = Seal::path(path).unwrap();
    bench.store.stat(path).await.unwrap().is_none()
        && bench.store.stat(&seal).await.unwrap().is_none()
}

async fn a_deletion_leaves_a_tombstone_and_nothing_else(bench: &Bench, registry: &impl Place) {
    let (gone, stays) = (id("strikes-oh"), id("strikes-pa"));
    let publisher = bench.publisher_on(bench.store.clone(), registry);
    let first = publisher.put(&gone, bench.source("a", 10)).await.unwrap();
    publisher.put(&stays, bench.source("b", 20)).await.unwrap();
    listed(bench, &[]).await;
    let (deleter, asked) = deleter_on(bench, bench.store.clone(), registry);
    deleter.delete(&gone).await.unwrap();
    assert!(is_gone(bench, &first.path).await);
    assert!(bench.staged(&gone).await.is_empty());
    assert_eq!(bench.rows(&stays).await, 20);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    let buried = tombs(registry).await;
    assert!(buried.names(&gone, first.version.stamp));
    assert_eq!(buried.ids().collect::<Vec<_>>(), [&gone]);
    let lock = Key::new(format!("trough/write/{}", gone.label())).unwrap();
    assert_eq!(registry.open().get(&lock).await.unwrap(), None, "the lock is given back");

    for never_or_no_more in [&gone, &id("strikes-xx")] {
        let error = deleter.delete(never_or_no_more).await.unwrap_err();
        assert!(matches!(error, DeleteError::NotFound(_)), "{error}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(tombs(registry).await, buried);

    // a newer one lives, and is deleted in its turn; both are remembered
    let second = publisher.put(&gone, bench.source("c", 30)).await.unwrap();
    assert!(!buried.names(&gone, second.version.stamp));
    deleter.delete(&gone).await.unwrap();
    let buried = tombs(registry).await;
    assert!([first, second].iter().all(|one| buried.names(&gone, one.version.stamp)));
}

async fn what_is_deleted_leaves_a_tombstone_and_nothing_else(bench: Bench) {
    a_deletion_leaves_a_tombstone_and_nothing_else(&bench, &bench.registry).await;
}

/// The locks and tombstones of a cluster are in Consul.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_with_locks_in_a_consul_leaves_the_same() {
    let bench = Bench::new(None);
    a_deletion_leaves_a_tombstone_and_nothing_else(&bench, &OneServer::own()).await;
}

async fn what_is_written_or_has_rows_that_are_not_published_stays(bench: Bench) {
    let one = id("one-segment");
    bench.publisher().put(&one, bench.source("a", 10)).await.unwrap();
    listed(&bench, &[]).await;
    let claimant = Claimant {
        node: NodeName::new("n1").unwrap(),
        write_address: "n1:6222".to_owned(),
        schema: None,
        takeover: Takeover::Never,
        unpublished_since_ms: None,
    };
    let writer = locks(bench.store.clone(), &bench.registry, "the writer of n1");
    let lock = writer.own(&one, &claimant).await.unwrap();
    let error = deleter(&bench).delete(&one).await.unwrap_err();
    assert!(matches!(&error, DeleteError::HeldBy { holder, .. } if holder == "the writer of n1"));
    // it goes with rows, and they are its node's
    lock.leave(Some(1)).await;
    let error = deleter(&bench).delete(&one).await.unwrap_err();
    assert!(matches!(&error, DeleteError::Dirty { .. }), "{error}");
    assert!(error.to_string().contains("node n1 has rows"), "{error}");
    assert_eq!(bench.rows(&one).await, 10);
    assert_eq!(tombs(&bench.registry).await, Tombs::default());
    assert!(bench.staged(&one).await.is_empty());
    // once they are published
    writer.own(&one, &claimant).await.unwrap().release().await;
    deleter(&bench).delete(&one).await.unwrap();
    assert!(is_gone(&bench, &StorePath::published(&one)).await);
}

async fn what_lies_elsewhere_in_the_pool_is_deleted_there(bench: Bench) {
    let one = id("one-segment");
    let path = StorePath::new("of/old/one-segment.sqlite").unwrap();
    let put = async |path: &StorePath| {
        bench.store.mkdir(&path.parent()).await.unwrap();
        let mut file = bench.store.create(path).await.unwrap();
        file.write(Bytes::from_static(b"what a person put there")).await.unwrap();
        file.close().await.unwrap();
        bench.store.stat(path).await.unwrap().unwrap()
    };
    let stamp = put(&path).await;
    // as long as nobody says where it is, nobody says that it is not
    let error = deleter(&bench).delete(&one).await.unwrap_err();
    assert!(matches!(error, DeleteError::PoolUnknown(_)), "{error}");
    listed(&bench, &[(&one, path.clone(), stamp)]).await;
    deleter(&bench).delete(&one).await.unwrap();
    assert_eq!(bench.published().await, BTreeSet::new());
    assert!(tombs(&bench.registry).await.names(&one, stamp));
    // the pool has not heard of it yet
    let error = deleter(&bench).delete(&one).await.unwrap_err();
    assert!(matches!(error, DeleteError::NotFound(_)), "{error}");

    // at both, and the pool is of before the newest
    let (elsewhere, published) =
        (put(&path).await, bench.publisher().put(&one, bench.source("a", 1)).await.unwrap());
    deleter(&bench).delete(&one).await.unwrap();
    assert_eq!(bench.published().await, BTreeSet::new());
    let buried = tombs(&bench.registry).await;
    assert!([stamp, elsewhere, published.version.stamp].iter().all(|at| buried.names(&one, *at)));

    // what the pool has and nothing else does any more
    let lost = id("lost-segment");
    listed(&bench, &[(&lost, StorePath::published(&lost), stamp)]).await;
    deleter(&bench).delete(&lost).await.unwrap();
    assert!(tombs(&bench.registry).await.names(&lost, stamp));
}

async fn a_deletion_that_breaks_off_anywhere_is_hidden_or_undone_and_ends_when_it_is_repeated(
    bench: Bench,
) {
    let one = id("one-segment");
    let path = StorePath::published(&one);
    let source = bench.source("a", 5);
    listed(&bench, &[]).await;
    for (call, after) in [
        ("names", 0),
        ("mkdir", 0),
        ("stat", 0),
        ("stat", 1),
        ("read", 0),
        ("rename", 0),
        ("stat", 2),
        ("rename", 1),
    ] {
        for fault in [Fault::Refused, Fault::AnswerLost] {
            let case = format!("{call} {after} {fault:?}");
            let done = bench.publisher().put(&one, source.clone()).await.unwrap();
            let stamp = done.version.stamp;
            let store = FaultyStore::new(bench.store.clone(), call, after, fault);
            let (faulty, _) = deleter_on(&bench, store, &bench.registry);
            let result = faulty.delete(&one).await;
            let buried = tombs(&bench.registry).await.names(&one, stamp);
            let there = bench.store.stat(&path).await.unwrap();
            match &result {
                Ok(()) => assert_eq!((call, fault), ("rename", Fault::AnswerLost), "{case}"),
                Err(error) if there.is_some() && !buried => {
                    assert_eq!(bench.rows(&one).await, 5, "{case}: {error}");
                }
                Err(_) => assert!(buried, "{case}: gone without a tombstone"),
            }
            assert!(bench.staged(&one).await.is_empty(), "{case}");
            // again, until it says that there is nothing
            let again = deleter(&bench).delete(&one).await;
            let nothing_left = there.is_none();
            assert_eq!(matches!(again, Err(DeleteError::NotFound(_))), nothing_left, "{case}");
            assert!(nothing_left || again.is_ok(), "{case}: {again:?}");
            assert!(is_gone(&bench, &path).await, "{case}");
            assert!(tombs(&bench.registry).await.names(&one, stamp), "{case}");
        }
    }
}

async fn s4_a_late_deletion_takes_nothing_of_who_took_over(bench: Bench) {
    let one = id("contested");
    let path = StorePath::published(&one);
    listed(&bench, &[]).await;
    for after in [0, 1] {
        bench.publisher().put(&one, bench.source("old", 1)).await.unwrap();
        let store = FaultyStore::new(bench.store.clone(), "rename", after, Fault::HeldUp);
        let (late, _) = deleter_on(&bench, store.clone(), &bench.registry);
        let late = tokio::spawn(async move { late.delete(&id("contested")).await });
        store.reached().await;
        // its own checks are behind it: only the deep store can stop it
        bench.registry.pass(SESSION_TTL_MIN).await;
        let winner = bench.publisher().put(&one, bench.source("new", 222)).await.unwrap();
        store.let_go();
        let error = late.await.unwrap().unwrap_err();
        assert!(matches!(error, DeleteError::Fenced(_)), "{after}: {error:?}");
        assert_eq!(bench.rows(&one).await, 222, "{after}: the late deletion deleted");
        assert!(!tombs(&bench.registry).await.names(&one, winner.version.stamp));
        assert_eq!(bench.store.stat(&path).await.unwrap(), Some(winner.version.stamp));
    }
}

async fn a_listing_of_this_machine_passes_over_what_was_deleted_and_takes_what_is_newer(
    bench: Bench,
) {
    let one = id("one-segment");
    let source = bench.source("a", 5);
    let seat = Alone::new(bench.store.clone(), pool(&bench), bench.registry.open());
    let seen = async || match seat.look().await {
        Seen::Listing { listing, .. } => (listing.pool.contains_key(&one), listing.buried.len()),
        other => panic!("{other:?}"),
    };
    let done = bench.publisher().put(&one, source.clone()).await.unwrap();
    listed(&bench, &[(&one, done.path, done.version.stamp)]).await;
    assert_eq!(seen().await, (true, 0));
    // it breaks off when all but the file itself says that it is gone
    let store = FaultyStore::new(bench.store.clone(), "rename", 0, Fault::Refused);
    deleter_on(&bench, store, &bench.registry).0.delete(&one).await.unwrap_err();
    assert_eq!(seen().await, (false, 1));
    deleter(&bench).delete(&one).await.unwrap();
    assert_eq!(seen().await, (false, 0));
    bench.publisher().put(&one, source).await.unwrap();
    assert_eq!(seen().await, (true, 0));
}
