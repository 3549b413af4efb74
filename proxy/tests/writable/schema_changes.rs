//! Verbs that are allowed, and what a schema brings with it.

use proxy::writable::WriteError;
use sync::verb::Verb;

use crate::support::*;

#[tokio::test]
async fn each_verb_is_allowed_by_itself() {
    let schema = "CREATE TABLE t (n INTEGER PRIMARY KEY, x UNIQUE); INSERT INTO t VALUES (1, 'a');
        CREATE TABLE old (a, b); CREATE INDEX old_a ON old (a); CREATE VIEW v AS SELECT * FROM t;
        CREATE TRIGGER r AFTER INSERT ON old BEGIN INSERT INTO t VALUES (new.a, new.b); END";
    for (verb, statement) in [
        (Verb::Delete, "DELETE FROM t WHERE n = 2"),
        (Verb::CreateTable, "CREATE TABLE u (a PRIMARY KEY, b UNIQUE) WITHOUT ROWID"),
        (Verb::CreateIndex, "CREATE INDEX i ON t (x)"),
        (Verb::CreateView, "CREATE VIEW w AS SELECT * FROM t"),
        (Verb::CreateTrigger, "CREATE TRIGGER q AFTER INSERT ON t BEGIN DELETE FROM old; END"),
        (Verb::CreateVirtualTable, "CREATE VIRTUAL TABLE f USING fts5(x)"),
        (Verb::CreateVirtualTable, "CREATE VIRTUAL TABLE g USING rtree(id, a, b)"),
        (Verb::AlterTable, "ALTER TABLE t ADD COLUMN y"),
        (Verb::AlterTable, "ALTER TABLE old RENAME TO new"),
        (Verb::AlterTable, "ALTER TABLE t RENAME COLUMN x TO z"),
        (Verb::DropTable, "DROP TABLE old"),
        (Verb::DropIndex, "DROP INDEX old_a"),
        (Verb::DropView, "DROP VIEW v"),
        (Verb::DropTrigger, "DROP TRIGGER r"),
    ] {
        let without = Bench::with(schema);
        let error = sql(&without.open(), statement).await.unwrap_err();
        assert!(matches!(&error, WriteError::Refused(_)), "{statement}: {error:?}");
        let with = Bench::with(schema).allow([verb]);
        let open = with.open();
        sql(&open, statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
        sql(&open, "INSERT INTO t (n) VALUES (2)").await.unwrap();
        assert_eq!(with.rows(), [1, 2], "{statement}");
        // and nothing else
        for other in ["VACUUM", "UPDATE sqlite_master SET sql = ''", "CREATE TEMP TABLE z (n)"] {
            sql(&open, other).await.unwrap_err();
        }
    }
}

#[tokio::test]
async fn what_a_schema_brings_does_what_it_was_made_for() {
    let bench = Bench::with(
        "CREATE TABLE t (n INTEGER PRIMARY KEY, x); CREATE TABLE log (n INTEGER PRIMARY KEY AUTOINCREMENT, x);
         CREATE VIRTUAL TABLE f USING fts5(x, content='t', content_rowid='n');
         CREATE TRIGGER a AFTER INSERT ON t BEGIN
            INSERT INTO f (rowid, x) VALUES (new.n, new.x); DELETE FROM log WHERE x = new.x; END",
    );
    let open = bench.open();
    sql(&open, "INSERT INTO log (x) VALUES ('gull'); INSERT INTO t VALUES (1, 'gull')")
        .await
        .unwrap();
    let db = rusqlite::Connection::open(bench.path()).unwrap();
    let found = |sql| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(found("SELECT count(*) FROM f WHERE f MATCH 'gull'"), 1);
    assert_eq!(found("SELECT count(*) FROM log"), 0);
    let error = sql(&open, "DELETE FROM log").await.unwrap_err();
    assert!(matches!(error, WriteError::Refused(_)));
}

#[tokio::test]
async fn a_virtual_table_that_a_request_made_can_be_used_and_dropped() {
    let bench = Bench::new().allow([Verb::CreateVirtualTable, Verb::DropTable]);
    let open = bench.open();
    sql(&open, "CREATE VIRTUAL TABLE f USING fts5(x); INSERT INTO f VALUES ('tern')")
        .await
        .unwrap();
    sql(&open, "INSERT INTO f VALUES ('gull')").await.unwrap();
    sql(&open, "CREATE VIRTUAL TABLE x USING fts3(x)").await.unwrap_err();
    sql(&open, "CREATE VIRTUAL TABLE x USING dbstat").await.unwrap_err();
    sql(&open, "DROP TABLE f").await.unwrap();
    let db = rusqlite::Connection::open(bench.path()).unwrap();
    let left: i64 =
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 1);
}
