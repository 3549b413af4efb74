//! The pages of schemas: list, look, register.
//!
//! Invariants: what is registered ran to its end in an empty database; scripts run one at a time, however many are
//! sent, and none waits for its turn for ever.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use fsd::segment::SegmentId;
use serde::{Deserialize, Serialize};
use sync::schemas::{Put, Schema, Schemas};
use sync::verb::Verb;
use tokio::sync::Semaphore;

use super::{App, ManageError, id, json, text};

/// Scripts that run at once: each may take a processor for seconds, and has a database in memory.
const CHECKS_MAX: usize = 1;
/// How long a script waits for its turn: two of the longest may be before it.
const TURN_WITHIN: Duration = Duration::from_secs(11);

/// The registered schemas, and who looks at one that is to be.
#[derive(Debug)]
pub(super) struct SchemaDesk {
    schemas: Schemas,
    turn: Arc<Semaphore>,
}

impl SchemaDesk {
    pub(super) fn new(schemas: Schemas) -> Self {
        Self { schemas, turn: Arc::new(Semaphore::new(CHECKS_MAX)) }
    }

    /// Runs `sql` in an empty database. A caller that leaves does not end what runs: its turn lasts until that is over.
    async fn check(&self, id: &SegmentId, sql: &str) -> Result<(), ManageError> {
        let turn = Arc::clone(&self.turn).acquire_owned();
        // the semaphore is never closed
        let Ok(Ok(turn)) = tokio::time::timeout(TURN_WITHIN, turn).await else {
            return Err(ManageError::Busy(CHECKS_MAX));
        };
        let sql = sql.to_owned();
        let checked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            crate::schema::check(&sql)
        });
        match checked.await {
            Ok(checked) => checked.map_err(|error| ManageError::of_script(id, &error)),
            Err(error) => Err(ManageError::Internal(format!("look at schema {id}: {error}"))),
        }
    }
}

/// A schema as it is sent and shown.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    id: SegmentId,
    sql: String,
    /// Not shown when there are none: the original knows none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    verbs: BTreeSet<Verb>,
}

pub(super) async fn list(State(app): State<Arc<App>>) -> Result<Json<Vec<SegmentId>>, ManageError> {
    Ok(Json(app.desk.schemas.list().await?))
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Response, ManageError> {
    let Schema { id, sql, verbs } = find(&app, &name).await?;
    Ok(Json(Document { id, sql, verbs }).into_response())
}

pub(super) async fn show_sql(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Response, ManageError> {
    let sql = find(&app, &name).await?.sql;
    Ok(([(CONTENT_TYPE, HeaderValue::from_static("application/sql"))], sql).into_response())
}

async fn find(app: &App, name: &str) -> Result<Schema, ManageError> {
    let id = id(name)?;
    let found = app.desk.schemas.get(&id).await?;
    found.ok_or(ManageError::NoSuchSchema(id))
}

pub(super) async fn put(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ManageError> {
    let id = id(&name)?;
    let Document { id: said, sql, verbs } = json(&text(&headers, body).await?)?;
    if said != id {
        let text =
            format!("the body is schema {said}, and the address is that of {id}; send one id");
        return Err(ManageError::BadRequest(text));
    }
    app.desk.check(&id, &sql).await?;
    Ok(done(app.desk.schemas.put(&Schema { id, sql, verbs }).await?))
}

pub(super) async fn put_sql(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ManageError> {
    let id = id(&name)?;
    let sql = text(&headers, body).await?;
    app.desk.check(&id, &sql).await?;
    Ok(done(app.desk.schemas.put_sql(&id, &sql).await?))
}

fn done(put: Put) -> StatusCode {
    match put {
        Put::Created => StatusCode::CREATED,
        Put::Updated => StatusCode::NO_CONTENT,
    }
}
