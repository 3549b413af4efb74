//! Machines of a cluster: a directory with settings and ports of its own for each, and the processes that run there.
//!
//! When they go, also by a failed test, their processes are ended, their mounts are detached, and the test fails on
//! any warning or error in a log that it did not allow.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rig::net::Host;
use rustix::process::{Pid, Signal, kill_process};
use sync::lead::LeadStatus;

use crate::steps::{free_port, http_within, text};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_trough");
/// The bound of every wait for an event: five times what a session that nobody renews may take to end, and its grace.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Copies of each segment.
pub const COPIES: u64 = 2;
/// What the logs may say when Consul is away for somebody, or somebody's session is over.
pub const CONSUL_AWAY: [&str; 11] = [
    "the pool table cannot be read",
    "the session of the lead is over",
    "this node is not heard",
    "the registry",
    "not leading",
    "a cycle of the lead came to nothing",
    "giving up the lead",
    "tell others what is here",
    "find out whether this node is under maintenance",
    "session",
    "the lead cannot be heard",
];
/// How long a candidate may take to say whether it leads; one that hangs does not.
const SAYS: Duration = Duration::from_secs(5);

/// What runs on a machine. What ends first when a test is over stands last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Fsd,
    Local,
    Lead,
    Read,
    Write,
    Up,
}

impl Role {
    fn command(self) -> &'static [&'static str] {
        match self {
            Self::Fsd => &["fsd"],
            Self::Local => &["sync", "local"],
            Self::Lead => &["sync", "lead"],
            Self::Read => &["read"],
            Self::Write => &["write"],
            Self::Up => &["up"],
        }
    }
}

/// Where a machine is.
#[derive(Debug)]
pub enum Place {
    /// This machine itself.
    Here,
    /// A host of a net.
    On(Host),
}

impl Place {
    fn address(&self) -> Ipv4Addr {
        match self {
            Self::Here => Ipv4Addr::LOCALHOST,
            Self::On(host) => host.address(),
        }
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Self::Here => Command::new(program),
            Self::On(host) => host.command(program),
        }
    }
}

/// One machine.
#[derive(Debug)]
pub struct Machine {
    pub dir: PathBuf,
    pub read_port: u16,
    pub write_port: u16,
    pub manager_port: u16,
    pub lead_port: u16,
    place: Place,
    running: BTreeMap<Role, Child>,
}

impl Machine {
    /// Where its reader answers for a segment.
    pub fn reader(&self, id: &str) -> String {
        format!("http://{}:{}/?segment={id}", self.place.address(), self.read_port)
    }

    /// Where its writer takes writes of a segment.
    pub fn writer(&self, id: &str) -> String {
        format!("http://{}:{}/?segment={id}", self.place.address(), self.write_port)
    }

    /// A page of its lead.
    pub fn lead_page(&self, path: &str) -> String {
        format!("http://{}:{}/{path}", self.place.address(), self.lead_port)
    }

    /// A page of its synchronizer: status and body.
    pub fn synchronizer(&self, page: &str) -> (u16, String) {
        let url = format!("http://{}:{}/{page}", self.place.address(), self.manager_port);
        http_within(SAYS, "GET", &url, "")
    }

    /// Whether its reader is well.
    pub fn reader_is_well(&self) -> bool {
        let url = format!("http://{}:{}/health", self.place.address(), self.read_port);
        http_within(SAYS, "GET", &url, "").0 == 200
    }

    fn settings(&self, name: &str, store: &str, consul: &str) -> String {
        let mut text = format!("[node]\nname = \"{name}\"\n");
        for (server, port) in [
            ("read", self.read_port),
            ("write", self.write_port),
            ("manager", self.manager_port),
            ("lead", self.lead_port),
        ] {
            let address = format!("{}:{port}", self.place.address());
            writeln!(text, "{server}_listen = \"{address}\"\n{server}_address = \"{address}\"")
                .unwrap();
        }
        write!(
            text,
            "[store]
url = \"{store}\"
[cache]
quota_bytes = 1073741824
[sync]
period_s = 5
drain_ms = 100
retry_first_ms = 100
retry_longest_ms = 500
[manager]
insecure_open = true
[write]
insecure_open = true
promote_after_s = 3600
view_max_age_ms = 500
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
drain_grace_ms = 2000
lost_grace_ms = 1000
"
        )
        .unwrap();
        text
    }
}

/// All that there are.
#[derive(Debug)]
pub struct Machines {
    all: BTreeMap<&'static str, Machine>,
    store: String,
    consul: String,
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

impl std::ops::Index<&str> for Machines {
    type Output = Machine;
    fn index(&self, name: &str) -> &Machine {
        self.all.get(name).unwrap_or_else(|| panic!("there is no machine {name}"))
    }
}

impl Machines {
    /// None yet; `store` is the URL of the deep store, and `consul` where each has its agent.
    pub fn new(store: String, consul: String) -> Self {
        let allowed = vec!["the registry has no incarnation yet"];
        Self { all: BTreeMap::new(), store, consul, allowed }
    }

    /// Warnings and errors in the logs that contain `part` are what this test is about.
    pub fn allow(&mut self, part: &'static str) {
        self.allowed.push(part);
    }

