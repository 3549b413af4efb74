//! The HTTP pages of `sync lead`: what a candidate does, and the order to it to look at the deep store now.
//!
//! Invariants: who orders something of a candidate that does not lead is told who does (421); who only looks is
//! answered by every candidate. Who may give orders: [`crate::guarded`].

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use fsd::segment::SegmentId;
use metrics_exporter_prometheus::PrometheusHandle;
use sync::lead::{Asked, LeadHandle, LeadStatus};
use sync::pool_view::{Found, PoolView};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::guarded::{Cycle, ManagerSettings, OrderPages, Wait, well_or};

/// Serves until `shutdown`. `pool` is the pool table as this process follows it; `orders` are the pages of
/// [`crate::segments`], if it takes such orders.
pub async fn run(
    settings: ManagerSettings,
    listener: TcpListener,
    lead: LeadHandle,
    pool: Arc<PoolView>,
    orders: Option<OrderPages>,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let wait = Duration::from_millis(settings.wait_ms);
    let pages = router(Arc::new(App { wait, lead, pool }));
    crate::guarded::serve(&settings, listener, pages, orders, metrics, shutdown).await
}

struct App {
    wait: Duration,
    lead: LeadHandle,
    pool: Arc<PoolView>,
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/sync", post(sync_now))
        .route("/health", get(health))
        .route("/health/{id}", get(health_of_segment))
        .with_state(app)
}

async fn status(State(app): State<Arc<App>>) -> Response {
    Json(&*app.lead.status()).into_response()
}

async fn sync_now(State(app): State<Arc<App>>, Query(wait): Query<Wait>) -> Response {
    let wait = wait.of(app.wait);
    match app.lead.ask(wait).await {
        Asked::Done => Cycle::Ended.into_response(),
        Asked::UnderWay if wait.is_zero() => Cycle::Ordered.into_response(),
        Asked::UnderWay => Cycle::StillRunning.into_response(),
        Asked::Failed => {
            let problem = app.lead.status().problem.clone().unwrap_or_default();
            let text = format!("the cycle came to nothing: {problem}\n");
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
        Asked::NotLeading => {
            let text = format!("{}\n", not_leading(&app.lead.status()));
            (StatusCode::MISDIRECTED_REQUEST, text).into_response()
        }
    }
}

/// What a candidate says to orders that are the lead's.
pub(crate) fn not_leading(status: &LeadStatus) -> String {
    match &status.leader {
        Some(leader) => {
            format!("this one does not lead; {} at {} does", leader.node, leader.address)
        }
        None => "this one does not lead, and nobody else does now; try again".to_owned(),
    }
}

async fn health(State(app): State<Arc<App>>) -> Response {
    well_or(StatusCode::SERVICE_UNAVAILABLE, app.lead.status().ailment())
}

/// Whether some node answers for a segment: a candidate holds none itself.
async fn health_of_segment(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    let found = SegmentId::new(&id).map_or(Found::Absent, |id| app.pool.find(&id));
    let ailment = match found {
        Found::Listed(at) if !at.holders.is_empty() => None,
        Found::Listed(_) => Some(format!("no node answers for segment {id:?} now")),
        Found::Absent => Some(format!("segment {id:?} is not in the pool")),
        Found::Unknown => Some("the pool table was not read yet".to_owned()),
    };
    well_or(StatusCode::INTERNAL_SERVER_ERROR, ailment)
}
