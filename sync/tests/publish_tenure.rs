//! Version after version under one lock, against a local directory and a real HDFS: what shows after each, and what
//! never does.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fsd::segment::SegmentId;
use rusqlite::Connection;
use sync::kv::SESSION_TTL_MIN;
use sync::node::NodeName;
use sync::publish::{OnProgress, Progress, PublishError, Publisher, Tenure};
use sync::store::StorePath;
use sync::write_lock::{Claimant, Takeover, WriteLockError};

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
use places::Place;

on_both!(
    "/tenure/":
    version_after_version_is_published_under_one_lock,
    s4_a_tenure_that_is_over_publishes_nothing_at_whichever_step_it_was,
    s4_a_tenure_that_slept_over_its_lock_stops_by_itself,
    a_file_that_somebody_else_put_is_a_conflict_and_stays,
    what_somebody_else_put_is_gone_over_when_a_person_says_so,
    a_step_that_fails_can_be_repeated_under_the_same_lock,
    a_rename_that_comes_late_finds_nothing_or_counts,
    a_copy_that_is_not_right_is_refused,
    a_take_over_that_fails_leaves_the_lock_as_it_was,
);

/// The writer of `node`, which waits for nobody that is gone.
fn claimant(node: &str) -> Claimant {
    Claimant {
        node: NodeName::new(node).unwrap(),
        write_address: format!("{node}:6222"),
        schema: None,
        takeover: Takeover::After(std::time::Duration::ZERO),
        unpublished_since_ms: None,
    }
}

/// A copy of so many rows, as a writer makes it.
fn copy(bench: &Bench, name: &str, rows: u32) -> PathBuf {
    let from = Connection::open(bench.source(name, rows)).unwrap();
    from.pragma_update(None, "journal_mode", "wal").unwrap();
    let copy = bench.dir.path().join(format!("{name}.copy"));
    let _ = std::fs::remove_file(&copy);
    from.execute("VACUUM INTO ?", [copy.to_str().unwrap()]).unwrap();
    copy
}

fn quiet() -> OnProgress {
    Arc::new(|_, _| {})
}

async fn publish(tenure: &Tenure, copy: PathBuf) -> Result<(), PublishError> {
    let done = tenure.publish(copy, |_| Ok(()), &quiet()).await?;
    assert_eq!(done.epoch, tenure.lock().epoch());
    let shows = tenure.published().unwrap();
    let seal = shows.seal.unwrap();
    assert_eq!((shows.stamp, seal.stamp()), (done.version.stamp, done.version.stamp));
    assert_eq!((seal.blake3, seal.integrity_checked), (done.version.digest, true));
    Ok(())
}

/// A tenure whose store goes wrong when it is told to.
async fn take_over(bench: &Bench, id: &SegmentId, node: &str) -> (Tenure, Arc<FaultyStore>) {
    let store = FaultyStore::new(bench.store.clone(), "nothing", 0, Fault::Refused);
    let publisher = bench.publisher_on(store.clone(), &bench.registry);
    (publisher.take_over(id, &claimant(node)).await.unwrap(), store)
}

