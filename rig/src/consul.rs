//! A real Consul on loopback: one server with its data on the disk, which a test can pause, kill, restart and
//! empty. `rig/consul/consul.sh` does the work; this is its face in Rust.
//!
//! Invariant: nothing outlives the test process, however it ends: the script's watchdog sees to it.
//!
//! Left out: several servers and hosts of their own. [`Server`] names one, so that they have a place here.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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
    dir: PathBuf,
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
        let dir = tempfile::Builder::new()
            .prefix("trough-consul-")
            .tempdir()
            .expect("a temporary directory for the Consul rig")
            .keep();
        let owner = rustix::process::getpid().as_raw_nonzero().to_string();
        run(&dir, verb, &[&owner]);
        let env = std::fs::read_to_string(dir.join("env")).expect("the rig's env file");
        let value = |name: &str| {
            let found = env.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_else(|| panic!("no {name} in the rig's env file")).to_owned()
        };
        let port = |name: &str| value(name).parse().expect("a port in the rig's env file");
        let (dns_port, https_port) = (port("dns_port"), port("https_port"));
        Self { address: value("CONSUL_HTTP_ADDR"), dns_port, https_port, dir }
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
        &self.dir
    }

    /// SIGSTOP: it hangs, its connections stay.
    pub fn pause(&self, server: Server) {
        run(&self.dir, "pause", &[&server.to_string()]);
    }

    /// SIGCONT.
    pub fn resume(&self, server: Server) {
        run(&self.dir, "resume", &[&server.to_string()]);
    }

    /// SIGKILL.
    pub fn kill(&self, server: Server) {
        run(&self.dir, "kill", &[&server.to_string()]);
    }

    /// Starts it with its data, and waits until all of the rig is ready.
    pub fn restart(&self, server: Server) {
        run(&self.dir, "restart", &[&server.to_string()]);
    }

    /// Kills everything and starts it empty on the same ports.
    pub fn restart_empty(&self) {
        run(&self.dir, "empty", &[]);
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        let stopped = script(&self.dir, "stop", &[]);
        if stopped.status.success() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn script(dir: &Path, verb: &str, args: &[&str]) -> Output {
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/consul/consul.sh"))
        .arg(verb)
        .arg(dir)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("rig/consul/consul.sh runs")
}

fn run(dir: &Path, verb: &str, args: &[&str]) {
    let output = script(dir, verb, args);
    assert!(
        output.status.success(),
        "consul.sh {verb} {args:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
