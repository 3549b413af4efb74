//! What can only be asked of a Consul.

use std::io::{Read, Write};

use rig::consul::{Consul, Server};
use sync::kv::consul::{ConsulKv, ConsulSettings};
use sync::kv::{Kv, KvErrorKind, KvTimeouts, SESSION_TTL_MIN, SessionOptions};

use crate::one_server::{OneServer, secure_settings};
use crate::places::Place;
use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_a_time_out_absence_is_said_and_a_restart_keeps_everything() {
    let place = OneServer::own();
    let hasty = place.settings(KvTimeouts { connect_ms: 500, call_ms: 1_000 });
    let kv = ConsulKv::new(&hasty).unwrap();
    let [at, lock] = ["outage/at", "outage/lock"].map(key);
    let patient = place.open();
    committed(&*patient, &[set(&at, "1")]).await;
    let holder = session(&*patient, LOCK_DELAY).await;
    assert!(patient.acquire(&lock, "".into(), &holder).await.unwrap());
    let before = patient.get(&lock).await.unwrap();

    place.consul().pause(Server(1));
    let error = kv.get(&at).await.unwrap_err();
    assert_eq!(error.kind, KvErrorKind::TimedOut, "{error}");
    assert!(error.to_string().contains(place.consul().address()), "{error}");
    place.consul().resume(Server(1));
    assert_eq!(value(&*patient, &at).await.unwrap(), "1");

    place.consul().kill(Server(1));
    let error = kv.get(&at).await.unwrap_err();
    assert_eq!(error.kind, KvErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("is Consul running there?"), "{error}");
    place.consul().restart(Server(1));
    assert_eq!(value(&*patient, &at).await.unwrap(), "1");
    assert_eq!(patient.get(&lock).await.unwrap(), before, "a restart takes no lock away");
    patient.renew_session(&holder).await.unwrap();
    committed(&*patient, &[set(&at, "2")]).await;
    assert!(modified(&*patient, &at).await > before.unwrap().modified);
}

/// Consul's default ends a session also when gossip believes its node dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_rests_on_its_time_to_live_alone() {
    let place = OneServer::shared();
    let own = session(&*place.open(), LOCK_DELAY).await;
    let host = place.consul().address().strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    write!(stream, "GET /v1/session/info/{own} HTTP/1.0\r\nHost: {host}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.contains(own.as_str()) && answer.contains("\"Behavior\":\"release\""),
        "{answer}"
    );
    assert!(!answer.contains("serfHealth"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_and_tokens_only_the_right_ones_pass_and_a_new_token_is_read() {
    let consul = Consul::start_secure();
    let own = tempfile::NamedTempFile::new().unwrap();
    let settings = secure_settings(&consul, own.path());
    let refused = |settings: &ConsulSettings| ConsulKv::new(settings).unwrap_err().to_string();
    assert!(refused(&settings).contains("holds no token"));
    std::fs::write(own.path(), "11111111-2222-3333-4444-555555555555\n").unwrap();
    let at = key("secure");
    let kv = ConsulKv::new(&settings).unwrap();
    let said = format!("check the token in {}", own.path().display());
    for error in [
        kv.get(&at).await.unwrap_err(),
        kv.txn(&[set(&at, "1")]).await.unwrap_err(),
        kv.create_session(&SessionOptions::new("n", SESSION_TTL_MIN, LOCK_DELAY).unwrap())
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.kind, KvErrorKind::Denied, "{error}");
        assert!(error.to_string().contains(&said), "{error}");
    }
    // the same client, after the file was put right
    std::fs::copy(consul.dir().join("token"), own.path()).unwrap();
    committed(&kv, &[set(&at, "1")]).await;
    assert_eq!(value(&kv, &at).await.unwrap(), "1");

    let none = ConsulSettings { cert_file: None, key_file: None, ..settings.clone() };
    let error = ConsulKv::new(&none).unwrap().get(&at).await.unwrap_err();
    assert_eq!(error.kind, KvErrorKind::Unavailable, "without a certificate: {error}");
    let other =
        ConsulSettings { tls_server_name: Some("elsewhere.test".to_owned()), ..settings.clone() };
    let error = ConsulKv::new(&other).unwrap().get(&at).await.unwrap_err();
    assert!(
        error.kind == KvErrorKind::Unavailable && error.to_string().contains("certificate"),
        "{error}"
    );
    let known = ConsulSettings {
        tls_server_name: Some("server.dc1.consul".to_owned()),
        ..settings.clone()
    };
    assert_eq!(value(&ConsulKv::new(&known).unwrap(), &at).await.unwrap(), "1");
    let half = ConsulSettings { key_file: None, ..settings.clone() };
    assert!(refused(&half).contains("go together"));
    let blind = ConsulSettings { ca_file: None, ..settings };
    assert!(refused(&blind).contains("ca_file"));
}

#[test]
fn what_is_no_address_of_a_consul_is_refused() {
    for address in ["", "127.0.0.1:8500", "ftp://h:1", "http://", "http://h:1/path", "http://h:1?x"]
    {
        let settings = ConsulSettings { address: address.to_owned(), ..Default::default() };
        let error = ConsulKv::new(&settings).map(|_| address).unwrap_err();
        assert!(error.to_string().contains("http://HOST:PORT"), "{error}");
    }
}
