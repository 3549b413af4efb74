//! The segment manager's pages.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::routing::post;
use fsd::segment::SegmentId;
use proxy::manager::{Cycle, LocalControl, ManagerSettings, OrderPages, run};
use proxy::tokens::{TokenSettings, Tokens};
use sync::local::health::{Finding, Health, NodeHealth};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::rig::metrics;

#[derive(Default)]
struct Local {
    cycles: AtomicUsize,
    scrubs: AtomicUsize,
}

#[async_trait]
impl LocalControl for Local {
    async fn status(&self) -> serde_json::Value {
        serde_json::json!({ "held": 7 })
    }
    async fn sync_now(&self, wait: Duration) -> Cycle {
        self.cycles.fetch_add(1, Ordering::SeqCst);
        if wait.is_zero() { Cycle::Ordered } else { Cycle::Ended }
    }
    async fn accept_removals(&self) -> Result<String, String> {
        Ok("3 removals accepted".into())
    }
    fn scrub_now(&self) {
        self.scrubs.fetch_add(1, Ordering::SeqCst);
    }
    fn health(&self) -> NodeHealth {
        let health = match self.cycles.load(Ordering::SeqCst) {
            0 => Health::Ill,
            1 => Health::Strained,
            _ => Health::Well,
        };
        let finding = Finding { health, says: "as cycles say".to_owned() };
        let [mount, disk, ledger, lag] = std::array::from_fn(|_| finding.clone());
        NodeHealth { health, mount, disk, ledger, lag }
    }
    async fn holds(&self, id: &SegmentId) -> bool {
        id.as_str() == "ohio"
    }
}

#[tokio::test]
async fn orders_and_pages() {
    let local = Arc::new(Local::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let root = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let control = Arc::clone(&local) as Arc<dyn LocalControl>;
    let served = tokio::spawn(run(
        ManagerSettings::default(),
        listener,
        control,
        None,
        metrics(),
        shutdown.clone(),
    ));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = async |path: &str| {
        let response = client.get(format!("{root}{path}")).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let post = async |path: &str| {
        let response = client.post(format!("{root}{path}")).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let (status, text) = get("/health").await;
    let said: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (status, &said["health"], &said["lag"]["says"]),
        (503, &"ill".into(), &"as cycles say".into())
    );
    assert_eq!(get("/status").await, (200, "{\"held\":7}".into()));
    assert_eq!(post("/sync").await.0, 202);
    assert_eq!(get("/health").await.0, 429);
    assert_eq!(post("/sync?wait=1").await.0, 200);
    assert_eq!(post("/accept-removals").await, (200, "3 removals accepted\n".into()));
    assert_eq!(post("/scrub").await.0, 202);
    assert_eq!(get("/health").await.0, 200);
    assert_eq!(get("/health/ohio").await.0, 200);
    assert_eq!(get("/health/utah").await.0, 500);
    assert_eq!(get("/metrics").await.0, 200);
    assert_eq!(get("/sync").await.0, 405);
    // a page in a browser, by its own name or by ours
    let ordered = local.cycles.load(Ordering::SeqCst);
    for (name, value, status) in [
        ("origin", "http://evil.example", 403),
        ("origin", "null", 403),
        ("host", "evil.example", 421),
    ] {
        let request = client.post(format!("{root}/sync")).header(name, value);
        assert_eq!(request.send().await.unwrap().status().as_u16(), status, "{name}: {value}");
    }
    assert_eq!(local.cycles.load(Ordering::SeqCst), ordered);
    assert_eq!(local.scrubs.load(Ordering::SeqCst), 1);
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(15), served).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_address_that_others_reach_is_refused_unless_wanted() {
    let open = async |settings: ManagerSettings| {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let stopped = CancellationToken::new();
        stopped.cancel();
        run(settings, listener, Arc::new(Local::default()), None, metrics(), stopped).await
    };
    let error = open(ManagerSettings::default()).await.unwrap_err();
    assert!(error.to_string().contains("insecure_open"), "{error}");
    open(ManagerSettings { insecure_open: true, ..ManagerSettings::default() }).await.unwrap();
}

#[tokio::test]
async fn orders_about_segments_are_taken_from_who_has_the_token_and_no_page_in_a_browser() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("manage");
    let mut options = std::fs::OpenOptions::new();
    let mut open = options.write(true).create_new(true).mode(0o600).open(&file).unwrap();
    open.write_all(b"0123456789abcdef-manage").unwrap();
    let settings = TokenSettings { manage_file: Some(file), ..TokenSettings::default() };
    let tokens = Arc::new(Tokens::load(&settings).unwrap());
    let heard = Arc::new(AtomicUsize::new(0));
    let hears = Arc::clone(&heard);
    // whether its caller may is for the pages themselves
    let order = post(async move || hears.fetch_add(1, Ordering::SeqCst).to_string());
    let pages = Router::new().route("/provision", order);
    let local = Arc::new(Local::default());
    // closed by the token, it may be reached
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let root = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let shutdown = CancellationToken::new();
    let control = Arc::clone(&local) as Arc<dyn LocalControl>;
    let orders = Some(OrderPages { pages, tokens });
    let settings = ManagerSettings::default();
    let served =
        tokio::spawn(run(settings, listener, control, orders, metrics(), shutdown.clone()));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let status =
        async |request: reqwest::RequestBuilder| request.send().await.unwrap().status().as_u16();
    let post = |path: &str| client.post(format!("{root}{path}"));
    for path in ["/sync", "/accept-removals", "/scrub"] {
        assert_eq!(status(post(path)).await, 401, "{path}");
    }
    assert_eq!(status(post("/sync").bearer_auth("something-else-0123")).await, 401);
    assert_eq!(local.cycles.load(Ordering::SeqCst), 0);
    assert_eq!(status(post("/sync").bearer_auth("0123456789abcdef-manage")).await, 202);
    for path in ["/status", "/health/ohio", "/metrics"] {
        assert_eq!(status(client.get(format!("{root}{path}"))).await, 200, "{path}");
    }
    assert_eq!(status(post("/provision")).await, 200);
    assert_eq!(status(post("/provision").header("origin", "http://evil.example")).await, 403);
    assert_eq!(status(post("/provision").header("host", "evil.example")).await, 421);
    assert_eq!(heard.load(Ordering::SeqCst), 1);
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(15), served).await.unwrap().unwrap().unwrap();
}
