//! A whole `trough up` on a temporary directory, for tests.
//!
//! When it goes, also by a failed test, its processes are ended, its mount is detached, and the test fails on
//! any warning or error in the log that it did not allow.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use sync::local::status::LocalStatus;

#[path = "asks.rs"]
mod asks;
#[path = "steps.rs"]
mod steps;

pub use steps::*;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_trough");

/// Settings that make every period, back-off and time-out short, so that a fault takes a second and not a minute.
pub const SHORT: [&str; 7] = [
    "sync.period_s=1",
    "sync.drain_ms=100",
    "sync.retry_first_ms=100",
    "sync.retry_longest_ms=500",
    "sync.refused_first_ms=100",
    "sync.refused_longest_ms=500",
    "store.timeouts={ call_ms = 1000, io_ms = 2000 }",
];

/// A running `trough up`.
pub struct Trough {
    dir: tempfile::TempDir,
    child: Option<Child>,
    read_port: u16,
    write_port: u16,
    manager_port: u16,
    store: Option<String>,
    settings: Vec<String>,
    bound_by_permissions: bool,
    environment: Vec<(String, String)>,
    allowed: Vec<&'static str>,
}

impl Trough {
    /// A directory and ports; nothing runs yet.
    pub fn new() -> Self {
        Self {
            dir: tempfile::Builder::new().prefix("trough-test.").tempdir().unwrap(),
            child: None,
            read_port: free_port(),
            write_port: free_port(),
            manager_port: free_port(),
            store: None,
            settings: Vec::new(),
            bound_by_permissions: false,
            environment: Vec::new(),
            allowed: Vec::new(),
        }
    }

    /// Starts it and waits until all of it answers.
    pub fn started() -> Self {
        let mut trough = Self::new();
        trough.start();
        trough.wait_ready();
        trough
    }

    /// A deep store other than the directory.
    pub fn with_store(mut self, store: &str) -> Self {
        self.store = Some(store.to_owned());
        self
    }

    /// Settings (`SECTION.KEY=VALUE`) other than the defaults.
    pub fn with_settings(mut self, settings: &[&str]) -> Self {
        self.settings.extend(settings.iter().map(|&setting| setting.to_owned()));
        self
    }

    /// Permissions of files bind it although the tests run as root.
    pub fn bound_by_permissions(mut self) -> Self {
        self.bound_by_permissions = true;
        self
    }

    /// Its next start finds its deep store there.
    pub fn move_store(&mut self, store: &str) {
        self.store = Some(store.to_owned());
    }

    /// A variable for it and its children, as `FAILPOINTS`.
    pub fn with_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A settings file of its own in place of the complete one that `trough up` writes.
    pub fn with_settings_file(self, settings: &str) -> Self {
        let (read, write, manager) = (self.read_port, self.write_port, self.manager_port);
        let text = format!(
            "[node]\nread_listen = \"127.0.0.1:{read}\"\nwrite_listen = \"127.0.0.1:{write}\"\nmanager_listen = \"127.0.0.1:{manager}\"\n\n{settings}"
        );
        std::fs::write(self.dir().join("trough.toml"), text).unwrap();
        self
    }

    /// Warnings and errors of the log that contain `part` are what this test is about.
    pub fn allow(mut self, part: &'static str) -> Self {
        self.allowed.push(part);
        self
    }

