//! HTTP connections: bounded in number and time; a stop that ends.

use std::time::Duration;

use proxy::http::HttpSettings;
use proxy::metrics::{HTTP_CONNECTIONS, IN_FLIGHT, POOL_OPEN};
use proxy::reader::ReaderSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ALONE;
use crate::rig::{Rig, figure, wait_for};

const BOUND: Duration = Duration::from_secs(10);

fn settings(http: HttpSettings) -> ReaderSettings {
    ReaderSettings { http, ..ReaderSettings::default() }
}

async fn closed(mut socket: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let read = tokio::time::timeout(BOUND, socket.read_to_end(&mut all)).await;
    drop(read.expect("the server keeps the connection"));
    all
}

#[tokio::test]
async fn s8_a_head_that_does_not_come_and_an_idle_connection_are_closed() {
    let _alone = ALONE.lock().await;
    let rig = Rig::with(settings(HttpSettings { idle_ms: 300, ..HttpSettings::default() })).await;
    let silent = TcpStream::connect(rig.address).await.unwrap();
    closed(silent).await;
    let mut slow = TcpStream::connect(rig.address).await.unwrap();
    slow.write_all(b"POST /?segment=ohio HTTP/1.1\r\nhost: loc").await.unwrap();
    closed(slow).await;
    let mut kept = TcpStream::connect(rig.address).await.unwrap();
    kept.write_all(
        b"POST /?segment=ohio HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8\r\n\r\nSELECT 1",
    )
    .await
    .unwrap();
    let answer = closed(kept).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn s8_connections_are_bounded_and_one_more_waits_for_its_turn() {
    let _alone = ALONE.lock().await;
    let http = HttpSettings { connections_max: 2, ..HttpSettings::default() };
    let rig = Rig::with(settings(http)).await;
    wait_for("no other test's connection", BOUND, || figure(HTTP_CONNECTIONS, "") == 0.0).await;
    let first = TcpStream::connect(rig.address).await.unwrap();
    let _second = TcpStream::connect(rig.address).await.unwrap();
    wait_for("two are open", BOUND, || figure(HTTP_CONNECTIONS, "") == 2.0).await;
    let (answer, ()) = tokio::join!(rig.ask("SELECT 1 AS n"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(figure(HTTP_CONNECTIONS, ""), 2.0);
        drop(first);
    });
    assert_eq!(answer.0, 200);
}

#[tokio::test]
async fn a_stop_lets_short_queries_end_and_cuts_long_ones() {
    let _alone = ALONE.lock().await;
    let http = HttpSettings { stop_ms: 500, ..HttpSettings::default() };
    let mut rig = Rig::with(settings(http)).await;
    let url = format!("{}?segment=ohio", rig.url());
    let for_ever =
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
    let asked = tokio::spawn(rig.client.post(&url).body(for_ever).send());
    wait_for("it runs", BOUND, || figure(IN_FLIGHT, "") == 1.0).await;
    rig.shutdown.cancel();
    tokio::time::timeout(BOUND, &mut rig.served).await.expect("the server stops").unwrap();
    assert!(asked.await.unwrap().is_err());
    wait_for("its query is stopped", BOUND, || figure(IN_FLIGHT, "") == 0.0).await;
}

#[tokio::test]
async fn the_pool_keeps_to_its_bounds_and_closes_what_was_replaced() {
    let _alone = ALONE.lock().await;
    let settings = ReaderSettings {
        open_connections_max: 3,
        connections_per_segment_max: 1,
        sweep_ms: 50,
        ..ReaderSettings::default()
    };
    let before = figure(POOL_OPEN, "");
    let rig = Rig::with(settings).await;
    for round in 0..3 {
        for name in ["a", "b", "c", "d", "e"] {
            if round == 0 {
                rig.segment(name, "CREATE TABLE t (a)");
            }
            assert_eq!(rig.ask_of(name, "SELECT * FROM t").await.0, 200);
        }
    }
    assert_eq!(figure(POOL_OPEN, "") - before, 3.0);
    // replaced or withdrawn, and never asked for again
    for name in ["c", "d"] {
        rig.segment(name, "CREATE TABLE t (b)");
    }
    wait_for("they are closed", BOUND, || figure(POOL_OPEN, "") - before == 1.0).await;
}

/// An idle open segment of a usual schema costs at most 55 KB of SQLite's memory.
#[tokio::test]
async fn an_open_segment_is_small() {
    const SEGMENTS: i64 = 50;
    let _alone = ALONE.lock().await;
    let rig = Rig::new().await;
    // SAFETY: a call without arguments, allowed at any time
    let used = || unsafe { rusqlite::ffi::sqlite3_memory_used() };
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, a, b, c, d); CREATE INDEX ta ON t (a);
         CREATE INDEX tb ON t (b, c); CREATE VIEW v AS SELECT a, b FROM t WHERE d IS NOT NULL;
         WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
         INSERT INTO t SELECT i, i, hex(i), 'row ' || i, i % 7 FROM n;";
    for segment in 0..SEGMENTS {
        rig.segment(&format!("s{segment}"), schema);
    }
    let before = used();
    for segment in 0..SEGMENTS {
        let name = format!("s{segment}");
        assert_eq!(rig.ask_of(&name, "SELECT * FROM t WHERE a = 77").await.0, 200);
    }
    let each = (used() - before) / SEGMENTS;
    assert!(each > 5_000, "{each} bytes: nothing was kept open, so nothing was measured");
    assert!(each <= 55_000, "{each} bytes an open segment");
    eprintln!("{each} bytes an open segment");
}
