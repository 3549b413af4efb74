//! What is answered when everybody is well.

use std::time::Duration;

use proxy::metrics::IN_FLIGHT;
use proxy::route::HELD_BACK_BYTES;

use crate::cluster::{Cluster, ask};
use crate::rig::{figure, wait_for};
use crate::scripted::{Act, Scripted, answer};

const BOUND: Duration = Duration::from_secs(30);
const TABLE: &str = "CREATE TABLE t (a); INSERT INTO t VALUES (1), (2);";

#[tokio::test]
async fn any_reader_answers_for_any_segment_as_the_one_that_has_it() {
    let cluster = Cluster::default();
    let readers = [cluster.reader("a").await, cluster.reader("b").await, cluster.reader("c").await];
    readers[2].segment("ohio", TABLE);
    readers[2].segment("Utah_1", TABLE);
    cluster.held("ohio", &["c"]);
    cluster.held("Utah_1", &["c"]);
    let label = crate::rig::id("Utah_1").label();
    assert!(label.as_str().starts_with("x--"));
    for reader in &readers {
        let response = reader.begin("SELECT a FROM t").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["trough-segment"], "ohio");
        assert_eq!(response.headers()["trough-version"].len(), 64);
        assert_eq!(response.text().await.unwrap(), "[{\"a\":1},\n{\"a\":2}]\n");
        // what is wrong with a question is said by whoever looked at it
        let (status, text) = ask(reader, "ohio", "SELECT nowhere FROM t").await;
        assert_eq!((status, text.contains("no such column: nowhere")), (400, true), "{text}");
        let (status, text) = ask(reader, "ohio", "DELETE FROM t").await;
        assert_eq!(status, 403, "{text}");
        // by the host alone
        for host in ["ohio.trough-read.service.consul", &format!("{label}.example:6444")] {
            assert_eq!(
                reader.ask_host(host, "").await,
                (200, "[{\"a\":1}]\n".to_owned()),
                "{host}"
            );
        }
        assert_eq!(reader.ask_host("nowhere.example", "").await.0, 421);
    }
}

#[tokio::test]
async fn only_what_the_pool_table_does_not_have_is_not_found() {
    let cluster = Cluster::default();
    let reader = cluster.reader("a").await;
    let retry = async |segment: &str| {
        let url = format!("{}?segment={segment}", reader.url());
        let response = reader.client.post(url).body("SELECT 1").send().await.unwrap();
        let after = response.headers().contains_key("retry-after");
        (response.status().as_u16(), after, response.text().await.unwrap())
    };
    let (status, after, text) = retry("ohio").await;
    assert_eq!((status, after), (503, true), "nobody read the pool table yet: {text}");
    assert_eq!(reader.ask_host("x--aaaaaaaaaaaaaaaaaaaaaaaaaa.example", "").await.0, 503);

    cluster.held("iowa", &[]);
    let (status, after, text) = retry("iowa").await;
    assert_eq!((status, after), (503, true), "nobody has it yet: {text}");
    let (status, after, text) = retry("ohio").await;
    assert_eq!((status, after), (404, false), "{text}");

    // a holder that nobody knows the address of
    cluster.held("utah", &["z"]);
    let (status, after, text) = retry("utah").await;
    assert_eq!((status, after), (503, true), "{text}");
    assert!(text.contains("not known yet"), "{text}");
    // this reader itself, whose mount is about to show it
    cluster.held("texas", &["a"]);
    let (status, after, text) = retry("texas").await;
    assert_eq!((status, after), (503, true), "{text}");
}

