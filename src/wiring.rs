//! Where the layers are joined: settings and the outside world go in, a running subsystem comes out.
//!
//! Everything of the root package that names a subsystem's entry point stands here, so that a change of one
//! is a change of this file. Left out: what the subsystems do.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fsd::cache::Cache;
use fsd::daemon;
use fsd::filesystem::xattrs::Facts;
use fsd::layout::Layout;
use fsd::ledger::LedgerReader;
use fsd::segment::{Digest, SegmentId};
use fsd::view::MountView;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use sync::clock::{SystemClock, since_boot};
use sync::kv::Kv;
use sync::kv::sqlite::{FILE_TIMEOUTS, SqliteKv, keys_path};
use sync::local::seat::Seat;
use sync::local::seat::alone::Alone;
use sync::local::{Local, Outside};
use sync::publish::{OnProgress, Publisher};
use sync::quota::{Assignment, WholePool};
use sync::registry::Registry;
use sync::registry::sqlite::SqliteRegistry;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::config::settings::RegistryKind;
use crate::config::{Config, Server};

mod cluster;
mod control;
mod discovery;
mod elsewhere;
mod managing;
pub mod orphans;
mod room;
mod trigger;
mod writing;

pub use cluster::{kv, outside, sync_lead};
pub use trigger::{manager_url, trigger};
pub use writing::write;

use control::Control;

/// How long a deletion waits for the synchronizer to hear of it.
const ORDER_MAX: Duration = Duration::from_secs(1);

/// Owns the mount until SIGTERM or SIGINT, or until a newer process took it over; blocking.
pub fn fsd(config: &Config) -> anyhow::Result<()> {
    let layout = Layout::new(&config.cache.dir);
    let ledger = LedgerReader::open(&layout);
    let facts = move |id: &SegmentId, digest: &Digest| match ledger.facts(id, digest) {
        Ok(facts) => facts.map(|facts| Facts {
            stamp: facts.stamp,
            source: facts.source,
            verified_at_ms: facts.verified_at_ms,
        }),
        Err(error) => {
            // only the attributes that come from the ledger are missing then
            tracing::debug!(segment = %id, %error, "no facts from the ledger");
            None
        }
    };
    let ready = || tracing::info!(mountpoint = %config.mount.mountpoint.display(), "mounted");
    daemon::run(&config.mount, &layout, Box::new(facts), daemon::Shutdown::default(), ready)?;
    Ok(())
}

/// Runs the local synchronizer and its HTTP side until `shutdown`.
pub async fn sync_local(config: &Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    // the port first: a second synchronizer says so before it waits for the cache
    let listener = listen(&config.node.manager_listen).await?;
    let metrics = metrics()?;
    let settings = config.cache.clone();
    let (cache, report) = spawn_blocking(move || Cache::open(&settings)).await??;
    tracing::info!(?report, "the cache is open");
    let view = MountView::new(&config.mount.mountpoint);
    let store = sync::store::open(&config.store.url, config.store.timeouts)?;
    let member = match config.registry.kind {
        RegistryKind::File => None,
        RegistryKind::Consul => Some(cluster::member(config, &cache)?),
    };
    let (seat, assignment): (Arc<dyn Seat>, Box<dyn Assignment>) = match &member {
        Some(member) => (member.clone(), Box::new(member.assignment())),
        None => (
            Arc::new(Alone::new(store.clone(), registry(config)?, keys(config)?)),
            Box::new(WholePool { pinned: config.sync.pinned.clone() }),
        ),
    };
    let room = room::follow(config, cache.clone(), member.clone());
    let discovery = member.map(|member| discovery::of_node(config, member, shutdown.clone()));
    let discovery = discovery.transpose()?;
    let outside = Outside {
        node: config.display_name(),
        cache,
        seat,
        store: store.clone(),
        view: view.clone(),
        clock: Arc::new(SystemClock),
    };
    let (sync, scrub) = (config.sync.clone(), config.scrub.clone());
    let local = Local::start(sync, scrub, outside, assignment).await?;
    let asked = local.handle();
    let on_deleted = Arc::new(move || {
        let asked = asked.clone();
        // it only has to begin: how far it comes while this one waits does not matter
        tokio::spawn(async move { asked.sync_now(ORDER_MAX).await });
    });
    let orders = Some(managing::of_node(config, store.clone(), on_deleted)?);
    let control = Arc::new(Control::new(local.handle(), view, config.sync.lag_max()));
    let manager = config.manager_settings(Server::Manager);
    let pages = proxy::manager::run(manager, listener, control, orders, metrics, shutdown.clone());
    let discovery = async {
        if let Some(discovery) = discovery {
            discovery.await;
        }
        Ok(())
    };
    let local = async { local.run(shutdown).await.context("run the synchronizer") };
    let work = async {
        // any of them ending by itself is an error that ends the others
        tokio::try_join!(pages, local, discovery)
    };
    tokio::select! {
        done = work => done.map(drop),
        () = room => Ok(()),
    }
}

/// Runs the reader until `shutdown`.
pub async fn read(config: &Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = listen(&config.node.read_listen).await?;
    let view = MountView::new(&config.mount.mountpoint);
    let ((elsewhere, _following), metrics) = (elsewhere::elsewhere(config)?, metrics()?);
    let settings = config.read_settings();
    proxy::reader::run(settings, listener, view, elsewhere, metrics, shutdown).await;
    Ok(())
}

/// The way into the deep store for `trough put`; `on_progress` is told of every step.
pub fn publisher(config: &Config, on_progress: OnProgress) -> anyhow::Result<Publisher> {
    let store = sync::store::open(&config.store.url, config.store.timeouts)?;
    let holder =
        format!("`trough put` of process {} on {}", std::process::id(), config.display_name());
    let (kv, clock, since_boot) = (keys(config)?, Arc::new(SystemClock), Arc::new(since_boot));
    let settings = config.publish.clone();
    Ok(Publisher::new(store, kv, clock, since_boot, settings, holder, on_progress)?)
}

/// Where locks are.
pub fn keys(config: &Config) -> anyhow::Result<Arc<dyn Kv>> {
    if config.in_cluster() {
        return kv(config);
    }
    let path = keys_path(&config.registry.path);
    Ok(Arc::new(SqliteKv::open(path, since_boot, FILE_TIMEOUTS)?))
}

/// The registry of a machine on its own.
pub fn registry(config: &Config) -> anyhow::Result<Arc<dyn Registry>> {
    let path: PathBuf = config.registry.path.clone();
    Ok(Arc::new(SqliteRegistry::open(path)?))
}

async fn listen(address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))
}

fn metrics() -> anyhow::Result<PrometheusHandle> {
    PrometheusBuilder::new().install_recorder().context("set up the metrics")
}
