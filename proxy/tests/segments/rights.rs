//! Who may call.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::pages::{Pages, answer, token};

/// The bound of a wait for an answer: shorter than a body may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn orders_need_the_right_to_manage_and_looks_the_right_to_read() {
    let pages = Pages::with(&["read", "write", "manage"]).await;
    let with = async |request: RequestBuilder, right: Option<&str>| match right {
        Some(right) => answer(request.bearer_auth(token(right))).await.0,
        None => answer(request).await.0,
    };
    let order = r#"{"segment": "ohio"}"#;
    for (method, path, body) in [
        (Method::POST, "/", "ohio"),
        (Method::POST, "/provision", order),
        (Method::POST, "/promote", order),
        (Method::POST, "/resolve", r#"{"segment": "ohio", "keep": "theirs"}"#),
        (Method::DELETE, "/segment/published", ""),
        (Method::PUT, "/schema/web", r#"{"id": "web", "sql": ""}"#),
        (Method::PUT, "/schema/web/sql", ""),
    ] {
        let request = || pages.request(method.clone(), path, body);
        for (right, status) in
            [(None, 401), (Some("wrong"), 401), (Some("read"), 403), (Some("write"), 403)]
        {
            assert_eq!(with(request(), right).await, status, "{method} {path} {right:?}");
        }
        assert!(pages.asked().is_empty(), "{method} {path}");
        let status = with(request(), Some("manage")).await;
        assert!((200..300).contains(&status), "{method} {path} {status}");
        pages.asked();
    }
    for path in ["/schema", "/schema/web", "/schema/web/sql"] {
        let request = || pages.request(Method::GET, path, "");
        for (right, status) in [
            (None, 401),
            (Some("wrong"), 401),
            (Some("read"), 200),
            (Some("write"), 200),
            (Some("manage"), 200),
        ] {
            assert_eq!(with(request(), right).await, status, "{path} {right:?}");
        }
    }
    // what has no file is everybody's
    let pages = Pages::with(&["manage"]).await;
    assert_eq!(pages.get("/schema").await.0, 200);
    assert_eq!(pages.post("/", "ohio").await.0, 401);
}

/// A caller without a token must not have the server wait for what it sends.
#[tokio::test]
async fn a_stranger_s_body_is_not_read() {
    let pages = Pages::with(&["manage"]).await;
    let mut stream = TcpStream::connect(&pages.address).await.unwrap();
    let head = "POST /provision HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    let read = stream.read_exact(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.expect("it answers").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
}