async fn version_after_version_is_published_under_one_lock(bench: Bench) {
    let one = id("one-segment");
    let publisher = bench.publisher();
    let tenure = publisher.take_over(&one, &claimant("north")).await.unwrap();
    assert_eq!((tenure.id(), tenure.published()), (&one, None));
    let owned = publisher.locks().owner(&one).await.unwrap().unwrap();
    assert!(owned.held && owned.ownership.node.as_str() == "north");
    let mut copies = Vec::new();
    for rows in [10, 5_000, 3] {
        copies.push(copy(&bench, &rows.to_string(), rows));
        publish(&tenure, copies.last().unwrap().clone()).await.unwrap();
        assert_eq!(bench.rows(&one).await, rows);
        let path = StorePath::published(&one);
        let stamp = bench.store.stat(&path).await.unwrap();
        assert_eq!(stamp, tenure.published().map(|published| published.stamp));
        let directory = tenure.lock().epoch().to_string();
        assert_eq!(bench.staged(&one).await, [directory.as_str()]);
        let staging = format!(".staging/{}/{directory}", one.label());
        let staging = StorePath::new(&staging).unwrap();
        assert_eq!(bench.store.names(&staging, 10).await.unwrap(), Vec::<String>::new());
    }
    // nobody else may meanwhile, a put no more than a writer
    let put = bench.publisher().put(&one, bench.source("put", 1)).await.unwrap_err();
    let other = bench.publisher().take_over(&one, &claimant("south")).await.unwrap_err();
    for error in [put, other] {
        let PublishError::HeldBy { owner: Some(owner), .. } = error else { panic!("{error:?}") };
        assert_eq!(owner.write_address, "north:6222");
    }
    // two at once take turns
    let (a, b) = (copy(&bench, "a", 21), copy(&bench, "b", 22));
    let (a, b) = tokio::join!(publish(&tenure, a), publish(&tenure, b));
    a.and(b).unwrap();
    assert_eq!(bench.rows(&one).await, 22);

    let told = Arc::new(Mutex::new(Vec::new()));
    let on_progress: OnProgress = Arc::new({
        let told = told.clone();
        move |of: &SegmentId, step| {
            assert_eq!(of.as_str(), "one-segment");
            told.lock().unwrap().push(step);
        }
    });
    let done = tenure.publish(copies[1].clone(), |_| Ok(()), &on_progress).await.unwrap();
    let length = done.version.stamp.length;
    {
        let told = told.lock().unwrap();
        let sum = |of: fn(&Progress) -> u64| told.iter().map(of).sum::<u64>();
        assert_eq!(sum(|p| if let Progress::Uploaded(n) = p { *n } else { 0 }), length);
        assert_eq!(sum(|p| if let Progress::ReadBack(n) = p { *n } else { 0 }), length);
        assert_eq!(
            (told[0], told[told.len() - 1]),
            (Progress::Prepared(length), Progress::Published)
        );
    }
    assert!(copies.iter().all(|copy| copy.is_file()), "a copy is its maker's");

    let last = tenure.published();
    let epoch = tenure.lock().epoch();
    tenure.end(None).await;
    assert!(bench.staged(&one).await.is_empty());
    assert_eq!(publisher.locks().owner(&one).await.unwrap(), None);
    let next = bench.publisher().take_over(&one, &claimant("south")).await.unwrap();
    assert_eq!(next.published(), last);
    assert!(next.lock().epoch() > epoch);
    next.end(None).await;
    // what has no seal that counts is there all the same
    bench.publisher().put(&one, bench.source("put", 4)).await.unwrap();
    let path = StorePath::published(&one);
    bench.store.delete(&sync::seal::Seal::path(&path).unwrap()).await.unwrap();
    let next = bench.publisher().take_over(&one, &claimant("south")).await.unwrap();
    let unsealed = next.published().unwrap();
    assert_eq!(
        (Some(unsealed.stamp), unsealed.seal),
        (bench.store.stat(&path).await.unwrap(), None)
    );
    publish(&next, copies[0].clone()).await.unwrap();
    next.end(None).await;
    assert_eq!(bench.rows(&one).await, 10);
}

/// The calls of one publication, in order, each by its number among those of its kind.
const CALLS: [(&str, usize); 9] = [
    ("stat", 0),
    ("create", 0),
    ("stat", 1),
    ("read", 0),
    ("create", 1),
    ("mkdir", 0),
    ("stat", 2),
    ("rename", 0),
    ("rename", 1),
];

