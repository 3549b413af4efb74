//! S7: a read query changes nothing. S8: one step of SQLite's machine is bounded by its limits.
//!
//! The rows are those that other servers of SQLite files were seen to fall to.

use std::time::Duration;

use proxy::mount::Mount;

use crate::rig::{Rig, fingerprint, id};

#[tokio::test]
async fn s7_nothing_that_writes_or_reaches_further_is_run() {
    let rig = Rig::new().await;
    rig.segment(
        "utah",
        "CREATE TABLE secret (a); INSERT INTO secret VALUES ('pst');
            CREATE VIRTUAL TABLE r USING rtree(id, x0, x1); INSERT INTO r VALUES (1, 2, 3);",
    );
    let mount = rig.directory.root.clone();
    let at = |name: &str| mount.join(name).to_str().unwrap().to_owned();
    let (new, utah, copy) = (at("new.db"), at("utah.sqlite"), at("copy.db"));
    let before = fingerprint(rig.temp.path());
    let mut wrong = Vec::new();
    for sql in [
        format!("ATTACH '{new}' AS x"),
        format!("ATTACH '{utah}' AS x"),
        format!("ATTACH 'file:{new}?mode=rwc' AS x"),
        "DETACH main".into(),
        format!("VACUUM INTO '{copy}'"),
        "VACUUM".into(),
        "CREATE TEMP TABLE x (a)".into(),
        "CREATE TABLE x (a)".into(),
        "CREATE INDEX x ON t (a)".into(),
        "CREATE VIEW x AS SELECT 1".into(),
        "CREATE TEMP VIEW x AS SELECT 1".into(),
        "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END".into(),
        "CREATE VIRTUAL TABLE x USING fts5(a)".into(),
        "CREATE VIRTUAL TABLE temp.x USING dbstat".into(),
        "DROP TABLE t".into(),
        "ALTER TABLE t RENAME TO x".into(),
        "ANALYZE".into(),
        "REINDEX".into(),
        "INSERT INTO t VALUES (3, 3)".into(),
        "REPLACE INTO t VALUES (3, 3)".into(),
        "WITH x AS MATERIALIZED (SELECT 1) INSERT INTO t SELECT 1, 2".into(),
        "DELETE FROM t RETURNING a".into(),
        "UPDATE t SET a = 3 RETURNING a".into(),
        "EXPLAIN DELETE FROM t".into(),
        "UPDATE sqlite_schema SET sql = ''".into(),
        "BEGIN".into(),
        "BEGIN EXCLUSIVE".into(),
        "COMMIT".into(),
        "ROLLBACK".into(),
        "SAVEPOINT x".into(),
        "RELEASE x".into(),
        "PRAGMA query_only = 0".into(),
        "PRAGMA hard_heap_limit = 1".into(),
        "PRAGMA soft_heap_limit(1)".into(),
        "PRAGMA temp_store_directory = '/'".into(),
        "PRAGMA cache_size = -1000000".into(),
        "PRAGMA mmap_size = 1000000000".into(),
        "PRAGMA threads = 8".into(),
        "PRAGMA writable_schema = 1".into(),
        "PRAGMA user_version = 7".into(),
        "PRAGMA journal_mode = wal".into(),
        "PRAGMA encoding = 'UTF-16'".into(),
        "PRAGMA database_list".into(),
        "PRAGMA wal_checkpoint".into(),
        "PRAGMA optimize".into(),
        "PRAGMA integrity_check".into(),
        "PRAGMA trusted_schema = 1".into(),
        "PRAGMA case_sensitive_like = 1".into(),
        "PRAGMA compile_options".into(),
        "SELECT * FROM pragma_database_list".into(),
        "SELECT load_extension('/x.so')".into(),
        "SELECT fts3_tokenizer('simple')".into(),
        "SELECT sqlite_version()".into(),
        "SELECT sqlite_compileoption_get(1)".into(),
        "SELECT * FROM dbstat".into(),
        "SELECT * FROM sqlite_dbpage".into(),
        "SELECT count(*) FROM DBSTAT".into(),
    ] {
        let (status, body) = rig.ask(sql.clone()).await;
        // what this SQLite is built without is unknown to it: as good
        let unknown = status == 400
            && ["no such table", "no such function"].iter().any(|words| body.contains(words));
        if !(status == 403 || unknown) || body.lines().count() != 1 {
            wrong.push(format!("{sql}: {status} {body:?}"));
        }
    }
    for sql in [
        "INSERT INTO r VALUES (2, 3, 4)",
        "INSERT INTO r_node VALUES (9, x'00')",
        "DELETE FROM r_node",
        "UPDATE r_rowid SET nodeno = 1",
        "DELETE FROM r_parent RETURNING 1",
        "WITH x AS (SELECT 1) INSERT INTO r_node SELECT 9, x'00' FROM x",
        "REPLACE INTO r_node SELECT 1, x'00' FROM r",
        "SELECT rtreecheck('r')",
    ] {
        let (status, body) = rig.ask_of("utah", sql).await;
        if status != 403 {
            wrong.push(format!("{sql}: {status} {body:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(fingerprint(rig.temp.path()), before);
    // the next query is unharmed, on the same connection and on a new one
    assert_eq!(rig.ask("SELECT a FROM t").await, (200, "[{\"a\":1},\n{\"a\":2}]\n".into()));
    assert_eq!(rig.ask_of("utah", "SELECT * FROM secret").await.0, 200);
}

#[tokio::test]
async fn s8_single_steps_are_bounded_by_the_limits() {
    let rig = Rig::new().await;
    rig.segment(
        "ohio",
        "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'one');
        CREATE TABLE long (x); INSERT INTO long VALUES (hex(zeroblob(500000)));",
    );
    for (sql, expected) in [
        ("SELECT hex(zeroblob(4e8))", 413),
        ("SELECT length(printf('%900000000s', 'x'))", 200),
        ("SELECT length(replace(hex(zeroblob(1000000)), '0', hex(zeroblob(1000))))", 413),
        (
            "WITH RECURSIVE b(x) AS (VALUES (zeroblob(1000)) UNION ALL SELECT CAST(x || x AS BLOB) FROM b) \
          SELECT max(length(x)) FROM b",
            413,
        ),
        ("SELECT instr(x, substr(x, 1, 500000) || '1') FROM long", 200),
        ("SELECT length(replace(x, substr(x, 1, 500000) || '1', '')) FROM long", 200),
        ("SELECT x LIKE '%' || substr(x, 1, 40000) || '1' FROM long", 400),
        ("SELECT x GLOB '*' || substr(x, 1, 40000) || '1' FROM long", 400),
        ("SELECT randomblob(1000000000)", 413),
        ("SELECT group_concat(x) FROM long, (VALUES (1),(2),(3),(4),(5),(6),(7),(8))", 413),
    ] {
        let asked = tokio::time::timeout(Duration::from_secs(10), rig.ask(sql)).await;
        let (status, body) = asked.unwrap_or_else(|_| panic!("{sql} does not end"));
        assert_eq!(status, expected, "{sql}: {body}");
    }
    for sql in [
        format!("SELECT 1{}", "+1".repeat(5000)),
        format!("SELECT {}", vec!["1"; 300].join(",")),
        format!("SELECT 1{}", " UNION SELECT 1".repeat(100)),
        format!("SELECT max({})", vec!["1"; 200].join(",")),
        format!("SELECT * FROM {}", vec!["t"; 70].join(",")),
        format!("SELECT * FROM json_each('[{}]')", vec!["1"; 2_000_001].join(",")),
    ] {
        let (status, body) = rig.ask(sql.clone()).await;
        assert!(status == 400 || status == 413, "{}: {status} {body}", &sql[..80]);
    }
    // nested deep enough to overflow a stack that is not guarded
    for (open, close) in
        [("(", ")"), ("- ", ""), ("NOT ", ""), ("(SELECT ", ")"), ("abs(", ")"), ("1+(", ")")]
    {
        let depth = 900_000 / (open.len() + close.len());
        let sql = format!("SELECT {}1{}", open.repeat(depth), close.repeat(depth));
        let (status, body) = rig.ask(sql).await;
        assert!(status == 400 || status == 413, "{open}: {status} {}", &body[..80.min(body.len())]);
    }
    let (status, body) = rig.ask(format!("SELECT json('{}')", "[".repeat(900_000))).await;
    assert_eq!(status, 400, "{body}");
    // each column is within its limit, the row is not
    let wide = format!("SELECT {}", ["zeroblob(4000000)"; 12].join(","));
    let (status, body) = rig.ask(wide).await;
    assert_eq!((status, body.contains("row")), (413, true), "{body}");
    assert_eq!(rig.ask("SELECT a FROM t").await, (200, "[{\"a\":1}]\n".into()));
}

#[tokio::test]
async fn a_damaged_or_foreign_file_is_500_and_names_the_remedy() {
    let rig = Rig::new().await;
    let path = rig.directory.path(&id("utah"));
    std::fs::write(&path, b"this is no database, whatever its name says".repeat(100)).unwrap();
    let (status, body) = rig.ask_of("utah", "SELECT * FROM t").await;
    assert_eq!(status, 500, "{body}");
    assert!(body.contains("utah") && body.contains("publish it again"), "{body}");
    // a query after it is not answered from a connection that failed
    rig.segment("utah", "CREATE TABLE t (a);");
    assert_eq!(rig.ask_of("utah", "SELECT * FROM t").await, (200, "[]\n".into()));
}
