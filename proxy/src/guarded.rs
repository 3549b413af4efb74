//! What pages have in common that take a person's orders: who may call them, where they may be bound, and how they
//! answer who orders a cycle.
//!
//! Invariants: a page in a browser gives no orders (a request with an `Origin` is refused, no CORS header
//! is sent, and the host must be this server's); a bind that other machines can reach is refused unless it is wanted
//! (`insecure_open`), or only who has a token may order anything there; who waits for a cycle waits no longer than `wait_ms`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::ORIGIN;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::error::QueryError;
use crate::host::{HostKind, OwnNames};
use crate::http::HttpSettings;
use crate::tokens::{Right, Tokens};

/// Settings of a server that takes orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ManagerSettings {
    /// Names that this server answers to, besides its addresses, `localhost` and the machine's name.
    pub host_names: Vec<String>,
    /// Take orders on an address that other machines reach, from anybody who can.
    pub insecure_open: bool,
    /// The longest that `POST /sync?wait=1` waits for the end of the cycle, in milliseconds.
    pub wait_ms: u64,
    /// The HTTP server's limits.
    pub http: HttpSettings,
}

impl Default for ManagerSettings {
    fn default() -> Self {
        let http = HttpSettings { connections_max: 256, ..HttpSettings::default() };
        Self { host_names: Vec::new(), insecure_open: false, wait_ms: 60_000, http }
    }
}

/// The bind reaches further than this machine, anybody there may give orders, and nobody said that it may be so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} can be reached by other machines, and without tokens it takes orders from anybody; \
     bind it to 127.0.0.1, give it tokens, or set insecure_open = true"
)]
pub struct OpenBind(pub SocketAddr);

/// Whether orders may be taken at `address`. `tokens_open`: what may be ordered there is everybody's, for no file of
/// tokens is set. `insecure_open`: a person wants that.
pub fn check_bind(
    address: SocketAddr,
    tokens_open: bool,
    insecure_open: bool,
) -> Result<(), OpenBind> {
    match address.ip().to_canonical().is_loopback() || !tokens_open || insecure_open {
        true => Ok(()),
        false => Err(OpenBind(address)),
    }
}

/// Pages that take orders about segments, and who may give any here.
#[derive(Debug)]
pub struct OrderPages {
    /// They look at the tokens themselves: not all of them are orders.
    pub pages: Router,
    /// Who may.
    pub tokens: Arc<Tokens>,
}

/// Serves `pages`, `orders` and `/metrics`, until `shutdown`. Who orders something of `pages`, by another method than
/// GET, needs the same right as for `orders`.
pub(crate) async fn serve(
    settings: &ManagerSettings,
    listener: TcpListener,
    pages: Router,
    orders: Option<OrderPages>,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (orders, tokens) = match orders {
        Some(OrderPages { pages, tokens }) => (pages, tokens),
        None => (Router::new(), Arc::default()),
    };
    let open = tokens.is_open(Right::Manage);
    check_bind(listener.local_addr()?, open, settings.insecure_open)?;
    let names = Arc::new(OwnNames::new(&settings.host_names));
    let pages = pages
        .route_layer(middleware::from_fn_with_state(tokens, may_order))
        .merge(orders)
        .route("/metrics", get(async move || crate::metrics::page(&metrics)))
        .layer(middleware::from_fn_with_state(names, no_strangers));
    crate::http::serve(listener, pages, settings.http, shutdown).await;
    Ok(())
}

async fn no_strangers(
    State(names): State<Arc<OwnNames>>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    match names.kind(&parts) {
        Ok(HostKind::Ours) => {}
        Ok(HostKind::Label(host)) => return QueryError::WrongHost(host).into_response(),
        Err(error) => return error.into_response(),
    }
    if parts.headers.contains_key(ORIGIN) {
        let text = "a page in a browser gives no orders here; use `trough` or curl\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(Request::from_parts(parts, body)).await
}

/// Lets through who only looks, and who may order.
async fn may_order(State(tokens): State<Arc<Tokens>>, request: Request, next: Next) -> Response {
    if !request.method().is_safe()
        && let Err(refused) = tokens.check(Right::Manage, request.headers())
    {
        return refused.into_response();
    }
    next.run(request).await
}

/// Whether the caller waits for what it orders: `?wait=1`.
#[derive(Debug, Deserialize)]
pub(crate) struct Wait {
    wait: Option<u8>,
}

impl Wait {
    /// How long it waits, if `most` is the longest.
    pub(crate) fn of(&self, most: Duration) -> Duration {
        match self.wait {
            None | Some(0) => Duration::ZERO,
            Some(_) => most,
        }
    }
}

/// How far an ordered cycle came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cycle {
    /// It will run; nobody waited for it.
    Ordered,
    /// It has ended.
    Ended,
    /// It has not ended within the time given; it goes on.
    StillRunning,
}

impl IntoResponse for Cycle {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Ordered => (StatusCode::ACCEPTED, "ordered"),
            Self::Ended => (StatusCode::OK, "ended"),
            Self::StillRunning => (StatusCode::ACCEPTED, "still running"),
        };
        (status, Json(json!({ "cycle": text }))).into_response()
    }
}

/// `OK`, or the status and what ails it.
pub(crate) fn well_or(status: StatusCode, ailment: Option<String>) -> Response {
    match ailment {
        None => (StatusCode::OK, "OK\n").into_response(),
        Some(text) => (status, format!("{text}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_machines_reach_is_closed_by_tokens_or_opened_by_a_person() {
        for (address, reached) in [
            ("127.0.0.1:1", false),
            ("127.9.9.9:1", false),
            ("[::1]:1", false),
            ("[::ffff:127.0.0.1]:1", false),
            ("0.0.0.0:1", true),
            ("[::]:1", true),
            ("10.0.0.1:1", true),
            ("[::ffff:10.0.0.1]:1", true),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            for (tokens_open, insecure_open) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                let refused = reached && tokens_open && !insecure_open;
                let expected = if refused { Err(OpenBind(address)) } else { Ok(()) };
                assert_eq!(check_bind(address, tokens_open, insecure_open), expected);
            }
        }
    }
}
