//! When it is told, how often, and how much.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use sync::discovery::DiscoverySettings;

use crate::counting::CountingServices;
use crate::support::*;

fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap()).clone()
}

#[tokio::test]
async fn changes_in_a_crowd_are_told_once_and_what_is_no_change_never() {
    let dir = tempfile::tempdir().unwrap();
    let counting = CountingServices::new(on_file(dir.path()));
    let services = counting.clone() as _;
    let reader = Reader::start(&services, "crowd", "127.0.0.1").await;
    let registrations = || counting.registrations.load(Ordering::SeqCst);
    // this test has one thread: the reader's task comes to it only when all of them are there
    for n in 0..1_000 {
        reader.serves(&["nevada", &format!("utah-{n}")]);
    }
    until("the last is told", async || tags(&services).await == ["nevada", "utah-999"]).await;
    assert_eq!(registrations(), 1);
    // the same again, and there and back
    for texts in [&["nevada", "utah-999"][..], &["nevada"], &["nevada", "utah-999"]] {
        reader.serves(texts);
    }
    let looked = counting.looks.load(Ordering::SeqCst);
    let passed = async || counting.looks.load(Ordering::SeqCst) > looked + 10;
    until("time has passed", passed).await;
    assert_eq!(registrations(), 1);
    reader.serves(&["nevada"]);
    until("it is told", async || tags(&services).await == ["nevada"]).await;
    assert_eq!(registrations(), 2);
}

#[tokio::test]
async fn more_tags_than_there_is_room_for_are_left_out_in_order_and_that_is_said() {
    let (log, metrics) = (Log::here(), metrics());
    let dir = tempfile::tempdir().unwrap();
    let services = on_file(dir.path());
    let settings = DiscoverySettings { tags_max: 3, rest_ms: 50, ..settings() };
    let reader = Reader::with(&services, "full", "127.0.0.1", &settings).await;
    let said = || log.count(&["WARN", "trough-read-full", "DNS does not find all"]);
    let left_out = || {
        let line = "trough_discovery_tags_left_out{service=\"trough-read\"} ";
        let text = metrics.render();
        let found = text.lines().find_map(|found| found.strip_prefix(line));
        found.unwrap().to_owned()
    };
    for (serves, told, left, warned) in [
        (&["b", "d", "f"][..], ["b", "d", "f"], "0", 0),
        (&["b", "d", "f", "g", "h"], ["b", "d", "f"], "2", 1),
        (&["b", "c", "d", "f", "g", "h"], ["b", "c", "d"], "3", 1),
        (&["a", "f", "g"], ["a", "f", "g"], "0", 1),
        (&["a", "e", "f", "g"], ["a", "e", "f"], "1", 2),
    ] {
        reader.serves(serves);
        until(&format!("{told:?} are told"), async || {
            tags(&services).await == told && left_out() == left
        })
        .await;
        assert_eq!(said(), warned, "{serves:?}");
    }
}

#[tokio::test]
async fn a_registry_that_is_away_is_said_once_and_tried_until_it_is_back() {
    let log = Log::here();
    let dir = tempfile::tempdir().unwrap();
    let counting = CountingServices::new(on_file(dir.path()));
    let services = counting.clone() as _;
    let reader = Reader::start(&services, "away", "127.0.0.1").await;
    let said = |level: &str| log.count(&[level, "trough-read-away", "tell others what is here"]);
    counting.is_away(true);
    reader.serves(&["nevada"]);
    let tries = |n| {
        let counting = counting.clone();
        move || counting.registrations.load(Ordering::SeqCst) >= n
    };
    let four = tries(4);
    until("it is tried again and again", async || four()).await;
    // what comes meanwhile is told with the rest
    reader.serves(&["nevada", "utah"]);
    let eight = tries(8);
    until("it goes on", async || eight()).await;
    assert_eq!((said("WARN"), said("INFO")), (1, 0));
    counting.is_away(false);
    until("it is told", async || tags(&services).await == ["nevada", "utah"]).await;
    until("that is said", async || said("INFO") == 1).await;

    // also when there is nothing new to tell
    counting.is_away(true);
    until("it is noticed", async || said("WARN") == 2).await;
    std::fs::remove_file(dir.path().join("registry.sqlite")).unwrap();
    counting.is_away(false);
    until("it is told again", async || tags(&services).await == ["nevada", "utah"]).await;
    until("that is said", async || said("INFO") == 2).await;
}
