//! The cluster of rows 10 to 12: hosts in network namespaces, three servers of Consul and an agent on each machine, and
//! HDFS on a host of its own. All of it runs on this machine's cores and disk.
//!
//! Invariant: when it is dropped, also by an error, its processes have ended, nothing of it is mounted, and its hosts
//! are gone with all their files; should this process be killed, the net's watchdog sees to it.
//!
//! Left out: slow links. What passes between two hosts costs two system calls and a wake-up, as on loopback.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rig::net::{Host, Net};
use serde::de::DeserializeOwned;
use sync::lead::LeadStatus;

use super::hdfs::Deep;
use crate::harness::check_stopped;
use crate::service::{Dir, Service};

/// Where the segments lie in HDFS.
pub const POOL: &str = "/pool";
/// How many machines there are.
pub const MACHINES: usize = 3;
/// Copies of each segment, which is the default.
pub const COPIES: usize = 2;
/// Longer than anything takes that is waited for here.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks at what is not measured.
const PERIOD: Duration = Duration::from_millis(50);

const READ_PORT: u16 = 6444;
const MANAGER_PORT: u16 = 6112;
const LEAD_PORT: u16 = 6111;

/// See the module.
pub struct Cluster {
    /// What runs on the machines: ends before all that it needs.
    services: Vec<Service>,
    pub machines: [Machine; MACHINES],
    pub deep: Deep,
    pub http: reqwest::Client,
    _consul: rig::consul::Cluster,
    _net: Net,
}

/// One that may run trough.
pub struct Machine {
    pub host: Host,
    /// Its directory and settings: the defaults, but for addresses and `set`.
    pub dir: Dir,
}

impl Cluster {
    /// Starts HDFS and Consul; `set` are settings of every machine. No trough runs yet.
    pub fn start(set: &[&str]) -> anyhow::Result<Self> {
        let net = Net::start();
        let [one, two, three, hdfs] = net.hosts(["consul-1", "consul-2", "consul-3", "hdfs"]);
        let hosts = net.hosts(["a", "b", "c"]);
        let deep = Deep::start_on(&net, &hdfs)?;
        let agents: Vec<&Host> = hosts.iter().collect();
        let consul = rig::consul::Cluster::start(&net, &[&one, &two, &three], &agents);
        let store = deep.hdfs.url(POOL);
        let machines = hosts.map(|host| Machine::new(host, &store, set));
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
        Ok(Self { services: Vec::new(), machines, deep, http, _consul: consul, _net: net })
    }

    /// Starts `trough up` on every machine, with a candidate on the first two.
    pub fn up(&mut self) -> anyhow::Result<()> {
        for (number, machine) in self.machines.iter().enumerate() {
            let lead: &[&str] = if number < 2 { &["--lead"] } else { &[] };
            let command = [&["up"], lead].concat();
            self.services.push(Service::start_on(&machine.host, &machine.dir, &command)?);
        }
        Ok(())
    }

    /// Waits until `holds`, looking now and then.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !holds(self) {
            check_stopped()?;
            let ended = self.services.iter_mut().find_map(Service::ended);
            if ended.is_some() || begun.elapsed() > PATIENCE {
                let logs: String = self.services.iter().map(Service::log).collect();
                bail!("not within {PATIENCE:?}, or something ended: {what}; trough said:\n{logs}");
            }
            std::thread::sleep(PERIOD);
        }
        Ok(())
    }

    /// Waits until the lead has found `segments`, and each has all of its copies.
    pub fn until_held(&mut self, segments: usize) -> anyhow::Result<()> {
        self.until(&format!("{segments} segments are held"), |cluster| {
            let cycle = cluster.leading().and_then(|status| status.cycle);
            cycle.is_some_and(|cycle| {
                let figures = cycle.figures.unwrap_or_default();
                figures.segments == segments as u64
                    && figures.copies_wanted == (segments * COPIES) as u64
                    && (figures.copies_missing, cycle.moves) == (0, 0)
            })
        })
    }

    /// What the candidate says of itself that leads.
    pub fn leading(&self) -> Option<LeadStatus> {
        let status = |machine: &Machine| self.page(&format!("{}/status", machine.lead_url()));
        self.machines.iter().filter_map(status).find(|status: &LeadStatus| status.epoch.is_some())
    }

    /// A page in JSON; `None` when it is not there now.
    pub fn page<T: DeserializeOwned>(&self, url: &str) -> Option<T> {
        self.deep.runtime.block_on(async {
            let answer = self.http.get(url).send().await.ok()?;
            answer.error_for_status().ok()?.json().await.ok()
        })
    }
}

impl Machine {
    fn new(host: Host, store: &str, set: &[&str]) -> Self {
        let listen =
            |server: &str, port: u16| format!("node.{server}_listen=\"{}:{port}\"", host.address());
        let mut all = vec![
            format!("node.name={:?}", host.name()),
            listen("read", READ_PORT),
            listen("manager", MANAGER_PORT),
            listen("lead", LEAD_PORT),
            "manager.insecure_open=true".to_owned(),
            format!("store.url={store:?}"),
            "registry.kind=\"consul\"".to_owned(),
        ];
        all.extend(set.iter().map(|&set| set.to_owned()));
        let dir = host.dir().to_owned();
        Self { dir: Dir { cache: dir.join("cache"), dir, set: all }, host }
    }

    /// A command on this machine.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<std::process::Command> {
        let mut command = self.host.command(crate::service::trough()?);
        command.args(arguments).args(self.dir.options());
        Ok(command)
    }

    /// Where its reader answers.
    pub fn read_address(&self) -> String {
        format!("{}:{READ_PORT}", self.host.address())
    }

    /// Where its reader is asked about a segment.
    pub fn read_url(&self, id: &str) -> String {
        format!("http://{}/?segment={id}", self.read_address())
    }

    /// The pages of its synchronizer.
    pub fn manager_address(&self) -> String {
        format!("{}:{MANAGER_PORT}", self.host.address())
    }

    /// The pages of its candidate.
    pub fn lead_url(&self) -> String {
        format!("http://{}:{LEAD_PORT}", self.host.address())
    }

    /// Its agent of Consul.
    pub fn consul_url(&self) -> String {
        format!("http://{}:{}", self.host.address(), rig::consul::HTTP_PORT)
    }

    /// Whether its mount shows the segment.
    pub fn shows(&self, id: &str) -> anyhow::Result<bool> {
        let file = self.dir.mountpoint().join(format!("{id}.sqlite"));
        file.try_exists().with_context(|| format!("look for {}", file.display()))
    }
}
