//! The parts of a cluster: the registry in Consul, a node's seat in it, and the candidate for the lead.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fsd::cache::Cache;
use sync::clock::{SystemClock, since_boot};
use sync::kv::Kv;
use sync::kv::consul::ConsulKv;
use sync::lead::{Candidate, LeadOutside, LeadService};
use sync::local::seat::member::Member;
use sync::membership::{Identity, Membership};
use sync::node::{Node, NodeName};
use sync::pool_view::PoolView;
use tokio_util::sync::CancellationToken;

use super::{discovery, listen, managing, metrics};
use crate::config::{Config, Server};

/// How often a node looks whether the registry still says of it what it told: what somebody changed there is mended
/// soon, and a hundred nodes ask for some documents each a minute.
const DOUBT: Duration = Duration::from_secs(60);

/// Runs a candidate for the lead and its HTTP side until `shutdown`, and resigns then.
pub async fn sync_lead(config: &Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let kv = kv(config)?;
    let (name, address) = (name(config)?, address(config, Server::Lead)?);
    let listener = listen(config.listen(Server::Lead)).await?;
    let metrics = metrics()?;
    let outside = outside(config, kv.clone())?;
    let store = outside.store.clone();
    let candidate = Candidate::new(
        kv.clone(),
        outside.store.clone(),
        outside.clock.clone(),
        Arc::new(since_boot),
        &config.lead.election,
        name.as_str(),
        &address,
    )?;
    let (service, handle) =
        LeadService::new(candidate, outside, config.lead.cycle.clone(), config.plan.rules()?);
    let pool = Arc::new(PoolView::default());
    let manager = config.manager_settings(Server::Lead);
    let discovery = discovery::of_candidate(config, &handle, shutdown.clone())?;
    let orders = managing::of_candidate(config, kv.clone(), store, &handle, pool.clone())?;
    let orders = Some(orders);
    let pages = proxy::lead::run(
        manager,
        listener,
        handle,
        pool.clone(),
        orders,
        metrics,
        shutdown.clone(),
    );
    // a service manager that is not there is no reason to stop
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let leading = async {
        service.run(shutdown.clone()).await;
        Ok(())
    };
    let following = async {
        match shutdown.run_until_cancelled(pool.follow(&*kv)).await {
            Some(Err(error)) => Err(error).context("follow the pool table"),
            Some(Ok(())) | None => Ok(()),
        }
    };
    let discovery = async {
        discovery.await;
        Ok(())
    };
    // any of them ending by itself is an error that ends the others
    tokio::try_join!(pages, leading, following, discovery)?;
    Ok(())
}

/// This machine's synchronizer as a node of the cluster.
pub fn member(config: &Config, cache: &Cache) -> anyhow::Result<Arc<Member>> {
    let kv = kv(config)?;
    let who = Identity {
        name: name(config)?,
        // there is one process at a time that has the cache open, and so one that is this node
        session_file: cache.layout().session(),
        session_ttl: Duration::from_secs(config.node.session_ttl_s),
        since_boot: Arc::new(since_boot),
    };
    let (read, manager) = (address(config, Server::Read)?, address(config, Server::Manager)?);
    let mut node = Node::new(cache.quota_bytes(), &read, &manager);
    node.rack.clone_from(&config.node.rack);
    Ok(Arc::new(Member::new(kv.clone(), Membership::new(kv, who, node)?, DOUBT)))
}

/// The registry of the cluster.
pub fn kv(config: &Config) -> anyhow::Result<Arc<dyn Kv>> {
    anyhow::ensure!(
        config.in_cluster(),
        "this machine is on its own (registry.kind = \"file\"), and this is for a cluster: set registry.kind = \
         \"consul\" and registry.consul.address"
    );
    Ok(Arc::new(ConsulKv::new(&config.registry.consul)?))
}

/// The outside world of who looks at the cluster as a lead does.
pub fn outside(config: &Config, kv: Arc<dyn Kv>) -> anyhow::Result<LeadOutside> {
    let store = sync::store::open(&config.store.url, config.store.timeouts)?;
    Ok(LeadOutside { kv, store, clock: Arc::new(SystemClock) })
}

pub(super) fn name(config: &Config) -> anyhow::Result<NodeName> {
    config.node_name().map_err(|problem| setting("node.name", &problem))
}

pub(super) fn address(config: &Config, server: Server) -> anyhow::Result<String> {
    config.address(server).map_err(|problem| setting(&server.address_setting(), &problem))
}

fn setting(name: &str, problem: &str) -> anyhow::Error {
    anyhow::anyhow!("{name}: {problem}")
}
