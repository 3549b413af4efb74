//! Requests: what is done, what is refused, and that neither touches another's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proxy::writable::{WriteError, WriteRequest};
use serde_json::json as j;

use crate::support::*;

#[tokio::test]
async fn a_script_is_one_transaction() {
    let bench = Bench::new();
    let open = bench.open();
    let done = sql(
        &open,
        "INSERT INTO t VALUES (1, 'a'); -- and\n INSERT INTO t VALUES (2, 'b'), (3, 'c');\n/**/",
    )
    .await;
    assert_eq!(done.unwrap().changes, 3);
    assert_eq!(sql(&open, "UPDATE t SET x = 'd' WHERE n > 1").await.unwrap().changes, 2);
    assert_eq!(bench.rows(), [1, 2, 3]);
    for (bad, kind) in [
        ("INSERT INTO t VALUES (4, 'a'); INSERT INTO t VALUES (5, 'b'", "incomplete input"),
        ("INSERT INTO t VALUES (4, 'a'); INSERT INTO t VALEUS (5)", "syntax error"),
        ("INSERT INTO t VALUES (4, 'a'); INSERT INTO t VALUES (4, 'b')", "UNIQUE"),
        ("INSERT INTO t VALUES (4, 'a'); INSERT INTO missing VALUES (4)", "no such table"),
        ("INSERT INTO t VALUES (4, 'a'); INSERT OR ROLLBACK INTO t VALUES (1, 'b')", "UNIQUE"),
    ] {
        let error = sql(&open, bad).await.unwrap_err();
        assert!(matches!(&error, WriteError::Sql(why) if why.contains(kind)), "{bad}: {error}");
        assert!(error.to_string().contains("nothing of this request was written"));
        assert_eq!(bench.rows(), [1, 2, 3], "{bad}");
    }
    for empty in ["", "  \n", "-- nothing", ";;/* */"] {
        assert_eq!(sql(&open, empty).await, Err(WriteError::Empty), "{empty:?}");
    }
    assert_eq!(sql(&open, "INSERT INTO t VALUES (4, '\0')").await, Err(WriteError::NulByte));
    let error = sql(&open, "INSERT INTO t VALUES (?, 1)").await.unwrap_err();
    assert!(matches!(error, WriteError::Parameters(_)), "{error}");
    assert_eq!(bench.rows(), [1, 2, 3]);
}

#[tokio::test]
async fn nothing_is_run_that_is_not_allowed() {
    let bench = Bench::with(
        "CREATE TABLE t (n INTEGER PRIMARY KEY, x); INSERT INTO t VALUES (1, 'a'); CREATE VIEW v AS SELECT * FROM t;
         CREATE VIRTUAL TABLE f USING fts5(x); CREATE INDEX i ON t (x)",
    );
    let open = bench.open();
    let other = bench.dir.path().join("other.sqlite");
    let other = other.display();
    for refused in [
        "BEGIN",
        "BEGIN; INSERT INTO t VALUES (2, 'x'); COMMIT",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT a",
        "RELEASE a",
        "ROLLBACK TO a",
        &format!("ATTACH '{other}' AS o"),
        "DETACH o",
        &format!("VACUUM INTO '{other}'"),
        "VACUUM",
        "PRAGMA journal_mode = delete",
        "PRAGMA synchronous = off",
        "PRAGMA writable_schema = on",
        "PRAGMA user_version = 7",
        "PRAGMA wal_checkpoint",
        "SELECT load_extension('/tmp/x')",
        "INSERT INTO t SELECT 2, load_extension('/tmp/x')",
        "SELECT 1",
        "EXPLAIN INSERT INTO t VALUES (2, 'x')",
        "WITH c AS (SELECT 1) SELECT * FROM c",
        "DELETE FROM t",
        "CREATE TABLE u (n)",
        "CREATE TABLE u AS SELECT * FROM t",
        "CREATE TEMP TABLE u (n)",
        "CREATE INDEX j ON t (n)",
        "CREATE VIEW w AS SELECT 1",
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM t; END",
        "CREATE TEMP TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM t; END",
        "CREATE VIRTUAL TABLE g USING fts5(x)",
        "DROP TABLE t",
        "DROP INDEX i",
        "DROP VIEW v",
        "ALTER TABLE t ADD COLUMN y",
        "REINDEX",
        "ANALYZE",
        "INSERT INTO sqlite_master VALUES ('table', 'x', 'x', 3, 'CREATE TABLE x (n)')",
        "UPDATE sqlite_master SET sql = ''",
        "DELETE FROM f_data",
        "INSERT INTO f_data VALUES (99, x'00')",
        "UPDATE f_data SET block = x'00'",
    ] {
        let error = sql(&open, refused).await.expect_err(refused);
        let is = matches!(error, WriteError::Refused(_));
        // what SQLite itself refuses first
        let by_sqlite = matches!(&error, WriteError::Sql(why) if why.contains("no such"));
        assert!(is || by_sqlite, "{refused}: {error:?}");
        let script = format!("INSERT INTO t VALUES (2, 'x'); {refused}");
        sql(&open, &script).await.unwrap_err();
        assert_eq!(bench.rows(), [1], "{refused}");
    }
    sql(&open, "INSERT INTO f VALUES ('gull'); INSERT INTO t VALUES (2, 'x')").await.unwrap();
    assert_eq!(bench.rows(), [1, 2]);
    let names: Vec<_> =
        std::fs::read_dir(bench.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "the file, its log and its index: {names:?}");
}

