//! A machine on its own: it lists the deep store itself, and tells the readers of this machine by its registry.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use super::{Earlier, Report, Seat, SeatError, Seen};
use crate::pool;
use crate::registry::{PoolRow, Registry};
use crate::store::Store;

/// Rows read at once at the start.
const ROWS_PER_PAGE: usize = 10_000;

/// See the module.
#[derive(Debug)]
pub struct Alone {
    store: Arc<dyn Store>,
    registry: Arc<dyn Registry>,
}

impl Alone {
    /// On a store and a registry.
    pub fn new(store: Arc<dyn Store>, registry: Arc<dyn Registry>) -> Self {
        Self { store, registry }
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
        let listing = Box::new(pool::list(&*self.store).await);
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
