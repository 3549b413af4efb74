//! `/health` and `/health/ID` of the reader.
//!
//! Invariant: the answer comes within [`LOOK_WITHIN`], also when the mount's daemon hangs and blocks
//! whoever looks at it; at most [`LOOKS_MAX`] threads wait for it then.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use fsd::segment::SegmentId;
use fsd::view::MountState;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::catalogue::Catalogue;
use crate::mount::Mount;

/// A mount that does not answer so long hangs.
const LOOK_WITHIN: Duration = Duration::from_secs(2);
/// Looks at the mount at once; a health check comes every few seconds and takes microseconds.
const LOOKS_MAX: usize = 4;

/// Looks at the mount for health checks.
#[derive(Debug)]
pub struct Health {
    mount: Arc<dyn Mount>,
    catalogue: Arc<dyn Catalogue>,
    looks: Arc<Semaphore>,
}

impl Health {
    /// Of this mount and pool.
    pub fn new(mount: Arc<dyn Mount>, catalogue: Arc<dyn Catalogue>) -> Self {
        Self { mount, catalogue, looks: Arc::new(Semaphore::new(LOOKS_MAX)) }
    }

    /// 200 when the mount answers, else 503; with the age of the pool table for people. An old pool table
    /// does not make a reader ill: it goes on answering (S9).
    pub async fn page(&self) -> Response {
        let (status, words) = match self.mount().await {
            Some(MountState::Live) => (StatusCode::OK, "live"),
            Some(MountState::Absent) => (StatusCode::SERVICE_UNAVAILABLE, "absent"),
            Some(MountState::Dead) => (StatusCode::SERVICE_UNAVAILABLE, "dead"),
            None => (StatusCode::SERVICE_UNAVAILABLE, "hangs"),
        };
        let pool = self.catalogue.page().await;
        (status, Json(json!({ "mount": words, "pool": pool }))).into_response()
    }

    /// What stands at the mount point; `None` when that does not answer.
    pub async fn mount(&self) -> Option<MountState> {
        self.look(|mount| mount.state()).await
    }

    /// 200 when the mount shows the segment, else 500, as the original answers.
    pub async fn segment(&self, id: &str) -> Response {
        let Ok(id) = SegmentId::new(id) else {
            let text = format!("{id:?} is no segment id\n");
            return (StatusCode::INTERNAL_SERVER_ERROR, text).into_response();
        };
        let wanted = id.clone();
        match self.look(move |mount| mount.stat(&wanted)).await {
            Some(Ok(Some(_))) => (StatusCode::OK, "OK\n").into_response(),
            Some(Ok(None)) => {
                let text = format!("segment {id} is not held here\n");
                (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
            }
            Some(Err(error)) => {
                (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
            }
            None => {
                (StatusCode::INTERNAL_SERVER_ERROR, "the mount does not answer\n").into_response()
            }
        }
    }

    async fn look<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn Mount) -> T + Send + 'static,
    ) -> Option<T> {
        let mount = Arc::clone(&self.mount);
        let answered = async {
            let slot = Arc::clone(&self.looks).acquire_owned().await.ok()?;
            let looked = tokio::task::spawn_blocking(move || {
                let _slot = slot;
                ask(&*mount)
            });
            looked.await.ok()
        };
        tokio::time::timeout(LOOK_WITHIN, answered).await.ok().flatten()
    }
}