#[tokio::test]
async fn a_question_goes_no_further_than_to_one_other() {
    let cluster = Cluster::default();
    let (a, b) = (cluster.reader("a").await, cluster.reader("b").await);
    let c = Scripted::new(Act::Say(answer("200 OK", "[]\n"))).await;
    cluster.member("c", &c.address.to_string());
    b.segment("ohio", TABLE);
    cluster.held("ohio", &["c"]);
    // as from a reader whose table is older
    let url = format!("{}?segment=iowa", b.url());
    let request = b.client.post(url).header("trough-forwarded-by", "a").body("SELECT 1");
    cluster.held("iowa", &["c"]);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 421, "{:?}", response.text().await);
    assert_eq!(c.asked(), Vec::<String>::new());

    // the caller's token, the statement and what is left of its time go with it
    let request = a.client.post(format!("{}?segment=ohio", a.url()));
    let request = request.bearer_auth("secret").header("cookie", "x=1").body("SELECT 'é' -- \n");
    assert_eq!(request.send().await.unwrap().text().await.unwrap(), "[]\n");
    let asked = c.asked().pop().unwrap();
    let (head, body) = asked.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "SELECT 'é' -- \n");
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("post /?segment=ohio http/1.1\r\n"), "{head}");
    for line in ["authorization: bearer secret", "trough-forwarded-by: a"] {
        assert!(head.lines().any(|found| found == line), "{line} is not in {head}");
    }
    assert!(!head.contains("cookie"), "{head}");
    let left = head.lines().find_map(|line| line.strip_prefix("trough-deadline-ms: ")).unwrap();
    assert!((1..=60_000).contains(&left.parse::<u64>().unwrap()), "{left}");
}

#[tokio::test]
async fn long_answers_come_as_they_are_and_a_leaving_client_ends_its_query_where_it_is() {
    let cluster = Cluster::default();
    let (a, b) = (cluster.reader("a").await, cluster.reader("b").await);
    b.segment("ohio", TABLE);
    cluster.held("ohio", &["b"]);
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n";
    for rows in [1, 2_000, 6_000, 300_000] {
        let sql = format!("{numbers} LIMIT {rows}) SELECT i, 'padding' AS p FROM n");
        let (there, here) = (ask(&a, "ohio", &sql).await, ask(&b, "ohio", &sql).await);
        assert_eq!(there, here);
        assert_eq!(here.0, 200);
        assert_eq!(here.1.len() > HELD_BACK_BYTES, rows > 2_000, "{}", here.1.len());
    }
    let before = figure(IN_FLIGHT, "");
    // one that says nothing yet, and one whose client has read its beginning
    let silent = format!("{numbers}) SELECT max(i) FROM n");
    let talking = format!("{numbers}) SELECT i FROM n");
    let client = a.client.post(format!("{}?segment=ohio", a.url())).body(silent);
    let waiting = tokio::spawn(async move { client.send().await });
    let mut begun = a.begin(&talking).await;
    assert!(begun.chunk().await.unwrap().is_some());
    wait_for("both run", BOUND, || figure(IN_FLIGHT, "") == before + 2.0).await;
    waiting.abort();
    drop(begun);
    wait_for("both are stopped", BOUND, || figure(IN_FLIGHT, "") == before).await;
}

#[tokio::test]
async fn the_time_of_a_query_is_the_same_wherever_it_is() {
    let cluster = Cluster::default();
    let settings = proxy::reader::ReaderSettings { query_ms: 1_000, ..Default::default() };
    let (a, b) = (cluster.reader_with("a", settings).await, cluster.reader("b").await);
    b.segment("ohio", TABLE);
    cluster.held("ohio", &["b"]);
    let sql =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
    let (status, text) = ask(&a, "ohio", sql).await;
    assert!(status == 408 || status == 503, "{status} {text}");
    wait_for("it is stopped", BOUND, || figure(IN_FLIGHT, "") == 0.0).await;
    // who is asked by another knows how long that one waits
    let request = b.client.post(format!("{}?segment=ohio", b.url()));
    let request = request.header("trough-forwarded-by", "a").header("trough-deadline-ms", "50");
    let response = request.body(sql).send().await.unwrap();
    assert_eq!(response.status(), 408);
    assert!(response.text().await.unwrap().contains("50 ms"));
}
