//! Where a segment is: in the mount; where it is not there, what the pool table says of it.
//!
//! Invariant (S6): only a live mount says that a segment is not there, and only the pool table, once a
//! listing was complete, that it does not exist.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fsd::segment::SegmentId;
use sync::registry::{Lookup, PoolRow, Registry, RegistryError, SegmentState};
use tokio::sync::Mutex;

use crate::error::QueryError;

/// Rows read from the pool table at once.
const PAGE_ROWS: usize = 10_000;
/// The most labels kept that differ from their id: some 100 MB.
const LABELS_MAX: usize = 1_000_000;
/// An unknown label makes the pool be read again, at most this often.
const LABELS_AGE_MIN: Duration = Duration::from_secs(5);
/// The start of a label made by hashing ([`SegmentId::label`]).
const HASHED: &str = "x--";

/// Answers from the pool table.
#[derive(Debug)]
pub struct Route {
    registry: Arc<dyn Registry>,
    labels: Mutex<Labels>,
}

#[derive(Debug, Default)]
struct Labels {
    ids: HashMap<String, SegmentId>,
    read_at: Option<Instant>,
}

impl Route {
    /// From this registry.
    pub fn new(registry: Arc<dyn Registry>) -> Self {
        Self { registry, labels: Mutex::default() }
    }

    /// Why a segment that a live mount does not have cannot be answered from.
    pub async fn why_absent(&self, id: &SegmentId) -> QueryError {
        match self.registry.lookup(id).await {
            Ok(Lookup::Absent) => QueryError::NotInPool(id.clone()),
            Ok(Lookup::Unknown) => QueryError::PoolUnknown(id.clone()),
            Ok(Lookup::Listed(row)) => QueryError::NotHeld { id: id.clone(), reason: reason(row) },
            Err(error) => failed(&error),
        }
    }

    /// Whether the pool has it, as far as anybody knows.
    pub async fn knows(&self, id: &SegmentId) -> Result<bool, QueryError> {
        match self.registry.lookup(id).await.map_err(|error| failed(&error))? {
            Lookup::Listed(_) => Ok(true),
            Lookup::Absent => Ok(false),
            Lookup::Unknown => Err(QueryError::PoolUnknown(id.clone())),
        }
    }

    /// The id behind a host's first label: the label itself, or what it is the hash of. `None` when it is
    /// neither. The id need not exist.
    pub async fn id_of(&self, label: &str) -> Result<Option<SegmentId>, QueryError> {
        let label = label.to_owned();
        if !label.to_ascii_lowercase().starts_with(HASHED) {
            return Ok(SegmentId::new(&label).ok());
        }
        let label = label.to_ascii_lowercase();
        // one reads the pool while the others wait for what it finds
        let mut labels = self.labels.lock().await;
        if let Some(id) = labels.ids.get(&label) {
            return Ok(Some(id.clone()));
        }
        if labels.read_at.is_none_or(|at| at.elapsed() >= LABELS_AGE_MIN) {
            labels.ids = self.read_labels().await.map_err(|error| failed(&error))?;
            labels.read_at = Some(Instant::now());
        }
        Ok(labels.ids.get(&label).cloned())
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
