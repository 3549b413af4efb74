//! The reader: `POST /` with SQL as the body, answered from the mount (DESIGN.md 7, 8).
//!
//! Invariants: at most `concurrency` queries run and `queue_max` wait; a request's future, and then its
//! answer's body, holds the guard that stops its query, so a client's leaving ends it also while it waits;
//! a missing mount is waited for and then 503, never 404 (S6); a status is sent only when it is certain.
//!
//! Seams for what comes later: other formats beside [`crate::rows::json`], queries that begin on the HTTP
//! thread in place of [`App::attempt`], bound values and limits in the request in [`Target`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use fsd::segment::SegmentId;
use fsd::view::MountView;
use futures::StreamExt;
use metrics::{counter, gauge, histogram};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;
use sync::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::error::QueryError;
use crate::health::Health;
use crate::host::{HostKind, OwnNames};
use crate::metrics::{ADMITTED, DURATION, MOUNT_WAITS, QUERIES};
use crate::mount::Mount;
use crate::pool::Pool;
use crate::query::control::{CancelGuard, Control};
use crate::query::{self, Job};
use crate::route::Route;
use crate::rows::{AnswerBody, Head, Unanswered};

pub mod settings;

pub use settings::ReaderSettings;

/// Between two tries at a missing mount.
const MOUNT_TRY_EVERY: Duration = Duration::from_millis(25);
/// A query whose thread has not answered so long after its deadline is answered for: the thread hangs in a
/// system call on the mount, or in a single step of SQLite's.
const THREAD_GRACE: Duration = Duration::from_secs(2);
/// Descriptors left to the rest of the process.
const DESCRIPTORS_SPARE: u64 = 128;

/// The version that answers: its BLAKE3 digest.
pub const VERSION_HEADER: HeaderName = HeaderName::from_static("trough-version");
/// The segment that answers.
pub const SEGMENT_HEADER: HeaderName = HeaderName::from_static("trough-segment");

/// Serves queries from `view` until `shutdown`.
pub async fn run(
    settings: ReaderSettings,
    listener: TcpListener,
    view: MountView,
    registry: Arc<dyn Registry>,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) {
    serve(settings, listener, Arc::new(view), registry, metrics, shutdown).await;
}

/// [`run`] on any [`Mount`]: for tests of this crate, which have a directory where production has FUSE.
#[doc(hidden)]
pub async fn serve(
    settings: ReaderSettings,
    listener: TcpListener,
    mount: Arc<dyn Mount>,
    registry: Arc<dyn Registry>,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) {
    let http = settings.http;
    crate::connection::limit_heap(settings.sqlite_heap_bytes_max);
    let sweep_every = Duration::from_millis(settings.sweep_ms.max(1));
    let app = Arc::new(App::new(settings, mount, registry, metrics));
    let sweeper = tokio::spawn(sweep(Arc::clone(&app), sweep_every, shutdown.clone()));
    crate::http::serve(listener, router(app), http, shutdown).await;
    // a sweep that hangs on the mount is not waited for
    sweeper.abort();
}

async fn sweep(app: Arc<App>, every: Duration, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
        let app = Arc::clone(&app);
        drop(tokio::task::spawn_blocking(move || app.pool.sweep()).await);
    }
}

fn router(app: Arc<App>) -> Router {
    let pages = Router::new()
        .route("/health", get(async |State(app): State<Arc<App>>| app.health.page().await))
        .route("/health/{id}", get(health_of_segment))
        .route(
            "/metrics",
            get(async |State(app): State<Arc<App>>| crate::metrics::page(&app.metrics)),
        )
        .layer(middleware::from_fn_with_state(Arc::clone(&app), only_known_hosts));
    Router::new().route("/", post(post_query)).merge(pages).with_state(app)
}

async fn health_of_segment(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    app.health.segment(&id).await
}

async fn only_known_hosts(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match app.check_host(&parts).await {
        Ok(_) => next.run(Request::from_parts(parts, body)).await,
        Err(error) => error.into_response(),
    }
}

async fn post_query(State(app): State<Arc<App>>, request: Request) -> Response {
    let mut visit = Visit::begin();
    let response = match app.answer(&visit, request).await {
        Ok((head, id, held)) => {
            let mut headers = HeaderMap::with_capacity(3);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            // hexadecimal digits and segment ids are always header values
            for (name, value) in
                [(VERSION_HEADER, head.digest.to_hex()), (SEGMENT_HEADER, id.as_str().to_owned())]
            {
                if let Ok(value) = HeaderValue::try_from(value) {
                    headers.insert(name, value);
                }
            }
            visit.answered("200");
            let body = Body::new(AnswerBody::new(head.first, head.rest, (held, visit)));
            return (headers, body).into_response();
        }
        Err(error) => error.into_response(),
    };
    visit.answered(response.status().as_str());
    response
}

