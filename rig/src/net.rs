//! Hosts on one machine: network namespaces on a bridge, which a test can cut from one another. `rig/net.sh` does the
//! work; this is its face in Rust.
//!
//! Invariant: hosts share this machine's files and mounts and nothing of its network. What one mounts all see; what one
//! says only those hear that are not cut from it.
//!
//! Left out: slow and lossy links; a cut is whole and in both directions.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::script::Rig;

/// Hosts that reach each other; dropping it kills what runs on them, and takes them and their files away.
#[derive(Debug)]
pub struct Net {
    rig: Rig,
    here: Host,
}

/// One host of a [`Net`], as long as that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    name: String,
    address: Ipv4Addr,
    /// Nothing for the host that is this machine itself.
    namespace: Option<PathBuf>,
    dir: PathBuf,
}

impl Net {
    /// A net with no host but [`Self::here`].
    pub fn start() -> Self {
        let rig = Rig::start("net.sh", "trough-net-", "start");
        let here = Host::parse(rig.run("hosts", &[]).trim(), rig.dir());
        Self { rig, here }
    }

    /// This process, and whatever else runs outside of the net, as a host of it.
    pub fn here(&self) -> &Host {
        &self.here
    }

    /// Adds a host; a name has up to 15 of `a-z`, `0-9` and `-`.
    pub fn host(&self, name: &str) -> Host {
        let [host] = self.hosts([name]);
        host
    }

    /// Adds several.
    pub fn hosts<const N: usize>(&self, names: [&str; N]) -> [Host; N] {
        let said = self.rig.run("host", &names);
        let hosts: Vec<Host> = said.lines().map(|line| Host::parse(line, self.dir())).collect();
        hosts.try_into().unwrap_or_else(|hosts| panic!("net.sh host {names:?} said {hosts:?}"))
    }

    /// Where the net keeps what belongs to it; files of a test that are below it go with the net, and mounts too.
    pub fn dir(&self) -> &Path {
        self.rig.dir()
    }

    /// Nothing passes between `host` and each of `others` any more: both sides are silent to one another, also on
    /// connections that they have. What is cut already stays so.
    pub fn cut(&self, host: &Host, others: &[&Host]) {
        self.change("cut", host, others);
    }

    /// What was cut between `host` and each of `others` passes again. A connection on which somebody waited goes on
    /// when its sender tries again, after about as long as the cut lasted.
    pub fn heal(&self, host: &Host, others: &[&Host]) {
        self.change("heal", host, others);
    }

    /// Everything passes again.
    pub fn heal_all(&self) {
        self.rig.run("heal", &[]);
    }

    fn change(&self, how: &str, host: &Host, others: &[&Host]) {
        self.rig.run(how, &[&[host.name()], names(others).as_slice()].concat());
    }
}

pub(crate) fn names<'a>(hosts: &[&'a Host]) -> Vec<&'a str> {
    hosts.iter().map(|host| host.name()).collect()
}

impl Host {
    fn parse(line: &str, net: &Path) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, address, namespace] = words[..] else { panic!("net.sh said {line:?}") };
        Self {
            name: name.to_owned(),
            address: address.parse().expect("a host's address"),
            namespace: (namespace != "-").then(|| PathBuf::from(namespace)),
            dir: net.join("disk").join(name),
        }
    }

    /// Its name on the net.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the other hosts and this process reach it.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A directory for what it keeps on its disk.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command that runs on this host. The process that is spawned is the program itself.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let Some(namespace) = &self.namespace else { return Command::new(program) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", namespace.display())).arg("--").arg(program);
        command
    }

    /// Does `work` on this host, in a thread: sockets that are made there stay there, wherever they are used.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let on_host = || {
            if let Some(namespace) = &self.namespace {
                let namespace = std::fs::File::open(namespace).expect("a host's namespace");
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("a thread enters a host");
            }
            work()
        };
        std::thread::scope(|scope| scope.spawn(on_host).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
