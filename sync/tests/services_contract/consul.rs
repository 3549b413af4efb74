//! What can only be asked of a Consul.

use std::io::{Read, Write};

use rig::consul::{Consul, Server};
use sync::kv::{KvErrorKind, KvTimeouts};
use sync::services::consul::ConsulServices;
use sync::services::{Health, Services};

use crate::one_server::{OneServer, PATIENT, secure_settings};
use crate::page::Page;
use crate::support::*;

fn client(place: &OneServer, timeouts: KvTimeouts) -> ConsulServices {
    ConsulServices::new(&place.settings(timeouts)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_a_time_out_and_absence_is_said() {
    let place = OneServer::own();
    let services = client(&place, KvTimeouts { connect_ms: 500, call_ms: 1_000 });
    let page = Page::new(200).await;
    let one = instance("outage", "outage-1", "127.0.0.1:1", &[], &page);
    services.register(&one).await.unwrap();
    let fails = async |kind: KvErrorKind, said: &str| {
        for error in [
            services.register(&one).await.unwrap_err(),
            services.deregister(&one.id).await.unwrap_err(),
            services.has(&one).await.unwrap_err(),
            services.instances(&one.service, None, false).await.unwrap_err(),
            services.maintenance(&one.id).await.unwrap_err(),
        ] {
            assert_eq!(error.kind, kind, "{error}");
            let text = error.to_string();
            assert!(text.contains(said) && text.contains(place.consul().address()), "{text}");
        }
    };
    place.consul().pause(Server(1));
    fails(KvErrorKind::TimedOut, "is Consul well?").await;
    place.consul().resume(Server(1));
    place.consul().kill(Server(1));
    fails(KvErrorKind::Unavailable, "is Consul running there?").await;
    place.consul().restart(Server(1));
    // a new client: what the old one asked in vain may be done yet
    client(&place, PATIENT).register(&one).await.unwrap();
    assert!(services.has(&one).await.unwrap(), "the same client, after the outage");
}

/// What others registered, and what is no trough's at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_trough_registered_is_passed_over() {
    let place = OneServer::shared();
    let services = client(&place, PATIENT);
    let page = Page::new(200).await;
    let one = instance("mixed", "mixed-1", "127.0.0.1:1", &["a"], &page);
    services.register(&one).await.unwrap();
    for body in [
        r#"{"Name": "mixed", "ID": "Mixed_2", "Port": 1, "Address": "127.0.0.2"}"#,
        r#"{"Name": "mixed", "ID": "mixed-3", "Port": 1, "Tags": ["A b"], "Address": "127.0.0.3"}"#,
        r#"{"Name": "mixed", "ID": "mixed-4"}"#,
        r#"{"Name": "mixed", "ID": "mixed-5", "Port": 5, "Address": "127.0.0.5"}"#,
    ] {
        register_as_another(place.consul(), body);
    }
    becomes_two(&place, &services).await;
    let found = services.instances(&one.service, None, false).await.unwrap();
    assert_eq!((&found[0].id, &found[0].tags), (&one.id, &one.tags));
    assert_eq!((found[1].id.as_str(), found[1].tags.len()), ("mixed-5", 0));
}

async fn becomes_two(place: &OneServer, services: &ConsulServices) {
    let ids = async || {
        let found = all(services, "mixed").await.into_iter();
        found.map(|one| one.id.to_string()).collect::<Vec<_>>()
    };
    until(place, "its own are found", async || ids().await == ["mixed-1", "mixed-5"]).await;
}

fn register_as_another(consul: &Consul, body: &str) {
    let host = consul.address().strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    let length = body.len();
    write!(
        stream,
        "PUT /v1/agent/service/register HTTP/1.0\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_and_tokens_only_the_right_ones_pass_and_a_new_token_is_read() {
    let consul = Consul::start_secure();
    let own = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(own.path(), "11111111-2222-3333-4444-555555555555\n").unwrap();
    let services = ConsulServices::new(&secure_settings(&consul, own.path())).unwrap();
    let page = Page::new(200).await;
    let one = instance("secure", "secure-1", "127.0.0.1:1", &["a"], &page);
    let said = format!("check the token in {}", own.path().display());
    for error in [
        services.register(&one).await.unwrap_err(),
        services.instances(&one.service, None, false).await.unwrap_err(),
        services.maintenance(&one.id).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, KvErrorKind::Denied, "{error}");
        assert!(error.to_string().contains(&said), "{error}");
    }
    // the same client, after the file was put right
    std::fs::copy(consul.dir().join("token"), own.path()).unwrap();
    services.register(&one).await.unwrap();
    // the token changed during that call, so it is told again
    services.register(&one).await.unwrap();
    assert!(services.has(&one).await.unwrap());
    let passing = async || services.instances(&one.service, None, true).await.unwrap();
    let place = OneServer::shared();
    until(&place, "it passes", async || !passing().await.is_empty()).await;
    assert_eq!(passing().await[0].health, Health::Passing);
    assert!(!services.maintenance(&one.id).await.unwrap().is_on());
    services.deregister(&one.id).await.unwrap();
    assert!(!services.has(&one).await.unwrap());
}
