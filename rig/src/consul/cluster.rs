//! Consul as a cluster has it: servers on hosts of their own, and an agent on each host that works.
//!
//! Each listens on the usual ports, HTTP on [`HTTP_PORT`] and DNS on [`DNS_PORT`], of 127.0.0.1 on its host and of the
//! host's address.
//!
//! Left out: ACLs and TLS, which [`super::Consul::start_secure`] has.

use crate::net::{Host, Net, names};
use crate::script::Rig;

/// Where each server and agent answers HTTP.
pub const HTTP_PORT: u16 = 8500;

/// Where each server and agent answers DNS.
pub const DNS_PORT: u16 = 8600;

/// Servers and agents on the hosts of a [`Net`]; dropping it stops them and removes their data.
#[derive(Debug)]
pub struct Cluster {
    rig: Rig,
    servers: Vec<Host>,
}

impl Cluster {
    /// Starts all of them at once, and waits until they are ready: there is a leader, and each is in the catalogue.
    pub fn start(net: &Net, servers: &[&Host], agents: &[&Host]) -> Self {
        let args = [names(servers).join(","), names(agents).join(",")];
        let rig = Rig::start_on("consul/consul.sh", net, "consul", &[&args[0], &args[1]]);
        Self { rig, servers: servers.iter().copied().cloned().collect() }
    }

    /// Starts an agent on one more host, and waits until it is in the catalogue.
    pub fn add_agent(&self, host: &Host) {
        self.rig.run("agent", &[host.name()]);
    }

    /// The hosts of the servers.
    pub fn servers(&self) -> &[Host] {
        &self.servers
    }

    /// The server that most servers hold to lead; for about a second after its end it may still be that one.
    pub fn leader(&self) -> Option<&Host> {
        let output = self.rig.output("leader", &[]);
        let name = String::from_utf8_lossy(&output.stdout);
        self.servers.iter().find(|host| host.name() == name.trim())
    }

    /// SIGSTOP to the server or agent of `host`: it hangs, its connections stay.
    pub fn pause(&self, host: &Host) {
        self.rig.run("pause", &[host.name()]);
    }

    /// SIGCONT.
    pub fn resume(&self, host: &Host) {
        self.rig.run("resume", &[host.name()]);
    }

    /// SIGKILL.
    pub fn kill(&self, host: &Host) {
        self.rig.run("kill", &[host.name()]);
    }

    /// Starts those of `hosts` with their data, after a SIGKILL where they run, and waits until they are ready; for
    /// that most servers must run.
    pub fn restart(&self, hosts: &[&Host]) {
        self.rig.run("restart", &names(hosts));
    }

    /// Kills every server, starts them empty, and waits until they have a leader. Agents run on: they find the servers
    /// again by themselves.
    pub fn restart_empty(&self) {
        self.rig.run("empty", &[]);
    }
}
