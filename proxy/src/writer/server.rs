//! The writer's HTTP side: `POST /` with a script, or JSON with values, for a segment that is open here (DESIGN.md 7, 8).
//!
//! Invariants: `OK` is said only of what is durable and was written while this node owned the segment; a body is bounded
//! in length and time; a client that leaves ends its request.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use fsd::segment::SegmentId;
use metrics::{counter, histogram};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Desk;
use crate::body::{self, BodyError};
use crate::host::{HostKind, OwnNames};
use crate::metrics::{WRITE_DURATION, WRITE_ROWS, WRITES};
use crate::tokens::{Right, TokenRefused, Tokens};
use crate::writable::{WriteError, WriteRequest, Written};

/// How many rows a write changed.
pub const CHANGES_HEADER: HeaderName = HeaderName::from_static("trough-changes");
/// Where a segment is written, when that is not here, as `host:port`.
pub const OWNER_HEADER: HeaderName = HeaderName::from_static("trough-write-address");
/// How long a body may take to arrive.
const BODY_MS: u64 = 60_000;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The request itself cannot be understood.
    #[error("{0}")]
    Bad(String),
    /// The host is neither this writer's nor a segment's.
    #[error(
        "host {0:?} is neither a name of this writer nor a segment; use ?segment=ID and an address of the writer"
    )]
    WrongHost(String),
    /// Without the right token.
    #[error("a token is needed")]
    Token(TokenRefused),
    /// The body did not come as it should.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// It is not open here.
    #[error("{}", not_here(id, owner.as_deref()))]
    NotHere {
        /// Which.
        id: SegmentId,
        /// Where it is.
        owner: Option<String>,
    },
    /// The write failed.
    #[error("{error}")]
    Write {
        /// Which segment.
        id: SegmentId,
        /// Why.
        error: WriteError,
    },
}

fn not_here(id: &SegmentId, owner: Option<&str>) -> String {
    match owner {
        Some(owner) => format!("segment {id} is written at {owner}; send it there"),
        None => format!("segment {id} is open for writing nowhere; provision it first"),
    }
}

