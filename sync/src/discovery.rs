//! Who serves what, told to those who ask DNS.
//!
//! ```text
//!   <label>.trough-read.service.consul    the nodes whose readers serve a segment
//!   <label>.trough-write.service.consul   the node whose writer has a segment open
//!   lead.trough-sync.service.consul       the candidate that leads
//! ```
//!
//! A node's reader is one instance, with a tag for each segment: an instance for each segment takes Consul minutes to
//! register and to look after. A tag is told after the segment was seen through the mount and the lead was told, never
//! before. It goes when the lead tells the node to drain the segment, within the time that changes are collected for: the
//! drain lasts longer than that, the DNS's time to live and the longest query together
//! ([`drain_grace_ms`](crate::planner::PlanSettings::drain_grace_ms)), and until its end the segment is served.
//!
//! Invariant: what is told follows what is so, and never holds up who makes it so.
//!
//! Left out: the registration itself ([`crate::services`]); finding a holder without DNS ([`crate::pool_view`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::lead::LeadStatus;
use crate::local::seat::member::Served;
use crate::node::NodeName;
use crate::services::{
    HttpCheck, Instance, InvalidName, InvalidServiceAddress, Name, ServiceAddress, Services,
    TAGS_MAX,
};

mod announcer;
mod debounce;
mod maintenance;
mod trouble;

pub use announcer::Announcer;
pub use maintenance::follow_maintenance;

/// What readers are registered as.
pub const READ_SERVICE: &str = "trough-read";
/// What writers are registered as.
pub const WRITE_SERVICE: &str = "trough-write";
/// What candidates to lead are registered as.
pub const SYNC_SERVICE: &str = "trough-sync";
/// The tag of the candidate that leads.
pub const LEAD_TAG: &str = "lead";

/// How others are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiscoverySettings {
    /// Segments that come and go are told when none did for so long, in milliseconds.
    pub rest_ms: u64,
    /// And at the latest so long after the first, in milliseconds.
    pub longest_ms: u64,
    /// The most segments of a node that are told; the rest, the last in order of label, DNS does not find here. At most
    /// 50,000, for Consul.
    pub tags_max: usize,
    /// How often it is looked whether the registry still has what was told, in milliseconds.
    pub look_ms: u64,
    /// First wait after a call that failed, in milliseconds; it doubles with each failure.
    pub retry_first_ms: u64,
    /// Longest wait after a call that failed, in milliseconds.
    pub retry_longest_ms: u64,
    /// How often `/health` is asked, in milliseconds; 1,000 at least. Not longer than `rest_ms`: who registers again is
    /// asked at some moment of this time.
    pub check_interval_ms: u64,
    /// An answer of `/health` that takes longer is none, in milliseconds.
    pub check_timeout_ms: u64,
    /// Who fails so long is not registered any more, in seconds; 60 at least.
    pub deregister_after_s: u64,
    /// How often it is asked whether a person took the node out, in milliseconds.
    pub maintenance_ms: u64,
}

impl Default for DiscoverySettings {
    fn default() -> Self {
        Self {
            rest_ms: 1_000,
            longest_ms: 2_000,
            tags_max: TAGS_MAX,
            look_ms: 10_000,
            retry_first_ms: 1_000,
            // a registry that is back and has forgotten is told within the time of a look
            retry_longest_ms: 10_000,
            check_interval_ms: 1_000,
            check_timeout_ms: 2_000,
            // as long as Consul keeps a node that is gone; maintenance would end with the registration
            deregister_after_s: 72 * 60 * 60,
            maintenance_ms: 1_000,
        }
    }
}

impl DiscoverySettings {
    fn instance(
        &self,
        service: &str,
        node: &NodeName,
        address: &str,
    ) -> Result<Instance, DiscoveryError> {
        let address = ServiceAddress::new(address)?;
        Ok(Instance {
            service: Name::new(service)?,
            id: Name::new(&format!("{service}-{node}"))?,
            tags: BTreeSet::new(),
            check: HttpCheck {
                url: format!("http://{address}/health"),
                interval_ms: self.check_interval_ms,
                timeout_ms: self.check_timeout_ms,
                deregister_after_s: self.deregister_after_s,
            },
            address,
        })
    }
}

/// Why others cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// Nobody could reach it.
    #[error("tell others where this node answers: {0}")]
    Address(#[from] InvalidServiceAddress),
    /// It cannot be called so.
    #[error("tell others of this node: {0}")]
    Name(#[from] InvalidName),
}

/// Tells others that the reader of `node`, at `read_address` (`host:port`), serves `served`: see
/// [`Member::served`](crate::local::seat::member::Member::served). A reader that fails its check, and a node under
/// maintenance, are not found.
pub fn reader(
    services: Arc<dyn Services>,
    settings: &DiscoverySettings,
    node: &NodeName,
    read_address: &str,
    served: watch::Receiver<Served>,
) -> Result<Announcer<Served>, DiscoveryError> {
    let instance = settings.instance(READ_SERVICE, node, read_address)?;
    Ok(Announcer::new(services, settings, instance, served, labels))
}

/// Tells others that the writer of `node`, at `write_address` (`host:port`), has the segments `open` open for writing. It
/// is a hint, late by the time that changes are collected for: who owns a segment stands in its lock.
pub fn writer(
    services: Arc<dyn Services>,
    settings: &DiscoverySettings,
    node: &NodeName,
    write_address: &str,
    open: watch::Receiver<Served>,
) -> Result<Announcer<Served>, DiscoveryError> {
    let instance = settings.instance(WRITE_SERVICE, node, write_address)?;
    Ok(Announcer::new(services, settings, instance, open, labels))
}

/// A tag for each segment.
fn labels(served: &Served) -> Option<BTreeSet<Name>> {
    let ids = served.as_ref()?.iter();
    Some(ids.map(|id| id.label().into()).collect())
}

/// Tells others that there is a candidate on `node`, whose pages are at `address` (`host:port`), and whether it leads: see
/// [`LeadHandle::subscribe`](crate::lead::LeadHandle::subscribe).
pub fn candidate(
    services: Arc<dyn Services>,
    settings: &DiscoverySettings,
    node: &NodeName,
    address: &str,
    status: watch::Receiver<Arc<LeadStatus>>,
) -> Result<Announcer<Arc<LeadStatus>>, DiscoveryError> {
    let instance = settings.instance(SYNC_SERVICE, node, address)?;
    let tag = Name::new(LEAD_TAG)?;
    // a change of the lead is rare, and nothing is gained by waiting for another
    let settings = DiscoverySettings { rest_ms: 0, longest_ms: 0, ..settings.clone() };
    let tags = move |status: &Arc<LeadStatus>| {
        let tag = status.epoch.is_some().then(|| tag.clone());
        Some(tag.into_iter().collect())
    };
    Ok(Announcer::new(services, &settings, instance, status, tags))
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
