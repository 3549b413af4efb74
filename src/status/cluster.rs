//! The whole cluster at one moment, from its registry and from who leads it.
//!
//! Invariant: a registry or a lead that does not answer leaves out what it alone knows, and nothing else. Without the
//! registry the candidate of this machine says who led last, and the synchronizer what is held here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sync::clock::{Clock, SystemClock};
use sync::cluster::{PoolRow, pool_table};
use sync::kv::Kv;
use sync::lead::{LeadStatus, Leader, NodeReport, Orders, leading};
use sync::local::status::LocalStatus;
use sync::node::{Member, Node, NodeName, members};
use sync::orphans::{NodeOrphans, read_all};
use sync::registry::Epoch;
use sync::table::{TableError, TableReader};
use sync::unpublished::Unpublished;

use super::ask;
use crate::config::{Config, Server};
use crate::{http, wiring};

mod report;

pub use report::render;

/// The cluster at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// When it was asked for, milliseconds since 1970.
    pub at_ms: u64,
    /// What it agrees in.
    pub registry: RegistryLine,
    /// Who leads; `None` when nobody does, or nobody can say who.
    pub lead: Option<LeadLine>,
    /// What people want; `None` when that cannot be said.
    pub orders: Option<Orders>,
    /// Why the orders cannot be read, when the registry answers.
    pub orders_problem: Option<String>,
    /// Every node that is known, in order of name.
    pub nodes: Vec<NodeLine>,
    /// What is written and not published; `None` when that cannot be said.
    pub writes: Option<Unpublished>,
    /// Nodes with writes that were overtaken elsewhere.
    pub orphans: Vec<NodeOrphans>,
    /// What the lead says of itself; `None` when it does not answer.
    pub leading: Option<LeadStatus>,
    /// What the pool table says, when the lead does not answer.
    pub pool: Option<PoolLine>,
    /// What the synchronizer of this machine says, when the registry does not answer.
    pub here: Option<LocalStatus>,
}

/// The registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryLine {
    /// Where it is.
    pub address: String,
    /// Why it cannot be asked.
    pub problem: Option<String>,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeadLine {
    /// Where, and since when.
    #[serde(flatten)]
    pub leader: Leader,
    /// In which epoch.
    pub epoch: Option<Epoch>,
    /// Why it cannot be asked.
    pub problem: Option<String>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLine {
    /// Its name.
    pub name: NodeName,
    /// Whether it is there.
    pub registered: bool,
    /// What it says of itself; `None` when that cannot be read.
    pub said: Option<Node>,
    /// What the lead sees of it.
    pub seen: Option<NodeReport>,
}

/// The pool table, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolLine {
    /// Segments.
    pub segments: u64,
    /// Of them, those that no node answers for.
    pub unheld: u64,
    /// Those of which a copy has no place.
    pub unplaced: u64,
    /// Those that the deep store does not show any more, and that wait for a person.
    pub vanished: u64,
}

/// Asks everybody who knows something.
pub async fn gather(config: &Config) -> anyhow::Result<ClusterStatus> {
    let kv = wiring::kv(config)?;
    let asked = async { tokio::try_join!(members(&*kv), leading(&*kv)) };
    let (asked, orders, writes, orphans) =
        tokio::join!(asked, Orders::read(&*kv), Unpublished::read(&*kv), read_all(&*kv));
    let (known, leader, problem) = match asked {
        Ok((members, leader)) => (members, leader, None),
        Err(error) => (Vec::new(), led_last(config).await, Some(error.to_string())),
    };
    let (orders, orders_problem) = match orders {
        Ok((orders, _)) => (Some(orders), None),
        Err(error) => (None, problem.is_none().then(|| error.to_string())),
    };
    let mut lead = leader.map(|(leader, epoch)| LeadLine { leader, epoch, problem: None });
    let leading = match &mut lead {
        None => None,
        Some(lead) => match ask::<LeadStatus>(&format!("http://{}", lead.leader.address)).await {
            Ok(status) => Some(status),
            Err(error) => {
                lead.problem = Some(format!("{error:#}"));
                None
            }
        },
    };
    let pool = match (&leading, &problem) {
        (None, None) => count(&*kv).await.ok().flatten(),
        _ => None,
    };
    let here = match &problem {
        None => None,
        Some(_) => local(config).await,
    };
    let nodes = nodes(known, leading.as_ref());
    let at_ms = SystemClock.now_ms();
    let registry = RegistryLine { address: kv.address(), problem };
    Ok(ClusterStatus {
        at_ms,
        registry,
        lead,
        orders,
        orders_problem,
        nodes,
        writes: writes.ok(),
        // what is not understood is of a newer trough, which tells it
        orphans: orphans.map(|all| all.nodes).unwrap_or_default(),
        leading,
        pool,
        here,
    })
}

/// Who led last, as the candidate of this machine saw it, if there is one.
async fn led_last(config: &Config) -> Option<(Leader, Option<Epoch>)> {
    let url = http::url_of(config.listen(Server::Lead)).ok()?;
    Some((ask::<LeadStatus>(&url).await.ok()?.leader?, None))
}

async fn local(config: &Config) -> Option<LocalStatus> {
    let url = http::url_of(config.listen(Server::Manager)).ok()?;
    ask(&url).await.ok()
}

async fn count(kv: &dyn Kv) -> Result<Option<PoolLine>, TableError> {
    let mut reader = TableReader::<PoolRow>::new(pool_table()?, Duration::ZERO)?;
    let count = |rows: Vec<PoolRow>| {
        let of = |what: fn(&PoolRow) -> bool| rows.iter().filter(|row| what(row)).count() as u64;
        PoolLine {
            segments: rows.len() as u64,
            unheld: of(|row| row.holders.is_empty()),
            unplaced: of(|row| row.unplaced.is_some()),
            vanished: of(|row| row.vanished),
        }
    };
    let change = reader.look_with(kv, &count).await?;
    Ok(change.map(|change| {
        change.parts.into_iter().fold(PoolLine::default(), |sum, (_, part)| PoolLine {
            segments: sum.segments + part.segments,
            unheld: sum.unheld + part.unheld,
            unplaced: sum.unplaced + part.unplaced,
            vanished: sum.vanished + part.vanished,
        })
    }))
}

/// What the registry and the lead know of the nodes.
fn nodes(known: Vec<Member>, leading: Option<&LeadStatus>) -> Vec<NodeLine> {
    let cycle = leading.and_then(|leading| leading.cycle.as_ref());
    let seen = cycle.into_iter().flat_map(|cycle| &cycle.nodes);
    let mut lines: BTreeMap<NodeName, NodeLine> = seen
        .map(|report| {
            let line = NodeLine {
                name: report.name.clone(),
                registered: report.is_registered(),
                said: Some(report.node.clone()),
                seen: Some(report.clone()),
            };
            (report.name.clone(), line)
        })
        .collect();
    for Member { name, node, registered, .. } in known {
        let seen = lines.remove(&name).and_then(|line| line.seen);
        lines.insert(name.clone(), NodeLine { name, registered, said: node, seen });
    }
    lines.into_values().collect()
}
