//! The HTTP side, and the orders over the socket.

use std::sync::Arc;

use proxy::segments::ManageError;
use proxy::tokens::{TokenSettings, Tokens};
use proxy::writer::control::Control;
use reqwest::{Client, Response, StatusCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::*;

/// So little that a connection takes it up though nobody reads it.
const BODY_BYTES_MAX: u64 = 4096;

struct Server {
    url: String,
    control: Control,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Server {
    async fn start(place: &Place, node: &str, tokens: Tokens) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut outside = place.outside(node, Place::settings());
        outside.settings.write.body_bytes_max = BODY_BYTES_MAX;
        let control = Control::new(outside.files.root());
        let metrics =
            metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
        let stop = CancellationToken::new();
        let run = proxy::writer::run(outside, listener, Arc::new(tokens), metrics, stop.clone());
        Self { url, control, stop, task: tokio::spawn(run) }
    }

    async fn post(&self, segment: &str, body: impl Into<reqwest::Body>) -> Response {
        let url = format!("{}/?segment={segment}", self.url);
        Client::new().post(url).body(body).send().await.unwrap()
    }

    async fn json(&self, segment: &str, body: serde_json::Value) -> Response {
        let url = format!("{}/?segment={segment}", self.url);
        Client::new().post(url).json(&body).send().await.unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_is_answered_as_the_original_does_and_every_failure_by_its_kind() {
    let place = Place::new();
    place.schema("default", "CREATE TABLE t (n INTEGER PRIMARY KEY)").await;
    let (one, two) = (
        Server::start(&place, "one", Tokens::default()).await,
        Server::start(&place, "two", Tokens::default()).await,
    );
    until("the writer listens", async || one.control.open().await.is_ok()).await;
    let made = one.control.provision(&id("ohio"), Some(&id("default"))).await.unwrap();
    assert_eq!(made.schema, Some(id("default")));

    let done = one.post("ohio", "INSERT INTO t VALUES (1), (2)").await;
    assert_eq!(done.status(), StatusCode::OK);
    assert_eq!(done.headers()["trough-changes"], "2");
    assert_eq!(done.text().await.unwrap(), "OK\n");
    let rows: Vec<_> = (10..20).map(|n| serde_json::json!([n])).collect();
    let done = one
        .json("ohio", serde_json::json!({"sql": "INSERT INTO t VALUES (?)", "rows": rows}))
        .await;
    assert_eq!(done.headers()["trough-changes"], "10");
    let by_host = Client::new().post(&one.url).header("host", "ohio.trough-write.service.consul");
    let done = by_host.body("INSERT INTO t VALUES (3)").send().await.unwrap();
    assert_eq!(done.status(), StatusCode::OK);

    for (body, status) in [
        ("INSERT INTO t VALUES (1)", 400),
        ("INSERT", 400),
        ("", 400),
        ("DELETE FROM t", 403),
        ("SELECT 1", 403),
        ("ATTACH 'x' AS y", 403),
    ] {
        let failed = one.post("ohio", body).await;
        assert_eq!(failed.status(), status, "{body}");
        assert!(failed.text().await.unwrap().ends_with('\n'));
    }
    assert_eq!(one.post("ohio", vec![0xff, 0xfe]).await.status(), 400);
    assert_eq!(one.post("..", "x").await.status(), 400);
    let large = vec![b' '; BODY_BYTES_MAX as usize + 1];
    assert_eq!(one.post("ohio", large).await.status(), 413);
    let strange =
        Client::new().post(format!("{}/?segment=ohio", one.url)).header("host", "evil.example");
    assert_eq!(strange.body("INSERT INTO t VALUES (9)").send().await.unwrap().status(), 421);

    let elsewhere = two.post("ohio", "INSERT INTO t VALUES (4)").await;
    assert_eq!(elsewhere.status(), 421);
    assert_eq!(elsewhere.headers()["trough-write-address"], "one:6222");
    let nowhere = two.post("texas", "INSERT INTO t VALUES (4)").await;
    assert_eq!(nowhere.status(), 421);
    assert!(nowhere.text().await.unwrap().contains("provision it first"));

    let open = one.control.open().await.unwrap();
    assert_eq!((open.len(), open[0].unpublished_requests), (1, 3));
    let version = one.control.promote(&id("ohio")).await.unwrap();
    assert!(version.stamp.length > 0);
    let error = one.control.promote(&id("texas")).await.unwrap_err();
    assert_eq!(error, ManageError::NotWritable(id("texas")));
    let error = two.control.provision(&id("ohio"), None).await.unwrap_err();
    assert!(matches!(error, ManageError::Locked { .. }), "{error:?}");
    assert!(one.control.hand_back(&id("ohio")).await.unwrap());
    assert_eq!(place.published("ohio").unwrap().len(), 13);
    let health = reqwest::get(format!("{}/health", one.url)).await.unwrap();
    assert_eq!(health.status(), 200);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_token_nothing_is_written() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    place.schema("default", "CREATE TABLE t (n INTEGER PRIMARY KEY)").await;
    let file = place.dir.path().join("tokens");
    std::fs::write(&file, "a-token-of-some-length\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let settings = TokenSettings { write_file: Some(file), ..TokenSettings::default() };
    let one = Server::start(&place, "one", Tokens::load(&settings).unwrap()).await;
    until("the writer listens", async || one.control.open().await.is_ok()).await;
    one.control.provision(&id("ohio"), Some(&id("default"))).await.unwrap();
    assert_eq!(one.post("ohio", "INSERT INTO t VALUES (1)").await.status(), 401);
    let url = format!("{}/?segment=ohio", one.url);
    for (token, status) in [("another-token-of-length", 401), ("a-token-of-some-length", 200)] {
        let request = Client::new().post(&url).bearer_auth(token).body("INSERT INTO t VALUES (1)");
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    one.stop().await;
}
