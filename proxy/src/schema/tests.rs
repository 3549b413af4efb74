//! Scripts as people write them, and as nobody should.

use std::fmt::Write as _;

use super::*;

/// So short that what never ends ends soon.
const SHORT: Duration = Duration::from_millis(200);

fn refused(sql: &str) -> String {
    let error = build(sql, SHORT).map(drop).unwrap_err();
    assert!(error.is_of_script(), "{error:?}");
    error.to_string()
}

fn made(sql: &str) -> (tempfile::TempDir, Connection) {
    check(sql).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new.sqlite");
    create(sql, &path).unwrap();
    // nothing is beside it: no journal, nothing temporary
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let connection = Connection::open(path).unwrap();
    let sound: String = pragma(&connection, "integrity_check");
    assert_eq!(sound, "ok");
    (dir, connection)
}

fn pragma<T: rusqlite::types::FromSql>(connection: &Connection, name: &str) -> T {
    connection.pragma_query_value(None, name, |row| row.get(0)).unwrap()
}

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn a_schema_makes_what_it_says() {
    let sql = "
        -- what a crawler writes
        CREATE TABLE page (id INTEGER PRIMARY KEY AUTOINCREMENT, url TEXT UNIQUE NOT NULL, at TEXT DEFAULT (datetime('now')), kind DEFAULT \"page\",
            status INT CHECK (abs(status) < 1000), seen INT REFERENCES host (id), size INT AS (length(url)) STORED);
        CREATE TABLE host (id INTEGER PRIMARY KEY, name TEXT) STRICT;
        CREATE TABLE pair (a, b, PRIMARY KEY (a, b)) WITHOUT ROWID;
        CREATE INDEX by_status ON page (status, lower(url)) WHERE status > 0;
        CREATE UNIQUE INDEX IF NOT EXISTS by_name ON host (name);
        CREATE VIEW failed AS SELECT url FROM page WHERE status >= 400; /* and
        a comment; with a semicolon */
        CREATE VIRTUAL TABLE words USING fts5 (url, content = 'page', content_rowid = 'id');
        CREATE VIRTUAL TABLE boxes USING rtree (id, x0, x1);
        CREATE TRIGGER page_words AFTER INSERT ON page BEGIN
            INSERT INTO words (rowid, url) VALUES (new.id, new.url);
        END;
        DROP TABLE IF EXISTS never_there;
        INSERT INTO host VALUES (1, 'a'), (2, 'b');
        INSERT INTO page (url, status, seen) SELECT 'http ' || name, 500, id FROM host;
        INSERT INTO boxes VALUES (1, 0, 10);
        UPDATE page SET status = 404 WHERE seen = 2;
        DELETE FROM host WHERE id = 2;
        CREATE TABLE copy AS SELECT * FROM page;;
        SELECT count(*) FROM copy";
    let (_dir, connection) = made(sql);
    assert_eq!(number(&connection, "SELECT count(*) FROM failed"), 2);
    assert_eq!(number(&connection, "SELECT count(*) FROM words WHERE words MATCH 'http'"), 2);
    assert_eq!(number(&connection, "SELECT count(*) FROM boxes WHERE x0 <= 5 AND x1 >= 5"), 1);
    assert_eq!(number(&connection, "SELECT count(*) FROM copy"), 2);
    assert_eq!(pragma::<i64>(&connection, "page_size"), 4096);
    assert_eq!(pragma::<String>(&connection, "journal_mode"), "delete");
}

#[test]
fn a_schema_that_says_nothing_makes_an_empty_database() {
    for sql in [
        "",
        " \n",
        ";",
        "-- nothing",
        "/* nothing */",
        "/* open",
        ";;\n-- nothing\n;",
        "BEGIN;COMMIT",
    ] {
        let (dir, connection) = made(sql);
        assert_eq!(number(&connection, "SELECT count(*) FROM sqlite_schema"), 0);
        let bytes = std::fs::read(dir.path().join("new.sqlite")).unwrap();
        assert!(bytes.starts_with(b"SQLite format 3\0") && bytes.len() == 4096, "{sql:?}");
    }
}

