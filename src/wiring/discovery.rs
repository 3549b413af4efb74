//! What others find of this node by DNS.

use std::sync::Arc;

use sync::discovery::{candidate, follow_maintenance, reader, writer};
use sync::lead::LeadHandle;
use sync::local::seat::member::{Member, Served};
use sync::services::Services;
use sync::services::consul::ConsulServices;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::cluster::{address, name};
use crate::config::{Config, Server};

/// Tells what the reader of this node serves, and learns whether a person took it out, until `shutdown`.
pub fn of_node(
    config: &Config,
    member: Arc<Member>,
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let services = services(config)?;
    let settings = config.discovery.clone();
    let (name, address) = (name(config)?, address(config, Server::Read)?);
    let announcer = reader(services.clone(), &settings, &name, &address, member.served())?;
    let id = announcer.id().clone();
    let maintenance = follow_maintenance(services, settings, id, member, shutdown.clone());
    Ok(async move {
        tokio::join!(announcer.run(shutdown), maintenance);
    })
}

/// Tells that there is a candidate here, and whether it leads, until `shutdown`.
pub fn of_candidate(
    config: &Config,
    handle: &LeadHandle,
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let (name, address) = (name(config)?, address(config, Server::Lead)?);
    let (services, status) = (services(config)?, handle.subscribe());
    let announcer = candidate(services, &config.discovery, &name, &address, status)?;
    Ok(announcer.run(shutdown))
}

/// Tells which segments are `open` for writing here, until `shutdown`.
pub fn of_writer(
    config: &Config,
    open: watch::Receiver<Served>,
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let (name, address) = (name(config)?, config.write_address());
    let announcer = writer(services(config)?, &config.discovery, &name, &address, open)?;
    Ok(announcer.run(shutdown))
}

fn services(config: &Config) -> anyhow::Result<Arc<dyn Services>> {
    Ok(Arc::new(ConsulServices::new(&config.registry.consul)?))
}
