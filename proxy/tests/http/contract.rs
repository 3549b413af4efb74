//! What a well-meant request gets.

use crate::rig::Rig;

#[tokio::test]
async fn rows_come_as_the_original_wrote_them() {
    let rig = Rig::new().await;
    let response = rig.begin("SELECT a, b FROM t").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["trough-segment"], "ohio");
    assert_eq!(response.headers()["trough-version"].len(), 64);
    assert!(response.headers().get("access-control-allow-origin").is_none());
    let expected = "[{\"a\":1,\"b\":\"one\"},\n{\"a\":2,\"b\":\"two\"}]\n";
    assert_eq!(response.text().await.unwrap(), expected);
    assert_eq!(rig.ask("SELECT a FROM t WHERE a > 9").await, (200, "[]\n".into()));
    // again, with the statement kept
    assert_eq!(rig.ask("SELECT a, b FROM t").await.1, expected);
}

#[tokio::test]
async fn values_of_every_kind_and_equal_names() {
    let rig = Rig::new().await;
    let sql = "SELECT 9007199254740993 AS n, 1.5 AS r, NULL AS z, 'a\"\u{1}é' AS s, x'00ff' AS b, \
               1e999 AS i, 1 AS n, CAST(x'ff' AS TEXT) AS u";
    let expected = "[{\"n\":9007199254740993,\"r\":1.5,\"z\":null,\"s\":\"a\\\"\\u0001é\",\
                    \"b\":{\"$base64\":\"AP8=\"},\"i\":null,\"n:1\":1,\"u\":{\"$base64\":\"/w==\"}}]\n";
    assert_eq!(rig.ask(sql).await, (200, expected.into()));
}

