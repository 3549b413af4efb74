//! The HTTP client of the commands: bounded, and direct to the address it is told.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use proxy::tokens::Right;
use reqwest::{Client, RequestBuilder};

use crate::config::Config;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long nothing may come on a connection; above the reader's own limit for a query, so that the reader's
/// answer to a query that takes too long is seen.
const READ_TIMEOUT: Duration = Duration::from_secs(600);

/// A client that waits at most `quiet` between two pieces of an answer, [`READ_TIMEOUT`] if `None`.
pub fn client(quiet: Option<Duration>) -> anyhow::Result<Client> {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(quiet.unwrap_or(READ_TIMEOUT))
        // a proxy set for the web is not on the way to a reader
        .no_proxy()
        .build()
        .context("set up the HTTP client")
}

/// `request` with a token that gives `right`, where one is needed.
pub fn authorized(
    request: RequestBuilder,
    config: &Config,
    right: Right,
) -> anyhow::Result<RequestBuilder> {
    Ok(match config.tokens.own(right)? {
        Some(token) => request.bearer_auth(token),
        None => request,
    })
}

/// The URL at which a listening address is reached from this machine.
pub fn url_of(listen: &str) -> anyhow::Result<String> {
    let address: SocketAddr =
        listen.parse().with_context(|| format!("read the address {listen:?}"))?;
    let host = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    Ok(format!("http://{}", SocketAddr::new(host, address.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_everybody_is_reached_on_loopback() {
        assert_eq!(url_of("0.0.0.0:6444").unwrap(), "http://127.0.0.1:6444");
        assert_eq!(url_of("[::]:6444").unwrap(), "http://[::1]:6444");
        assert_eq!(url_of("10.0.0.1:1").unwrap(), "http://10.0.0.1:1");
        assert!(url_of("here").is_err());
    }
}
