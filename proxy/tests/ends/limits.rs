//! Each way in which a query ends before its answer does.

use std::time::Duration;

use futures::StreamExt;
use proxy::metrics::{ADMITTED, IN_FLIGHT, QUERIES, STOPPED};
use proxy::reader::ReaderSettings;

use crate::ALONE;
use crate::rig::{Rig, figure, wait_for};

/// Never ends by itself, never gives a row.
const FOR_EVER: &str =
    "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0";
/// Never ends by itself, gives rows all the time: some 100 bytes each.
const ROWS_FOR_EVER: &str = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) \
     SELECT i, hex(zeroblob(40)) AS x FROM n";

const BOUND: Duration = Duration::from_secs(10);

async fn all_is_quiet() {
    wait_for("no query is in flight", BOUND, || figure(IN_FLIGHT, "") == 0.0).await;
    wait_for("no query is admitted", BOUND, || figure(ADMITTED, "") == 0.0).await;
}

/// Reads a body to its end: what came, and whether it ended well.
async fn read(response: reqwest::Response) -> (Vec<u8>, bool) {
    let mut stream = response.bytes_stream();
    let mut all = Vec::new();
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => all.extend_from_slice(&piece),
            Err(_) => return (all, false),
        }
    }
    (all, true)
}

#[tokio::test]
async fn s8_time_limit_before_the_first_byte_is_408() {
    let _alone = ALONE.lock().await;
    let rig = Rig::with(ReaderSettings { query_ms: 300, ..ReaderSettings::default() }).await;
    let cross = "SELECT count(*) FROM json_each('[1,2,3,4,5,6,7,8,9]') a, json_each(a.json) b, \
                 json_each(a.json) c, json_each(a.json) d, json_each(a.json) e, json_each(a.json) f, \
                 json_each(a.json) g, json_each(a.json) h, json_each(a.json) i";
    for sql in [FOR_EVER, cross] {
        let before = figure(STOPPED, "reason=\"time\"");
        let (status, body) = rig.ask(sql).await;
        assert_eq!(status, 408, "{body}");
        assert!(body.contains("300 ms"), "{body}");
        assert_eq!(figure(STOPPED, "reason=\"time\""), before + 1.0);
        all_is_quiet().await;
    }
    assert_eq!(rig.ask("SELECT 1 AS n").await.0, 200);
}

#[tokio::test]
async fn s8_a_late_failure_never_looks_like_success() {
    let _alone = ALONE.lock().await;
    let settings =
        ReaderSettings { query_ms: 1500, answer_bytes_max: 5 << 20, ..ReaderSettings::default() };
    let rig = Rig::with(settings).await;
    let late_error = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 20001) \
                      SELECT abs(CASE i WHEN 20000 THEN -9223372036854775807 - 1 ELSE i END) AS a FROM n";
    // rows first, then none until the time is up
    let late_time = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) \
                     SELECT i, hex(zeroblob(100)) FROM n WHERE i < 5000";
    for sql in [late_error, late_time, ROWS_FOR_EVER] {
        let before = figure(QUERIES, "status=\"broken\"");
        let response = rig.begin(sql).await;
        assert_eq!(response.status(), 200, "{sql}");
        let (body, ended_well) = read(response).await;
        assert!(!ended_well, "{sql}");
        assert!(body.starts_with(b"[{") && !body.ends_with(b"]\n"), "{sql}");
        assert!(body.len() as u64 <= 5 << 20);
        wait_for("it is counted", BOUND, || figure(QUERIES, "status=\"broken\"") == before + 1.0)
            .await;
        all_is_quiet().await;
    }
    // by a plain socket too: no last chunk, and the connection is closed
    let request = format!(
        "POST /?segment=ohio HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{late_error}",
        late_error.len()
    );
    let mut socket = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut socket, request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    drop(tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut all).await);
    assert!(all.starts_with(b"HTTP/1.1 200") && !all.ends_with(b"0\r\n\r\n"));
}

#[tokio::test]
async fn s8_an_answer_over_its_limit_is_413_before_the_first_byte() {
    let _alone = ALONE.lock().await;
    let rig =
        Rig::with(ReaderSettings { answer_bytes_max: 1000, ..ReaderSettings::default() }).await;
    let (status, body) = rig.ask(ROWS_FOR_EVER).await;
    assert_eq!(status, 413, "{body}");
    assert!(body.contains("1000 bytes"), "{body}");
    all_is_quiet().await;
}

