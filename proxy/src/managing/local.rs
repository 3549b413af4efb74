//! The segment manager of a node: it opens segments with the writer of its machine.
//!
//! Invariant: a segment that another node writes is not moved here by whoever asks; who asks is told where it is.

use std::sync::Arc;

use async_trait::async_trait;
use fsd::segment::{SegmentId, Version};
use sync::delete::Deleter;
use sync::node::NodeName;
use sync::store::{Store, StorePath};
use sync::write_lock::{Owned, Ownership};

use super::turns::Turns;
use super::{delete, not_writable, owner, write_url};
use crate::segments::{Keep, ManageError, Promoted, Provisioned, Resolved, SegmentManager};
use crate::writer::control::Control;

/// What a node's segment manager needs.
#[derive(Debug)]
pub struct LocalOutside {
    /// Which node it is.
    pub node: NodeName,
    /// Where its writer answers, as `host:port`.
    pub write_address: String,
    /// How long readers may go on answering from copies that were published before, in milliseconds: as the writer has
    /// it.
    pub view_max_age_ms: u64,
    /// The way to its writer.
    pub control: Control,
    /// The deep store.
    pub store: Arc<dyn Store>,
    /// Deletes segments.
    pub deleter: Arc<Deleter>,
}

/// See the module.
#[derive(Debug)]
pub struct LocalManager {
    outside: LocalOutside,
    turns: Turns,
}

impl LocalManager {
    /// That of a node.
    pub fn new(outside: LocalOutside) -> Self {
        Self { outside, turns: Turns::default() }
    }

    /// Who writes `id` now, if that is another node.
    async fn elsewhere(&self, id: &SegmentId) -> Result<Option<Ownership>, ManageError> {
        let owner = owner(&self.outside.deleter, id).await?;
        Ok(owner.filter(|owner| self.is_another(owner)).map(|owner| owner.ownership))
    }

    fn is_another(&self, owner: &Owned) -> bool {
        owner.held && owner.ownership.node != self.outside.node
    }

    /// Whether this node is who writes `id`.
    async fn is_written_here(&self, id: &SegmentId) -> Result<(), ManageError> {
        let found = owner(&self.outside.deleter, id).await?;
        match &found {
            Some(owner) if self.is_another(owner) => {
                let Ownership { node, write_address, .. } = &owner.ownership;
                let reason = format!(
                    "segment {id} is written by node {node} at {write_address}; ask its segment manager, or the lead's"
                );
                Err(ManageError::Elsewhere { reason })
            }
            Some(owner) if owner.held => Ok(()),
            other => Err(not_writable(id, other.as_ref())),
        }
    }

    fn promoted(&self, id: &SegmentId, version: &Version) -> Promoted {
        let remote_path = format!("{}/{}", self.outside.store.address(), StorePath::published(id));
        Promoted { remote_path, size: version.stamp.length, digest: version.digest }
    }

    /// `id`, which is written at `address`.
    async fn at(
        &self,
        address: &str,
        id: &SegmentId,
        size: Option<u64>,
        schema: Option<SegmentId>,
    ) -> Provisioned {
        let published = self.outside.store.stat(&StorePath::published(id)).await;
        // one that cannot be looked for may be there
        let copies = !matches!(published, Ok(None));
        let view_max_age_ms = copies.then_some(self.outside.view_max_age_ms);
        Provisioned { write_url: write_url(address, id), size, schema, view_max_age_ms }
    }
}

#[async_trait]
impl SegmentManager for LocalManager {
    async fn provision(
        &self,
        id: &SegmentId,
        schema: Option<&SegmentId>,
    ) -> Result<Provisioned, ManageError> {
        if let Some(other) = self.elsewhere(id).await? {
            return Ok(self.at(&other.write_address, id, None, other.schema).await);
        }
        match self.outside.control.provision(id, schema).await {
            Ok(open) => {
                Ok(self.at(&self.outside.write_address, id, open.length, open.schema).await)
            }
            Err(locked @ ManageError::Locked { .. }) => match self.elsewhere(id).await? {
                Some(other) => Ok(self.at(&other.write_address, id, None, other.schema).await),
                // `trough put`, or a deletion
                None => Err(locked),
            },
            Err(error) => Err(error),
        }
    }

    async fn promote(&self, id: &SegmentId) -> Result<Promoted, ManageError> {
        self.is_written_here(id).await?;
        Ok(self.promoted(id, &self.outside.control.promote(id).await?))
    }

    async fn resolve(&self, id: &SegmentId, keep: Keep) -> Result<Resolved, ManageError> {
        self.is_written_here(id).await?;
        Ok(match keep {
            Keep::Ours => {
                let version = self.outside.control.keep_ours(id).await?;
                Resolved::Ours(self.promoted(id, &version))
            }
            Keep::Theirs => Resolved::Theirs(self.outside.control.keep_theirs(id).await?),
        })
    }

    async fn delete(&self, id: &SegmentId) -> Result<(), ManageError> {
        delete(&self.outside.deleter, &self.turns, id).await
    }
}
