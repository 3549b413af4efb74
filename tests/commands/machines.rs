//! Machines of a cluster: a directory with settings and ports of its own for each, and the processes that run there.
//!
//! When a cluster goes, also by a failed test, its processes are ended, its mounts are detached, and the test fails on
//! any warning or error in a log that it did not allow.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use fsd::segment::SegmentId;
use rig::consul::Consul;
use rustix::process::{Pid, Signal, kill_process};
use sync::lead::LeadStatus;
use sync::store::StorePath;
use trough::status::cluster::ClusterStatus;

use crate::segment;
use crate::steps::{free_port, run, text};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_trough");
/// The bound of every wait for an event: five times what a session that nobody renews may take to end, and its grace.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Copies of each segment.
pub const COPIES: u64 = 2;

/// What runs on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Fsd,
    Local,
    Lead,
    Read,
    Up,
}

impl Role {
    fn command(self) -> &'static [&'static str] {
        match self {
            Self::Fsd => &["fsd"],
            Self::Local => &["sync", "local"],
            Self::Lead => &["sync", "lead"],
            Self::Read => &["read"],
            Self::Up => &["up"],
        }
    }
}

/// One machine.
pub struct Machine {
    pub dir: PathBuf,
    pub read_port: u16,
    pub manager_port: u16,
    pub lead_port: u16,
    running: BTreeMap<Role, Child>,
}

/// All that there is.
pub struct Cluster {
    pub consul: Consul,
    pub dir: tempfile::TempDir,
    pub machines: BTreeMap<&'static str, Machine>,
    allowed: Vec<&'static str>,
}

/// Waits until `found` finds something, or fails saying `what` did not happen and what `state` there is instead.
#[track_caller]
pub fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>, state: impl Fn() -> String) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}: {}", state());
        std::thread::sleep(Duration::from_millis(100));
    }
}

pub fn id(n: i64) -> String {
    format!("s{n:03}")
}