#[test]
fn a_dump_is_a_schema() {
    let (_dir, connection) = made(
        "PRAGMA foreign_keys=OFF;\nPRAGMA page_size = 8192;\nPRAGMA encoding = 'UTF-16le';\nPRAGMA auto_vacuum = 1;\n\
         PRAGMA user_version = 7;\nPRAGMA application_id(99);\n\
         BEGIN TRANSACTION;\nCREATE TABLE a (b);\nINSERT INTO a VALUES ('x');\nCOMMIT;\n",
    );
    assert_eq!(pragma::<i64>(&connection, "user_version"), 7);
    assert_eq!(pragma::<i64>(&connection, "application_id"), 99);
    assert_eq!(pragma::<i64>(&connection, "auto_vacuum"), 1);
    assert_eq!(pragma::<i64>(&connection, "page_size"), 8192);
    assert_eq!(pragma::<String>(&connection, "encoding"), "UTF-16le");
    assert!(refused("BEGIN; CREATE TABLE a (b);").contains("does not commit"));
    assert!(refused("BEGIN; BEGIN; COMMIT").contains("within a transaction"));
    assert!(refused("BEGIN; ROLLBACK").contains("ROLLBACK"));
    assert!(refused("SAVEPOINT a; RELEASE a").contains("SAVEPOINT"));
}

#[test]
fn two_thousand_tables_are_made() {
    let mut sql = String::new();
    for n in 0..2000 {
        writeln!(sql, "CREATE TABLE t{n} (a);").unwrap();
    }
    let (_dir, connection) = made(&sql);
    assert_eq!(number(&connection, "SELECT count(*) FROM sqlite_schema"), 2000);
}

#[test]
fn s7_what_reaches_beyond_the_database_or_changes_how_it_is_kept_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    let at = outside.display();
    for (sql, what) in [
        (&*format!("ATTACH '{at}' AS o; CREATE TABLE o.a (b)"), "ATTACH"),
        ("ATTACH ':memory:' AS o", "ATTACH"),
        ("DETACH main", "DETACH"),
        ("VACUUM", "VACUUM"),
        ("CREATE TABLE a (b); VACUUM", "VACUUM"),
        (&format!("VACUUM INTO '{at}'"), "VACUUM"),
        ("CREATE TABLE a (b CHECK (sqlite_log(1, b)))", "sqlite_log"),
        ("SELECT fts3_tokenizer('simple')", "fts3_tokenizer"),
        ("SELECT sqlite_version()", "sqlite_version"),
        ("PRAGMA writable_schema = ON", "PRAGMA writable_schema"),
        ("PRAGMA journal_mode = WAL", "PRAGMA journal_mode"),
        ("PRAGMA main.journal_mode = OFF", "PRAGMA journal_mode"),
        ("PRAGMA max_page_count = 4294967294", "PRAGMA max_page_count"),
        ("PRAGMA max_page_count", "PRAGMA max_page_count"),
        ("PRAGMA trusted_schema = 1", "PRAGMA trusted_schema"),
        ("PRAGMA temp_store_directory = '/'", "PRAGMA temp_store_directory"),
        ("PRAGMA hard_heap_limit = 1", "PRAGMA hard_heap_limit"),
        ("PRAGMA integrity_check", "PRAGMA integrity_check"),
        ("SELECT * FROM pragma_max_page_count", "max_page_count"),
        ("CREATE TABLE a (b); ANALYZE", "ANALYZE"),
        ("CREATE TABLE a (b PRIMARY KEY); REINDEX a", "REINDEX"),
        ("CREATE TABLE a (b); ALTER TABLE a RENAME TO c", "ALTER"),
        ("CREATE TABLE a (b); DROP TABLE a", "DROP"),
        ("CREATE TEMP TABLE a (b)", "CREATE TABLE"),
        ("CREATE TEMP VIEW a AS SELECT 1", "CREATE VIEW"),
        ("CREATE VIRTUAL TABLE a USING dbstat", "a virtual table of dbstat"),
        ("CREATE VIRTUAL TABLE a USING fts4 (b)", "a virtual table of fts4"),
        ("CREATE VIRTUAL TABLE a USING fts5vocab (b, row)", "a virtual table of fts5vocab"),
        ("CREATE VIRTUAL TABLE a USING csv (filename = '/etc/passwd')", "a virtual table of csv"),
        ("CREATE TABLE a (b); SELECT * FROM dbstat", "dbstat"),
    ] {
        let said = refused(sql);
        assert!(said.contains(what) && said.contains("has no place in a schema"), "{sql}: {said}");
    }
    assert!(!outside.try_exists().unwrap());
    // SQLite itself refuses these: it has no such function, or is in its defensive mode
    for sql in [
        "SELECT load_extension('x')",
        "CREATE TABLE a (b CHECK (load_extension(b)))",
        "INSERT INTO sqlite_schema VALUES ('table', 'a', 'a', 2, 'CREATE TABLE a (b)')",
        "CREATE VIRTUAL TABLE a USING fts5 (b); DELETE FROM a_data",
        "CREATE TABLE sqlite_a (b)",
    ] {
        assert!(!refused(sql).is_empty());
    }
}

