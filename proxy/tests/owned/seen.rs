//! What was acknowledged is seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::rig::{id, wait_for};
use crate::support::{BOUND, World, open_below};

const TABLE: &str = "CREATE TABLE t (a);";

#[tokio::test]
async fn s3_a_row_that_was_acknowledged_is_seen_at_once_by_every_reader() {
    let world = World::new();
    let nodes = [world.node("a").await, world.node("b").await, world.node("c").await];
    // an older version is everywhere
    for node in &nodes {
        node.rig.segment("Ohio.1", TABLE);
    }
    world.cluster.held("Ohio.1", &["a", "b", "c"]);
    for node in &nodes {
        node.ask("Ohio.1", "SELECT a FROM t").await.is_copied("[]\n");
    }
    let written = nodes[0].own("Ohio.1", TABLE).await;
    for node in &nodes {
        node.hears("Ohio.1", Some(("a", true, false))).await;
    }
    let label = id("Ohio.1").label();
    for n in 1..=20 {
        written.write(&format!("INSERT INTO t VALUES ({n})"));
        for node in &nodes {
            let answer = node.ask("Ohio.1", "SELECT count(*) AS n FROM t").await;
            answer.is_written(&format!("[{{\"n\":{n}}}]\n"));
            assert_eq!(answer.segment.as_deref(), Some("Ohio.1"));
        }
    }
    for node in &nodes {
        let answer = node.rig.ask_host(&format!("{label}.example"), "").await;
        assert_eq!(answer, (200, "[{\"a\":1}]\n".to_owned()));
        let wrong = node.ask("Ohio.1", "SELECT b FROM t").await;
        assert_eq!((wrong.status, wrong.text.contains("no such column: b")), (400, true));
    }
}

#[tokio::test]
async fn a_segment_that_only_its_owner_has_is_found() {
    let world = World::new();
    let nodes = [world.node("a").await, world.node("b").await];
    let new = nodes[0].own("New.1", "CREATE TABLE t (a); INSERT INTO t VALUES (1);").await;
    let label = id("New.1").label();
    assert!(label.as_str().starts_with("x--"));
    for node in &nodes {
        node.hears("New.1", Some(("a", true, false))).await;
        node.ask("New.1", "SELECT a FROM t").await.is_written("[{\"a\":1}]\n");
        for (host, query) in
            [(&*format!("{label}.example"), ""), (label.as_str(), "?segment=New.1")]
        {
            let answer = node.rig.ask_host(host, query).await;
            assert_eq!(answer, (200, "[{\"a\":1}]\n".to_owned()), "{host}");
        }
    }
    // nobody can say that it is not there
    new.lease_passes();
    for node in &nodes {
        node.ask("New.1", "SELECT a FROM t").await.is_away("a");
    }
    new.hand_back().await;
    for node in &nodes {
        node.hears("New.1", None).await;
        assert_eq!(node.ask("New.1", "SELECT a FROM t").await.status, 404);
        assert_eq!(node.rig.ask_host(&format!("{label}.example"), "").await.0, 421);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_writes_go_on_under_reads_that_are_each_of_one_moment() {
    let world = World::new();
    let nodes = [world.node("a").await, world.node("b").await];
    let written = nodes[0].own("ohio", "CREATE TABLE t (n INTEGER, a INTEGER);").await;
    for node in &nodes {
        node.hears("ohio", Some(("a", true, false))).await;
    }
    let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (told, stopped, path) = (acknowledged.clone(), stop.clone(), written.path.clone());
    let writing = std::thread::spawn(move || {
        let file = rusqlite::Connection::open(path).unwrap();
        let mut n = 0;
        while !stopped.load(Ordering::Relaxed) {
            n += 1;
            let two = format!(
                "BEGIN; INSERT INTO t VALUES ({n}, {n}); INSERT INTO t VALUES ({n}, -{n}); COMMIT"
            );
            file.execute_batch(&two).unwrap();
            told.store(n, Ordering::SeqCst);
        }
    });
    for round in 0..100 {
        for node in &nodes {
            let before = acknowledged.load(Ordering::SeqCst);
            let sql = "SELECT ifnull(max(n), 0) AS n, ifnull(sum(a), 0) AS a FROM t";
            let answer = node.ask("ohio", sql).await;
            let rows: Vec<serde_json::Value> = serde_json::from_str(&answer.text).unwrap();
            assert_eq!(rows[0]["a"], 0, "half of a transaction in round {round}");
            let n = rows[0]["n"].as_u64().unwrap();
            assert!(n >= before, "{n} of {before} in round {round}: {answer:?}");
        }
    }
    wait_for("writes went on", BOUND, || acknowledged.load(Ordering::SeqCst) > 100).await;
    stop.store(true, Ordering::Relaxed);
    writing.join().unwrap();
    assert!(written.log_can_be_emptied(), "what lies idle holds the log");
}

#[tokio::test]
async fn the_columns_are_those_of_the_schema_when_the_query_ran() {
    let world = World::new();
    let a = world.node("a").await;
    let written = a.own("ohio", "CREATE TABLE t (a); INSERT INTO t VALUES (1);").await;
    let all = "SELECT * FROM t";
    a.ask("ohio", all).await.is_written("[{\"a\":1}]\n");
    written.write("ALTER TABLE t ADD COLUMN b DEFAULT 2");
    a.ask("ohio", all).await.is_written("[{\"a\":1,\"b\":2}]\n");
    written.write("DROP TABLE t; CREATE TABLE t (c); INSERT INTO t VALUES (3)");
    a.ask("ohio", all).await.is_written("[{\"c\":3}]\n");
    written.write("DROP TABLE t");
    let (status, text) = (a.ask("ohio", all).await.status, a.ask("ohio", all).await.text);
    assert_eq!((status, text.contains("no such table")), (400, true), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_what_is_handed_back_goes_on_from_a_copy_without_a_failed_query() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    let written = a.own("ohio", "CREATE TABLE t (a); INSERT INTO t VALUES (1), (2);").await;
    written.dirty().await;
    for node in [&a, &b] {
        node.hears("ohio", Some(("a", true, true))).await;
    }
    let stop = AtomicBool::new(false);
    let asking = async |node: &crate::support::Node| {
        let (mut from_file, mut from_copy) = (0, 0);
        while !stop.load(Ordering::Relaxed) || from_copy == 0 {
            let answer = node.ask("ohio", "SELECT count(*) AS n FROM t").await;
            assert_eq!((answer.status, &*answer.text), (200, "[{\"n\":2}]\n"), "{answer:?}");
            match answer.writable {
                Some(_) => from_file += 1,
                None => from_copy += 1,
            }
        }
        (from_file, from_copy)
    };
    let hand_back = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        written.publish_to(&a);
        written.publish_to(&b);
        world.cluster.held("ohio", &["a", "b"]);
        written.hand_back().await;
        for node in [&a, &b] {
            node.hears("ohio", None).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (of_a, of_b, ()) = tokio::join!(asking(&a), asking(&b), hand_back);
    for (from_file, from_copy) in [of_a, of_b] {
        assert!(from_file > 0 && from_copy > 0, "{from_file} {from_copy}");
    }
    // what was open of it is let go of
    let none = || open_below(&a.writable).is_empty();
    wait_for("the files are closed", BOUND, none).await;
}
