//! The segment manager: of a node, and of the lead.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use proxy::manager::OrderPages;
use proxy::managing::lead::{LeadManager, LeadOutside};
use proxy::managing::local::{LocalManager, LocalOutside};
use proxy::segments::{SegmentManager, routes};
use proxy::tokens::{Right, Tokens};
use proxy::writer::control::Control;
use sync::clock::{SystemClock, since_boot};
use sync::delete::{DeleteOutside, Deleter, OnDeleted, PoolSource};
use sync::kv::Kv;
use sync::lead::LeadHandle;
use sync::pool_view::PoolView;
use sync::schemas::Schemas;
use sync::store::Store;
use sync::write_lock::WriteLocks;

use super::writing::node_name;
use super::{keys, registry};
use crate::config::Config;

/// The pages of a node; `on_deleted` has its synchronizer look at the deep store.
pub fn of_node(
    config: &Config,
    store: Arc<dyn Store>,
    on_deleted: OnDeleted,
) -> anyhow::Result<OrderPages> {
    let kv = keys(config)?;
    let pool = match config.in_cluster() {
        true => PoolSource::Table(kv.clone()),
        false => PoolSource::Machine(registry(config)?),
    };
    let outside = LocalOutside {
        node: node_name(config)?,
        write_address: config.write_address(),
        view_max_age_ms: config.write.view_max_age_ms,
        control: Control::new(&config.write.dir),
        store: store.clone(),
        deleter: deleter(config, store, kv.clone(), pool, on_deleted)?,
    };
    pages(config, kv, Arc::new(LocalManager::new(outside)))
}

/// The pages of a candidate for the lead.
pub fn of_candidate(
    config: &Config,
    kv: Arc<dyn Kv>,
    store: Arc<dyn Store>,
    handle: &LeadHandle,
    pool: Arc<PoolView>,
) -> anyhow::Result<OrderPages> {
    let asked = handle.clone();
    // it only has to begin: what comes of it does not matter here
    let on_deleted: OnDeleted = Arc::new(move || {
        let asked = asked.clone();
        tokio::spawn(async move { asked.ask(Duration::ZERO).await });
    });
    let source = PoolSource::Table(kv.clone());
    let outside = LeadOutside {
        status: handle.subscribe(),
        kv: kv.clone(),
        pool,
        deleter: deleter(config, store, kv.clone(), source, on_deleted)?,
        // what the lead gives the nodes its orders with: their files are the same
        token: config.tokens.own(Right::Manage)?,
    };
    let manager = LeadManager::new(outside).context("take the token of tokens.manage_file")?;
    pages(config, kv, Arc::new(manager))
}

fn pages(
    config: &Config,
    kv: Arc<dyn Kv>,
    manager: Arc<dyn SegmentManager>,
) -> anyhow::Result<OrderPages> {
    let tokens = Arc::new(Tokens::load(&config.tokens)?);
    let pages = routes(manager, Schemas::new(kv), tokens.clone());
    Ok(OrderPages { pages, tokens })
}

fn deleter(
    config: &Config,
    store: Arc<dyn Store>,
    kv: Arc<dyn Kv>,
    pool: PoolSource,
    on_deleted: OnDeleted,
) -> anyhow::Result<Arc<Deleter>> {
    let clock = Arc::new(SystemClock);
    let holder = format!("the deletion of a segment by {}", config.display_name());
    let ttl = Duration::from_secs(config.publish.lock_ttl_s);
    let (of_locks, since_boot) = (clock.clone(), Arc::new(since_boot));
    let locks = WriteLocks::new(kv.clone(), store.clone(), of_locks, since_boot, ttl, holder)?;
    let locks = Arc::new(locks);
    Ok(Arc::new(Deleter::new(DeleteOutside { store, kv, locks, pool, clock, on_deleted })))
}
