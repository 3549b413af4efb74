//! The pages of schemas.

use reqwest::Method;
use serde_json::{Value, json};
use sync::kv::{Key, Op};
use sync::schemas::SQL_BYTES_MAX;

use crate::pages::{BODY_BYTES_MAX, Pages, parsed};

#[tokio::test]
async fn schemas_are_registered_listed_and_shown() {
    let pages = Pages::new().await;
    assert_eq!(parsed(pages.get("/schema").await), json!([]));
    for path in ["/schema/web", "/schema/web/sql"] {
        let (status, text) = pages.get(path).await;
        assert!(status == 404 && text.contains("no schema web"), "{status} {text}");
    }
    let sql = "CREATE TABLE a (b);\n-- \u{e9}\n";
    assert_eq!(pages.put("/schema/web/sql", sql).await, (201, String::new()));
    assert_eq!(pages.put("/schema/web/sql", sql).await, (204, String::new()));
    let response = pages.request(Method::GET, "/schema/web/sql", "").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/sql");
    assert_eq!(response.text().await.unwrap(), sql);
    assert_eq!(parsed(pages.get("/schema/web").await), json!({"id": "web", "sql": sql}));

    let whole = json!({"id": "Net.2", "sql": "", "verbs": ["delete", "create table"]});
    assert_eq!(pages.put("/schema/Net.2", whole.to_string()).await, (201, String::new()));
    assert_eq!(parsed(pages.get("/schema/Net.2").await), whole);
    assert_eq!(parsed(pages.get("/schema").await), json!(["Net.2", "web"]));
    // the SQL alone leaves the verbs; the whole replaces them
    assert_eq!(pages.put("/schema/Net.2/sql", sql).await.0, 204);
    assert_eq!(parsed(pages.get("/schema/Net.2").await)["verbs"], whole["verbs"]);
    let without = json!({"id": "Net.2", "sql": sql});
    assert_eq!(pages.put("/schema/Net.2", without.to_string()).await.0, 204);
    assert_eq!(parsed(pages.get("/schema/Net.2").await), without);
}

#[tokio::test]
async fn a_schema_that_is_none_is_refused_and_what_was_there_stays() {
    let pages = Pages::new().await;
    let sql = "CREATE TABLE a (b)";
    assert_eq!(pages.put("/schema/web/sql", sql).await.0, 201);
    let whole = |body: Value| ("/schema/web", body.to_string());
    let script = |sql: &str| ("/schema/web/sql", sql.to_owned());
    for ((path, body), why) in [
        (whole(json!({"id": "web"})), "missing field `sql`"),
        (whole(json!({"id": "net", "sql": ""})), "that of web"),
        (whole(json!({"id": "web", "sql": "", "more": 1})), "unknown field `more`"),
        (whole(json!({"id": "web", "sql": "", "verbs": ["attach"]})), "is no kind of statement"),
        (whole(json!({"id": "web", "sql": "CREATE TABEL a (b)"})), "line 1: near \"TABEL\""),
        (("/schema/web", "not JSON".to_owned()), "expected"),
        (script("CREATE TABLE a (b);\nCREATE TABLE c (\n d e,,)"), "line 3: near"),
        (script("ATTACH '/tmp/x' AS x"), "line 1: ATTACH"),
        (script(&"-".repeat(SQL_BYTES_MAX + 1)), "65537 bytes"),
        (("/schema/a%20b/sql", String::new()), "segment id"),
    ] {
        let (status, text) = pages.put(path, body).await;
        assert!(status == 400 && text.contains(why), "{status} {text}");
    }
    assert_eq!(pages.put("/schema/web/sql", "x".repeat(BODY_BYTES_MAX + 1)).await.0, 413);
    assert_eq!(pages.get("/schema/web/sql").await, (200, sql.to_owned()));
    assert_eq!(parsed(pages.get("/schema").await), json!(["web"]));
    // the longest of the characters that JSON writes longest is within the bounds
    let longest = format!("-- {}", "\u{1}".repeat(SQL_BYTES_MAX - 3));
    let body = json!({"id": "web", "sql": longest}).to_string();
    assert_eq!(pages.put("/schema/web", body).await, (204, String::new()));
}

/// One script runs at a time, and the others get their turn.
#[tokio::test]
async fn many_scripts_at_once_are_all_registered() {
    let pages = Pages::new().await;
    let paths: Vec<String> = (0..20).map(|n| format!("/schema/s{n:02}/sql")).collect();
    let puts = paths.iter().map(|path| pages.put(path, "CREATE TABLE a (b)"));
    for (status, text) in futures::future::join_all(puts).await {
        assert_eq!(status, 201, "{text}");
    }
    assert_eq!(parsed(pages.get("/schema").await).as_array().unwrap().len(), paths.len());
}

#[tokio::test]
async fn a_registry_that_is_away_or_garbled_is_told() {
    let pages = Pages::new().await;
    let key = Key::new("trough/schema/web").unwrap();
    pages.kv.txn(&[Op::Set { key, value: "garbled".into() }]).await.unwrap();
    for (status, text) in [pages.get("/schema/web").await, pages.put("/schema/web/sql", "").await] {
        assert!(status == 500 && text.contains("remove that key"), "{status} {text}");
    }
    assert_eq!(parsed(pages.get("/schema").await), json!([]));
    std::fs::remove_file(pages.dir.path().join("kv")).unwrap();
    std::fs::create_dir(pages.dir.path().join("kv")).unwrap();
    for (status, text) in [
        pages.get("/schema").await,
        pages.get("/schema/net").await,
        pages.put("/schema/net/sql", "").await,
    ] {
        assert_eq!(status, 503, "{text}");
    }
}
