//! S6: which segment is meant, where it is, and what is said when it is not there.

use std::time::Duration;

use fsd::view::MountState;
use proxy::reader::ReaderSettings;
use sync::registry::SegmentState;

use crate::rig::{Rig, id};

#[tokio::test]
async fn a_segment_that_is_not_in_the_mount_is_what_the_pool_says() {
    let rig = Rig::new().await;
    // nobody ever listed the pool
    assert_eq!(rig.ask_of("utah", "SELECT 1").await.0, 503);
    rig.table.put("iowa", SegmentState::Pending, None);
    rig.table.put("maine", SegmentState::NoPlace, Some("the quota of 1 GiB is used up"));
    rig.table.put("texas", SegmentState::Refused, None);
    assert_eq!(rig.ask_of("utah", "SELECT 1").await.0, 404);
    for name in ["iowa", "maine", "texas"] {
        let url = format!("{}?segment={name}", rig.url());
        let response = rig.client.post(url).body("SELECT 1").send().await.unwrap();
        assert_eq!(response.status(), 503, "{name}");
        assert!(response.headers().contains_key("retry-after"), "{name}");
        let body = response.text().await.unwrap();
        assert!(body.contains(name), "{body}");
    }
    assert!(rig.ask_of("maine", "SELECT 1").await.1.contains("quota of 1 GiB"));
    *rig.table.broken.lock().unwrap() = true;
    let (status, body) = rig.ask_of("utah", "SELECT 1").await;
    assert_eq!(status, 503, "{body}");
    // S9: what is here is answered without the registry
    assert_eq!(rig.ask("SELECT a FROM t LIMIT 1").await.0, 200);
}

#[tokio::test]
async fn s6_a_missing_mount_is_waited_for_and_never_a_missing_segment() {
    let settings = ReaderSettings { mount_wait_ms: 300, ..ReaderSettings::default() };
    let rig = Rig::with(settings).await;
    rig.table.put("iowa", SegmentState::Held, None);
    for state in [MountState::Absent, MountState::Dead] {
        rig.directory.set(state);
        for name in ["ohio", "iowa", "utah"] {
            let (status, body) = rig.ask_of(name, "SELECT 1").await;
            assert_eq!(status, 503, "{name}: {body}");
        }
        let url = format!("{}?segment=ohio", rig.url());
        let response = rig.client.post(url).body("SELECT 1").send().await.unwrap();
        assert!(response.headers().contains_key("retry-after"));
    }
    drop(rig);
    let settings = ReaderSettings { mount_wait_ms: 20_000, ..ReaderSettings::default() };
    let rig = Rig::with(settings).await;
    rig.directory.set(MountState::Dead);
    let (answer, ()) = tokio::join!(rig.ask("SELECT a FROM t LIMIT 1"), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        rig.directory.set(MountState::Live);
    });
    assert_eq!(answer, (200, "[{\"a\":1}]\n".into()));
}

#[tokio::test]
async fn a_host_names_a_segment_only_when_nothing_else_does() {
    let settings =
        ReaderSettings { host_names: vec!["trough.example".into()], ..ReaderSettings::default() };
    let rig = Rig::with(settings).await;
    rig.segment("Utah_1", "CREATE TABLE t (a); INSERT INTO t VALUES ('hashed');");
    rig.table.put("ohio", SegmentState::Held, None);
    rig.table.put("Utah_1", SegmentState::Held, None);
    let hashed = id("Utah_1").label();
    let port = rig.address.port();
    let ohio = "[{\"a\":1}]\n";
    for (host, query, status, body) in [
        ("ohio.trough-read.service.consul".to_owned(), "", 200, ohio),
        (format!("ohio:{port}"), "", 200, ohio),
        (format!("{hashed}.trough-read.service.consul:{port}"), "", 200, "[{\"a\":\"hashed\"}]\n"),
        ("ohio.trough.example".to_owned(), "?segment=Utah_1", 200, "[{\"a\":\"hashed\"}]\n"),
        ("trough.example".to_owned(), "?segment=ohio", 200, ohio),
        ("localhost".to_owned(), "?segment=ohio", 200, ohio),
        ("[::1]:80".to_owned(), "?segment=ohio", 200, ohio),
        // names nothing
        ("trough.example".to_owned(), "", 400, "segment"),
        ("localhost".to_owned(), "", 400, "segment"),
        ("127.0.0.1".to_owned(), "", 400, "segment"),
        ("127.0.0.1".to_owned(), "?segment=a/b", 400, "segment id"),
        ("127.0.0.1".to_owned(), "?segment=", 400, "segment id"),
        // neither ours nor a segment's: a web page that resolves its own name to this machine
        ("evil.example".to_owned(), "", 421, "evil"),
        ("evil.example".to_owned(), "?segment=ohio", 421, "evil"),
        ("x--nothing.example".to_owned(), "?segment=ohio", 421, "x--nothing"),
        ("x--nothing.example".to_owned(), "", 421, "x--nothing"),
        ("a b".to_owned(), "?segment=ohio", 421, "a b"),
    ] {
        let (got, text) = rig.ask_host(&host, query).await;
        assert_eq!(got, status, "{host} {query}: {text}");
        assert!(text.contains(body), "{host} {query}: {text}");
    }
    let url = format!("{}metrics", rig.url());
    let strange = rig.client.get(url).header("host", "evil.example").send().await.unwrap();
    assert_eq!(strange.status(), 421);
}
