//! What the reader knows beyond its mount: on one machine from the registry's file, in a cluster by following the pool
//! table and the nodes.

use std::sync::Arc;

use proxy::catalogue::cluster::Cluster;
use proxy::catalogue::one_machine::OneMachine;
use proxy::reader::Elsewhere;
use proxy::route::Route;
use sync::nodes_view::NodesView;
use sync::pool_view::PoolView;
use tokio::task::JoinSet;

use super::{cluster, registry};
use crate::config::Config;
use crate::config::settings::RegistryKind;

/// What the reader knows, and what keeps it up to date for as long as that is not dropped.
pub fn elsewhere(config: &Config) -> anyhow::Result<(Elsewhere, JoinSet<()>)> {
    let mut following = JoinSet::new();
    if config.registry.kind == RegistryKind::File {
        let catalogue = Arc::new(OneMachine::new(registry(config)?));
        return Ok((Elsewhere { catalogue, route: None, owners: None, leases: None }, following));
    }
    let (kv, own) = (cluster::kv(config)?, cluster::name(config)?);
    let (pool, nodes) = (Arc::<PoolView>::default(), Arc::<NodesView>::default());
    let (pool_kv, follows_pool) = (kv.clone(), pool.clone());
    following.spawn(async move { ended(follows_pool.follow(&*pool_kv).await) });
    let follows_nodes = nodes.clone();
    following.spawn(async move { ended(follows_nodes.follow(&*kv).await) });
    let catalogue = Arc::new(Cluster::new(pool, nodes.clone()));
    let route = Some(Route::new(own, nodes, config.read.forward));
    Ok((Elsewhere { catalogue, route, owners: None, leases: None }, following))
}

/// Following ends only when it could not begin: a key that is none, which is a defect.
fn ended<E: std::fmt::Display>(followed: Result<(), E>) {
    if let Err(error) = followed {
        tracing::error!(%error, "this reader learns nothing of the cluster; please report it");
    }
}