#[tokio::test]
async fn s8_temporary_data_over_its_limit_is_413() {
    let _alone = ALONE.lock().await;
    let rig =
        Rig::with(ReaderSettings { temp_bytes_max: 8 << 20, ..ReaderSettings::default() }).await;
    let sort = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 300000) \
                SELECT max(b) FROM (SELECT randomblob(100) AS b FROM n ORDER BY b LIMIT 250000)";
    let (status, body) = rig.ask(sort).await;
    assert_eq!(status, 413, "{body}");
    assert!(body.contains("temporary"), "{body}");
    // the budget is the query's: the next one begins anew
    let small = sort.replace("300000", "20000").replace("250000", "10000");
    assert_eq!(rig.ask(small).await.0, 200);
    all_is_quiet().await;
}

#[tokio::test]
async fn s8_a_body_that_is_too_long_or_too_slow() {
    let _alone = ALONE.lock().await;
    let settings =
        ReaderSettings { body_bytes_max: 1000, body_ms: 300, ..ReaderSettings::default() };
    let rig = Rig::with(settings).await;
    assert_eq!(rig.ask(format!("SELECT 1 -- {}", "x".repeat(1000))).await.0, 413);
    // without a length said beforehand
    let pieces = futures::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>("x".repeat(100))));
    let (status, body) = rig.ask(reqwest::Body::wrap_stream(pieces)).await;
    assert_eq!((status, body.contains("1000 bytes")), (413, true), "{body}");
    let never = futures::stream::pending::<Result<String, std::io::Error>>();
    let (status, body) = rig.ask(reqwest::Body::wrap_stream(never)).await;
    assert_eq!((status, body.contains("300 ms")), (408, true), "{body}");
}

#[tokio::test]
async fn s8_too_many_queries_are_429_and_waiting_ones_go_with_their_client() {
    let _alone = ALONE.lock().await;
    let settings = ReaderSettings {
        concurrency: 1,
        queue_max: 1,
        query_ms: 60_000,
        ..ReaderSettings::default()
    };
    let rig = Rig::with(settings).await;
    let url = format!("{}?segment=ohio", rig.url());
    let begin = || tokio::spawn(rig.client.post(&url).body(FOR_EVER).send());
    let running = begin();
    wait_for("one runs", BOUND, || figure(IN_FLIGHT, "") == 1.0).await;
    let waiting = begin();
    wait_for("one waits", BOUND, || figure(ADMITTED, "") == 2.0).await;
    let response = rig.begin("SELECT 1").await;
    assert_eq!(response.status(), 429);
    assert!(response.headers().contains_key("retry-after"));
    // the waiting client leaves: its place is free although nothing ran
    waiting.abort();
    wait_for("its place is free", BOUND, || figure(ADMITTED, "") == 1.0).await;
    assert_eq!(figure(IN_FLIGHT, ""), 1.0);
    // the running client leaves: its query is stopped
    let before = figure(STOPPED, "reason=\"client_gone\"");
    running.abort();
    all_is_quiet().await;
    assert_eq!(figure(STOPPED, "reason=\"client_gone\""), before + 1.0);
    assert_eq!(rig.ask("SELECT 1 AS n").await.0, 200);
}

#[tokio::test]
async fn s8_a_client_that_leaves_in_the_middle_stops_its_query() {
    let _alone = ALONE.lock().await;
    let rig = Rig::new().await;
    for read_some in [false, true] {
        let mut response = rig.begin(ROWS_FOR_EVER).await;
        assert_eq!(response.status(), 200);
        if read_some {
            assert!(response.chunk().await.unwrap().is_some());
        }
        assert_eq!(figure(IN_FLIGHT, ""), 1.0);
        drop(response);
        all_is_quiet().await;
    }
}

/// What is not read is not made: the channel, the socket's buffers, and no more.
#[tokio::test]
async fn s8_a_slow_reader_holds_no_memory_and_is_cut_off() {
    let _alone = ALONE.lock().await;
    let mut settings = ReaderSettings { query_ms: 60_000, ..ReaderSettings::default() };
    settings.http.stall_ms = 1000;
    let rig = Rig::with(settings).await;
    let resident = || -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    assert_eq!(rig.ask("SELECT 1").await.0, 200);
    let before_kib = resident();
    // never read: the client's own buffers fill up, then ours
    let response = rig.begin(ROWS_FOR_EVER).await;
    assert_eq!(response.status(), 200);
    let mut peak_kib = before_kib;
    wait_for("the query is given up", Duration::from_secs(30), || {
        peak_kib = peak_kib.max(resident());
        figure(IN_FLIGHT, "") == 0.0
    })
    .await;
    assert!(peak_kib - before_kib < 32 << 10, "{} KiB more than before", peak_kib - before_kib);
    // and its connection too, although the client still holds its end
    all_is_quiet().await;
    let (body, ended_well) = read(response).await;
    assert!(!ended_well && !body.ends_with(b"]\n"));
}
