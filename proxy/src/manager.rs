//! The HTTP pages of `sync local`: status, and a person's orders to it.
//!
//! Invariants: a page in a browser gives no orders (a request with an `Origin` is refused, no CORS header
//! is sent, and the host must be this server's); every order is answered within a bound; a bind that other
//! machines can reach is refused unless it is wanted (`insecure_open`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::ORIGIN;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use fsd::segment::SegmentId;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::error::QueryError;
use crate::host::{HostKind, OwnNames};
use crate::http::HttpSettings;

/// Settings of the segment manager's server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ManagerSettings {
    /// Names that this server answers to, besides its addresses, `localhost` and the machine's name.
    pub host_names: Vec<String>,
    /// Take orders on an address that other machines reach, from anybody who can.
    pub insecure_open: bool,
    /// The longest that `POST /sync?wait=1` waits for the end of the cycle, in milliseconds.
    pub wait_ms: u64,
    /// The HTTP server's limits.
    pub http: HttpSettings,
}

impl Default for ManagerSettings {
    fn default() -> Self {
        let http = HttpSettings { connections_max: 256, ..HttpSettings::default() };
        Self { host_names: Vec::new(), insecure_open: false, wait_ms: 60_000, http }
    }
}

/// How far an ordered cycle came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cycle {
    /// It will run; nobody waited for it.
    Ordered,
    /// It has ended.
    Ended,
    /// It has not ended within the time given; it goes on.
    StillRunning,
}

/// What the pages need of the local synchronizer.
#[async_trait]
pub trait LocalControl: Send + Sync {
    /// Everything that it has to say of itself.
    async fn status(&self) -> serde_json::Value;
    /// Orders a cycle and waits for its end, but no longer than `wait` (zero: not at all).
    async fn sync_now(&self, wait: Duration) -> Cycle;
    /// Lets removals that were stopped for their number go on; what it did, for people.
    async fn accept_removals(&self) -> Result<String, String>;
    /// Begins a pass of the scrub now.
    fn scrub_now(&self);
    /// What ails it, with what to do; nothing when it does its work.
    fn healthy(&self) -> Result<(), String>;
    /// Whether this node serves the segment.
    async fn holds(&self, id: &SegmentId) -> bool;
}

/// The bind reaches further than this machine, and nobody said that it may.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} can be reached by other machines, and the segment manager takes orders from anybody; \
     bind it to 127.0.0.1, or set insecure_open = true"
)]
pub struct OpenBind(pub SocketAddr);

/// Serves until `shutdown`.
pub async fn run(
    settings: ManagerSettings,
    listener: TcpListener,
    control: Arc<dyn LocalControl>,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() && !settings.insecure_open {
        return Err(OpenBind(address).into());
    }
    let http = settings.http;
    let names = OwnNames::new(&settings.host_names);
    let wait = Duration::from_millis(settings.wait_ms);
    let app = Arc::new(App { names, wait, control, metrics });
    crate::http::serve(listener, router(app), http, shutdown).await;
    Ok(())
}

struct App {
    names: OwnNames,
    wait: Duration,
    control: Arc<dyn LocalControl>,
    metrics: PrometheusHandle,
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/sync", post(sync_now))
        .route("/accept-removals", post(accept_removals))
        .route("/scrub", post(scrub))
        .route("/health", get(health))
        .route("/health/{id}", get(health_of_segment))
        .route(
            "/metrics",
            get(async |State(app): State<Arc<App>>| crate::metrics::page(&app.metrics)),
        )
        .layer(middleware::from_fn_with_state(Arc::clone(&app), no_strangers))
        .with_state(app)
}

async fn no_strangers(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match app.names.kind(&parts) {
        Ok(HostKind::Ours) => {}
        Ok(HostKind::Label(host)) => return QueryError::WrongHost(host).into_response(),
        Err(error) => return error.into_response(),
    }
    if parts.headers.contains_key(ORIGIN) {
        let text = "a page in a browser gives no orders here; use `trough` or curl\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(Request::from_parts(parts, body)).await
}

async fn status(State(app): State<Arc<App>>) -> Response {
    Json(app.control.status().await).into_response()
}

#[derive(Debug, Deserialize)]
struct Wait {
    wait: Option<u8>,
}

async fn sync_now(State(app): State<Arc<App>>, Query(wait): Query<Wait>) -> Response {
    let wait = match wait.wait {
        None | Some(0) => Duration::ZERO,
        Some(_) => app.wait,
    };
    match app.control.sync_now(wait).await {
        Cycle::Ordered => (StatusCode::ACCEPTED, Json(json!({ "cycle": "ordered" }))),
        Cycle::Ended => (StatusCode::OK, Json(json!({ "cycle": "ended" }))),
        Cycle::StillRunning => (StatusCode::ACCEPTED, Json(json!({ "cycle": "still running" }))),
    }
    .into_response()
}

async fn accept_removals(State(app): State<Arc<App>>) -> Response {
    match app.control.accept_removals().await {
        Ok(text) => (StatusCode::OK, format!("{text}\n")).into_response(),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n")).into_response(),
    }
}

async fn scrub(State(app): State<Arc<App>>) -> Response {
    app.control.scrub_now();
    (StatusCode::ACCEPTED, Json(json!({ "scrub": "begun" }))).into_response()
}

async fn health(State(app): State<Arc<App>>) -> Response {
    match app.control.healthy() {
        Ok(()) => (StatusCode::OK, "OK\n").into_response(),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n")).into_response(),
    }
}

async fn health_of_segment(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    let held = match SegmentId::new(&id) {
        Ok(id) => app.control.holds(&id).await,
        Err(_) => false,
    };
    match held {
        true => (StatusCode::OK, "OK\n".to_owned()).into_response(),
        false => {
            let text = format!("segment {id:?} is not held here\n");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}
