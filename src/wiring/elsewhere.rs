//! What the reader knows beyond its mount: on one machine from the registry's file, in a cluster by following the pool
//! table and the nodes; and who writes what.

use std::sync::Arc;

use proxy::catalogue::cluster::Cluster;
use proxy::catalogue::one_machine::OneMachine;
use proxy::lease::Leases;
use proxy::reader::Elsewhere;
use proxy::route::Route;
use proxy::tokens::Tokens;
use sync::clock::since_boot;
use sync::nodes_view::NodesView;
use sync::owners_view::OwnersView;
use sync::pool_view::PoolView;
use tokio::task::JoinSet;

use super::{cluster, keys, registry};
use crate::config::Config;
use crate::config::settings::RegistryKind;

/// What the reader knows, and what keeps it up to date for as long as that is not dropped.
pub fn elsewhere(config: &Config) -> anyhow::Result<(Elsewhere, JoinSet<()>)> {
    let mut following = JoinSet::new();
    let kv = keys(config)?;
    let owners = Arc::<OwnersView>::default();
    let (owners_kv, follows_owners) = (kv.clone(), owners.clone());
    following.spawn(async move { ended(follows_owners.follow(&*owners_kv).await) });
    let owners = Some(owners);
    // where no writer runs there is no lease
    let leases = Some(Leases::new(config.write.dir.clone(), Arc::new(since_boot)));
    let tokens = Arc::new(Tokens::load(&config.tokens)?);
    if config.registry.kind == RegistryKind::File {
        let catalogue = Arc::new(OneMachine::new(registry(config)?));
        return Ok((Elsewhere { catalogue, route: None, owners, leases, tokens }, following));
    }
    let own = cluster::name(config)?;
    let (pool, nodes) = (Arc::<PoolView>::default(), Arc::<NodesView>::default());
    let (pool_kv, follows_pool) = (kv.clone(), pool.clone());
    following.spawn(async move { ended(follows_pool.follow(&*pool_kv).await) });
    let follows_nodes = nodes.clone();
    following.spawn(async move { ended(follows_nodes.follow(&*kv).await) });
    let catalogue = Arc::new(Cluster::new(pool, nodes.clone()));
    let route = Some(Route::new(own, nodes, config.read.forward));
    Ok((Elsewhere { catalogue, route, owners, leases, tokens }, following))
}

/// Following ends only when it could not begin: a key that is none, which is a defect.
fn ended<E: std::fmt::Display>(followed: Result<(), E>) {
    if let Err(error) = followed {
        tracing::error!(%error, "this reader learns nothing of the cluster; please report it");
    }
}
