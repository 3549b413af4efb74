//! Asks the page of a check, as Consul would.
//!
//! Left out: TLS, which no page of one machine has.

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::super::{Health, HttpCheck};

/// Cloning is cheap.
#[derive(Clone)]
pub(super) struct Prober {
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Prober {
    pub(super) fn new() -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        // a connection that is kept may be one to a server that takes no others any more
        let client = builder.pool_max_idle_per_host(0).build_http();
        Self { client }
    }

    /// What the page's status says; a body is not waited for.
    pub(super) async fn ask(&self, check: &HttpCheck) -> Health {
        let Ok(url) = check.url.parse::<Uri>() else { return Health::Critical };
        let answer = tokio::time::timeout(check.timeout(), self.client.get(url)).await;
        match answer.ok().and_then(Result::ok).map(|answer| answer.status()) {
            Some(status) if status.is_success() => Health::Passing,
            Some(StatusCode::TOO_MANY_REQUESTS) => Health::Warning,
            Some(_) | None => Health::Critical,
        }
    }
}
