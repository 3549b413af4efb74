//! How the segment manager of a machine gives orders to its writer: over a socket in the directory of writable
//! segments, which only their user can open.
//!
//! Invariants: every order is answered within a bound; what went wrong keeps its kind on the way, so that the manager's
//! caller is told it with the right status.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use fsd::segment::{SegmentId, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::desk::Entry;
use sync::publish::PublishError;
use sync::write_lock::WriteLockError;

use super::{Desk, OpenError, PromoteError};
use crate::causes::causes;
use crate::segments::ManageError;

/// What the socket is called.
const NAME: &str = "control";
/// The longest answer: a line for each of the segments that may be open.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// How long the writer may take to open a segment: it may fetch gigabytes first. The original's client waits so long.
const PROVISION_MAX: Duration = Duration::from_secs(600);
/// How long it may take to publish one. The original's client waits so long.
const PROMOTE_MAX: Duration = Duration::from_secs(21_600);
/// How long anything else may take.
const OTHER_MAX: Duration = Duration::from_secs(30);

/// An order about one segment.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    segment: SegmentId,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<SegmentId>,
}

/// A segment that is open for writing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provisioned {
    /// Its length in bytes.
    pub length: Option<u64>,
    /// By which schema it was made.
    pub schema: Option<SegmentId>,
}

/// One line of the writer's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSegment {
    /// Which.
    pub segment: SegmentId,
    /// Since when it has something unpublished; Unix time in milliseconds.
    pub unpublished_since_ms: Option<u64>,
    /// How many requests since it was opened.
    pub unpublished_requests: u64,
    /// How many bytes of pages they wrote.
    pub unpublished_bytes: u64,
    /// What is published.
    pub version: Option<Version>,
    /// For how long nothing was written, in seconds.
    pub idle_s: u64,
}

impl From<Entry> for OpenSegment {
    fn from(entry: Entry) -> Self {
        Self {
            segment: entry.id,
            unpublished_since_ms: entry.unpublished.since_ms,
            unpublished_requests: entry.unpublished.commits,
            unpublished_bytes: entry.unpublished.bytes,
            version: entry.version,
            idle_s: entry.idle.as_secs(),
        }
    }
}

/// Takes orders until `shutdown`.
pub async fn serve(desk: Arc<Desk>, shutdown: CancellationToken) -> anyhow::Result<()> {
    use anyhow::Context as _;
    let path = desk.files().root().join(NAME);
    // of a writer that was killed; the lock on the directory says that none runs
    let _ = std::fs::remove_file(&path);
    let listener =
        UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let router = Router::new()
        .route("/provision", post(provision))
        .route("/promote", post(promote))
        .route("/keep-ours", post(keep_ours))
        .route("/keep-theirs", post(keep_theirs))
        .route("/hand-back", post(hand_back))
        .route("/open", get(open))
        .with_state(desk);
    let serving = axum::serve(listener, router);
    tokio::select! {
        served = serving => served.context("take the manager's orders"),
        () = shutdown.cancelled() => Ok(()),
    }
}

async fn provision(
    State(desk): State<Arc<Desk>>,
    Json(order): Json<Order>,
) -> Result<Json<Provisioned>, Failed> {
    // a task of its own: a caller that leaves does not leave a segment half open
    let opened = tokio::spawn(async move {
        let opened = desk.provision(&order.segment, order.schema.as_ref()).await;
        opened.map_err(|error| of_open(&order.segment, error))
    });
    let opened = opened.await.map_err(|error| Failed::internal(&error))??;
    Ok(Json(Provisioned { length: opened.length, schema: opened.schema }))
}

async fn promote(
    State(desk): State<Arc<Desk>>,
    Json(order): Json<Order>,
) -> Result<Json<Version>, Failed> {
    let promoted = tokio::spawn(async move {
        let promoted = desk.promote(&order.segment).await;
        promoted.map_err(|error| of_promote(&order.segment, error))
    });
    Ok(Json(promoted.await.map_err(|error| Failed::internal(&error))??))
}

async fn keep_ours(
    State(desk): State<Arc<Desk>>,
    Json(order): Json<Order>,
) -> Result<Json<Version>, Failed> {
    let kept = tokio::spawn(async move {
        let kept = desk.keep_ours(&order.segment).await;
        kept.map_err(|error| of_promote(&order.segment, error))
    });
    Ok(Json(kept.await.map_err(|error| Failed::internal(&error))??))
}

async fn keep_theirs(
    State(desk): State<Arc<Desk>>,
    Json(order): Json<Order>,
) -> Result<Json<Option<String>>, Failed> {
    let kept = tokio::spawn(async move {
        let kept = desk.keep_theirs(&order.segment).await;
        kept.map_err(|error| of_promote(&order.segment, error))
    });
    Ok(Json(kept.await.map_err(|error| Failed::internal(&error))??))
}

async fn hand_back(State(desk): State<Arc<Desk>>, Json(order): Json<Order>) -> Json<bool> {
    let handed = tokio::spawn(async move { desk.hand_back(&order.segment).await });
    Json(handed.await.unwrap_or(false))
}

async fn open(State(desk): State<Arc<Desk>>) -> Json<Vec<OpenSegment>> {
    Json(desk.entries().into_iter().map(OpenSegment::from).collect())
}

/// What goes over the socket in place of an answer.
struct Failed(ManageError);

impl Failed {
    fn internal(error: &dyn std::fmt::Display) -> Self {
        Self(ManageError::Internal(error.to_string()))
    }
}

