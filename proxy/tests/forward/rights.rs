//! Whom readers answer.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use proxy::reader::{Elsewhere, ReaderSettings};
use proxy::tokens::{TokenSettings, Tokens};

use crate::cluster::Cluster;
use crate::rig::Rig;

const TOKEN: &str = "read-0123456789abcdef";

async fn status(reader: &Rig, token: Option<&str>) -> u16 {
    let request = reader.client.post(format!("{}?segment=ohio", reader.url()));
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    let response = request.body("SELECT a FROM t").send().await.unwrap();
    let status = response.status().as_u16();
    assert_eq!(response.headers().contains_key("www-authenticate"), status == 401);
    status
}

#[tokio::test]
async fn who_has_no_token_is_answered_by_no_reader_also_when_another_would_ask_for_it() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("read");
    let mut file = std::fs::OpenOptions::new();
    let mut file = file.write(true).create_new(true).mode(0o600).open(&path).unwrap();
    writeln!(file, "{TOKEN}").unwrap();
    let settings = TokenSettings { read_file: Some(path), ..TokenSettings::default() };
    let tokens = Arc::new(Tokens::load(&settings).unwrap());
    let cluster = Cluster::default();
    let mut readers = Vec::new();
    for name in ["a", "b"] {
        let settings = ReaderSettings::default();
        let elsewhere = Elsewhere { tokens: tokens.clone(), ..cluster.elsewhere(name, &settings) };
        readers.push(cluster.reader_of(name, settings, elsewhere).await);
    }
    // one that asks for no token does not lend the others its caller's
    readers.push(cluster.reader("open").await);
    readers[1].segment("ohio", "CREATE TABLE t (a); INSERT INTO t VALUES (1)");
    cluster.held("ohio", &["b"]);
    for reader in &readers {
        assert_eq!(status(reader, Some(TOKEN)).await, 200);
        assert_eq!(status(reader, None).await, 401);
        assert_eq!(status(reader, Some("other-0123456789abcdef")).await, 401);
        // who only looks whether it is well needs none
        let health = reader.client.get(format!("{}health", reader.url())).send().await.unwrap();
        assert_eq!(health.status(), 200);
    }
}
