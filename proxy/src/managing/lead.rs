//! The segment manager of the lead: it chooses the node that is to write a segment, and passes orders on to it.
//!
//! Invariants: one that does not lead carries nothing out; all who ask for one segment at one moment are told the same
//! node; the order to open a segment goes to another node only when it is certain that the one before did not carry it
//! out, or when its lock shows who did.
//!
//! Left out: that it leads to the end of an order. One that was overtaken meanwhile does no harm: the write lock decides.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::StatusCode;
use fsd::segment::SegmentId;
use hyper::header::InvalidHeaderValue;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sync::delete::Deleter;
use sync::kv::{Kv, KvErrorKind};
use sync::lead::{LeadStatus, Orders};
use sync::node::{Member, NodeName, members};
use sync::pool_view::{Found, PoolView};
use sync::write_lock::{Owned, Ownership};
use tokio::sync::watch;

use super::ask::{Ask, NotDone};
use super::choose::{Candidate, by_load, by_room, registered};
use super::turns::Turns;
use super::{delete, dirty, not_writable, of_kv, owner, write_url};
use crate::lead::not_leading;
use crate::segments::{
    Keep, ManageError, PromoteAnswer, Promoted, Provisioned, ResolveAnswer, Resolved,
    SegmentManager,
};

/// How long a node may take to open a segment: it may fetch gigabytes first. The original's client waits so long.
const PROVISION_MAX: Duration = Duration::from_secs(600);
/// How long it may take to publish one. The original's client waits so long.
const PROMOTE_MAX: Duration = Duration::from_secs(21_600);
/// How long one that has a segment open may take to say how large it is; the answer goes without it then.
const DETAILS_MAX: Duration = Duration::from_secs(1);
/// Nodes that are asked for one order: more than two that do not answer are a fault of another kind.
const NODES_ASKED_MAX: usize = 3;
/// How often the owner of a segment is looked for to promote it: it may move while it is asked.
const PROMOTE_ATTEMPTS: usize = 2;

/// What the lead's segment manager needs.
#[derive(Debug)]
pub struct LeadOutside {
    /// Whether it leads, and who does.
    pub status: watch::Receiver<Arc<LeadStatus>>,
    /// The registry.
    pub kv: Arc<dyn Kv>,
    /// The pool table as this process follows it.
    pub pool: Arc<PoolView>,
    /// Deletes segments.
    pub deleter: Arc<Deleter>,
    /// What the segment managers of nodes take orders with.
    pub token: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub struct LeadManager {
    status: watch::Receiver<Arc<LeadStatus>>,
    kv: Arc<dyn Kv>,
    pool: Arc<PoolView>,
    deleter: Arc<Deleter>,
    ask: Ask,
    turns: Turns,
}

#[derive(Debug, Serialize)]
struct Order<'a> {
    segment: &'a SegmentId,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<&'a SegmentId>,
}

#[derive(Debug, Serialize)]
struct ResolveOrder<'a> {
    segment: &'a SegmentId,
    keep: Keep,
}

/// What a node says that opened a segment.
#[derive(Debug, Deserialize)]
struct Opened {
    write_url: String,
    size: Option<u64>,
    schema: Option<SegmentId>,
    view_max_age_ms: Option<u64>,
}

impl From<Opened> for Provisioned {
    fn from(opened: Opened) -> Self {
        let Opened { write_url, size, schema, view_max_age_ms } = opened;
        Self { write_url, size, schema, view_max_age_ms }
    }
}

impl LeadManager {
    /// One of a candidate for the lead. Fails when the token can be none.
    pub fn new(outside: LeadOutside) -> Result<Self, InvalidHeaderValue> {
        let LeadOutside { status, kv, pool, deleter, token } = outside;
        let ask = Ask::new(token.as_deref())?;
        Ok(Self { status, kv, pool, deleter, ask, turns: Turns::default() })
    }

    fn leads(&self) -> Result<(), ManageError> {
        let status = self.status.borrow();
        match status.epoch {
            Some(_) => Ok(()),
            None => Err(ManageError::Elsewhere { reason: not_leading(&status) }),
        }
    }

