//! Orders about segments.

use reqwest::Method;
use serde_json::json;

use crate::pages::{BODY_BYTES_MAX, Pages, answer, parsed};

#[tokio::test]
async fn a_segment_is_provisioned_and_promoted_as_the_original_does() {
    let pages = Pages::new().await;
    let write_url = "http://n1:6222/?segment=ohio";
    let said = parsed(pages.post("/provision", r#"{"segment": "ohio", "schema": "web"}"#).await);
    let first = json!({"write_url": write_url, "result": "success", "size": null, "schema": "web"});
    assert_eq!(said, first);
    // once more: the same, and with what is known of it now
    let said = parsed(pages.post("/provision", r#"{"segment": "ohio"}"#).await);
    let again = json!({"write_url": write_url, "result": "success", "size": 8192, "schema": "web"});
    assert_eq!(said, again);
    let said = parsed(pages.post("/provision", r#"{"segment": "published"}"#).await);
    assert_eq!((&said["schema"], &said["view_max_age_ms"]), (&json!("default"), &json!(2000)));
    // the deprecated way
    for body in ["ohio", "ohio\n"] {
        let response = pages.request(Method::POST, "/", body).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.text().await.unwrap(), write_url);
    }
    // whatever the body's type is said to be
    for kind in [None, Some("application/json"), Some("application/x-www-form-urlencoded")] {
        let mut request = pages.request(Method::POST, "/promote", r#"{"segment": "ohio"}"#);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let blake3 = blake3::hash(b"x").to_hex();
        let promoted =
            json!({"remote_path": "/pool/ohio.sqlite", "size": 4096, "blake3": blake3.as_str()});
        assert_eq!(parsed(answer(request).await), promoted);
    }
    let (status, text) = pages.post("/promote", r#"{"segment": "utah"}"#).await;
    assert!(status == 409 && text.contains("utah is not writable"), "{status} {text}");
    let resolve = async |keep: &str| {
        let order = json!({"segment": "ohio", "keep": keep}).to_string();
        pages.post("/resolve", order).await
    };
    assert_eq!(parsed(resolve("ours").await)["remote_path"], "/pool/ohio.sqlite");
    assert_eq!(parsed(resolve("theirs").await), json!({"orphan": "ohio@1-2"}));
    assert_eq!(resolve("both").await.0, 400);
}

#[tokio::test]
async fn a_segment_is_deleted_unless_it_is_written_or_not_there() {
    let pages = Pages::new().await;
    assert_eq!(pages.delete("/segment/published").await, (204, String::new()));
    let (status, text) = pages.delete("/segment/utah").await;
    assert!(status == 404 && text.contains("utah"), "{status} {text}");
    parsed(pages.post("/provision", r#"{"segment": "ohio"}"#).await);
    let (status, text) = pages.delete("/segment/ohio").await;
    assert!(status == 400 && text.contains("locked for writing by n1"), "{status} {text}");
    pages.asked();
    for path in ["/segment/a%2Fb", "/segment/a..b", "/segment/%2e%2e%2fa"] {
        assert_eq!(pages.delete(path).await.0, 400, "{path}");
    }
    for path in ["/segment/ohio", "/provision", "/promote"] {
        assert_eq!(pages.get(path).await.0, 405, "{path}");
    }
    assert_eq!(pages.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn what_cannot_be_understood_is_refused_before_anybody_hears_of_it() {
    let pages = Pages::new().await;
    for (path, body) in [
        ("/provision", ""),
        ("/provision", "ohio"),
        ("/provision", "[]"),
        ("/provision", "{}"),
        ("/provision", r#"{"segment": 1}"#),
        ("/provision", r#"{"segment": "a/b"}"#),
        ("/provision", r#"{"segment": ""}"#),
        ("/provision", r#"{"segment": "ohio", "schema": "a b"}"#),
        ("/provision", r#"{"segment": "ohio", "schem": "web"}"#),
        ("/provision", r#"{"segment": "ohio", "segment": "utah"}"#),
        ("/provision", r#"{"segment": "ohio"} {}"#),
        ("/promote", r#"{"segment": "../x"}"#),
        ("/promote", r#"{"schema": "web"}"#),
        ("/resolve", r#"{"segment": "ohio"}"#),
        ("/resolve", r#"{"keep": "ours"}"#),
        ("/", ""),
        ("/", "a b"),
        ("/", r#"{"segment": "ohio"}"#),
    ] {
        assert_eq!(pages.post(path, body).await.0, 400, "{path} {body}");
    }
    let url = format!("http://{}/", pages.address);
    assert_eq!(answer(pages.client.post(url).body(vec![0xff, 0xfe])).await.0, 400);
    assert_eq!(pages.post("/", "x".repeat(BODY_BYTES_MAX + 1)).await.0, 413);
    assert_eq!(pages.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn every_failure_has_its_status() {
    let pages = Pages::new().await;
    for (id, status) in [
        ("full", 507),
        ("away", 503),
        ("conflict", 409),
        ("registry", 503),
        ("store", 503),
        ("elsewhere", 421),
        ("broken", 500),
    ] {
        let order = json!({"segment": id}).to_string();
        for answered in [
            pages.post("/provision", &*order).await,
            pages.post("/promote", &*order).await,
            pages.post("/resolve", json!({"segment": id, "keep": "ours"}).to_string()).await,
            pages.post("/", id).await,
            pages.delete(&format!("/segment/{id}")).await,
        ] {
            assert_eq!(answered.0, status, "{id}: {}", answered.1);
        }
        let orders = ["provision", "promote", "resolve", "provision", "delete"];
        assert_eq!(pages.asked(), orders.map(|order| format!("{order} {id}")));
    }
    let (status, text) =
        pages.post("/provision", r#"{"segment": "ohio", "schema": "unknown"}"#).await;
    assert!(status == 400 && text.contains("no schema unknown"), "{status} {text}");
}
