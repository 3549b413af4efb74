//! The writer, and how it knows that what it published is read.

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use fsd::segment::{SegmentId, Version};
use fsd::view::MountView;
use proxy::tokens::Tokens;
use proxy::writer::{self, Files, Outside, Readers};
use sync::clock::{SystemClock, since_boot};
use sync::node::NodeName;
use sync::nodes_view::NodesView;
use sync::orphans::Reporter;
use sync::pool_view::{Found, PoolView};
use sync::publish::Publisher;
use sync::schemas::Schemas;
use sync::tag::Tag;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{cluster, discovery, keys, listen, metrics, trigger};
use crate::config::{Config, Server};

/// What a machine on its own is called where its name is no node's.
const ALONE: &str = "this-machine";

/// Runs the writer until `shutdown`.
pub async fn write(config: &Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    anyhow::ensure!(
        config.writes(),
        "the others of the cluster cannot reach a writer at {}; set node.write_listen to an address of this machine's \
         own, or node.write_address",
        config.listen(Server::Write)
    );
    let listener = listen(config.listen(Server::Write)).await?;
    let (metrics, tokens) = (metrics()?, Arc::new(Tokens::load(&config.tokens)?));
    let store = sync::store::open(&config.store.url, config.store.timeouts)?;
    let (kv, clock, since_boot) = (keys(config)?, Arc::new(SystemClock), Arc::new(since_boot));
    let holder = format!("the writer of {}", config.display_name());
    let publisher = Publisher::new(
        store.clone(),
        kv.clone(),
        clock.clone(),
        since_boot.clone(),
        config.publish.clone(),
        holder,
        Arc::new(|_, _| {}),
    )?;
    let mut following = JoinSet::new();
    let settings = config.write_settings();
    let (open, opened) = watch::channel(None);
    let discovery = match config.in_cluster() {
        true => Some(discovery::of_writer(config, opened, shutdown.clone())?),
        false => None,
    };
    let outside = Outside {
        node: node_name(config)?,
        address: config.write_address(),
        store,
        publisher,
        files: Files::open(settings.dir.clone())?,
        schemas: Schemas::new(kv.clone()),
        orphans: Arc::new(Reporter::new(kv, node_name(config)?)),
        readers: readers(config, &mut following)?,
        open,
        sync_data: Arc::new(std::fs::File::sync_data),
        clock,
        since_boot,
        settings,
    };
    let running = writer::run(outside, listener, tokens, metrics, shutdown);
    let discovery = async {
        if let Some(discovery) = discovery {
            discovery.await;
        }
        Ok(())
    };
    tokio::try_join!(running, discovery).context("write segments").map(drop)
}

/// What this machine is called in the locks of what it writes.
pub(super) fn node_name(config: &Config) -> anyhow::Result<NodeName> {
    match config.in_cluster() {
        true => cluster::name(config),
        false => Ok(config.node_name().or_else(|_| NodeName::new(ALONE))?),
    }
}

fn readers(config: &Config, following: &mut JoinSet<()>) -> anyhow::Result<Arc<dyn Readers>> {
    let settings = config.clone();
    if !config.in_cluster() {
        return Ok(Arc::new(Alone { view: MountView::new(&config.mount.mountpoint), settings }));
    }
    let kv = cluster::kv(config)?;
    let (pool, nodes) = (Arc::<PoolView>::default(), Arc::<NodesView>::default());
    let (pool_kv, follows_pool) = (kv.clone(), pool.clone());
    following.spawn(async move { drop(follows_pool.follow(&*pool_kv).await) });
    let follows_nodes = nodes.clone();
    following.spawn(async move { drop(follows_nodes.follow(&*kv).await) });
    Ok(Arc::new(Cluster { pool, nodes, copies: config.plan.settings.copies.into(), settings }))
}

/// On a machine on its own: its mount shows the version.
#[derive(Debug)]
struct Alone {
    view: MountView,
    settings: Config,
}

#[async_trait]
impl Readers for Alone {
    async fn have(&self, id: &SegmentId, version: &Version) -> bool {
        let (view, id) = (self.view.clone(), id.clone());
        let shown = tokio::task::spawn_blocking(move || view.digest(&id)).await;
        matches!(shown, Ok(Ok(Some(digest))) if digest == version.digest)
    }

    async fn tell(&self) {
        trigger(&self.settings).await;
    }
}

/// In a cluster: as many nodes as there should be copies answer for it, and nobody for an older one.
#[derive(Debug)]
struct Cluster {
    pool: Arc<PoolView>,
    nodes: Arc<NodesView>,
    copies: usize,
    settings: Config,
}

#[async_trait]
impl Readers for Cluster {
    async fn have(&self, id: &SegmentId, version: &Version) -> bool {
        let Found::Listed(at) = self.pool.find(id) else { return false };
        let wanted = self.copies.min(self.nodes.available()).max(1);
        at.version == version.stamp
            && at.tag == Some(Tag::from(version.digest))
            && at.holders.len() >= wanted
    }

    async fn tell(&self) {
        trigger(&self.settings).await;
    }
}