#[test]
fn s8_a_schema_ends_by_its_bounds() {
    let forever = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n)";
    let said = refused(&format!("CREATE TABLE a (b);\n{forever} SELECT count(*) FROM n"));
    assert!(said.contains("line 2: the schema did not end within"), "{said}");
    let long = Duration::from_secs(60);
    let rows = |bytes: u64| {
        format!(
            "CREATE TABLE a (b);\nINSERT INTO a WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n \
             WHERE i < {bytes} / 10000) SELECT randomblob(10000) FROM n;"
        )
    };
    build(&rows(10 << 20), long).unwrap();
    // however long a page is, and also if the last of many bytes are in the last page
    for begin in ["", "PRAGMA page_size = 65536;", "PRAGMA page_size = 512;", "BEGIN;"] {
        let error = build(&format!("{begin}{}", rows(80 << 20)), long).map(drop).unwrap_err();
        assert!(matches!(error, SchemaError::TooLarge { line: 2 }), "{begin} {error:?}");
    }
    let sql = format!("CREATE TABLE a (b);INSERT INTO a {forever} SELECT zeroblob(4000000) FROM n");
    let error = build(&sql, long).map(drop).unwrap_err();
    assert!(matches!(error, SchemaError::TooLarge { line: 1 }), "{error:?}");
    // sorting what is never stored
    let sorted = "SELECT count(*) FROM (SELECT DISTINCT randomblob(1000000) FROM n LIMIT 400)";
    let error = build(&format!("{forever} {sorted}"), long).map(drop).unwrap_err();
    assert!(matches!(error, SchemaError::TooLarge { line: 1 }), "{error:?}");
    for (sql, what) in [
        ("SELECT zeroblob(5000000)", "too big"),
        ("CREATE TABLE a (b CHECK (b LIKE '%'))); ", "syntax error"),
    ] {
        let said = refused(sql);
        assert!(said.contains(what), "{sql}: {said}");
    }
    let wide: Vec<String> = (0..201).map(|n| format!("c{n}")).collect();
    assert!(refused(&format!("CREATE TABLE a ({})", wide.join(","))).contains("too many columns"));
    let deep = format!("SELECT {}1{}", "(1 +".repeat(200), ")".repeat(200));
    assert!(refused(&deep).contains("maximum depth"));
    let parens = format!("SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000));
    assert!(!refused(&parens).is_empty());
}

#[test]
fn an_error_says_on_which_line_it_is_and_leaves_no_file() {
    let tables = "CREATE TABLE a (b);\n";
    for (sql, said) in [
        (
            format!("{tables}-- more\nCREATE TABLE c (d);\nCREATE TABEL e (f);"),
            "line 4: near \"TABEL\"",
        ),
        (format!("{tables}CREATE TABLE c (\n  d,\n  e f g h,,\n);"), "line 4: near \",\""),
        (format!("{tables}CREATE TABLE c (d\n"), "line 2: incomplete input"),
        (
            format!("{tables}\n\n/* twice\n*/ -- so\nCREATE TABLE a (b);"),
            "line 6: table a already exists",
        ),
        (format!("{tables}\nINSERT INTO a VALUES (no_such(1));"), "line 3: no such function"),
        (
            "CREATE TABLE a (b UNIQUE);\n\nINSERT INTO a VALUES (1), (1)".to_owned(),
            "line 3: UNIQUE constraint",
        ),
        (format!("{tables}\nINSERT INTO a VALUES (?1)"), "line 3: the statement has parameters"),
        (format!("{tables}\nPRAGMA journal_mode = OFF"), "line 3: PRAGMA journal_mode"),
        (format!("{tables}\n-- \0"), "line 3: there is a NUL byte"),
        ("\n\u{e9}".to_owned(), "line 2: "),
        ("-".repeat(SQL_BYTES_MAX + 1), "65537 bytes"),
    ] {
        let text = refused(&sql);
        assert!(text.contains(said), "{text}");
        let dir = tempfile::tempdir().unwrap();
        create(&sql, &dir.path().join("a.sqlite")).unwrap_err();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_file_that_is_there_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sqlite");
    std::fs::write(&path, "mine").unwrap();
    let error = create("CREATE TABLE a (b)", &path).unwrap_err();
    assert!(!error.is_of_script() && error.to_string().contains("a.sqlite"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    let error = create("", Path::new("/no/such/directory/a.sqlite")).unwrap_err();
    assert!(matches!(error, SchemaError::File { .. }));
}
