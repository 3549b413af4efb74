//! S7, S8: a query changes nothing of a file that is being written, and is not in its way for long.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use proxy::reader::ReaderSettings;

use crate::rig::{fingerprint, wait_for};
use crate::support::{BOUND, Node, World, patient};

const ENDLESS: &str =
    "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c, t";
const WIDE: &str = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) \
                    SELECT n, hex(zeroblob(1000)) AS x, a FROM c, t";

/// The bytes below the node's writable directory, without the index of the log: who reads notes there where.
fn bytes_of(node: &Node) -> BTreeMap<PathBuf, u64> {
    let mut all = fingerprint(&node.writable);
    all.retain(|path, _| !path.to_str().unwrap().ends_with("-shm"));
    all
}

#[tokio::test]
async fn s7_nothing_that_writes_or_reaches_further_is_run_on_a_file_that_is_being_written() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node("b").await);
    let written = a.own("ohio", "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'one');").await;
    b.hears("ohio", Some(("a", true, false))).await;
    written.write("INSERT INTO t VALUES (2, 'two')");
    let at = |name: &str| a.writable.join(name).to_str().unwrap().to_owned();
    let (new, ohio, copy) = (at("new.db"), at("ohio.sqlite"), at("copy.db"));
    a.ask("ohio", "SELECT count(*) AS n FROM t").await.is_written("[{\"n\":2}]\n");
    let before = bytes_of(&a);
    assert!(before.len() >= 3, "the file, its log, the lease: {before:?}");
    let mut wrong = Vec::new();
    for sql in [
        format!("ATTACH '{new}' AS x"),
        format!("ATTACH '{ohio}' AS x"),
        format!("ATTACH 'file:{ohio}?mode=rwc' AS x"),
        "DETACH main".into(),
        format!("VACUUM INTO '{copy}'"),
        "VACUUM".into(),
        "CREATE TEMP TABLE x (a)".into(),
        "CREATE TABLE x (a)".into(),
        "CREATE INDEX x ON t (a)".into(),
        "DROP TABLE t".into(),
        "ALTER TABLE t RENAME TO x".into(),
        "ANALYZE".into(),
        "REINDEX".into(),
        "INSERT INTO t VALUES (3, 3)".into(),
        "DELETE FROM t RETURNING a".into(),
        "UPDATE t SET a = 3 RETURNING a".into(),
        "WITH x AS MATERIALIZED (SELECT 1) INSERT INTO t SELECT 1, 2".into(),
        "BEGIN".into(),
        "BEGIN IMMEDIATE".into(),
        "COMMIT".into(),
        "SAVEPOINT x".into(),
        "PRAGMA query_only = 0".into(),
        "PRAGMA journal_mode = delete".into(),
        "PRAGMA locking_mode = exclusive".into(),
        "PRAGMA wal_checkpoint".into(),
        "PRAGMA wal_checkpoint(TRUNCATE)".into(),
        "PRAGMA wal_autocheckpoint = 1".into(),
        "PRAGMA writable_schema = 1".into(),
        "PRAGMA user_version = 7".into(),
        "PRAGMA mmap_size = 1000000000".into(),
        "PRAGMA busy_timeout = 100000".into(),
        "PRAGMA database_list".into(),
        "PRAGMA optimize".into(),
        "SELECT load_extension('/x.so')".into(),
        "SELECT * FROM sqlite_dbpage".into(),
    ] {
        for node in [&a, &b] {
            let answer = node.ask("ohio", &sql).await;
            // what this SQLite is built without is unknown to it: as good
            let unknown = answer.status == 400
                && ["no such table", "no such function"].iter().any(|it| answer.text.contains(it));
            if !(answer.status == 403 || unknown) {
                wrong.push(format!("{sql} at {}: {answer:?}", node.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(bytes_of(&a), before);
    a.ask("ohio", "SELECT count(*) AS n FROM t").await.is_written("[{\"n\":2}]\n");
    assert!(written.log_can_be_emptied());
}

#[tokio::test]
async fn s8_a_query_is_in_the_way_of_the_log_for_a_limited_time_only() {
    let world = World::new();
    let settings = ReaderSettings { writable_read_ms: 700, ..patient() };
    let a = world.node_with("a", settings).await;
    let b = world.node("b").await;
    let written = a.own("ohio", "CREATE TABLE t (a); INSERT INTO t VALUES (1);").await;
    b.hears("ohio", Some(("a", true, false))).await;
    for node in [&a, &b] {
        let answer = tokio::time::timeout(BOUND, node.ask("ohio", ENDLESS)).await.unwrap();
        assert_eq!(answer.status, 408, "{answer:?}");
        assert!(answer.text.contains("700 ms") && answer.text.contains("writable_read_ms"));
        wait_for("the log is free", BOUND, || written.log_can_be_emptied()).await;
    }
    // one that nobody takes the answer of
    for node in [&a, &b] {
        let url = format!("{}?segment=ohio", node.rig.url());
        let mut slow = node.rig.client.post(url).body(WIDE).send().await.unwrap();
        assert_eq!(slow.status(), 200);
        written.write("INSERT INTO t VALUES (2)");
        wait_for("the log is free", BOUND, || written.log_can_be_emptied()).await;
        let broken = async {
            while slow.chunk().await?.is_some() {}
            Ok::<(), reqwest::Error>(())
        };
        assert!(tokio::time::timeout(BOUND, broken).await.unwrap().is_err(), "it looks whole");
    }
    // a copy is read as long as ever
    a.rig.segment("utah", "CREATE TABLE t (a); INSERT INTO t VALUES (1);");
    let url = format!("{}?segment=utah", a.rig.url());
    let copy = a.rig.client.post(url).body(ENDLESS).timeout(Duration::from_millis(1_500));
    assert!(copy.send().await.unwrap_err().is_timeout());
}