async fn s4_a_tenure_that_is_over_publishes_nothing_at_whichever_step_it_was(bench: Bench) {
    let one = id("contested");
    let mut rows = 100;
    for (call, after) in CALLS {
        let (old, store) = take_over(&bench, &one, "north").await;
        old.lock().tell(Some(1), true).await.unwrap();
        rows += 1;
        publish(&old, copy(&bench, "old", rows)).await.unwrap();
        store.arm(call, after, Fault::HeldUp).await;
        let late = copy(&bench, "late", 50);
        let publishing = tokio::spawn(async move {
            let error = publish(&old, late).await.unwrap_err();
            (old, error)
        });
        store.reached().await;
        let south = bench.publisher();
        let error = south.take_over(&one, &claimant("south")).await.unwrap_err();
        assert!(matches!(error, PublishError::HeldBy { .. }), "{error}");
        bench.registry.pass(SESSION_TTL_MIN).await;
        let new = south.take_over(&one, &claimant("south")).await.unwrap();
        assert_eq!(new.lock().before().unwrap().node.as_str(), "north");
        assert_eq!(bench.staged(&one).await, [new.lock().epoch().to_string()]);
        // before the new one publishes, or after
        if after == 0 {
            rows += 1;
            publish(&new, copy(&bench, "new", rows)).await.unwrap();
        }
        store.let_go();
        let (old, error) = publishing.await.unwrap();
        assert!(matches!(error, PublishError::Fenced { .. }), "{call} {after}: {error:?}");
        assert_eq!(bench.rows_unsealed(&one).await, rows, "{call} {after}: the late one published");
        let error = publish(&old, copy(&bench, "later", 51)).await.unwrap_err();
        assert!(matches!(error, PublishError::Fenced { .. }), "{call} {after}: {error:?}");
        old.end(None).await;
        assert_eq!(bench.staged(&one).await, [new.lock().epoch().to_string()]);
        rows += 1;
        publish(&new, copy(&bench, "newer", rows)).await.unwrap();
        assert_eq!(bench.rows(&one).await, rows);
        new.end(None).await;
    }
}

async fn s4_a_tenure_that_slept_over_its_lock_stops_by_itself(bench: Bench) {
    let one = id("slept");
    for (call, after) in [("create", 0), ("mkdir", 0), ("stat", 2), ("rename", 0)] {
        let (old, store) = take_over(&bench, &one, "north").await;
        publish(&old, copy(&bench, "old", 7)).await.unwrap();
        store.arm(call, after, Fault::HeldUp).await;
        let late = copy(&bench, "late", 50);
        let publishing = tokio::spawn(async move { publish(&old, late).await.unwrap_err() });
        store.reached().await;
        bench.registry.pass(SESSION_TTL_MIN).await;
        store.let_go();
        let error = publishing.await.unwrap();
        assert!(matches!(error, PublishError::Fenced { .. }), "{call} {after}: {error:?}");
        assert_eq!(bench.rows_unsealed(&one).await, 7, "{call} {after}");
    }
}

async fn a_file_that_somebody_else_put_is_a_conflict_and_stays(bench: Bench) {
    let one = id("contested");
    let path = StorePath::published(&one);
    let aside = StorePath::new("aside").unwrap();
    let tenure = bench.publisher().take_over(&one, &claimant("north")).await.unwrap();
    publish(&tenure, copy(&bench, "mine", 5)).await.unwrap();
    let mine = tenure.published();
    bench.store.rename(&path, &aside).await.unwrap();
    let error = publish(&tenure, copy(&bench, "mine", 6)).await.unwrap_err();
    assert!(matches!(&error, PublishError::Conflict { found, .. } if found == "it is gone"));
    let mut foreign = bench.store.create(&path).await.unwrap();
    foreign.write(Bytes::from_static(b"from elsewhere")).await.unwrap();
    foreign.close().await.unwrap();
    for _ in 0..2 {
        let error = publish(&tenure, copy(&bench, "mine", 7)).await.unwrap_err();
        assert!(matches!(error, PublishError::Conflict { .. }), "{error:?}");
        assert_eq!(bench.bytes(&path).await, b"from elsewhere");
        assert_eq!(tenure.published(), mine);
    }
    // until a person puts back what was there
    bench.store.rename(&aside, &path).await.unwrap();
    publish(&tenure, copy(&bench, "mine", 8)).await.unwrap();
    assert_eq!(bench.rows(&one).await, 8);
    tenure.end(None).await;
}

