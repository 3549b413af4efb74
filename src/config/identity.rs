//! What a node of a cluster is called, and where the others reach its servers.
//!
//! Invariant: what is handed out here is told to the whole cluster, so it is an error rather than a guess where others
//! could not use it.

use std::net::{Ipv6Addr, SocketAddr};

use sync::node::NodeName;

use super::Config;
use super::settings::{ManagerSettings, ReaderSettings, WriterSettings};

/// One of a node's servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The reader.
    Read,
    /// The writer.
    Write,
    /// The local synchronizer's pages.
    Manager,
    /// The lead's pages.
    Lead,
}

impl Server {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Manager, Self::Lead];

    /// Its name in the names of settings.
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Manager => "manager",
            Self::Lead => "lead",
        }
    }

    /// The setting that says where it listens.
    pub fn listen_setting(self) -> String {
        format!("node.{}_listen", self.name())
    }

    /// The setting that says where others reach it.
    pub fn address_setting(self) -> String {
        format!("node.{}_address", self.name())
    }
}

impl Config {
    /// Where `server` listens, as written.
    pub fn listen(&self, server: Server) -> &str {
        let node = &self.node;
        match server {
            Server::Read => &node.read_listen,
            Server::Write => &node.write_listen,
            Server::Manager => &node.manager_listen,
            Server::Lead => &node.lead_listen,
        }
    }

    /// Where others reach `server`, as written.
    pub(super) fn written_address(&self, server: Server) -> Option<&str> {
        let node = &self.node;
        let address = match server {
            Server::Read => &node.read_address,
            Server::Write => &node.write_address,
            Server::Manager => &node.manager_address,
            Server::Lead => &node.lead_address,
        };
        address.as_deref()
    }

    /// Where others reach `server`, as `host:port`; or why that cannot be said.
    pub fn address(&self, server: Server) -> Result<String, String> {
        let listen = self.listen(server);
        match (self.written_address(server), listen.parse::<SocketAddr>()) {
            (Some(address), _) => Ok(address.to_owned()),
            (None, Ok(at)) if !at.ip().is_loopback() && !at.ip().is_unspecified() => {
                Ok(listen.to_owned())
            }
            (None, _) => Err(format!(
                "the other nodes of the cluster cannot use {listen}; set this to the HOST:PORT at which they reach \
                 it, or {} to an address of this machine's own",
                server.listen_setting()
            )),
        }
    }

    /// The reader's settings; it answers to the name at which the others reach it, too.
    pub fn read_settings(&self) -> ReaderSettings {
        let mut settings = self.read.clone();
        settings.host_names.extend(self.reached_by(Server::Read));
        settings
    }

    /// The writer's settings; it answers to the name at which the others reach it, too.
    pub fn write_settings(&self) -> WriterSettings {
        let mut settings = self.write.clone();
        settings.host_names.extend(self.reached_by(Server::Write));
        settings
    }

    /// Whether this machine writes segments: in a cluster only if it says where the others reach its writer.
    pub fn writes(&self) -> bool {
        !self.in_cluster() || self.address(Server::Write).is_ok()
    }

    /// Where callers reach the writer: what the others of a cluster use, on a machine on its own where it listens.
    pub fn write_address(&self) -> String {
        self.address(Server::Write).unwrap_or_else(|_| self.node.write_listen.clone())
    }

    /// The settings of the pages of `server`, which answer to the name at which the others reach them, too.
    pub fn manager_settings(&self, server: Server) -> ManagerSettings {
        let mut settings = self.manager.clone();
        settings.host_names.extend(self.reached_by(server));
        settings
    }

    fn reached_by(&self, server: Server) -> Option<String> {
        let (host, _) = self.written_address(server)?.rsplit_once(':')?;
        Some(host.to_owned())
    }

    /// What this machine is called in a cluster; or why that cannot be said.
    pub fn node_name(&self) -> Result<NodeName, String> {
        match &self.node.name {
            Some(name) => NodeName::new(name).map_err(|error| error.to_string()),
            None => name_of_host(&host_name()),
        }
    }

    /// What this machine is called in messages.
    pub fn display_name(&self) -> String {
        match self.node_name() {
            Ok(name) if self.in_cluster() => name.to_string(),
            Ok(_) | Err(_) => self.node.name.clone().unwrap_or_else(host_name),
        }
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn name_of_host(host: &str) -> Result<NodeName, String> {
    let label = host.split('.').next().unwrap_or_default().to_ascii_lowercase();
    NodeName::new(&label).map_err(|error| format!("of the host's name {host:?}, {error}; set it"))
}

/// Why `text` is no `host:port`.
pub(super) fn address_problem(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(allowed),
    };
    let right = is_host && port.parse::<u16>().is_ok_and(|port| port > 0);
    (!right).then(|| {
        format!("{text:?} is no address with a port; write it as \"worker-1.example:6444\" or \"10.0.0.1:6444\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_node_by_the_first_label_of_its_name() {
        assert_eq!(name_of_host("Worker-1.Example.org").unwrap().as_str(), "worker-1");
        for wrong in ["", "my_host", "-a.b"] {
            assert!(name_of_host(wrong).unwrap_err().ends_with("; set it"), "{wrong}");
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for right in ["a:1", "worker-1.example:6444", "10.0.0.1:80", "[::1]:65535"] {
            assert_eq!(address_problem(right), None, "{right}");
        }
        for wrong in
            ["", "a", ":1", "a:", "a:0", "a:65536", "::1:80", "http://a:1", "a b:1", "a:1/"]
        {
            assert!(address_problem(wrong).is_some(), "{wrong}");
        }
    }
}