#[tokio::test]
async fn what_may_be_asked() {
    let mut wrong = Vec::new();
    let rig = Rig::new().await;
    rig.segment(
        "ohio",
        "CREATE TABLE t (a, b); CREATE INDEX i ON t (a); INSERT INTO t VALUES (1, 'one');
        CREATE VIEW v AS SELECT instr(b, 'n') AS n, replace(b, 'o', '0') AS r FROM t;
        CREATE INDEX e ON t (replace(b, 'o', '0'));
        CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES ('the quick brown fox');
        CREATE VIRTUAL TABLE r USING rtree(id, x0, x1); INSERT INTO r VALUES (1, 2, 3);",
    );
    for sql in [
        "SELECT 1;",
        "SELECT 1; ;-- and no more\n/* nothing */",
        " -- first\nSELECT 1",
        "VALUES (1), (2)",
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i < 5) SELECT * FROM n",
        "EXPLAIN SELECT * FROM t",
        "EXPLAIN QUERY PLAN SELECT * FROM t",
        "SELECT * FROM json_each('[1,2]')",
        "SELECT name FROM sqlite_schema",
        "SELECT * FROM v",
        "SELECT a FROM t WHERE replace(b, 'o', '0') = '0ne'",
        "SELECT * FROM r WHERE x0 > 1",
        "SELECT highlight(f, 0, '<', '>'), bm25(f) FROM f WHERE f MATCH 'quick'",
        "SELECT row_number() OVER (ORDER BY a), sum(a) OVER () FROM t",
        "SELECT date('now'), strftime('%Y', 'now'), round(1.5), sqrt(4), json_group_array(a) FROM t",
        "PRAGMA table_info(t)",
        "PRAGMA index_list(t)",
        "PRAGMA user_version",
        "SELECT * FROM pragma_table_info('t')",
        "SELECT \"as a string\"",
        "SELECT b FROM t WHERE b LIKE 'o%' AND b GLOB 'o*' AND b REGEXP '^o'",
        "SELECT a || b, printf('%d', a), hex(b), a -> '$' FROM t",
        "SELECT SEEDCRAWLEDSTATUS(200)",
    ] {
        let (status, body) = rig.ask(sql).await;
        let sound = serde_json::from_str::<serde_json::Value>(&body).is_ok();
        if status != 200 || !sound || !body.ends_with("]\n") {
            wrong.push(format!("{sql}: {status} {body}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn what_is_no_query_is_400_in_one_line() {
    let mut wrong = Vec::new();
    let rig = Rig::new().await;
    for (sql, word) in [
        ("", "no statement"),
        ("  \n", "no statement"),
        ("-- only a comment", "no statement"),
        (";", "no statement"),
        ("/* */", "no statement"),
        ("SELECT 1; SELECT 2", "more than one"),
        ("SELECT 1; nonsense", "more than one"),
        ("SELECT 1;DROP TABLE t", "more than one"),
        ("SELEC 1", "syntax error"),
        ("SELECT\nmissing\nFROM\nt", "no such column"),
        ("SELECT * FROM nowhere", "no such table"),
        ("SELECT 1\0", "NUL"),
        ("SELECT 1;\0SELECT", "NUL"),
        ("SELECT ?", "1 parameters"),
        ("SELECT :a, :b", "2 parameters"),
        ("SELECT abs(-9223372036854775807 - 1)", "integer overflow"),
        ("SELECT json('{')", "JSON"),
        ("SELECT 'a' REGEXP '('", "REGEXP"),
    ] {
        let (status, body) = rig.ask(sql).await;
        let one_line = body.ends_with('\n') && body.lines().count() == 1;
        if status != 400 || !body.contains(word) || !one_line {
            wrong.push(format!("{sql}: {status} {body:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let (status, body) = rig.ask(vec![b'S', 0xff, 0xfe]).await;
    assert_eq!((status, body.contains("UTF-8")), (400, true), "{body}");
    assert_eq!(rig.ask("SELECT 1 AS n").await, (200, "[{\"n\":1}]\n".into()));
}

#[tokio::test]
async fn a_long_list_of_statements_does_not_overflow_the_stack() {
    let rig = Rig::new().await;
    let (status, body) = rig.ask("SELECT 1;".repeat(100_000)).await;
    assert_eq!((status, body.contains("more than one")), (400, true), "{body}");
}

#[tokio::test]
async fn a_replaced_segment_is_answered_anew_by_the_next_query() {
    let rig = Rig::new().await;
    let ask = async || {
        let response = rig.begin("SELECT count(*) AS n FROM t").await;
        let version = response.headers()["trough-version"].to_str().unwrap().to_owned();
        (version, response.text().await.unwrap())
    };
    let (first, body) = ask().await;
    assert_eq!(body, "[{\"n\":2}]\n");
    for round in 0..20 {
        let rows = "INSERT INTO t VALUES (1);".repeat(round);
        rig.segment("ohio", &format!("CREATE TABLE t (a); {rows}"));
        let (version, body) = ask().await;
        assert_ne!(version, first);
        assert_eq!(body, format!("[{{\"n\":{round}}}]\n"));
    }
}

#[tokio::test]
async fn the_pages_for_machines() {
    let rig = Rig::new().await;
    let get = async |path: &str| {
        let url = format!("{}{path}", rig.url());
        let response = rig.client.get(url).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let (status, body) = get("health").await;
    assert_eq!((status, body.contains("\"mount\":\"live\"")), (200, true), "{body}");
    assert_eq!(get("health/ohio").await.0, 200);
    assert_eq!(get("health/utah").await.0, 500);
    assert_eq!(get("health/..%2Fx").await.0, 500);
    rig.ask("SELECT 1").await;
    let (status, body) = get("metrics").await;
    assert_eq!(status, 200);
    for name in [
        "trough_read_queries_total",
        "trough_read_query_duration_seconds",
        "trough_read_pool_hits_total",
        "trough_read_queries_in_flight",
        "trough_read_pool_open_connections",
    ] {
        assert!(body.contains(name), "{name} is missing in {body}");
    }
    rig.directory.set(fsd::view::MountState::Dead);
    let (status, body) = get("health").await;
    assert_eq!((status, body.contains("dead")), (503, true), "{body}");
}
