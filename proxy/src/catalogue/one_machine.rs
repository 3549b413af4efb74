//! The pool of a machine of its own, from the registry that its synchronizer writes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use fsd::segment::SegmentId;
use serde_json::json;
use sync::registry::{Lookup, PoolRow, Registry, RegistryError, SegmentState};
use tokio::sync::Mutex;

use super::{Catalogue, Holders, Known};
use crate::error::QueryError;

/// Rows read from the pool table at once.
const PAGE_ROWS: usize = 10_000;
/// The most labels kept that differ from their id: some 100 MB.
const LABELS_MAX: usize = 1_000_000;
/// An unknown label makes the pool be read again, at most this often.
const LABELS_AGE_MIN: Duration = Duration::from_secs(5);
/// The start of a label made by hashing ([`SegmentId::label`]).
const HASHED: &str = "x--";

/// See the module.
#[derive(Debug)]
pub struct OneMachine {
    registry: Arc<dyn Registry>,
    labels: Mutex<Labels>,
}

#[derive(Debug, Default)]
struct Labels {
    ids: HashMap<String, SegmentId>,
    read_at: Option<Instant>,
}

impl OneMachine {
    /// From this registry.
    pub fn new(registry: Arc<dyn Registry>) -> Self {
        Self { registry, labels: Mutex::default() }
    }

    async fn read_labels(&self) -> Result<HashMap<String, SegmentId>, RegistryError> {
        let mut ids = HashMap::new();
        let mut after: Option<SegmentId> = None;
        loop {
            let page = self.registry.pool_page(after.as_ref(), PAGE_ROWS).await?;
            let Some(last) = page.last() else { return Ok(ids) };
            after = Some(last.id.clone());
            for row in page {
                let label = row.id.label();
                if label.as_str() != row.id.as_str() && ids.len() < LABELS_MAX {
                    ids.insert(label.to_string(), row.id);
                }
            }
        }
    }
}

#[async_trait]
impl Catalogue for OneMachine {
    async fn find(&self, id: &SegmentId) -> Result<Known, QueryError> {
        Ok(match self.registry.lookup(id).await.map_err(|error| failed(&error))? {
            Lookup::Unknown => Known::Unknown,
            Lookup::Absent => Known::Absent,
            Lookup::Listed(row) => {
                Known::Listed { holders: Holders::default(), reason: reason(row) }
            }
        })
    }

    async fn id_of(&self, label: &str) -> Result<Option<SegmentId>, QueryError> {
        let lower = label.to_ascii_lowercase();
        if !lower.starts_with(HASHED) {
            return Ok(SegmentId::new(label).ok());
        }
        // one reads the pool while the others wait for what it finds
        let mut labels = self.labels.lock().await;
        if let Some(id) = labels.ids.get(&lower) {
            return Ok(Some(id.clone()));
        }
        if labels.read_at.is_none_or(|at| at.elapsed() >= LABELS_AGE_MIN) {
            labels.ids = self.read_labels().await.map_err(|error| failed(&error))?;
            labels.read_at = Some(Instant::now());
        }
        Ok(labels.ids.get(&lower).cloned())
    }

    async fn page(&self) -> serde_json::Value {
        match self.registry.pool_meta().await {
            Ok(Some(meta)) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
                let age_ms = now_ms.saturating_sub(meta.complete_at_ms);
                json!({ "segments": meta.segments, "age_ms": age_ms })
            }
            Ok(None) => json!(null),
            Err(error) => json!({ "error": error.to_string() }),
        }
    }
}

fn failed(error: &RegistryError) -> QueryError {
    QueryError::Registry(error.to_string())
}

fn reason(row: PoolRow) -> String {
    row.reason.unwrap_or_else(|| {
        let words = match row.state {
            SegmentState::Pending => "it is still to be pulled",
            SegmentState::Held => "it was published moments ago",
            SegmentState::NoPlace => "the quota has no place for it",
            SegmentState::Refused => "its file was refused; see `trough status`",
        };
        words.to_owned()
    })
}
