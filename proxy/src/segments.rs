//! The HTTP contract of the segment manager (DESIGN.md 8), over whoever carries its orders out.
//!
//! ```text
//!   POST   /                   the id alone: its write URL as text (deprecated)
//!   POST   /provision          {segment, schema?} -> {write_url, result, size, schema}
//!   POST   /promote            {segment} -> {remote_path, size, blake3}
//!   POST   /resolve            {segment, keep: "ours"|"theirs"} -> as promote, or {orphan}
//!   DELETE /segment/ID         204, 404; 400 while it is locked for writing
//!   GET    /schema             the ids
//!   GET    /schema/ID          {id, sql, verbs?}        PUT: 201 created, 204 updated
//!   GET    /schema/ID/sql      the SQL                  PUT: so, too, and keeps its verbs
//! ```
//!
//! Invariants: nothing is read of a body before the caller's token is known to be good; a body is bounded in length and
//! in how long it takes; every answer but the asked-for one is a line of text, its status from one table
//! ([`ManageError`]).
//!
//! Left out: what several orders at one moment for one segment come to, which is for who carries them out; and which
//! host and page may call ([`crate::guarded`]).

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use fsd::segment::{Digest, SegmentId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sync::schemas::{DEFAULT_ID, Schemas};

use crate::body;
use crate::tokens::{Right, Tokens};

mod error;
mod schemas;

pub use error::ManageError;
use schemas::SchemaDesk;

/// The longest body: a schema's SQL is the longest thing sent here, and JSON may write each of its bytes with six.
const BODY_BYTES_MAX: u64 = 1 << 20;
/// How long a body may take to arrive.
const BODY_MS: u64 = 30_000;

/// Who carries out orders about segments. A caller that leaves drops the future it waits for: what must not end in the
/// middle goes on in a task of its own.
#[async_trait]
pub trait SegmentManager: Send + Sync + fmt::Debug {
    /// Makes the segment writable somewhere and says where; idempotent. A new one begins with `schema`. Neither `None`
    /// nor [`DEFAULT_ID`] need be registered: without it the segment begins as an empty database.
    async fn provision(
        &self,
        id: &SegmentId,
        schema: Option<&SegmentId>,
    ) -> Result<Provisioned, ManageError>;

    /// Publishes what was written to the segment so far, and says where.
    async fn promote(&self, id: &SegmentId) -> Result<Promoted, ManageError>;

    /// Ends a conflict: somebody put another file where the segment is published while it was being written.
    async fn resolve(&self, id: &SegmentId, keep: Keep) -> Result<Resolved, ManageError>;

    /// Removes the segment everywhere; [`ManageError::Locked`] while somebody writes it.
    async fn delete(&self, id: &SegmentId) -> Result<(), ManageError>;
}

/// A segment that can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provisioned {
    /// Where to send what is to be written.
    pub write_url: String,
    /// How many bytes it has, if that is known.
    pub size: Option<u64>,
    /// The schema that it began with, if that is known; else the one that was asked for is told.
    pub schema: Option<SegmentId>,
    /// How long readers may go on answering from copies that were published before, in milliseconds; `None` when there
    /// are none.
    pub view_max_age_ms: Option<u64>,
}

/// A segment that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promoted {
    /// Where it is in the deep store.
    pub remote_path: String,
    /// How many bytes it has.
    pub size: u64,
    /// What they hash to.
    pub digest: Digest,
}

/// Which of two versions is to stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// What was written through the writer: it is published over what somebody else put.
    Ours,
    /// What somebody else put; what was written and not published becomes an orphan.
    Theirs,
}

/// What became of a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// What was written is published.
    Ours(Promoted),
    /// The segment is not written any more; what was not published of it is the orphan called so, if there was any.
    Theirs(Option<String>),
}

/// The pages, to be merged with others behind the checks of [`crate::guarded`].
pub fn routes(manager: Arc<dyn SegmentManager>, schemas: Schemas, tokens: Arc<Tokens>) -> Router {
    let app = Arc::new(App { manager, desk: SchemaDesk::new(schemas) });
    let may = |right| middleware::from_fn_with_state((Arc::clone(&tokens), right), may);
    let looks = Router::new()
        .route("/schema", get(schemas::list))
        .route("/schema/{id}", get(schemas::show))
        .route("/schema/{id}/sql", get(schemas::show_sql))
        .route_layer(may(Right::Read));
    let orders = Router::new()
        .route("/", post(provision_simply))
        .route("/provision", post(provision))
        .route("/promote", post(promote))
        .route("/resolve", post(resolve))
        .route("/segment/{id}", delete(remove))
        .route("/schema/{id}", put(schemas::put))
        .route("/schema/{id}/sql", put(schemas::put_sql))
        .route_layer(may(Right::Manage));
    looks.merge(orders).with_state(app)
}