    /// Starts the process.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let ready = File::create(self.ready_path()).unwrap();
        let mut command = match self.bound_by_permissions {
            false => Command::new(BINARY),
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--bounding-set=-dac_override,-dac_read_search", BINARY]);
                command
            }
        };
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        command.args(["up", "--dir"]).arg(self.dir()).stdin(Stdio::null());
        command.args(["--read-port", &self.read_port.to_string()]);
        command.args(["--write-port", &self.write_port.to_string()]);
        command.args(["--manager-port", &self.manager_port.to_string()]);
        if let Some(store) = &self.store {
            command.args(["--store", store]);
        }
        command.envs(self.environment.iter().cloned()).env_remove("TROUGH_LOG");
        self.child = Some(command.stdout(ready).stderr(log).spawn().unwrap());
    }

    /// Waits until the ready block is printed.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !std::fs::read_to_string(self.ready_path()).unwrap().contains("trough is ready") {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            let log = self.log();
            assert!(ended.is_none(), "trough up ended: {ended:?}\n{log}");
            assert!(Instant::now() < deadline, "not ready within {PATIENCE:?}\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The directory of this trough.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A segment's file on the mount.
    pub fn mounted(&self, id: &str) -> PathBuf {
        self.dir().join("mount").join(format!("{id}.sqlite"))
    }

    /// The reader's URL for a segment.
    pub fn url(&self, id: &str) -> String {
        format!("http://127.0.0.1:{}/?segment={id}", self.read_port)
    }

    /// The reader's port.
    pub fn read_port(&self) -> u16 {
        self.read_port
    }

    /// The writer's port.
    pub fn write_port(&self) -> u16 {
        self.write_port
    }

    /// The port of the synchronizer's pages.
    pub fn manager_port(&self) -> u16 {
        self.manager_port
    }

    /// The process of `trough up` itself.
    pub fn up_pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("it runs"))
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Runs a command on this directory.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut all = arguments.iter().map(OsStr::new).collect::<Vec<_>>();
        all.extend([OsStr::new("--dir"), self.dir().as_os_str()]);
        run(BINARY, all)
    }

    /// Makes a SQLite file with one table `t (n)` of one row and publishes it as `id`.
    #[track_caller]
    pub fn put(&self, id: &str, n: i64) {
        let output = self.try_put(id, n);
        assert!(output.status.success(), "put {id}: {}{}", text(&output.stderr), self.log());
    }

    /// The same, again and again where it says so: under faults the lock may be lost, or the registry held.
    #[track_caller]
    pub fn put_in_the_end(&self, id: &str, n: i64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.try_put(id, n);
            if output.status.success() {
                return;
            }
            let said = text(&output.stderr);
            let again = said.contains("try again");
            assert!(again && Instant::now() < deadline, "put {id}: {said}{}", self.log());
        }
    }

    /// One `trough put` of such a file, whatever comes of it.
    pub fn try_put(&self, id: &str, n: i64) -> Output {
        let file = self.dir().join(format!("{id}.source"));
        let _ = std::fs::remove_file(&file);
        let connection = rusqlite::Connection::open(&file).unwrap();
        connection
            .execute_batch(&format!("CREATE TABLE t (n); INSERT INTO t VALUES ({n})"))
            .unwrap();
        drop(connection);
        self.command(&["put", "--id", id, file.to_str().unwrap()])
    }

    /// The process of the child called `name` (`fsd`, `sync`, `read`) that started last.
    #[track_caller]
    pub fn child_pid(&self, name: &str) -> Pid {
        let log = self.log();
        let started =
            |line: &&str| line.contains(" started") && line.contains(&format!("child=\"{name}\""));
        let line = log.lines().rfind(started).expect("the child's start is logged");
        let pid = line.split("pid=").nth(1).unwrap().split_whitespace().next().unwrap();
        Pid::from_raw(pid.parse().unwrap()).unwrap()
    }

    /// Stops it as Ctrl-C does; its exit status.
    #[track_caller]
    pub fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        let pid = Pid::from_child(&child);
        rustix::process::kill_process(pid, Signal::INT).unwrap();
        let mut status = None;
        until("trough up ends", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }

    /// Ends `trough up` as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// How many mounts of the kernel's table lie below this directory.
    pub fn mounts(&self) -> usize {
        let dir = self.dir().to_str().unwrap().to_owned();
        std::fs::read_to_string("/proc/self/mounts")
            .unwrap()
            .lines()
            .filter(|line| line.contains(&dir))
            .count()
    }

    /// Processes that were started for this directory and still run.
    pub fn processes(&self) -> Vec<Pid> {
        let dir = self.dir().as_os_str().as_encoded_bytes();
        let numbers = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let number = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let command = std::fs::read(format!("/proc/{number}/cmdline")).ok()?;
            let named = command.windows(dir.len()).any(|part| part == dir);
            named.then(|| Pid::from_raw(number)).flatten()
        });
        numbers.filter(|pid| *pid != rustix::process::getpid()).collect()
    }

    fn log_path(&self) -> PathBuf {
        self.dir().join("up.log")
    }

    fn ready_path(&self) -> PathBuf {
        self.dir().join("ready")
    }

    /// Lines of the log that are warnings or worse and that nobody allowed.
    fn unexpected(&self) -> Vec<String> {
        let bad = |line: &&str| {
            line.contains(" WARN ") || line.contains(" ERROR ") || line.contains("panicked at")
        };
        let allowed = |line: &&str| self.allowed.iter().any(|part| line.contains(part));
        self.log().lines().filter(bad).filter(|line| !allowed(line)).map(str::to_owned).collect()
    }
}

impl Drop for Trough {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = rustix::process::kill_process(Pid::from_child(&child), Signal::TERM);
            let deadline = Instant::now() + PATIENCE;
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in self.processes() {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        let _ = trough::up::leftover::detach(&self.dir().join("mount"));
        let unexpected = self.unexpected();
        if std::thread::panicking() {
            eprintln!("the log:\n{}", self.log());
        } else {
            assert!(unexpected.is_empty(), "unexpected in the log:\n{}", unexpected.join("\n"));
        }
    }
}
