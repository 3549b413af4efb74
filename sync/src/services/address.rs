//! Where an instance answers.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A host and a port: `HOST:PORT`, where a host is an address, or a name that DNS can be asked for. For a name Consul's
/// DNS answers with that name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceAddress {
    /// Without brackets.
    host: Arc<str>,
    port: u16,
}

/// A text that says not where an instance answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address that others can reach: use HOST:PORT, with an address of this machine or a name that DNS knows"
)]
pub struct InvalidServiceAddress(String);

impl ServiceAddress {
    /// Checks and takes `text`.
    pub fn new(text: &str) -> Result<Self, InvalidServiceAddress> {
        let parts = text.rsplit_once(':').and_then(|(host, port)| {
            Self::of(
                host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host),
                port.parse().ok()?,
            )
        });
        // an IPv6 address without brackets reads as one more than it is
        parts
            .filter(|address| address.to_string() == text)
            .ok_or_else(|| InvalidServiceAddress(text.to_owned()))
    }

    /// Of a host without brackets; `None` when that is none.
    pub(super) fn of(host: &str, port: u16) -> Option<Self> {
        let name = |host: &str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
            (1..=253).contains(&host.len()) && host.bytes().all(allowed)
        };
        let reachable = match host.parse::<IpAddr>() {
            Ok(ip) => !ip.is_unspecified(),
            Err(_) => name(host),
        };
        (reachable && port != 0).then(|| Self { host: host.into(), port })
    }

    /// The host, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<Ipv6Addr>() {
            Ok(_) => write!(f, "[{}]:{}", self.host, self.port),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl TryFrom<String> for ServiceAddress {
    type Error = InvalidServiceAddress;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<ServiceAddress> for String {
    fn from(address: ServiceAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_that_others_can_reach() {
        for (right, host, port) in [
            ("127.0.0.1:6444", "127.0.0.1", 6444),
            ("node-1.example.org:1", "node-1.example.org", 1),
            ("[::1]:6444", "::1", 6444),
        ] {
            let address = ServiceAddress::new(right).unwrap();
            assert_eq!((address.host(), address.port()), (host, port));
            assert_eq!(address.to_string(), right);
        }
        for wrong in [
            "",
            "a",
            ":1",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:01",
            "0.0.0.0:1",
            "[::]:1",
            "::1:1",
            "[a]:1",
            "a b:1",
            "a/b:1",
            "http://a:1",
        ] {
            assert!(ServiceAddress::new(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
