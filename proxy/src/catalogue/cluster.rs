//! The pool of a cluster, from the table that the lead writes, in this reader's memory.

use std::sync::Arc;

use async_trait::async_trait;
use fsd::segment::SegmentId;
use serde_json::json;
use sync::nodes_view::NodesView;
use sync::pool_view::{Found, PoolView};

use super::{Catalogue, Holders, Known};
use crate::error::QueryError;

/// See the module.
#[derive(Debug)]
pub struct Cluster {
    pool: Arc<PoolView>,
    nodes: Arc<NodesView>,
}

impl Cluster {
    /// From these views, which somebody keeps up to date.
    pub fn new(pool: Arc<PoolView>, nodes: Arc<NodesView>) -> Self {
        Self { pool, nodes }
    }
}

#[async_trait]
impl Catalogue for Cluster {
    async fn find(&self, id: &SegmentId) -> Result<Known, QueryError> {
        Ok(match self.pool.find(id) {
            Found::Unknown => Known::Unknown,
            Found::Absent => Known::Absent,
            Found::Listed(found) => {
                let reason = match found.unplaced {
                    Some(why) => why.to_string(),
                    None => "it is on its way to its nodes; see `trough status`".to_owned(),
                };
                let holders = Holders { newest: found.holders, older: found.older };
                Known::Listed { holders, reason }
            }
        })
    }

    async fn id_of(&self, label: &str) -> Result<Option<SegmentId>, QueryError> {
        let lower = label.to_ascii_lowercase();
        if SegmentId::hash_of_label(&lower).is_none() {
            return Ok(SegmentId::new(label).ok());
        }
        if self.pool.segments().is_none() {
            let text = "the pool table was not read yet, so nobody can say whose label this is";
            return Err(QueryError::Registry(text.to_owned()));
        }
        Ok(self.pool.find_label(&lower))
    }

    async fn page(&self) -> serde_json::Value {
        let age_ms = self.pool.heard_at().map(|at| at.elapsed().as_millis() as u64);
        json!({
            "segments": self.pool.segments(),
            "age_ms": age_ms,
            "epoch": self.pool.epoch(),
            "nodes": self.nodes.available(),
        })
    }
}