    /// A machine with its settings; nothing runs on it yet.
    pub fn add(&mut self, name: &'static str, dir: &Path, place: Place) {
        self.add_bare(name, dir, place);
        let machine = &self[name];
        let text = machine.settings(name, &self.store, &self.consul);
        std::fs::write(machine.dir.join("trough.toml"), text).unwrap();
    }

    /// A machine without settings.
    pub fn add_bare(&mut self, name: &'static str, dir: &Path, place: Place) {
        let machine = Machine {
            dir: dir.join(name),
            read_port: free_port(),
            write_port: free_port(),
            manager_port: free_port(),
            lead_port: free_port(),
            place,
            running: BTreeMap::new(),
        };
        std::fs::create_dir(&machine.dir).unwrap();
        self.all.insert(name, machine);
    }

    /// Adds a setting to a section of a machine's file.
    pub fn set(&self, name: &str, key: &str, value: &str) {
        let file = self[name].dir.join("trough.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let (section, key) = key.rsplit_once('.').unwrap();
        let head = format!("[{section}]\n");
        assert!(text.contains(&head), "{head} is not there");
        std::fs::write(file, text.replace(&head, &format!("{head}{key} = {value}\n"))).unwrap();
    }

    /// Adds sections to a machine's file.
    pub fn set_more(&self, name: &str, sections: &str) {
        let file = self[name].dir.join("trough.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(file, text + sections).unwrap();
    }

    /// The mount and the synchronizer of a node.
    pub fn start_node(&mut self, name: &'static str) {
        // what the mount process shows is there before it begins
        let segments = self[name].dir.join("cache/segments");
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
        let machine = self.all.get_mut(name).unwrap();
        let path = machine.dir.join(format!("{role:?}.log"));
        let log = File::options().create(true).append(true).open(path).unwrap();
        let mut command = machine.place.command(BINARY);
        command.args(role.command()).arg("--dir").arg(&machine.dir).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).env_remove("TROUGH_LOG");
        let before = machine.running.insert(role, command.spawn().unwrap());
        assert!(before.is_none(), "{role:?} runs on {name} already");
    }

    /// Sends `signal` to a process that goes on.
    pub fn signal(&self, name: &str, role: Role, signal: Signal) {
        kill_process(Pid::from_child(&self[name].running[&role]), signal).unwrap();
    }

    /// Sends `signal` to a process and waits until it has ended.
    #[track_caller]
    pub fn end(&mut self, name: &str, role: Role, signal: Signal) -> ExitStatus {
        let mut child = self.all.get_mut(name).unwrap().running.remove(&role).unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        until(&format!("{role:?} on {name} to end"), || child.try_wait().unwrap(), || self.logs())
    }

    /// Runs a command on a machine.
    pub fn command(&self, name: &str, arguments: &[&str]) -> Output {
        let machine = &self[name];
        let mut command = machine.place.command(BINARY);
        command.arg("--dir").arg(&machine.dir).args(arguments).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// The standard output of a command that must succeed.
    #[track_caller]
    pub fn say(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.command(name, arguments);
        let said = text(&output.stdout);
        assert!(output.status.success(), "{arguments:?}: {said}{}", text(&output.stderr));
        said
    }

    /// The same of one that asks a registry which comes to itself: after a cut an agent has no leader for a moment,
    /// says so, and that it may pass.
    #[track_caller]
    pub fn say_in_the_end(&self, name: &str, arguments: &[&str]) -> String {
        let say = || {
            let output = self.command(name, arguments);
            let (said, error) = (text(&output.stdout), text(&output.stderr));
            let passes = !output.status.success() && error.contains("it may pass");
            assert!(passes || output.status.success(), "{arguments:?}: {said}{error}");
            output.status.success().then_some(said)
        };
        until(&format!("{name} to be able to say {arguments:?}"), say, || self.logs())
    }

    /// What a command that must be refused says about it.
    #[track_caller]
    pub fn refused(&self, name: &str, arguments: &[&str]) -> String {
        let output = self.command(name, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stdout));
        text(&output.stderr)
    }

    /// Who leads, and what it says of itself. One that was the lead may not know yet that it is not; the one of the
    /// highest epoch is.
    pub fn leading(&self) -> Option<(&'static str, LeadStatus)> {
        let says = |(name, machine): (&&'static str, &Machine)| {
            let (200, said) = http_within(SAYS, "GET", &machine.lead_page("status"), "") else {
                return None;
            };
            let status: LeadStatus = serde_json::from_str(&said).unwrap();
            (status.epoch.is_some() && status.cycles > 0).then_some((*name, status))
        };
        self.all.iter().filter_map(says).max_by_key(|(_, status)| status.epoch)
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
        let entries = std::fs::read_dir(self[name].dir.join("mount")).into_iter().flatten();
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".sqlite").map(str::to_owned)
        };
        let mut names: Vec<String> = entries.filter_map(name).collect();
        names.sort();
        names
    }

    /// Every log so far.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for (name, machine) in &self.all {
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

impl Drop for Machines {
    fn drop(&mut self) {
        let logs = if std::thread::panicking() { self.logs() } else { String::new() };
        let unexpected = self.unexpected();
        self.all.clear();
        match std::thread::panicking() {
            true => eprintln!("the logs:\n{logs}"),
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
