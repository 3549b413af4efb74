//! How the lead asks nodes: their segment managers to do something, their readers how much they have to do.
//!
//! Invariants: each question has a bound in time and its answer one in length; what a node says in refusing keeps its
//! status and its words; an order that a node cannot have heard is told from one whose answer did not come.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::route::{HttpClient, health};
use crate::segments::ManageError;

/// How long a node may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a reader may take to say how much it has to do: a slow one is not the one to be chosen.
const LOAD: Duration = Duration::from_secs(1);
/// The longest answer to an order: a line, or some fields.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Ask {
    client: HttpClient,
    authorization: Option<HeaderValue>,
}

/// Why an order was not done.
#[derive(Debug)]
pub(super) enum NotDone {
    /// The node said why.
    Refused(ManageError),
    /// It did not hear of it.
    Away(String),
    /// It may have heard of it, and may be doing it.
    Unknown(String),
}

impl Ask {
    /// Asks with `token`, if nodes want one.
    pub(super) fn new(token: Option<&str>) -> Result<Self, hyper::header::InvalidHeaderValue> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        // a kept connection may be closed as it is used again: then nobody knows whether an order was heard
        let client =
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        let authorization = token.map(|token| {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Self { client, authorization: authorization.transpose()? })
    }

    /// Orders `page` of the segment manager at `address`, and waits `within` for the answer.
    pub(super) async fn order<T: DeserializeOwned>(
        &self,
        address: &str,
        page: &str,
        order: &impl Serialize,
        within: Duration,
    ) -> Result<T, NotDone> {
        let request = self.request(address, page, order).map_err(NotDone::Away)?;
        let asked = tokio::time::timeout(within, self.ask(request)).await;
        let late = |_| NotDone::Unknown(format!("no answer within {within:?}"));
        let (status, body) = asked.map_err(late)??;
        if status != StatusCode::OK {
            let reason = String::from_utf8_lossy(&body).trim().to_owned();
            let reason =
                if reason.is_empty() { format!("{address} said {status}") } else { reason };
            let status = status.as_u16();
            return Err(NotDone::Refused(ManageError::Passed { status, reason }));
        }
        serde_json::from_slice(&body)
            .map_err(|error| NotDone::Unknown(format!("its answer is not understood: {error}")))
    }

    fn request(
        &self,
        address: &str,
        page: &str,
        order: &impl Serialize,
    ) -> Result<Request<Full<Bytes>>, String> {
        let body = serde_json::to_vec(order).map_err(|error| error.to_string())?;
        let mut request = Request::post(format!("http://{address}{page}"))
            // what nodes call each other need not be a name that this one answers to
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| format!("its address {address:?} is none: {error}"))?;
        if let Some(value) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        Ok(request)
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), NotDone> {
        let answer = self.client.request(request).await.map_err(|error| {
            let reason = super::causes(&error);
            match error.is_connect() {
                true => NotDone::Away(reason),
                false => NotDone::Unknown(reason),
            }
        })?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| NotDone::Unknown(format!("it broke off: {error}")))?;
        Ok((status, body.to_bytes()))
    }

    /// How much the reader at `address` has to do; `None` when it does not say.
    pub(super) async fn load(&self, address: &str) -> Option<usize> {
        let url = format!("http://{address}/health");
        tokio::time::timeout(LOAD, health(&self.client, &url)).await.ok().flatten()
    }
}
