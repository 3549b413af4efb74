//! Who carries out orders about segments ([`crate::segments`]).
//!
//! ```text
//!   local   a node's: with the writer of its machine
//!   lead    the lead's: chooses a node, and passes the order on to it
//!   choose  which node that is
//!   ask     how nodes are asked
//!   turns   one at a time for each segment
//! ```
//!
//! Invariants: who holds a segment's write lock writes it, and is named to everybody who asks; an order that may have
//! been carried out is not given to another node before it was seen whose lock it is.

use std::sync::Arc;

use fsd::segment::SegmentId;
use sync::delete::{DeleteError, Deleter};
use sync::kv::KvError;
use sync::publish::PublishError;
use sync::tomb::TombError;
use sync::write_lock::{Owned, Ownership, WriteLockError};

use crate::causes::causes;
use crate::segments::ManageError;

mod ask;
mod choose;
pub mod lead;
pub mod local;
mod turns;

use turns::Turns;

/// Where `id` is written, when the writer is at `address` (`host:port`).
fn write_url(address: &str, id: &SegmentId) -> String {
    format!("http://{address}/?segment={id}")
}

/// Who writes `id`, or did and is gone; `None` when that is nobody.
async fn owner(deleter: &Deleter, id: &SegmentId) -> Result<Option<Owned>, ManageError> {
    deleter.locks().owner(id).await.map_err(of_kv)
}

/// Who is gone and has rows that are not published.
fn dirty(owner: &Owned) -> Option<&Ownership> {
    (!owner.held && owner.ownership.dirty_since_ms.is_some()).then_some(&owner.ownership)
}

/// The order to promote what nobody writes now: there is nothing, or it is with a node that is gone.
fn not_writable(id: &SegmentId, owner: Option<&Owned>) -> ManageError {
    match owner.and_then(dirty) {
        Some(left) => {
            let reason =
                "it has rows that are not published, and publishes them when its writer is back";
            let (holder, reason) = (left.node.to_string(), reason.to_owned());
            ManageError::HolderAway { id: id.clone(), holder, reason }
        }
        None => ManageError::NotWritable(id.clone()),
    }
}

/// Deletes `id`, also when the caller leaves.
async fn delete(deleter: &Arc<Deleter>, turns: &Turns, id: &SegmentId) -> Result<(), ManageError> {
    let (deleter, turns, id) = (Arc::clone(deleter), turns.clone(), id.clone());
    let deleting = tokio::spawn(async move {
        let _turn = turns.take(&id).await;
        deleter.delete(&id).await.map_err(of_delete)
    });
    deleting.await.unwrap_or_else(|error| Err(ManageError::Internal(error.to_string())))
}

fn of_kv(error: KvError) -> ManageError {
    ManageError::Registry(error.to_string())
}

/// What a failure to delete is to who ordered it.
fn of_delete(error: DeleteError) -> ManageError {
    let reason = causes(&error);
    match error {
        DeleteError::NotFound(id) => ManageError::NotFound(id),
        DeleteError::HeldBy { id, holder } => ManageError::Locked { id, holder },
        DeleteError::Dirty { id, source } => {
            let holder = match &source {
                WriteLockError::Dirty { owner, .. } => {
                    format!(
                        "node {}, which is gone and has rows that are not published",
                        owner.node
                    )
                }
                other => other.to_string(),
            };
            ManageError::Locked { id, holder }
        }
        DeleteError::Fenced(id) => ManageError::Conflict { id, reason },
        DeleteError::Prepare { source: PublishError::Lock { .. }, .. }
        | DeleteError::PoolUnknown(_)
        | DeleteError::Pool { .. }
        | DeleteError::Tomb(TombError::Contended(_) | TombError::Kv(_)) => {
            ManageError::Registry(reason)
        }
        DeleteError::Tomb(TombError::NotUnderstood { .. }) => ManageError::Internal(reason),
        DeleteError::Prepare { .. } | DeleteError::Store { .. } => ManageError::Store(reason),
    }
}
