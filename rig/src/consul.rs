//! A real Consul with its data on the disk, which a test can pause, kill, restart and empty: one server on loopback,
//! or a [`Cluster`] on hosts. `rig/consul/consul.sh` does the work; this is its face in Rust.

mod cluster;

use std::fmt;
use std::path::Path;

use crate::script::Rig;

pub use cluster::{Cluster, DNS_PORT, HTTP_PORT};

/// One Consul server of the rig, numbered from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server(pub u8);

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server-{}", self.0)
    }
}

/// A running Consul; dropping it stops it and removes its data.
#[derive(Debug)]
pub struct Consul {
    rig: Rig,
    address: String,
    dns_port: u16,
    https_port: u16,
}

impl Consul {
    /// Starts one of its own and waits until it is ready (about 2 s once it is built).
    pub fn start() -> Self {
        Self::start_as("start")
    }

    /// Starts one that refuses who has no token, and on [`Self::secure_address`] who has no certificate.
    /// `token` and `tls/` in [`Self::dir`] have what passes.
    pub fn start_secure() -> Self {
        Self::start_as("start-secure")
    }

    fn start_as(verb: &str) -> Self {
        let rig = Rig::start("consul/consul.sh", "trough-consul-", verb);
        let port = |name: &str| rig.env(name).parse().expect("a port in the rig's env file");
        let (dns_port, https_port) = (port("dns_port"), port("https_port"));
        Self { address: rig.env("CONSUL_HTTP_ADDR"), dns_port, https_port, rig }
    }

    /// `https://127.0.0.1:PORT`; only one that was started secure answers there.
    pub fn secure_address(&self) -> String {
        format!("https://127.0.0.1:{}", self.https_port)
    }

    /// `http://127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where it answers DNS, on 127.0.0.1.
    pub fn dns_port(&self) -> u16 {
        self.dns_port
    }

    /// Where configuration, logs and data lie.
    pub fn dir(&self) -> &Path {
        self.rig.dir()
    }

    /// SIGSTOP: it hangs, its connections stay.
    pub fn pause(&self, server: Server) {
        self.rig.run("pause", &[&server.to_string()]);
    }

    /// SIGCONT.
    pub fn resume(&self, server: Server) {
        self.rig.run("resume", &[&server.to_string()]);
    }

    /// SIGKILL.
    pub fn kill(&self, server: Server) {
        self.rig.run("kill", &[&server.to_string()]);
    }

    /// Starts it with its data, and waits until all of the rig is ready.
    pub fn restart(&self, server: Server) {
        self.rig.run("restart", &[&server.to_string()]);
    }

    /// Kills everything and starts it empty on the same ports.
    pub fn restart_empty(&self) {
        self.rig.run("empty", &[]);
    }
}