#[tokio::test]
async fn rows_of_values_are_bound_one_after_the_other() {
    let bench = Bench::new();
    let open = bench.open();
    let insert = "INSERT INTO t VALUES (?, ?)";
    let rows: Vec<_> = (0..1000).map(|n| j!([n, format!("row {n}")])).collect();
    assert_eq!(json(&open, j!({"sql": insert, "rows": rows})).await.unwrap().changes, 1000);
    let blob = j!({"sql": "INSERT INTO t VALUES (:n, @x)", "params": {"n": 1000, "@x": {"$base64": "AAE="}}});
    json(&open, blob).await.unwrap();
    json(&open, j!({"sql": "INSERT INTO t VALUES (?1, ?1); -- done", "params": [1001]}))
        .await
        .unwrap();
    assert_eq!(bench.rows().len(), 1002);
    for (bad, why) in [
        (j!({"sql": insert, "rows": [[2000, 1], [2001]]}), "row 2: 1 values for 2"),
        (j!({"sql": insert, "params": [1, 2, 3]}), "3 values for 2"),
        (
            j!({"sql": "INSERT INTO t VALUES (:a, :b)", "params": {"a": 2000, "c": 1}}),
            "called \"c\"",
        ),
        (j!({"sql": "INSERT INTO t VALUES (:a, :b)", "params": {"a": 2000, ":a": 1}}), "twice"),
    ] {
        let error = json(&open, bad.clone()).await.unwrap_err();
        assert!(
            matches!(&error, WriteError::Parameters(said) if said.contains(why)),
            "{bad}: {error}"
        );
    }
    let several = j!({"sql": "INSERT INTO t VALUES (?, 1); DELETE FROM t", "params": [2000]});
    assert_eq!(json(&open, several).await, Err(WriteError::Several));
    let doubled = j!({"sql": insert, "rows": [[2000, 1], [2000, 2]]});
    assert!(matches!(json(&open, doubled).await, Err(WriteError::Sql(_))));
    assert_eq!(bench.rows().len(), 1002);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_many_share_a_sync_and_each_stands_by_itself() {
    let bench = Bench::new();
    let syncs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&syncs);
    let open = Arc::new(bench.open_with(Arc::new(move |log| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(std::time::Duration::from_millis(2));
        log.sync_data()
    })));
    let clients = (0..32).map(|client| {
        let open = Arc::clone(&open);
        tokio::spawn(async move {
            for n in 0..20 {
                let n = 1 + client * 20 + n;
                let insert = format!("INSERT INTO t VALUES ({n}, 'x')");
                // every third is followed by one that would undo it if they shared a transaction
                if n % 3 == 0 {
                    sql(&open, &insert).await.unwrap();
                    let undo = format!("INSERT OR ROLLBACK INTO t VALUES (-{n}, 'x'), ({n}, 'y')");
                    sql(&open, &undo).await.unwrap_err();
                } else {
                    sql(&open, &insert).await.unwrap();
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    assert_eq!(bench.rows(), (1..=640).collect::<Vec<i64>>());
    let syncs = syncs.load(Ordering::Relaxed);
    assert!((1..320).contains(&syncs), "640 requests, {syncs} syncs");
    assert_eq!(open.unpublished().commits, 640);
}

#[tokio::test]
async fn what_takes_too_long_is_stopped_and_nothing_of_it_stays() {
    let mut bench = Bench::new();
    bench.settings.write_ms = 200;
    let open = bench.open();
    let endless = "INSERT INTO t VALUES (1, 'a'); INSERT INTO t SELECT n, 'x' FROM
        (WITH RECURSIVE c(n) AS (SELECT 10 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c)";
    assert_eq!(sql(&open, endless).await, Err(WriteError::TimeLimit { limit_ms: 200 }));
    assert_eq!(bench.rows(), [0_i64; 0]);
    sql(&open, "INSERT INTO t VALUES (1, 'a')").await.unwrap();
    let large = format!("INSERT INTO t VALUES (2, zeroblob({}))", bench.settings.value_bytes_max);
    assert!(matches!(sql(&open, &large).await, Err(WriteError::TooLarge(_))));
    assert_eq!(bench.rows(), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_client_left_is_stopped_and_a_full_queue_says_so() {
    let mut bench = Bench::new();
    bench.settings.queue_max = 2;
    let open = Arc::new(bench.open());
    let endless = "INSERT INTO t SELECT n, 'x' FROM
        (WITH RECURSIVE c(n) AS (SELECT 10 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c)";
    let write = |sql: &'static str| {
        let open = Arc::clone(&open);
        tokio::spawn(async move { open.write(WriteRequest::Script(sql.to_owned())).await })
    };
    let running = write(endless);
    let mut waiting = Vec::new();
    loop {
        waiting.push(write("INSERT INTO t VALUES (1, 'a')"));
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        if waiting.last().unwrap().is_finished() {
            let said = waiting.pop().unwrap().await.unwrap();
            assert_eq!(said, Err(WriteError::Busy { waiting: 2 }));
            break;
        }
        assert!(waiting.len() < 10, "no queue has room for all");
    }
    running.abort();
    let first = waiting.remove(0).await.unwrap();
    first.unwrap();
    for next in waiting {
        assert!(matches!(next.await.unwrap(), Err(WriteError::Sql(_))), "it is there already");
    }
    assert_eq!(bench.rows(), [1]);
}