struct App {
    manager: Arc<dyn SegmentManager>,
    desk: SchemaDesk,
}

/// Lets through who has the right.
async fn may(
    State((tokens, right)): State<(Arc<Tokens>, Right)>,
    request: Request,
    next: Next,
) -> Response {
    match tokens.check(right, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProvisionOrder {
    segment: SegmentId,
    /// As the original has it.
    schema: Option<SegmentId>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PromoteOrder {
    segment: SegmentId,
}

#[derive(Debug, Serialize)]
struct ProvisionAnswer {
    write_url: String,
    result: &'static str,
    size: Option<u64>,
    schema: SegmentId,
    #[serde(skip_serializing_if = "Option::is_none")]
    view_max_age_ms: Option<u64>,
}

/// As the segment manager tells it, and as the lead hears it from a node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PromoteAnswer {
    remote_path: String,
    size: u64,
    blake3: Digest,
}

impl From<Promoted> for PromoteAnswer {
    fn from(promoted: Promoted) -> Self {
        let Promoted { remote_path, size, digest } = promoted;
        Self { remote_path, size, blake3: digest }
    }
}

impl From<PromoteAnswer> for Promoted {
    fn from(answer: PromoteAnswer) -> Self {
        let PromoteAnswer { remote_path, size, blake3 } = answer;
        Self { remote_path, size, digest: blake3 }
    }
}

async fn provision_simply(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<String, ManageError> {
    let segment = id(text(&headers, body).await?.trim())?;
    Ok(app.provision(ProvisionOrder { segment, schema: None }).await?.write_url)
}

async fn provision(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ProvisionAnswer>, ManageError> {
    let order = json(&text(&headers, body).await?)?;
    Ok(Json(app.provision(order).await?))
}

async fn promote(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<PromoteAnswer>, ManageError> {
    let PromoteOrder { segment } = json(&text(&headers, body).await?)?;
    Ok(Json(app.manager.promote(&segment).await?.into()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResolveOrder {
    segment: SegmentId,
    keep: Keep,
}

/// As the segment manager tells it, and as the lead hears it from a node.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum ResolveAnswer {
    /// [`Resolved::Ours`].
    Ours(PromoteAnswer),
    /// [`Resolved::Theirs`].
    Theirs {
        /// What the orphan is called, if there is one.
        orphan: Option<String>,
    },
}

impl From<Resolved> for ResolveAnswer {
    fn from(resolved: Resolved) -> Self {
        match resolved {
            Resolved::Ours(promoted) => Self::Ours(promoted.into()),
            Resolved::Theirs(orphan) => Self::Theirs { orphan },
        }
    }
}

impl From<ResolveAnswer> for Resolved {
    fn from(answer: ResolveAnswer) -> Self {
        match answer {
            ResolveAnswer::Ours(promoted) => Self::Ours(promoted.into()),
            ResolveAnswer::Theirs { orphan } => Self::Theirs(orphan),
        }
    }
}

async fn resolve(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ResolveAnswer>, ManageError> {
    let ResolveOrder { segment, keep } = json(&text(&headers, body).await?)?;
    Ok(Json(app.manager.resolve(&segment, keep).await?.into()))
}

async fn remove(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<StatusCode, ManageError> {
    app.manager.delete(&id(&name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl App {
    async fn provision(&self, order: ProvisionOrder) -> Result<ProvisionAnswer, ManageError> {
        let asked = match order.schema {
            Some(schema) => schema,
            None => id(DEFAULT_ID)?,
        };
        let provisioned = self.manager.provision(&order.segment, Some(&asked)).await?;
        let Provisioned { write_url, size, schema, view_max_age_ms } = provisioned;
        let schema = schema.unwrap_or(asked);
        Ok(ProvisionAnswer { write_url, result: "success", size, schema, view_max_age_ms })
    }
}

/// The id of a segment or schema.
fn id(name: &str) -> Result<SegmentId, ManageError> {
    SegmentId::new(name).map_err(|error| ManageError::BadRequest(error.to_string()))
}

/// The body, whatever its type is said to be.
async fn text(headers: &HeaderMap, body: Body) -> Result<String, ManageError> {
    Ok(body::text(headers, body, BODY_BYTES_MAX, BODY_MS).await?)
}

fn json<T: DeserializeOwned>(text: &str) -> Result<T, ManageError> {
    let bad =
        |error| ManageError::BadRequest(format!("the body is not the JSON expected here: {error}"));
    serde_json::from_str(text).map_err(bad)
}