    async fn members(&self) -> Result<Vec<Member>, ManageError> {
        members(&*self.kv).await.map_err(of_kv)
    }

    /// Nodes that a person wants empty.
    async fn leaving(&self) -> Result<BTreeSet<NodeName>, ManageError> {
        match Orders::read(&*self.kv).await {
            Ok((orders, _)) => Ok(orders.decommission),
            // the cycle tells of it
            Err(error) if error.kind == KvErrorKind::Malformed => Ok(BTreeSet::new()),
            Err(error) => Err(of_kv(error)),
        }
    }

    /// Who holds `id` now, as an answer.
    async fn held(&self, order: &Order<'_>) -> Result<Option<Provisioned>, ManageError> {
        let owner = owner(&self.deleter, order.segment).await?.filter(|owner| owner.held);
        Ok(match owner {
            Some(Owned { ownership, .. }) => Some(self.at_holder(ownership, order).await),
            None => None,
        })
    }

    /// What to say of a segment that `holder` writes. Its node knows more; where it has it open the order changes nothing.
    async fn at_holder(&self, holder: Ownership, order: &Order<'_>) -> Provisioned {
        let node = self.members().await.ok();
        if let Some(node) = node.and_then(|members| registered(&members, &holder.node)) {
            let address = &node.manager_address;
            let asked = self.ask.order::<Opened>(address, "/provision", order, DETAILS_MAX).await;
            if let Ok(opened) = asked {
                return opened.into();
            }
        }
        Provisioned {
            write_url: write_url(&holder.write_address, order.segment),
            size: None,
            schema: holder.schema,
            view_max_age_ms: None,
        }
    }

    /// Who may be told to write `id`, the best first. What `left` says to be unpublished is its node's, if that is there.
    async fn candidates(
        &self,
        id: &SegmentId,
        left: Option<&Ownership>,
    ) -> Result<Vec<Candidate>, ManageError> {
        let members = self.members().await?;
        if let Some(its_own) = left.and_then(|left| registered(&members, &left.node)) {
            return Ok(vec![its_own]);
        }
        let leaving = self.leaving().await?;
        let mut candidates = match self.pool.find(id) {
            Found::Listed(at) if left.is_none() => {
                by_load(&self.ask, &members, &leaving, &at.holders).await
            }
            Found::Listed(_) | Found::Absent | Found::Unknown => Vec::new(),
        };
        for other in by_room(&members, &leaving) {
            if !candidates.contains(&other) {
                candidates.push(other);
            }
        }
        candidates.truncate(NODES_ASKED_MAX);
        Ok(candidates)
    }

    /// Gives the owner of `id` an order that only it can carry out, and waits for its answer.
    async fn of_owner<T: DeserializeOwned>(
        &self,
        id: &SegmentId,
        page: &str,
        order: &impl Serialize,
    ) -> Result<T, ManageError> {
        self.leads()?;
        let mut moved = None;
        for _ in 0..PROMOTE_ATTEMPTS {
            let found = owner(&self.deleter, id).await?;
            let Some(Owned { ownership, held: true }) = found else {
                return Err(not_writable(id, found.as_ref()));
            };
            let away = |reason| {
                let holder = format!("node {}", ownership.node);
                ManageError::HolderAway { id: id.clone(), holder, reason }
            };
            let Some(node) = registered(&self.members().await?, &ownership.node) else {
                return Err(away("it is not registered".to_owned()));
            };
            let address = &node.manager_address;
            match self.ask.order(address, page, order, PROMOTE_MAX).await {
                Ok(answer) => return Ok(answer),
                Err(NotDone::Refused(error))
                    if error.status() == StatusCode::MISDIRECTED_REQUEST =>
                {
                    moved = Some(error);
                }
                Err(NotDone::Refused(error)) => return Err(error),
                Err(NotDone::Away(reason)) => return Err(away(reason)),
                Err(NotDone::Unknown(reason)) => {
                    return Err(away(format!("it was told to, and may still do so ({reason})")));
                }
            }
        }
        Err(moved.unwrap_or_else(|| ManageError::NotWritable(id.clone())))
    }