impl Cluster {
    /// A Consul and an empty deep store; no machine yet.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("trough-test.").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("store")).unwrap();
        let (machines, allowed) = (BTreeMap::new(), Vec::new());
        Self { consul: Consul::start(), dir, machines, allowed }
    }

    /// Nodes `a`, `b` and `c`, and candidates on `a` and `b`.
    pub fn of_three() -> Self {
        let mut cluster = Self::new();
        cluster.allow("the registry has no incarnation yet");
        for name in ["a", "b", "c"] {
            cluster.add(name);
            cluster.start_node(name);
        }
        for name in ["a", "b"] {
            cluster.start(name, Role::Lead);
        }
        cluster
    }

    /// Warnings and errors in the logs that contain `part` are what this test is about.
    pub fn allow(&mut self, part: &'static str) {
        self.allowed.push(part);
    }

    /// A machine with its settings; nothing runs on it yet.
    pub fn add(&mut self, name: &'static str) {
        self.add_bare(name);
        let machine = &self.machines[name];
        std::fs::write(machine.dir.join("trough.toml"), self.settings(name, machine)).unwrap();
    }

    /// A machine without settings.
    pub fn add_bare(&mut self, name: &'static str) {
        let machine = Machine {
            dir: self.dir.path().join(name),
            read_port: free_port(),
            manager_port: free_port(),
            lead_port: free_port(),
            running: BTreeMap::new(),
        };
        std::fs::create_dir(&machine.dir).unwrap();
        self.machines.insert(name, machine);
    }

    /// Adds a setting to a section of a machine's file.
    pub fn set(&self, name: &str, key: &str, value: &str) {
        let file = self.machines[name].dir.join("trough.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let (section, key) = key.rsplit_once('.').unwrap();
        let head = format!("[{section}]\n");
        assert!(text.contains(&head), "{head} is not there");
        std::fs::write(file, text.replace(&head, &format!("{head}{key} = {value}\n"))).unwrap();
    }

    fn settings(&self, name: &str, machine: &Machine) -> String {
        let mut text = format!("[node]\nname = \"{name}\"\n");
        for (server, port) in [
            ("read", machine.read_port),
            ("manager", machine.manager_port),
            ("lead", machine.lead_port),
        ] {
            let address = format!("127.0.0.1:{port}");
            writeln!(text, "{server}_listen = \"{address}\"\n{server}_address = \"{address}\"")
                .unwrap();
        }
        let (store, consul) = (self.dir.path().join("store"), self.consul.address());
        write!(
            text,
            "[store]
url = \"{}\"
[cache]
quota_bytes = 1073741824
[sync]
period_s = 5
drain_ms = 100
retry_first_ms = 100
retry_longest_ms = 500
[registry]
kind = \"consul\"
[registry.consul]
address = \"{consul}\"
# much else runs on a machine that tests
timeouts = {{ connect_ms = 5000, call_ms = 5000 }}
[lead]
lock_delay_s = 1
[lead.cycle]
period_s = 1
settle_s = 3
doubt_s = 5
[plan]
drain_grace_ms = 1000
lost_grace_ms = 1000
",
            store.display()
        )
        .unwrap();
        text
    }

    /// The mount and the synchronizer of a node.
    pub fn start_node(&mut self, name: &'static str) {
        // what the mount process shows is there before it begins
        let segments = self.machines[name].dir.join("cache/segments");
        std::fs::create_dir_all(segments).unwrap();
        self.start(name, Role::Fsd);
        self.start(name, Role::Local);
    }

    /// One process.
    pub fn start(&mut self, name: &'static str, role: Role) {
        self.start_with(name, role, &[]);
    }

    /// The same with further arguments.
    pub fn start_with(&mut self, name: &'static str, role: Role, arguments: &[String]) {
        let machine = self.machines.get_mut(name).unwrap();
        let path = machine.dir.join(format!("{role:?}.log"));
        let log = File::options().create(true).append(true).open(path).unwrap();
        let mut command = Command::new(BINARY);
        command.args(role.command()).arg("--dir").arg(&machine.dir).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).env_remove("TROUGH_LOG");
        let before = machine.running.insert(role, command.spawn().unwrap());
        assert!(before.is_none(), "{role:?} runs on {name} already");
    }

    /// Sends `signal` to a process that goes on.
    pub fn signal(&self, name: &str, role: Role, signal: Signal) {
        kill_process(Pid::from_child(&self.machines[name].running[&role]), signal).unwrap();
    }

    /// Sends `signal` to a process and waits until it has ended.
    #[track_caller]
    pub fn end(&mut self, name: &str, role: Role, signal: Signal) -> ExitStatus {
        let mut child = self.machines.get_mut(name).unwrap().running.remove(&role).unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        until(&format!("{role:?} on {name} to end"), || child.try_wait().unwrap(), || self.logs())
    }

    /// Lays segment `n`, with `value` in it, into the deep store.
    pub fn put(&self, n: i64, value: i64) {
        segment::lay(&self.file(n), &segment::sound(value, 0));
    }

    /// Segment `n` in the deep store.
    pub fn file(&self, n: i64) -> PathBuf {
        let id = SegmentId::new(&id(n)).unwrap();
        self.dir.path().join("store").join(StorePath::published(&id).as_str())
    }

    /// Runs a command on a machine.
    pub fn command(&self, name: &str, arguments: &[&str]) -> Output {
        let dir = self.machines[name].dir.to_str().unwrap();
        run(BINARY, [&["--dir", dir], arguments].concat())
    }

    /// The standard output of a command that must succeed.
    #[track_caller]
    pub fn say(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.command(name, arguments);
        let said = text(&output.stdout);
        assert!(output.status.success(), "{arguments:?}: {said}{}", text(&output.stderr));
        said
    }

    /// What a command that must be refused says about it.
    #[track_caller]
    pub fn refused(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.command(name, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stdout));
        text(&output.stderr)
    }

    /// What `trough status` knows.
    pub fn status(&self) -> ClusterStatus {
        let output = self.command("a", &["status", "--json"]);
        let said = || format!("{}{}", text(&output.stdout), text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said()))
    }

    /// Who leads, and what it says of itself.
    pub fn leading(&self) -> Option<(&'static str, LeadStatus)> {
        let status = self.status();
        let leading = status.leading.filter(|it| it.epoch.is_some() && it.cycles > 0)?;
        let leader = status.lead?.leader;
        Some((self.machines.keys().find(|name| **name == leader.node)?, leading))
    }

    /// Waits until the lead is as `holds` wants it.
    #[track_caller]
    pub fn until_the_lead(
        &self,
        what: &str,
        holds: impl Fn(&LeadStatus) -> bool,
    ) -> (&'static str, LeadStatus) {
        let found = || self.leading().filter(|(_, status)| holds(status));
        until(what, found, || format!("{:#?}\n{}", self.leading(), self.logs()))
    }

    /// Waits until there are `segments`, each with all of its copies, and nothing moves.
    #[track_caller]
    pub fn until_held(&self, segments: u64) -> (&'static str, LeadStatus) {
        self.until_the_lead(&format!("{segments} segments to be held"), |status| {
            status.cycle.as_ref().is_some_and(|cycle| {
                let figures = cycle.figures.unwrap_or_default();
                figures.segments == segments
                    && (figures.copies_wanted, figures.copies_missing) == (segments * COPIES, 0)
                    && cycle.moves == 0
                    && cycle.nodes.iter().all(|node| node.draining == 0)
            })
        })
    }

    /// The names of segments that a node's mount shows, in order.
    pub fn mounted(&self, name: &str) -> Vec<String> {
        let mount = self.machines[name].dir.join("mount");
        let entries = std::fs::read_dir(mount).into_iter().flatten();
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            entry
                .unwrap()
                .file_name()
                .into_string()
                .unwrap()
                .strip_suffix(".sqlite")
                .map(str::to_owned)
        };
        let mut names: Vec<String> = entries.filter_map(name).collect();
        names.sort();
        names
    }

    /// Every log so far.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for (name, machine) in &self.machines {
            for entry in std::fs::read_dir(&machine.dir).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "log") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let role = path.file_stem().unwrap().display();
                    text.lines().for_each(|line| writeln!(all, "{name} {role}| {line}").unwrap());
                }
            }
        }
        all
    }

    /// Lines of the logs that are warnings or worse and that nobody allowed.
    fn unexpected(&self) -> Vec<String> {
        let bad = |line: &&str| {
            line.contains(" WARN ") || line.contains(" ERROR ") || line.contains("panicked at")
        };
        let allowed = |line: &&str| self.allowed.iter().any(|part| line.contains(part));
        let logs = self.logs();
        logs.lines().filter(bad).filter(|line| !allowed(line)).map(str::to_owned).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // those that look at the mount before those who show it
        for (role, child) in self.running.iter_mut().rev() {
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
            let deadline = Instant::now() + PATIENCE;
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            if matches!(child.try_wait(), Ok(None)) {
                eprintln!("{role:?} did not end");
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        let _ = trough::up::leftover::detach(&self.dir.join("mount"));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let logs = |cluster: &Self| {
            if std::thread::panicking() { cluster.logs() } else { String::new() }
        };
        let unexpected = self.unexpected();
        let all = logs(self);
        self.machines.clear();
        match std::thread::panicking() {
            true => eprintln!("the logs:\n{all}"),
            false => {
                assert!(
                    unexpected.is_empty(),
                    "unexpected in the logs:\n{}",
                    unexpected.join("\n")
                );
            }
        }
    }
}