async fn what_somebody_else_put_is_gone_over_when_a_person_says_so(bench: Bench) {
    let one = id("accepted");
    let path = StorePath::published(&one);
    let tenure = bench.publisher().take_over(&one, &claimant("north")).await.unwrap();
    publish(&tenure, copy(&bench, "mine", 5)).await.unwrap();
    let put = async |bytes: &'static [u8]| {
        bench.store.delete(&path).await.unwrap();
        let mut foreign = bench.store.create(&path).await.unwrap();
        foreign.write(Bytes::from_static(bytes)).await.unwrap();
        foreign.close().await.unwrap();
        bench.store.stat(&path).await.unwrap()
    };
    let first = put(b"from elsewhere").await;
    publish(&tenure, copy(&bench, "mine", 6)).await.unwrap_err();
    assert_eq!(tenure.accept().await.unwrap(), first);
    // that one, and none that comes after it
    put(b"and once more from there").await;
    let error = publish(&tenure, copy(&bench, "mine", 6)).await.unwrap_err();
    assert!(matches!(error, PublishError::Conflict { .. }), "{error:?}");
    bench.store.delete(&path).await.unwrap();
    assert_eq!(tenure.accept().await.unwrap(), None);
    publish(&tenure, copy(&bench, "mine", 7)).await.unwrap();
    assert_eq!(bench.rows(&one).await, 7);
    assert_eq!(tenure.accept().await.unwrap(), tenure.published().map(|published| published.stamp));
    tenure.end(None).await;
}

async fn a_step_that_fails_can_be_repeated_under_the_same_lock(bench: Bench) {
    let one = id("one-segment");
    let (tenure, store) = take_over(&bench, &one, "north").await;
    let mut rows = 10;
    publish(&tenure, copy(&bench, "first", rows)).await.unwrap();
    for (call, after) in CALLS {
        for fault in [Fault::Refused, Fault::AnswerLost] {
            store.arm(call, after, fault).await;
            let result = publish(&tenure, copy(&bench, "new", rows + 1)).await;
            match result {
                // it was done, and that was found out
                Ok(()) if (call, after, fault) == ("rename", 1, Fault::AnswerLost) => {
                    rows += 1;
                    assert_eq!(bench.rows(&one).await, rows);
                }
                Ok(()) => panic!("{call} {after} {fault:?} was not noticed"),
                Err(PublishError::Fenced { .. }) => panic!("{call} {after} {fault:?}: fenced"),
                Err(_) => assert_eq!(bench.rows_unsealed(&one).await, rows),
            }
            rows += 2;
            publish(&tenure, copy(&bench, "again", rows)).await.unwrap();
            assert_eq!(bench.rows(&one).await, rows);
        }
    }
    // where the look that comes after fails, too, nothing is said of what became of it
    store.arm("rename", 1, Fault::HeldUp).await;
    let last = copy(&bench, "last", rows + 1);
    let (failed, ()) = tokio::join!(publish(&tenure, last), async {
        store.reached().await;
        // the answer of the first look after it
        store.arm("stat", 0, Fault::Refused).await;
        bench.store.delete_tree(&StorePath::new(".staging").unwrap()).await.unwrap();
        store.let_go();
    });
    assert!(matches!(failed, Err(PublishError::Rename { .. })), "{failed:?}");
    assert_eq!(bench.rows_unsealed(&one).await, rows);
    tenure.end(None).await;
}

async fn a_rename_that_comes_late_finds_nothing_or_counts(bench: Bench) {
    let one = id("one-segment");
    let (tenure, store) = take_over(&bench, &one, "north").await;
    publish(&tenure, copy(&bench, "first", 10)).await.unwrap();
    let late = async |rows| {
        store.arm("rename", 1, Fault::Late).await;
        let error = publish(&tenure, copy(&bench, "late", rows)).await.unwrap_err();
        assert!(matches!(error, PublishError::Rename { .. }), "{error:?}");
        assert_eq!(bench.rows_unsealed(&one).await, 10);
    };
    // before the next attempt: it is this tenure's own, and no conflict
    late(11).await;
    store.arrive().await.unwrap();
    assert_eq!(bench.rows(&one).await, 11);
    publish(&tenure, copy(&bench, "next", 10)).await.unwrap();
    assert_eq!(bench.rows(&one).await, 10);
    // while the next is under way, and has staged what is not read back yet
    late(12).await;
    store.arm("read", 0, Fault::HeldUp).await;
    let next = copy(&bench, "next", 13);
    let (next, ()) = tokio::join!(publish(&tenure, next), async {
        store.reached().await;
        store.arrive().await.unwrap_err();
        assert_eq!(bench.rows_unsealed(&one).await, 10);
        store.let_go();
    });
    next.unwrap();
    assert_eq!(bench.rows(&one).await, 13);
    tenure.end(None).await;
}