    /// Has one of the nodes open a segment that nobody holds.
    async fn open(
        &self,
        order: &Order<'_>,
        left: Option<&Ownership>,
    ) -> Result<Provisioned, ManageError> {
        let id = order.segment;
        let mut refused = None;
        let mut away = Vec::new();
        for Candidate { name, manager_address } in self.candidates(id, left).await? {
            let asked =
                self.ask.order::<Opened>(&manager_address, "/provision", order, PROVISION_MAX);
            match asked.await {
                Ok(opened) => return Ok(opened.into()),
                Err(NotDone::Away(reason)) => {
                    tracing::warn!(node = %name, segment = %id, %reason, "a node cannot be told to open a segment");
                    away.push(format!("node {name} at {manager_address}: {reason}"));
                }
                // of what is unpublished another knows no more
                Err(NotDone::Refused(error)) if left.is_some() || !is_of_node(&error) => {
                    return Err(error);
                }
                Err(NotDone::Refused(error)) => {
                    if let Some(held) = self.held(order).await? {
                        return Ok(held);
                    }
                    tracing::info!(node = %name, segment = %id, %error, "asking another node");
                    refused = Some(error);
                }
                Err(NotDone::Unknown(reason)) => {
                    if let Some(held) = self.held(order).await? {
                        return Ok(held);
                    }
                    let (id, holder) = (id.clone(), format!("node {name}"));
                    let reason = format!("it was told to open it, and may still do so ({reason})");
                    return Err(ManageError::HolderAway { id, holder, reason });
                }
            }
        }
        Err(match (refused, left) {
            (Some(error), _) => error,
            (None, Some(left)) if !away.is_empty() => {
                let (id, holder) = (id.clone(), format!("node {}", left.node));
                ManageError::HolderAway { id, holder, reason: away.join("; ") }
            }
            (None, _) if away.is_empty() => {
                let reason = "none is registered that has told what it holds and is not to be emptied or left alone";
                ManageError::NoRoom { id: id.clone(), reason: reason.to_owned() }
            }
            (None, _) => {
                let status = StatusCode::SERVICE_UNAVAILABLE.as_u16();
                let tried = away.join("; ");
                let reason =
                    format!("no node can be told to open segment {id}: {tried}; try again");
                ManageError::Passed { status, reason }
            }
        })
    }
}

/// Whether it is the node's own trouble, so that another may do better.
fn is_of_node(error: &ManageError) -> bool {
    matches!(
        error.status(),
        StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::INSUFFICIENT_STORAGE
            | StatusCode::MISDIRECTED_REQUEST
    )
}

#[async_trait]
impl SegmentManager for LeadManager {
    async fn provision(
        &self,
        id: &SegmentId,
        schema: Option<&SegmentId>,
    ) -> Result<Provisioned, ManageError> {
        self.leads()?;
        let order = Order { segment: id, schema };
        let _turn = self.turns.take(id).await;
        match owner(&self.deleter, id).await? {
            Some(Owned { ownership, held: true }) => Ok(self.at_holder(ownership, &order).await),
            other => self.open(&order, other.as_ref().and_then(dirty)).await,
        }
    }

    async fn promote(&self, id: &SegmentId) -> Result<Promoted, ManageError> {
        let order = Order { segment: id, schema: None };
        Ok(self.of_owner::<PromoteAnswer>(id, "/promote", &order).await?.into())
    }

    async fn resolve(&self, id: &SegmentId, keep: Keep) -> Result<Resolved, ManageError> {
        let order = ResolveOrder { segment: id, keep };
        Ok(self.of_owner::<ResolveAnswer>(id, "/resolve", &order).await?.into())
    }

    async fn delete(&self, id: &SegmentId) -> Result<(), ManageError> {
        self.leads()?;
        delete(&self.deleter, &self.turns, id).await
    }
}
