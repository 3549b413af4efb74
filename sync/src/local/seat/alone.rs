//! A machine on its own: it lists the deep store itself, and tells the readers of this machine by its registry.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::{Earlier, Report, Seat, SeatError, Seen};
use crate::kv::Kv;
use crate::pool;
use crate::registry::{PoolRow, Registry};
use crate::store::Store;
use crate::tomb::Tombs;

/// Rows read at once at the start.
const ROWS_PER_PAGE: usize = 10_000;

/// See the module.
#[derive(Debug)]
pub struct Alone {
    store: Arc<dyn Store>,
    registry: Arc<dyn Registry>,
    kv: Arc<dyn Kv>,
    /// As they were read last.
    tombs: Mutex<Tombs>,
}

impl Alone {
    /// On a store, a registry, and the keys beside it, where it is written down what was deleted.
    pub fn new(store: Arc<dyn Store>, registry: Arc<dyn Registry>, kv: Arc<dyn Kv>) -> Self {
        Self { store, registry, kv, tombs: Mutex::default() }
    }

    async fn tombs(&self) -> Tombs {
        let mut tombs = self.tombs.lock().await;
        if let Err(error) = tombs.look(&*self.kv).await {
            tracing::warn!(%error, "what was deleted cannot be read; going by what was read last");
        }
        tombs.clone()
    }
}

#[async_trait]
impl Seat for Alone {
    async fn earlier(&self) -> Result<Earlier, SeatError> {
        let mut rows = Vec::new();
        loop {
            let after = rows.last().map(|row: &PoolRow| row.id.clone());
            let page = self.registry.pool_page(after.as_ref(), ROWS_PER_PAGE).await?;
            let last = page.len() < ROWS_PER_PAGE;
            rows.extend(page);
            if last {
                break;
            }
        }
        let meta = self.registry.pool_meta().await?;
        Ok(Earlier { rows, complete_at_ms: meta.map(|meta| meta.complete_at_ms) })
    }

    async fn look(&self) -> Seen {
        let begun = Instant::now();
        let mut listing = Box::new(pool::list(&*self.store).await);
        // after the listing: what it saw and is gone now is known to be deleted
        listing.bury(self.tombs().await);
        Seen::Listing { listing, took: begun.elapsed() }
    }

    async fn changed(&self) {
        // the deep store calls nobody
        std::future::pending::<()>().await;
    }

    async fn tell(&self, report: &Report) -> Result<(), SeatError> {
        Ok(self.registry.change_pool(report.change.clone()).await?)
    }

    fn announces(&self) -> bool {
        false
    }
}
