//! A segment that is being written is answered for by who writes it.
//!
//! ```text
//!   the writer of this node holds a lease on it ──► here, from the file that it writes
//!   another node writes it ──► that node's reader, from the file that it writes
//!   who wrote it is away ──► 503 if it has what nobody else has, else any copy
//!   nobody writes it ──► any copy
//!   that was heard long ago, and the writer of this node noted rows of its own ──► 503
//! ```
//!
//! Invariants: no copy answers while a node is known to have acknowledged rows that are not published (S3); the file that a
//! node writes answers only while its lease on it holds, and a question that was passed on to who writes the segment is
//! answered from that file or with 421 (S4).
//!
//! Left out: what was acknowledged on another node since this reader heard of the owners last
//! ([`OwnersView`](sync::owners_view)). Where that is long ago the answer of a copy says so.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use fsd::segment::SegmentId;
use sync::node::NodeName;
use sync::owners_view::{Owner, OwnersView};
use tokio::time::Instant;

use super::App;
use super::journey::{Asked, Begun, Origin};
use crate::error::QueryError;
use crate::pool::Source;
use crate::query::Job;
use crate::route::{OwnerMiss, Whom};
use crate::rows::Unanswered;

/// The answer is from the file that is being written: `1`. It has no version.
pub const WRITABLE_HEADER: HeaderName = HeaderName::from_static("trough-writable");
/// How long ago the reader heard who writes what, in milliseconds, or `unknown`, where that is too long.
pub const VIEW_AGE_HEADER: HeaderName = HeaderName::from_static("trough-view-age-ms");

/// How often the owner of a segment may change under one query.
const LOOKS_MAX: u32 = 4;

/// Why the owner gave no answer.
enum Away {
    /// It is not there, for people: waiting does not help.
    Gone(String),
    /// It is there, and does not write the segment: what is known of it may be late.
    NotWritable,
}

impl App {
    /// The answer of who writes the segment; `None` when any copy will do.
    pub(super) async fn owned(&self, asked: &Asked) -> Result<Option<Begun>, QueryError> {
        let id = &asked.target.id;
        let mut looks = 0;
        loop {
            if let Some(begun) = self.writable(asked).await? {
                return Ok(Some(begun));
            }
            match asked.origin {
                Origin::Asker => return Err(QueryError::NotHere(id.clone())),
                // who asks knows who writes what, and this one need not be newer
                Origin::Reader => return Ok(None),
                Origin::Client => {}
            }
            let Some(owners) = &self.owners else { return Ok(None) };
            // before the look: what is found then is not older
            let old = self.view_age(owners);
            let Some(owner) = owners.find(id) else { return self.copies(asked, old, None) };
            let away = match self.ask_owner(asked, &owner).await? {
                Ok(begun) => return Ok(Some(begun)),
                Err(_) if !owner.unpublished => return self.copies(asked, old, Some(&owner.node)),
                Err(away) => away,
            };
            let (wait, reason) = match away {
                Away::Gone(reason) => (Duration::ZERO, reason),
                Away::NotWritable => (
                    Duration::from_millis(self.settings.view_max_age_ms),
                    "its lock on the segment ran out, or is being given back".to_owned(),
                ),
            };
            let until = (Instant::now() + wait).min(asked.job.control.deadline().into());
            let changed = tokio::time::timeout_at(until, owners.no_more(id, &owner)).await.is_ok();
            looks += 1;
            if !changed || looks == LOOKS_MAX {
                return Err(QueryError::OwnerAway { id: id.clone(), node: owner.node, reason });
            }
        }
    }

    /// Why a segment that the pool does not have is not simply not there.
    pub(super) fn may_be_owned(&self, id: &SegmentId) -> Option<QueryError> {
        let owners = self.owners.as_ref()?;
        match (owners.find(id), owners.age()) {
            (Some(Owner { node, .. }), _) => {
                let reason = "no version of it was published yet".to_owned();
                Some(QueryError::OwnerAway { id: id.clone(), node, reason })
            }
            (None, None) => Some(QueryError::OwnersUnknown(id.clone())),
            (None, Some(_)) => None,
        }
    }

    /// From the file that this node's writer writes; `None` when it may not be read.
    async fn writable(&self, asked: &Asked) -> Result<Option<Begun>, QueryError> {
        let id = &asked.target.id;
        // a stat of what is in the kernel's memory, and of nothing that hangs with the mount: not worth a thread
        if self.leases.as_ref().and_then(|leases| leases.path(id)).is_none() {
            return Ok(None);
        }
        let admitted = self.admit()?;
        let job = Job {
            id: id.clone(),
            source: Source::Writable,
            sql: Arc::clone(&asked.job.sql),
            control: Arc::new(asked.job.control.within(self.settings.writable_read_ms)),
        };
        match self.attempt(Arc::new(job)).await? {
            Ok(head) => Ok(Some(Begun::Here(head, admitted))),
            Err(Unanswered::NotHere) => Ok(None),
            Err(Unanswered::Failed(error)) => Err(error),
            Err(Unanswered::MountAway(reason)) => {
                Err(QueryError::Storage { id: id.clone(), reason })
            }
        }
    }

    async fn ask_owner(
        &self,
        asked: &Asked,
        owner: &Owner,
    ) -> Result<Result<Begun, Away>, QueryError> {
        if !owner.held {
            return Ok(Err(Away::Gone("it has ended, or lost its lock".to_owned())));
        }
        // on a machine of its own there is no other
        let other = self.route.as_ref().filter(|route| !route.is_own(&owner.node));
        let Some(route) = other else { return Ok(Err(Away::NotWritable)) };
        match route.ask_owner(&asked.question(Whom::Owner), &owner.node).await {
            Ok((there, place)) => Ok(Ok(Begun::There(there, Some(place)))),
            Err(OwnerMiss::Silent(reason)) => Ok(Err(Away::Gone(reason))),
            Err(OwnerMiss::NotThere) => Ok(Err(Away::NotWritable)),
            Err(OwnerMiss::Failed(error)) => Err(error),
        }
    }

    /// Any copy will do, as far as was heard; `old` says how late that may be known, and `owner` who wrote the segment then.
    /// Who has not heard of its own node's rows finds them in what its writer wrote down.
    fn copies(
        &self,
        asked: &Asked,
        old: Option<HeaderValue>,
        owner: Option<&NodeName>,
    ) -> Result<Option<Begun>, QueryError> {
        let Some(old) = old else { return Ok(None) };
        let is_own = |owner| self.route.as_ref().is_none_or(|route| route.is_own(owner));
        let id = &asked.target.id;
        let noted = self.leases.as_ref().is_some_and(|leases| leases.unpublished(id));
        if noted && owner.is_none_or(is_own) {
            return Err(QueryError::WriterAway(id.clone()));
        }
        // it is set once: a query takes to the copies once
        let _ = asked.view_age.set(old);
        Ok(None)
    }

    /// How old what is known of the owners is, if that is to be told.
    fn view_age(&self, owners: &OwnersView) -> Option<HeaderValue> {
        match owners.age() {
            None => Some(HeaderValue::from_static("unknown")),
            Some(age) => {
                let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                (age_ms > self.settings.view_max_age_ms).then(|| age_ms.into())
            }
        }
    }
}
