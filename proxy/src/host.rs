//! Which host a request is for. A web page must not read a port of the machine that shows it, so a `Host`
//! that is neither this server's nor a segment's is refused (421), and no CORS header is ever sent.

use std::net::IpAddr;

use axum::http::header::HOST;
use axum::http::request::Parts;

use crate::error::QueryError;

/// What a `Host` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostKind {
    /// This server: an address, `localhost`, one of its names, or none given (HTTP/1.0).
    Ours,
    /// Something else; its first label may name a segment.
    Label(String),
}

/// The names that this server answers to.
#[derive(Debug, Clone)]
pub struct OwnNames(Vec<String>);

impl OwnNames {
    /// `configured` and the machine's own name, long and short.
    pub fn new(configured: &[String]) -> Self {
        let mut names: Vec<String> = configured.iter().map(|name| normal(name)).collect();
        let machine = rustix::system::uname();
        let machine = normal(&machine.nodename().to_string_lossy());
        if let Some((short, _)) = machine.split_once('.') {
            names.push(short.to_owned());
        }
        names.push(machine);
        names.push("localhost".to_owned());
        Self(names)
    }

    /// What the request's host is.
    pub fn kind(&self, parts: &Parts) -> Result<HostKind, QueryError> {
        let bad = || QueryError::BadRequest("the Host header cannot be read; send it once".into());
        // a request line with a whole address in it outranks the header (RFC 9112, 3.2.2)
        let authority = match parts.uri.authority() {
            Some(authority) => authority.as_str(),
            None => {
                let mut hosts = parts.headers.get_all(HOST).iter();
                let Some(host) = hosts.next() else { return Ok(HostKind::Ours) };
                if hosts.next().is_some() {
                    return Err(bad());
                }
                host.to_str().map_err(|_| bad())?
            }
        };
        let host = without_port(authority);
        if host.is_empty() {
            return Err(bad());
        }
        if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() || self.0.contains(&normal(host))
        {
            return Ok(HostKind::Ours);
        }
        // an address of another form, 127.1 or 0x7f000001, is none of ours and no segment's host either
        let label = host.split('.').next().unwrap_or_default();
        Ok(HostKind::Label(label.to_owned()))
    }
}

fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn without_port(authority: &str) -> &str {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.strip_prefix('[').and_then(|rest| rest.find(']')) {
        Some(end) => &host[..end + 2],
        None => host.split_once(':').map_or(host, |(name, _)| name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(host: &str) -> HostKind {
        let request = axum::http::Request::builder().header(HOST, host).body(()).unwrap();
        OwnNames::new(&["Trough.Example.".to_owned()]).kind(&request.into_parts().0).unwrap()
    }

    #[test]
    fn addresses_and_own_names_are_ours_and_the_rest_has_a_label() {
        for ours in [
            "127.0.0.1",
            "127.0.0.1:6444",
            "[::1]:6444",
            "[::1]",
            "localhost",
            "LocalHost:1",
            "trough.example",
            "trough.example.:80",
            "10.1.2.3",
        ] {
            assert_eq!(kind(ours), HostKind::Ours, "{ours}");
        }
        for (host, label) in [
            ("ohio.trough-read.service.consul:6444", "ohio"),
            ("ohio", "ohio"),
            ("x--abc.trough.example", "x--abc"),
            ("evil.com", "evil"),
        ] {
            assert_eq!(kind(host), HostKind::Label(label.to_owned()), "{host}");
        }
    }

    #[test]
    fn two_hosts_are_no_host() {
        let request =
            axum::http::Request::builder().header(HOST, "a").header(HOST, "b").body(()).unwrap();
        assert!(OwnNames::new(&[]).kind(&request.into_parts().0).is_err());
    }
}
