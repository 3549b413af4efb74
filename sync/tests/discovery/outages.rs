//! An agent that forgets, restarts, or has another token.

use std::sync::Arc;

use rig::consul::{Consul, Server};
use sync::kv::KvTimeouts;
use sync::services::consul::ConsulServices;
use sync::services::{Health, Services};

use crate::consul_cli::{consul_cli, consul_cli_as};
use crate::dns::addresses;
use crate::one_server::{OneServer, secure_settings};
use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_forgot_is_told_again_without_help() {
    let log = Log::here();
    let place = OneServer::own();
    let consul = place.consul();
    // as when it serves: nothing hangs for long
    let hasty = place.settings(KvTimeouts { connect_ms: 500, call_ms: 1_000 });
    let services: Arc<dyn Services> = Arc::new(ConsulServices::new(&hasty).unwrap());
    let reader = Reader::start(&services, "forgotten", "127.0.0.1").await;
    let found = |label: &str| addresses(consul, label, READ).is_ok();
    let becomes = async |label: &str| {
        until(&format!("{label} is found"), async || found(label)).await;
    };
    reader.serves(&["nevada"]);
    becomes("nevada").await;

    // by a hand
    consul_cli(consul, &["services", "deregister", "-id=trough-read-forgotten"]);
    let again = || log.count(&["INFO", "trough-read-forgotten", "registering it again"]);
    until("that is noticed", async || again() == 1).await;
    becomes("nevada").await;

    // restarted with its data; what changed meanwhile is told
    consul.kill(Server(1));
    reader.serves(&["nevada", "utah"]);
    let said = || log.count(&["WARN", "trough-read-forgotten", "tell others"]);
    until("that is noticed", async || said() == 1).await;
    consul.restart(Server(1));
    becomes("utah").await;
    becomes("nevada").await;

    // restarted without
    consul.restart_empty();
    becomes("utah").await;
    becomes("nevada").await;
    assert!(said() <= 2, "said once for each outage");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_change_of_the_token_the_health_goes_on_being_told() {
    let consul = Consul::start_secure();
    let master = std::fs::read_to_string(consul.dir().join("token")).unwrap();
    let cli = |args: &[&str]| consul_cli_as(&consul, master.trim(), args);
    let tokens = [1, 2].map(|n| format!("{n}0000000-0000-0000-0000-000000000000"));
    for token in &tokens {
        let (secret, accessor) = (format!("-secret={token}"), format!("-accessor={token}"));
        cli(&["acl", "token", "create", &secret, &accessor, "-policy-name=global-management"]);
    }
    let own = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(own.path(), &tokens[0]).unwrap();
    let client = ConsulServices::new(&secure_settings(&consul, own.path())).unwrap();
    let services: Arc<dyn Services> = Arc::new(client);
    let reader = Reader::start(&services, "token", "127.0.0.1").await;
    let is = async |health: Health| {
        let found = readers(&services).await;
        found.len() == 1 && found[0].health == health
    };
    reader.serves(&["nevada"]);
    until("it passes", async || is(Health::Passing).await).await;

    std::fs::write(own.path(), &tokens[1]).unwrap();
    cli(&["acl", "token", "delete", &format!("-accessor-id={}", tokens[0])]);
    reader.page.says(503);
    until("it is not well", async || is(Health::Critical).await).await;
    reader.page.says(200);
    until("it is well", async || is(Health::Passing).await).await;
}
