//! Who leads, found by DNS.

use std::collections::BTreeSet;
use std::sync::Arc;

use sync::discovery::{self, LEAD_TAG, SYNC_SERVICE};
use sync::lead::{CycleSettings, LeadService};
use sync::node::NodeName;
use sync::services::Services;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::dns::places;
use crate::leading::{Place, rules};
use crate::one_server::OneServer;
use crate::page::Page;
use crate::support::*;

/// A candidate that runs, and tells it.
struct Running {
    page: Page,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Running {
    async fn start(place: &Place, services: &Arc<dyn Services>, node: &str, host: &str) -> Self {
        let page = Page::on(host, 200).await;
        let (candidate, outside) = (place.candidate(node), place.outside());
        let (service, handle) =
            LeadService::new(candidate, outside, CycleSettings::default(), rules());
        let node = NodeName::new(node).unwrap();
        let (services, status) = (services.clone(), handle.subscribe());
        let announcer =
            discovery::candidate(services, &settings(), &node, page.address(), status).unwrap();
        let (shutdown, mut tasks) = (CancellationToken::new(), JoinSet::new());
        tasks.spawn(service.run(shutdown.clone()));
        tasks.spawn(announcer.run(shutdown.clone()));
        Self { page, shutdown, tasks }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.tasks.join_all()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_finds_the_candidate_that_leads() {
    let consul = OneServer::own();
    let services = on(consul.consul());
    let place = Place::new().await;
    let leads = || places(consul.consul(), LEAD_TAG, SYNC_SERVICE);
    let is = |running: &Running| BTreeSet::from([running.page.address().to_owned()]);
    let one = Running::start(&place, &services, "one", "127.0.0.1").await;
    until("one leads", async || leads() == is(&one)).await;

    let two = Running::start(&place, &services, "two", "127.0.0.2").await;
    let candidates = async || {
        let found = services.instances(&name(SYNC_SERVICE), None, true).await.unwrap();
        found.into_iter().map(|found| (found.id.to_string(), found.tags.len())).collect::<Vec<_>>()
    };
    let both = [("trough-sync-one".to_owned(), 1), ("trough-sync-two".to_owned(), 0)];
    until("both are there", async || candidates().await == both).await;
    assert_eq!(leads(), is(&one));

    // one that hangs is not found, though nobody took its tag
    one.page.says(0);
    until("nobody is found", async || leads().is_empty()).await;
    one.page.says(200);
    until("it is found again", async || leads() == is(&one)).await;

    one.stop().await;
    until("two leads", async || leads() == is(&two)).await;
    assert_eq!(candidates().await, [("trough-sync-two".to_owned(), 1)]);

    // the registry takes it from it: another leads, and it stands again
    let three = Running::start(&place, &services, "three", "127.0.0.3").await;
    until("three is there", async || candidates().await.len() == 2).await;
    let key = sync::kv::Key::new(sync::lead::LEAD_KEY).unwrap();
    let session = place.kv.get(&key).await.unwrap().unwrap().session.unwrap();
    place.kv.destroy_session(&session).await.unwrap();
    until("three leads", async || leads() == is(&three)).await;
    let both = [("trough-sync-two".to_owned(), 0), ("trough-sync-three".to_owned(), 1)];
    until("two does not", async || candidates().await == both).await;
    two.stop().await;
    three.stop().await;
    assert!(candidates().await.is_empty());
}