async fn a_copy_that_is_not_right_is_refused(bench: Bench) {
    let one = id("one-segment");
    let (tenure, _) = take_over(&bench, &one, "north").await;
    publish(&tenure, copy(&bench, "good", 10)).await.unwrap();
    let before = tenure.published();
    let whole = std::fs::read(copy(&bench, "whole", 5_000)).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = bench.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle - 3_000..middle + 3_000].fill(0xff);
    let mut wal = whole.clone();
    wal[18..20].fill(2);
    let refused = [
        (bench.dir.path().join("none.copy"), "No such file"),
        (write("empty.copy", b""), "cannot read"),
        (write("text.copy", &b"not a database ".repeat(1_000)), "header"),
        (write("damaged.copy", &damaged), "damaged"),
        (write("short.copy", &whole[..whole.len() / 2 / 4096 * 4096]), "damaged"),
        (write("cut.copy", &whole[..whole.len() - 1]), "header"),
        (write("wal.copy", &wal), "header"),
    ];
    for (copy, expected) in refused {
        let error = publish(&tenure, copy.clone()).await.unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(copy.to_str().unwrap()), "{error}");
    }
    assert_eq!(tenure.published(), before);
    assert_eq!(bench.rows(&one).await, 10);
    publish(&tenure, write("whole.copy", &whole)).await.unwrap();
    assert_eq!(bench.rows(&one).await, 5_000);
    tenure.end(None).await;
}

async fn a_take_over_that_fails_leaves_the_lock_as_it_was(bench: Bench) {
    let one = id("one-segment");
    let (north, _) = take_over(&bench, &one, "north").await;
    publish(&north, copy(&bench, "first", 10)).await.unwrap();
    north.lock().tell(Some(1), false).await.unwrap();
    let epoch = north.lock().epoch();
    drop(north);
    bench.registry.pass(SESSION_TTL_MIN).await;
    let locks = bench.publisher();
    let left = locks.locks().owner(&one).await.unwrap().unwrap();
    assert!(!left.held && left.ownership.epoch == Some(epoch));
    let faults = [("names", 0), ("delete_tree", 0), ("mkdir", 0), ("stat", 0), ("read", 0)];
    for (n, (call, after)) in faults.into_iter().enumerate() {
        let store = FaultyStore::new(bench.store.clone(), call, after, Fault::Refused);
        let south = bench.publisher_on(store, &bench.registry);
        let error = south.take_over(&one, &claimant("south")).await.unwrap_err();
        let seeing = matches!(error, PublishError::Look { .. });
        assert!(seeing == (n >= 3) && (seeing || matches!(error, PublishError::Stage { .. })));
        assert_eq!(locks.locks().owner(&one).await.unwrap().as_ref(), Some(&left), "{call}");
        // the rows that its node has are not given up, and nobody passes over them
        let error = locks.put(&one, bench.source("put", 1)).await.unwrap_err();
        let PublishError::Lock { source, .. } = error else { panic!("{error:?}") };
        assert!(matches!(source, WriteLockError::Dirty { .. }), "{source:?}");
    }
    let north = locks.take_over(&one, &claimant("north")).await.unwrap();
    assert_eq!(north.lock().before(), Some(&left.ownership));
    assert_eq!(bench.staged(&one).await, [north.lock().epoch().to_string()]);
    assert_eq!(bench.rows(&one).await, 10);
    north.end(Some(1)).await;
    assert!(bench.staged(&one).await.is_empty());
    let left = locks.locks().owner(&one).await.unwrap().unwrap();
    assert!(!left.held && left.ownership.dirty_since_ms == Some(1));
}

/// What a writer does with it: keep it, and use it from many tasks.
#[allow(dead_code, reason = "it compiles")]
fn a_tenure_can_be_shared(publisher: Publisher, tenure: Tenure) -> impl Send + Sync + 'static {
    (publisher, tenure)
}
