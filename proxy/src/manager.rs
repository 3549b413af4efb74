//! The HTTP pages of `sync local`: status, and a person's orders to it.
//!
//! Invariant: every order is answered within a bound. Who may give one: [`crate::guarded`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use fsd::segment::SegmentId;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use sync::local::health::{Health, NodeHealth};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use crate::guarded::{Cycle, ManagerSettings, OpenBind, OrderPages};
use crate::guarded::{Wait, well_or};

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
    /// How it is.
    fn health(&self) -> NodeHealth;
    /// Whether this node serves the segment.
    async fn holds(&self, id: &SegmentId) -> bool;
}

/// Serves until `shutdown`; `orders` are the pages of [`crate::segments`], if it takes such orders.
pub async fn run(
    settings: ManagerSettings,
    listener: TcpListener,
    control: Arc<dyn LocalControl>,
    orders: Option<OrderPages>,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let wait = Duration::from_millis(settings.wait_ms);
    let pages = router(Arc::new(App { wait, control }));
    crate::guarded::serve(&settings, listener, pages, orders, metrics, shutdown).await
}

struct App {
    wait: Duration,
    control: Arc<dyn LocalControl>,
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/sync", post(sync_now))
        .route("/accept-removals", post(accept_removals))
        .route("/scrub", post(scrub))
        .route("/health", get(health))
        .route("/health/{id}", get(health_of_segment))
        .with_state(app)
}

async fn status(State(app): State<Arc<App>>) -> Response {
    Json(app.control.status().await).into_response()
}

async fn sync_now(State(app): State<Arc<App>>, Query(wait): Query<Wait>) -> Response {
    app.control.sync_now(wait.of(app.wait)).await.into_response()
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

/// To an HTTP check of Consul's, 2xx is passing, 429 a warning, and everything else critical.
async fn health(State(app): State<Arc<App>>) -> Response {
    let health = app.control.health();
    let status = match health.health {
        Health::Well => StatusCode::OK,
        Health::Strained => StatusCode::TOO_MANY_REQUESTS,
        Health::Ill => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(health)).into_response()
}

async fn health_of_segment(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    let held = match SegmentId::new(&id) {
        Ok(id) => app.control.holds(&id).await,
        Err(_) => false,
    };
    let ailment = (!held).then(|| format!("segment {id:?} is not held here"));
    well_or(StatusCode::INTERNAL_SERVER_ERROR, ailment)
}