impl From<ManageError> for Failed {
    fn from(error: ManageError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (StatusCode::CONFLICT, Json(self.0)).into_response()
    }
}

/// Gives orders to the writer of this machine.
#[derive(Debug, Clone)]
pub struct Control {
    path: PathBuf,
}

impl Control {
    /// To the writer in `directory`.
    pub fn new(directory: &Path) -> Self {
        Self { path: directory.join(NAME) }
    }

    /// Opens `id` for writing.
    pub async fn provision(
        &self,
        id: &SegmentId,
        schema: Option<&SegmentId>,
    ) -> Result<Provisioned, ManageError> {
        let order = Order { segment: id.clone(), schema: schema.cloned() };
        self.order("/provision", Some(&order), PROVISION_MAX).await
    }

    /// Publishes `id`.
    pub async fn promote(&self, id: &SegmentId) -> Result<Version, ManageError> {
        let order = Order { segment: id.clone(), schema: None };
        self.order("/promote", Some(&order), PROMOTE_MAX).await
    }

    /// Publishes `id` over whatever lies there.
    pub async fn keep_ours(&self, id: &SegmentId) -> Result<Version, ManageError> {
        let order = Order { segment: id.clone(), schema: None };
        self.order("/keep-ours", Some(&order), PROMOTE_MAX).await
    }

    /// Gives `id` up for what lies there; what its orphan is called, if it had anything unpublished.
    pub async fn keep_theirs(&self, id: &SegmentId) -> Result<Option<String>, ManageError> {
        let order = Order { segment: id.clone(), schema: None };
        self.order("/keep-theirs", Some(&order), OTHER_MAX).await
    }

    /// Gives `id` back, if nothing of it is unpublished.
    pub async fn hand_back(&self, id: &SegmentId) -> Result<bool, ManageError> {
        let order = Order { segment: id.clone(), schema: None };
        self.order("/hand-back", Some(&order), OTHER_MAX).await
    }

    /// What is open.
    pub async fn open(&self) -> Result<Vec<OpenSegment>, ManageError> {
        self.order("/open", None, OTHER_MAX).await
    }

    async fn order<T: DeserializeOwned>(
        &self,
        page: &str,
        order: Option<&Order>,
        within: Duration,
    ) -> Result<T, ManageError> {
        let away = |error: &dyn std::fmt::Display| {
            let at = self.path.display();
            ManageError::WriterAway(format!(
                "ask this machine's writer at {at}: {error}; is `trough write` running?"
            ))
        };
        let asked = tokio::time::timeout(within, self.ask(page, order)).await;
        let (status, body) = match asked {
            Ok(answered) => answered.map_err(|error| away(&error))?,
            Err(_) => return Err(away(&format_args!("it did not answer within {within:?}"))),
        };
        match status {
            StatusCode::OK => serde_json::from_slice(&body).map_err(|error| away(&error)),
            StatusCode::CONFLICT => {
                Err(serde_json::from_slice(&body).unwrap_or_else(|error| away(&error)))
            }
            status => Err(away(&format_args!("{status}: {}", String::from_utf8_lossy(&body)))),
        }
    }

    async fn ask(
        &self,
        page: &str,
        order: Option<&Order>,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = UnixStream::connect(&self.path).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // it ends with the sender
        tokio::spawn(connection);
        let body = order.map(serde_json::to_vec).transpose()?;
        let request = Request::builder()
            .method(if body.is_some() { "POST" } else { "GET" })
            .uri(page)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?;
        Ok((status, body.to_bytes()))
    }
}

/// What a failure to open `id` is to who ordered it.
fn of_open(id: &SegmentId, error: OpenError) -> ManageError {
    let (id, reason) = (id.clone(), causes(&error));
    match error {
        OpenError::Publish(PublishError::HeldBy { holder, .. }) => {
            ManageError::Locked { id, holder }
        }
        OpenError::Publish(PublishError::Lock {
            source: WriteLockError::Dirty { owner, .. },
            ..
        }) => ManageError::HolderAway { id, holder: owner.node.to_string(), reason },
        OpenError::UnknownSchema(schema) => ManageError::UnknownSchema(schema),
        OpenError::TooMany { .. } => ManageError::NoRoom { id, reason },
        OpenError::SetAside(_) | OpenError::Damaged { .. } => ManageError::Conflict { id, reason },
        OpenError::Publish(_) | OpenError::Store(_) | OpenError::Changing(_) => {
            ManageError::Store(reason)
        }
        OpenError::Stopping => {
            ManageError::HolderAway { id, holder: "this node".to_owned(), reason }
        }
        OpenError::Schema { .. } => ManageError::BadRequest(reason),
        OpenError::Disk(_) | OpenError::Files(_) | OpenError::Write(_) => {
            ManageError::Internal(reason)
        }
    }
}

/// What a failure to publish `id` is to who ordered it.
fn of_promote(id: &SegmentId, error: PromoteError) -> ManageError {
    let (id, reason) = (id.clone(), causes(&error));
    match error {
        PromoteError::NotOpen(id) => ManageError::NotWritable(id),
        PromoteError::NoConflict(_)
        | PromoteError::Publish(PublishError::Conflict { .. } | PublishError::Fenced { .. }) => {
            ManageError::Conflict { id, reason }
        }
        PromoteError::Publish(_) => ManageError::Store(reason),
        PromoteError::Settle(_) => ManageError::Registry(reason),
        PromoteError::Copy(_) | PromoteError::Files(_) => ManageError::Internal(reason),
    }
}