/// One request, for the metrics.
#[derive(Debug)]
struct Visit {
    started: Instant,
    answered: bool,
}

impl Visit {
    fn begin() -> Self {
        Self { started: Instant::now(), answered: false }
    }

    fn answered(&mut self, status: &str) {
        self.answered = true;
        counter!(QUERIES, "status" => status.to_owned()).increment(1);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if !self.answered {
            counter!(QUERIES, "status" => "gone").increment(1);
        }
        histogram!(DURATION).record(self.started.elapsed().as_secs_f64());
    }
}

/// What a request holds until the last byte of its answer is gone.
#[derive(Debug)]
struct Held {
    _cancel: CancelGuard,
    _admitted: Admitted,
}

/// A place among the queries that run or wait.
#[derive(Debug)]
struct Admitted(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Drop for Admitted {
    fn drop(&mut self) {
        gauge!(ADMITTED).decrement(1.0);
    }
}

/// Which segment a request is for.
#[derive(Debug)]
struct Target {
    id: SegmentId,
    /// The host that named it, when nothing else did.
    by_host: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Parameters {
    segment: Option<String>,
}

struct App {
    settings: ReaderSettings,
    names: OwnNames,
    route: Route,
    pool: Arc<Pool>,
    health: Health,
    metrics: PrometheusHandle,
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

impl App {
    fn new(
        settings: ReaderSettings,
        mount: Arc<dyn Mount>,
        registry: Arc<dyn Registry>,
        metrics: PrometheusHandle,
    ) -> Self {
        let pool = Pool::new(
            Arc::clone(&mount),
            settings.sqlite,
            connections_that_fit(&settings),
            settings.connections_per_segment_max,
        );
        Self {
            names: OwnNames::new(&settings.host_names),
            route: Route::new(Arc::clone(&registry)),
            pool: Arc::new(pool),
            health: Health::new(mount, registry),
            metrics,
            admitted: Arc::new(Semaphore::new(settings.concurrency + settings.queue_max)),
            running: Arc::new(Semaphore::new(settings.concurrency)),
            settings,
        }
    }

    async fn answer(
        &self,
        visit: &Visit,
        request: Request,
    ) -> Result<(Head, SegmentId, Held), QueryError> {
        let (parts, body) = request.into_parts();
        let target = self.target(&parts).await?;
        let sql = self.read_body(&parts, body).await?;
        let admitted = self.admit()?;
        let control = Arc::new(Control::new(visit.started, self.settings.limits()));
        let cancel = CancelGuard::new(Arc::clone(&control));
        let held = Held { _cancel: cancel, _admitted: admitted };
        let job = Arc::new(Job { id: target.id.clone(), sql, control });
        let head = self.head(job, &target).await?;
        Ok((head, target.id, held))
    }

    /// Tries until there is an answer, waiting for a mount that is away.
    async fn head(&self, job: Arc<Job>, target: &Target) -> Result<Head, QueryError> {
        let mut away: Option<(Instant, String)> = None;
        loop {
            let error = match self.attempt(Arc::clone(&job)).await {
                Ok(Ok(head)) => return Ok(head),
                Ok(Err(Unanswered::MountAway(reason))) => {
                    let since = away.take().map(|(since, _)| since).unwrap_or_else(|| {
                        counter!(MOUNT_WAITS).increment(1);
                        Instant::now()
                    });
                    if since.elapsed() >= Duration::from_millis(self.settings.mount_wait_ms) {
                        return Err(QueryError::MountAway { id: target.id.clone(), reason });
                    }
                    away = Some((since, reason));
                    // its place among the running is free meanwhile
                    tokio::time::sleep(MOUNT_TRY_EVERY).await;
                    continue;
                }
                Ok(Err(Unanswered::NotHere)) => {
                    let why = self.route.why_absent(&target.id).await;
                    return Err(match (&target.by_host, why) {
                        (Some(host), QueryError::NotInPool(_)) => {
                            QueryError::WrongHost(host.clone())
                        }
                        (_, why) => why,
                    });
                }
                Ok(Err(Unanswered::Failed(error))) | Err(error) => error,
            };
            return Err(match (error, away) {
                // the wait used its time up: it is not too much that was asked, and may be asked again
                (QueryError::TimeLimit { .. }, Some((_, reason))) => {
                    QueryError::MountAway { id: target.id.clone(), reason }
                }
                (error, _) => error,
            });
        }
    }

    /// One try on a thread that may wait.
    async fn attempt(&self, job: Arc<Job>) -> Result<Result<Head, Unanswered>, QueryError> {
        let late = || QueryError::TimeLimit { limit_ms: self.settings.query_ms };
        let deadline = job.control.deadline();
        let running = Arc::clone(&self.running).acquire_owned();
        let running = match tokio::time::timeout_at(deadline.into(), running).await {
            Ok(Ok(running)) => running,
            // the semaphore is never closed
            Ok(Err(_)) | Err(_) => return Err(late()),
        };
        let (sender, head) = oneshot::channel();
        let pool = Arc::clone(&self.pool);
        tokio::task::spawn_blocking(move || {
            let _running = running;
            query::run(&job, &pool, sender);
        });
        match tokio::time::timeout_at((deadline + THREAD_GRACE).into(), head).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(QueryError::Lost),
            Err(_) => Err(late()),
        }
    }

    fn admit(&self) -> Result<Admitted, QueryError> {
        let busy = |_| QueryError::Busy {
            running: self.settings.concurrency,
            queued: self.settings.queue_max,
        };
        let permit = Arc::clone(&self.admitted).try_acquire_owned().map_err(busy)?;
        gauge!(ADMITTED).increment(1.0);
        Ok(Admitted(permit))
    }

    /// The segment named by `?segment=`, else by the host; and that the host may be asked at all.
    async fn target(&self, parts: &Parts) -> Result<Target, QueryError> {
        let bad = |error: &dyn std::fmt::Display| QueryError::BadRequest(error.to_string());
        let Query(parameters) =
            Query::<Parameters>::try_from_uri(&parts.uri).map_err(|error| bad(&error))?;
        if let Some(segment) = parameters.segment {
            self.check_host(parts).await?;
            let id = SegmentId::new(&segment).map_err(|error| bad(&error))?;
            return Ok(Target { id, by_host: None });
        }
        match self.names.kind(parts)? {
            HostKind::Ours => Err(bad(&"no segment is named; add ?segment=ID to the address")),
            // whether there is such a segment is asked of the mount, not of the registry, on the usual way
            HostKind::Label(label) => match self.route.id_of(&label).await? {
                Some(id) => Ok(Target { id, by_host: Some(label) }),
                None => Err(QueryError::WrongHost(label)),
            },
        }
    }

    async fn check_host(&self, parts: &Parts) -> Result<(), QueryError> {
        let HostKind::Label(label) = self.names.kind(parts)? else { return Ok(()) };
        let Some(id) = self.route.id_of(&label).await? else {
            return Err(QueryError::WrongHost(label));
        };
        match self.route.knows(&id).await? {
            true => Ok(()),
            false => Err(QueryError::WrongHost(label)),
        }
    }

    async fn read_body(&self, parts: &Parts, body: Body) -> Result<Arc<str>, QueryError> {
        let limit_bytes = self.settings.body_bytes_max;
        let too_large = || QueryError::BodyTooLarge { limit_bytes };
        let announced: Option<u64> = parts
            .headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok())
            .and_then(|length| length.parse().ok());
        if announced.is_some_and(|length| length > limit_bytes) {
            return Err(too_large());
        }
        let read = async {
            let mut bytes = Vec::new();
            let mut pieces = body.into_data_stream();
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(|error| {
                    QueryError::BadRequest(format!("the body cannot be read: {error}"))
                })?;
                if (bytes.len() + piece.len()) as u64 > limit_bytes {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&piece);
            }
            Ok(bytes)
        };
        let limit_ms = self.settings.body_ms;
        let bytes = tokio::time::timeout(Duration::from_millis(limit_ms), read)
            .await
            .map_err(|_| QueryError::SlowBody { limit_ms })??;
        let text = String::from_utf8(bytes).map_err(|_| {
            QueryError::BadRequest("the body is not UTF-8; send SQL as text".into())
        })?;
        Ok(text.into())
    }
}

/// How many segments' descriptors this process may keep open, after asking for all that it can have.
fn connections_that_fit(settings: &ReaderSettings) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let descriptors = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let Some(descriptors) = descriptors else { return settings.open_connections_max };
    // a running query has its connection and a few temporary files
    let others = settings.http.connections_max + 4 * settings.concurrency;
    let fit = descriptors.saturating_sub(others as u64 + DESCRIPTORS_SPARE);
    let fit = usize::try_from(fit).unwrap_or(usize::MAX).min(settings.open_connections_max);
    if fit < settings.open_connections_max {
        let wanted = settings.open_connections_max;
        tracing::warn!(
            fit,
            wanted,
            "too few file descriptors for open_connections_max; raise `ulimit -n`"
        );
    }
    fit
}
