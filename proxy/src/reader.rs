//! The reader: `POST /` with SQL as the body, answered from the mount (DESIGN.md 7, 8).
//!
//! Invariants: at most `concurrency` queries run and `queue_max` wait; a request's future, and then its
//! answer's body, holds the guard that stops its query, so a client's leaving ends it also while it waits;
//! a missing mount is waited for and then 503, never 404 (S6); a status is sent only when it is certain.
//!
//! Seams for what comes later: other formats beside [`crate::rows::json`], queries that begin on the HTTP
//! thread in place of those of [`journey`], bound values and limits in [`request`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::HeaderName;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use fsd::view::MountView;
use metrics::{counter, histogram};
use metrics_exporter_prometheus::PrometheusHandle;
use sync::owners_view::OwnersView;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::catalogue::Catalogue;
use crate::error::QueryError;
use crate::health::Health;
use crate::host::OwnNames;
use crate::lease::Leases;
use crate::metrics::{DURATION, QUERIES};
use crate::mount::Mount;
use crate::pool::{Pool, Source, Sources};
use crate::route::{LOAD_HEADER, Route};
use crate::tokens::Tokens;

mod journey;
mod owned;
mod request;
pub mod settings;

pub use owned::{VIEW_AGE_HEADER, WRITABLE_HEADER};
pub use settings::ReaderSettings;

/// Descriptors left to the rest of the process.
const DESCRIPTORS_SPARE: u64 = 128;
/// How often it is looked for segments that are not written here any more: what is open of them stays on the disk.
const WRITABLE_SWEEP: Duration = Duration::from_millis(500);

/// The version that answers: its BLAKE3 digest.
pub const VERSION_HEADER: HeaderName = HeaderName::from_static("trough-version");
/// The segment that answers.
pub const SEGMENT_HEADER: HeaderName = HeaderName::from_static("trough-segment");

/// What a reader knows beyond its mount, and whom it answers.
#[derive(Debug)]
pub struct Elsewhere {
    /// Of the pool.
    pub catalogue: Arc<dyn Catalogue>,
    /// To the readers of other nodes, in a cluster.
    pub route: Option<Route>,
    /// Who writes which segments, which somebody keeps up to date; without it the copies are all that there is.
    pub owners: Option<Arc<OwnersView>>,
    /// What the writer of this node lets be read; `None` where there is none.
    pub leases: Option<Leases>,
    /// Who may ask.
    pub tokens: Arc<Tokens>,
}

/// Serves queries from `view` until `shutdown`.
pub async fn run(
    settings: ReaderSettings,
    listener: TcpListener,
    view: MountView,
    elsewhere: Elsewhere,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) {
    serve(settings, listener, Arc::new(view), elsewhere, metrics, shutdown).await;
}

/// [`run`] on any [`Mount`]: for tests of this crate, which have a directory where production has FUSE.
#[doc(hidden)]
pub async fn serve(
    settings: ReaderSettings,
    listener: TcpListener,
    mount: Arc<dyn Mount>,
    elsewhere: Elsewhere,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) {
    let http = settings.http;
    crate::connection::limit_heap(settings.sqlite_heap_bytes_max);
    let sweep_every = Duration::from_millis(settings.sweep_ms.max(1));
    let app = Arc::new(App::new(settings, mount, elsewhere, metrics));
    // a sweep that hangs on the mount is not waited for: dropping the set ends it
    let mut sweepers = JoinSet::new();
    sweepers.spawn(sweep(Arc::clone(&app.pool), Source::Copy, sweep_every));
    if app.leases.is_some() {
        sweepers.spawn(sweep(Arc::clone(&app.pool), Source::Writable, WRITABLE_SWEEP));
    }
    crate::http::serve(listener, router(app), http, shutdown).await;
}

/// For ever.
async fn sweep(pool: Arc<Pool>, source: Source, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let pool = Arc::clone(&pool);
        drop(tokio::task::spawn_blocking(move || pool.sweep(source)).await);
    }
}

fn router(app: Arc<App>) -> Router {
    let pages = Router::new()
        .route("/health", get(health))
        .route("/health/{id}", get(health_of_segment))
        .route(
            "/metrics",
            get(async |State(app): State<Arc<App>>| crate::metrics::page(&app.metrics)),
        )
        .layer(middleware::from_fn_with_state(Arc::clone(&app), only_known_hosts));
    Router::new().route("/", post(post_query)).merge(pages).with_state(app)
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let mut response = app.health.page().await;
    response.headers_mut().insert(LOAD_HEADER, app.load().into());
    response
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
    app.answer(Visit::begin(), request).await
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

    fn refused(mut self, error: QueryError) -> Response {
        let response = error.into_response();
        self.answered(response.status().as_str());
        response
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

struct App {
    settings: ReaderSettings,
    names: OwnNames,
    catalogue: Arc<dyn Catalogue>,
    route: Option<Route>,
    owners: Option<Arc<OwnersView>>,
    leases: Option<Leases>,
    tokens: Arc<Tokens>,
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
        elsewhere: Elsewhere,
        metrics: PrometheusHandle,
    ) -> Self {
        let Elsewhere { catalogue, route, owners, leases, tokens } = elsewhere;
        let (mounted, sqlite) = (Arc::clone(&mount), settings.sqlite);
        let pool = Pool::new(
            Sources { mount: mounted, leases: leases.clone(), sqlite },
            connections_that_fit(&settings),
            settings.connections_per_segment_max,
        );
        Self {
            names: OwnNames::new(&settings.host_names),
            catalogue: Arc::clone(&catalogue),
            route,
            owners,
            leases,
            tokens,
            pool: Arc::new(pool),
            health: Health::new(mount, catalogue),
            metrics,
            admitted: Arc::new(Semaphore::new(settings.concurrency + settings.queue_max)),
            running: Arc::new(Semaphore::new(settings.concurrency)),
            settings,
        }
    }

    /// Queries that run or wait.
    fn load(&self) -> usize {
        self.settings.concurrency + self.settings.queue_max - self.admitted.available_permits()
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
    let others =
        settings.http.connections_max + 4 * settings.concurrency + settings.forward.queries_max;
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
