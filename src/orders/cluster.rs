//! Orders to a cluster: written into its registry, where whoever leads obeys them, also when nobody leads yet.
//!
//! Invariant: an order that is given once and for all is given only about something that is there to be seen now.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use sync::cluster::{PoolRow, pool_table};
use sync::kv::Kv;
use sync::lead::{Leader, Orders, leading};
use sync::node::{NodeName, members};
use sync::registry::Epoch;
use sync::table::TableReader;

use super::local::{HEARD_TIMEOUT, post};
use crate::cli::Order;
use crate::config::Config;
use crate::rows::{bytes, counted, short};
use crate::wiring;

/// Gives the order, and says what holds then, and who leads.
pub async fn give(config: &Config, order: &Order) -> anyhow::Result<String> {
    let kv = wiring::kv(config)?;
    let kv = &*kv;
    let mut said = Vec::new();
    let orders = match order {
        Order::Now => return sync_now(config, kv).await,
        Order::Pause => Orders::change(kv, |orders| orders.paused = true).await?,
        Order::Resume => Orders::change(kv, |orders| orders.paused = false).await?,
        Order::Decommission { node, undo } => decommission(kv, node, *undo).await?,
        Order::AcceptQuota { undo: true } => {
            Orders::change(kv, |orders| orders.accepted_quota_bytes = None).await?
        }
        Order::AcceptQuota { undo: false } => accept_quota(kv).await?,
        Order::AcceptRemovals => {
            let (count, orders) = accept_removals(kv).await?;
            said.push(format!("{} wait to be removed", counted(count, "segment")));
            orders
        }
        Order::Scrub => bail!("the scrub is an order to one machine"),
    };
    said.extend(describe(&orders));
    if said.is_empty() {
        said.push("no orders hold".to_owned());
    }
    said.push(match leading(kv).await? {
        Some((leader, epoch)) => format!("{} leads", who(&leader, epoch)),
        None => "nobody leads now; whoever does next obeys".to_owned(),
    });
    Ok(said.join("\n"))
}

/// What is ordered, a line each.
pub fn describe(orders: &Orders) -> Vec<String> {
    let mut lines = Vec::new();
    if orders.paused {
        lines.push(
            "paused: nothing is listed and nothing moves until `trough sync resume`".to_owned(),
        );
    }
    lines.extend(orders.decommission.iter().map(|node| format!("{node} is to become empty")));
    if let Some(quota) = orders.accepted_quota_bytes {
        lines.push(format!("planned for down to {} of quota", bytes(quota)));
    }
    if orders.accept_removals {
        lines.push("the next complete listing removes what vanished".to_owned());
    }
    lines
}

/// Who leads, for people.
pub fn who(leader: &Leader, epoch: Option<Epoch>) -> String {
    let Leader { node, address, .. } = leader;
    match epoch {
        Some(epoch) => format!("{node} at {address} in epoch {}", short(epoch)),
        None => format!("{node} at {address}"),
    }
}

async fn decommission(kv: &dyn Kv, node: &str, undo: bool) -> anyhow::Result<Orders> {
    let name = NodeName::new(node)?;
    if !undo {
        let known: Vec<_> = members(kv).await?.into_iter().map(|member| member.name).collect();
        let names: Vec<_> = known.iter().map(NodeName::as_str).collect();
        ensure!(known.contains(&name), "no node is called {name}; there are {}", names.join(", "));
    }
    let change = |orders: &mut Orders| {
        match undo {
            true => orders.decommission.remove(&name),
            false => orders.decommission.insert(name.clone()),
        };
    };
    Ok(Orders::change(kv, change).await?)
}

async fn accept_quota(kv: &dyn Kv) -> anyhow::Result<Orders> {
    let there = members(kv).await?.into_iter().filter(|member| member.registered);
    let quota: u64 = there.filter_map(|member| member.node).map(|node| node.quota_bytes).sum();
    ensure!(quota > 0, "no node is registered, so there is no quota to be accepted");
    Ok(Orders::change(kv, |orders| orders.accepted_quota_bytes = Some(quota)).await?)
}

/// Accepts them, and says how many wait.
async fn accept_removals(kv: &dyn Kv) -> anyhow::Result<(usize, Orders)> {
    let mut reader = TableReader::<PoolRow>::new(pool_table()?, Duration::ZERO)?;
    let waiting = |rows: Vec<PoolRow>| rows.iter().filter(|row| row.vanished).count();
    let parts = reader.look_with(kv, &waiting).await.context("read the pool table")?;
    let count = parts.into_iter().flat_map(|change| change.parts).map(|(_, count)| count).sum();
    ensure!(count > 0, "no removals wait, so there is nothing to accept");
    Ok((count, Orders::change(kv, |orders| orders.accept_removals = true).await?))
}

/// Has the lead list and plan, and waits for it.
async fn sync_now(config: &Config, kv: &dyn Kv) -> anyhow::Result<String> {
    let (orders, _) = Orders::read(kv).await?;
    ensure!(!orders.paused, "the cluster is paused; `trough sync resume` goes on");
    let Some((leader, _)) = leading(kv).await? else {
        bail!(
            "nobody leads, so nobody can be asked; start `trough sync lead` on one of the machines"
        )
    };
    let url = format!("http://{}/sync?wait=1", leader.address);
    let timeout = HEARD_TIMEOUT + Duration::from_millis(config.manager.wait_ms);
    let (status, _) = post(config, &url, timeout).await?;
    Ok(match status {
        reqwest::StatusCode::OK => format!(
            "{} listed the deep store and planned; `trough status` shows how far the nodes are",
            leader.node
        ),
        _ => format!("{} is still at work; `trough status` shows how far it is", leader.node),
    })
}