impl RequestError {
    /// The HTTP status.
    fn status(&self) -> StatusCode {
        match self {
            Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::WrongHost(_) | Self::NotHere { .. } => StatusCode::MISDIRECTED_REQUEST,
            Self::Token(refused) => refused.status(),
            Self::Body(BodyError::TooLarge { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(BodyError::Slow { .. }) => StatusCode::REQUEST_TIMEOUT,
            Self::Body(BodyError::Broken(_) | BodyError::NotText) => StatusCode::BAD_REQUEST,
            Self::Write { error, .. } => match error {
                WriteError::BadRequest(_)
                | WriteError::Empty
                | WriteError::Several
                | WriteError::NulByte
                | WriteError::Parameters(_)
                | WriteError::Sql(_) => StatusCode::BAD_REQUEST,
                WriteError::Refused(_) => StatusCode::FORBIDDEN,
                WriteError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
                WriteError::TimeLimit { .. } => StatusCode::REQUEST_TIMEOUT,
                WriteError::Busy { .. } => StatusCode::TOO_MANY_REQUESTS,
                WriteError::Full(_) => StatusCode::INSUFFICIENT_STORAGE,
                WriteError::Closed(_) | WriteError::Unknown(_) => StatusCode::SERVICE_UNAVAILABLE,
                WriteError::Disk(_) | WriteError::Damaged(_) => StatusCode::INTERNAL_SERVER_ERROR,
            },
        }
    }

    /// When it is worth asking again, in seconds; `None` when it is not, or not without a look.
    fn retry_after_s(&self) -> Option<u32> {
        match self {
            Self::Write { error: WriteError::Busy { .. } | WriteError::Closed(_), .. } => Some(1),
            _ => None,
        }
    }
}

impl IntoResponse for RequestError {
    fn into_response(self) -> Response {
        let status = self.status();
        if let Self::Token(refused) = self {
            return refused.into_response();
        }
        // SQLite quotes the statement in its messages, line breaks and all
        let line = self.to_string().replace(['\n', '\r'], " ");
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        let mut response = (status, [(CONTENT_TYPE, text)], format!("{line}\n")).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_s() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Self::NotHere { owner: Some(owner), .. } = &self
            && let Ok(owner) = HeaderValue::try_from(owner)
        {
            headers.insert(OWNER_HEADER, owner);
        }
        response
    }
}

/// What the server needs beside its listener.
#[derive(Debug)]
pub struct Serving {
    /// What is written.
    pub desk: Arc<Desk>,
    /// Who may write.
    pub tokens: Arc<Tokens>,
    /// The metrics' page.
    pub metrics: PrometheusHandle,
}

struct App {
    desk: Arc<Desk>,
    tokens: Arc<Tokens>,
    metrics: PrometheusHandle,
    names: OwnNames,
}

/// Takes writes until `shutdown`.
pub async fn serve(serving: Serving, listener: TcpListener, shutdown: CancellationToken) {
    let Serving { desk, tokens, metrics } = serving;
    let settings = desk.outside.settings.clone();
    let names = OwnNames::new(&settings.host_names);
    let app = Arc::new(App { desk, tokens, metrics, names });
    crate::http::serve(listener, router(app), settings.http, shutdown).await;
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", post(write))
        .route("/health", get(health))
        .route("/health/{id}", get(health_of_segment))
        .route(
            "/metrics",
            get(async |State(app): State<Arc<App>>| crate::metrics::page(&app.metrics)),
        )
        .with_state(app)
}

#[derive(Deserialize)]
struct Parameters {
    segment: Option<String>,
}

async fn write(State(app): State<Arc<App>>, request: Request) -> Response {
    let mut visit = Visit { begun: Instant::now(), status: None };
    let answered = app.write(request).await;
    let response = match answered {
        Ok(written) => {
            counter!(WRITE_ROWS).increment(written.changes);
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            let mut response = ([(CONTENT_TYPE, text)], "OK\n").into_response();
            response.headers_mut().insert(CHANGES_HEADER, written.changes.into());
            response
        }
        Err(error) => {
            // the rest is the caller's
            if error.status() == StatusCode::INTERNAL_SERVER_ERROR {
                tracing::error!(%error, "a write failed");
            }
            error.into_response()
        }
    };
    visit.status = Some(response.status());
    response
}

impl App {
    async fn write(&self, request: Request) -> Result<Written, RequestError> {
        let (parts, body) = request.into_parts();
        self.tokens.check(Right::Write, &parts.headers).map_err(RequestError::Token)?;
        let id = self.target(&parts)?;
        let limit = self.desk.outside.settings.write.body_bytes_max;
        let body = body::text(&parts.headers, body, limit, BODY_MS).await?;
        let failed = |error| RequestError::Write { id: id.clone(), error };
        let request = match is_json(&parts) {
            true => WriteRequest::from_json(body.as_bytes()).map_err(failed)?,
            false => WriteRequest::Script(body),
        };
        match self.desk.write(&id, request).await {
            Some(written) => written.map_err(failed),
            None => {
                // a registry that is away knows of nobody else
                let owner = self.desk.owner(&id).await.ok().flatten();
                let owner = owner.filter(|owner| owner.node != self.desk.outside.node);
                Err(RequestError::NotHere { id, owner: owner.map(|owner| owner.write_address) })
            }
        }
    }

    /// The segment named by `?segment=`, else by the host.
    fn target(&self, parts: &Parts) -> Result<SegmentId, RequestError> {
        let bad = |error: &dyn std::fmt::Display| RequestError::Bad(error.to_string());
        let Query(named) =
            Query::<Parameters>::try_from_uri(&parts.uri).map_err(|error| bad(&error))?;
        let host = self.names.kind(parts).map_err(|error| bad(&error))?;
        let id = match (named.segment, host) {
            (Some(segment), HostKind::Ours) => segment,
            // a page of another site must not write here
            (Some(segment), HostKind::Label(label)) if label == segment => segment,
            (Some(_), HostKind::Label(label)) => return Err(RequestError::WrongHost(label)),
            (None, HostKind::Label(label)) => label,
            (None, HostKind::Ours) => {
                return Err(bad(&"no segment is named; add ?segment=ID to the address"));
            }
        };
        SegmentId::new(&id).map_err(|error| bad(&error))
    }
}

fn is_json(parts: &Parts) -> bool {
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let kind = kind.split(';').next().unwrap_or("").trim();
    kind.eq_ignore_ascii_case("application/json")
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let entries = app.desk.entries();
    let unpublished = entries.iter().filter_map(|entry| entry.unpublished.since_ms);
    let page = serde_json::json!({
        "open": entries.len(),
        "unpublished": entries.iter().filter(|entry| entry.unpublished.since_ms.is_some()).count(),
        "unpublished_since_ms": unpublished.min(),
    });
    axum::Json(page).into_response()
}

async fn health_of_segment(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    let open = app.desk.entries().into_iter().any(|entry| entry.id.as_str() == id);
    match open {
        true => (StatusCode::OK, "OK\n").into_response(),
        false => (StatusCode::INTERNAL_SERVER_ERROR, "not open for writing here\n").into_response(),
    }
}

/// One request, for the metrics.
struct Visit {
    begun: Instant,
    status: Option<StatusCode>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let status =
            self.status.map_or_else(|| "gone".to_owned(), |status| status.as_str().to_owned());
        counter!(WRITES, "status" => status).increment(1);
        histogram!(WRITE_DURATION).record(self.begun.elapsed().as_secs_f64());
    }
}
