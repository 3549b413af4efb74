//! What a person may tell synchronizers: the one of this machine by a POST, a cluster by its registry.
//!
//! Left out: what comes of an order; the status shows that.

use std::process::ExitCode;

use crate::cli::Order;
use crate::config::Config;

mod cluster;
mod local;

pub use cluster::{describe, who};
use local::LocalOrder;

/// Gives the order and prints what holds then.
pub async fn run(config: &Config, order: &Order) -> anyhow::Result<ExitCode> {
    let said = match order {
        Order::Scrub => local::give(config, LocalOrder::Scrub).await?,
        Order::Now if !config.in_cluster() => local::give(config, LocalOrder::SyncNow).await?,
        Order::AcceptRemovals if !config.in_cluster() => {
            local::give(config, LocalOrder::AcceptRemovals).await?
        }
        Order::Now
        | Order::AcceptRemovals
        | Order::Pause
        | Order::Resume
        | Order::Decommission { .. }
        | Order::AcceptQuota { .. } => cluster::give(config, order).await?,
    };
    println!("{said}");
    Ok(ExitCode::SUCCESS)
}
