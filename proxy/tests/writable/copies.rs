//! Copies of one moment, and what is told to be unpublished.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use proxy::writable::{Unpublished, WriteError};

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_has_exactly_the_commits_before_it_while_writing_goes_on() {
    let bench = Bench::new();
    let open = Arc::new(bench.open());
    // so much that copies take a while
    let fill = "INSERT INTO t SELECT -n, hex(randomblob(500)) FROM
        (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 20000) SELECT n FROM c)";
    sql(&open, fill).await.unwrap();
    let (over, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
    let writer = {
        let (open, over, written) = (Arc::clone(&open), Arc::clone(&over), Arc::clone(&written));
        tokio::spawn(async move {
            let mut n = 0;
            while !over.load(Ordering::Relaxed) {
                n += 1;
                sql(&open, &format!("INSERT INTO t VALUES ({n}, 'x')")).await.unwrap();
                written.store(n, Ordering::Relaxed);
            }
        })
    };
    while written.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    for round in 0..4 {
        let before = written.load(Ordering::Relaxed);
        let target = bench.dir.path().join(format!("copy-{round}"));
        let copied = open.copy(target.clone()).await.unwrap();
        let after = written.load(Ordering::Relaxed);
        let found = rows(&target);
        let last = *found.last().unwrap();
        assert_eq!(found.len() as i64, 20_000 + last, "no hole");
        assert_eq!(copied.commits as i64, 1 + last, "round {round}");
        assert!(before <= last && last < after, "{before} <= {last} < {after}: writing went on");
        let header = std::fs::read(&target).unwrap();
        assert_eq!(header[18..20], [1, 1]);
        assert_eq!(std::fs::read_dir(bench.dir.path()).unwrap().count(), 4 + round, "no log");
    }
    over.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    // one that cannot be made says so, and writing goes on
    let nowhere = bench.dir.path().join("no/such/directory");
    assert!(matches!(open.copy(nowhere).await, Err(WriteError::Disk(_))));
    let there = bench.dir.path().join("copy-0");
    open.copy(there).await.unwrap_err();
    sql(&open, "INSERT INTO t VALUES (1000000, 'x')").await.unwrap();
}

#[tokio::test]
async fn s3_what_is_unpublished_is_told_before_it_is_acknowledged() {
    let bench = Bench::new();
    let open = bench.open();
    let told = || bench.lease.told.lock().unwrap().clone();
    assert_eq!(open.unpublished(), Unpublished::default());
    bench.lease.deaf.store(true, Ordering::Relaxed);
    let error = sql(&open, "INSERT INTO t VALUES (1, 'x')").await.unwrap_err();
    assert!(matches!(error, WriteError::Closed(_)), "{error}");
    assert_eq!(bench.rows(), [0_i64; 0]);
    bench.lease.deaf.store(false, Ordering::Relaxed);

    sql(&open, "INSERT INTO t VALUES (1, 'x')").await.unwrap();
    sql(&open, "INSERT INTO t VALUES (2, 'x')").await.unwrap();
    assert_eq!(told(), [true]);
    let copy = |name: &str| open.copy(bench.dir.path().join(name));
    let first = copy("one").await.unwrap();
    sql(&open, "INSERT INTO t VALUES (3, 'x')").await.unwrap();
    assert!(!open.settle(first).await.unwrap(), "one came after the copy");
    assert_eq!(open.unpublished().commits, 1);
    assert!(open.unpublished().since_ms.is_some() && open.unpublished().bytes > 0);
    let second = copy("two").await.unwrap();
    assert!(open.settle(second).await.unwrap());
    assert_eq!(open.unpublished(), Unpublished::default());
    assert_eq!(told(), [true, true, false]);
    sql(&open, "INSERT INTO t VALUES (4, 'x')").await.unwrap();
    assert_eq!(told(), [true, true, false, true]);
}

#[tokio::test]
async fn a_segment_that_is_closed_and_opened_again_has_all_of_it_and_no_log() {
    let bench = Bench::new();
    let open = bench.open();
    sql(&open, "INSERT INTO t VALUES (1, 'x')").await.unwrap();
    tokio::task::spawn_blocking(move || open.close()).await.unwrap().unwrap();
    assert_eq!(std::fs::read_dir(bench.dir.path()).unwrap().count(), 1, "no log");
    let open = bench.open();
    sql(&open, "INSERT INTO t VALUES (2, 'x')").await.unwrap();
    assert_eq!(bench.rows(), [1, 2]);
}
