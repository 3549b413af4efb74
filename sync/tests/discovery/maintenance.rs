//! A person takes a node out, with Consul's own command.

use std::sync::Arc;
use std::time::Duration;

use sync::clock::since_boot;
use sync::discovery::follow_maintenance;
use sync::kv::consul::ConsulKv;
use sync::kv::{Key, Kv, Op, SESSION_TTL_MIN};
use sync::local::seat::member::Member;
use sync::local::seat::{Report, Seat};
use sync::membership::{Identity, Membership};
use sync::node::{Node, NodeName, members};
use sync::services::Maintenance;
use tokio_util::sync::CancellationToken;

use crate::consul_cli::consul_maint;
use crate::counting::CountingServices;
use crate::dns::addresses;
use crate::one_server::{OneServer, PATIENT};
use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_under_maintenance_is_not_found_and_says_so() {
    let place = OneServer::own();
    let consul = place.consul();
    let (log, services) = (Log::here(), on(consul));
    let kv: Arc<dyn Kv> = Arc::new(ConsulKv::new(&place.settings(PATIENT)).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let who = Identity {
        name: NodeName::new("one").unwrap(),
        session_file: dir.path().join("session"),
        session_ttl: SESSION_TTL_MIN,
        since_boot: Arc::new(since_boot),
    };
    let node = Node::new(1_000, "one:6444", "one:6112");
    let membership = Membership::new(kv.clone(), who, node).unwrap();
    let member = Arc::new(Member::new(kv.clone(), membership, Duration::from_secs(3_600)));
    let reader = Reader::start(&services, "one", "127.0.0.1").await;
    reader.serves(&["nevada"]);
    until("it is found", async || addresses(consul, "nevada", READ).is_ok()).await;
    let shutdown = CancellationToken::new();
    let counting = CountingServices::new(services.clone());
    let following = tokio::spawn(follow_maintenance(
        counting.clone(),
        settings(),
        reader.id.clone(),
        member.clone(),
        shutdown.clone(),
    ));

    // already while it has not said yet what it holds, and after
    member.look().await;
    let says = async || members(&*kv).await.unwrap()[0].node.clone().unwrap();
    for announced in [false, true] {
        if announced {
            let set = Op::Set { key: Key::new("trough/incarnation").unwrap(), value: "1".into() };
            kv.txn(&[set]).await.unwrap();
            member.tell(&Report { all: true, ..Report::default() }).await.unwrap();
        }
        for instance in [Some("trough-read-one"), None] {
            for on in [true, false] {
                consul_maint(consul, instance, on);
                let found = |yes: bool| addresses(consul, "nevada", READ).is_ok() == yes;
                let what = format!("maintenance of {instance:?} is {on}, announced {announced}");
                until(&what, async || says().await.maintenance == on && found(!on)).await;
                assert_eq!(says().await.announced, announced);
            }
        }
    }

    // a registry that does not say is no reason to come back
    consul_maint(consul, None, true);
    until("it is out", async || says().await.maintenance).await;
    counting.is_away(true);
    let said = |level: &str| log.count(&[level, "trough-read-one", "find out whether this node"]);
    until("that is said", async || said("WARN") == 1).await;
    consul_maint(consul, None, false);
    assert!(says().await.maintenance);
    counting.is_away(false);
    until("it is back", async || !says().await.maintenance).await;
    assert_eq!((said("WARN"), said("INFO")), (1, 1));
    shutdown.cancel();
    tokio::time::timeout(PATIENCE, following).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_of_a_reader_outlasts_its_restart() {
    let place = OneServer::own();
    let consul = place.consul();
    let services = on(consul);
    let found = || addresses(consul, "nevada", READ).is_ok();
    let reader = Reader::start(&services, "one", "127.0.0.1").await;
    reader.serves(&["nevada"]);
    until("it is found", async || found()).await;
    consul_maint(consul, Some("trough-read-one"), true);
    until("it is out", async || !found()).await;
    let page = reader.stop().await;

    let reader = Reader::behind(&services, "one", &settings(), page);
    reader.serves(&["nevada", "utah"]);
    until("it tells again", async || tags(&services).await.len() == 2).await;
    let out = Maintenance { node: false, instance: true };
    assert_eq!(services.maintenance(&reader.id).await.unwrap(), out);
    assert!(!found());
    consul_maint(consul, Some("trough-read-one"), false);
    until("it is found", async || found()).await;

    // that of the machine is not the registration's, which goes
    consul_maint(consul, None, true);
    reader.stop().await;
    assert!(readers(&services).await.is_empty());
}
