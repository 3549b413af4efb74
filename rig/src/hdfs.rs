//! A real HDFS on loopback or on a host of a net: a NameNode and three DataNodes, each a JVM of its own that a test
//! can pause, kill and restart. `rig/hdfs/hdfs.sh` does the work; this is its face in Rust.

use std::fmt;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use crate::net::{Host, Net};
use crate::script::Rig;

/// How long a DataNode may take to get the replica of a file that is closed.
const REPLICATION_PATIENCE: Duration = Duration::from_secs(60);

/// How many DataNodes there are; each block is on all of them.
pub const DATANODES: u8 = 3;

/// One JVM of the rig.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// The one NameNode.
    NameNode,
    /// DataNode 1 to [`DATANODES`].
    DataNode(u8),
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameNode => f.write_str("namenode"),
            Self::DataNode(n) => write!(f, "datanode-{n}"),
        }
    }
}

/// A running HDFS; dropping it stops it and removes its data.
#[derive(Debug)]
pub struct Hdfs {
    rig: Rig,
    address: String,
}

/// The HDFS of this test binary, used but not harmed; see [`shared`].
pub struct Shared(RwLockReadGuard<'static, Hdfs>);

/// The HDFS of this test binary, for a test alone; see [`exclusive`].
pub struct Exclusive(RwLockWriteGuard<'static, Hdfs>);

/// The HDFS that the tests of one binary share while they only use it. Each takes a directory of its own.
/// Every test has a thread of its own, so one that waits here holds nobody up.
pub fn shared() -> Shared {
    // a failed test poisons nothing that matters: the next one looks for itself
    Shared(started().read().unwrap_or_else(PoisonError::into_inner))
}

/// The same HDFS for a test that pauses, kills or formats: the others wait. Put right what you broke.
pub fn exclusive() -> Exclusive {
    Exclusive(started().write().unwrap_or_else(PoisonError::into_inner))
}

fn started() -> &'static RwLock<Hdfs> {
    static STARTED: OnceLock<RwLock<Hdfs>> = OnceLock::new();
    STARTED.get_or_init(|| RwLock::new(Hdfs::start()))
}

impl Deref for Shared {
    type Target = Hdfs;
    fn deref(&self) -> &Hdfs {
        &self.0
    }
}

impl Deref for Exclusive {
    type Target = Hdfs;
    fn deref(&self) -> &Hdfs {
        &self.0
    }
}

impl Hdfs {
    /// Starts one of its own and waits until it is ready (about 5 s once the jars are fetched).
    pub fn start() -> Self {
        Self::of(Rig::start("hdfs/hdfs.sh", "trough-hdfs-", "start"))
    }

    /// Starts one on a host of `net`, for the others to reach, and waits until it is ready.
    pub fn start_on(net: &Net, host: &Host) -> Self {
        Self::of(Rig::start_on("hdfs/hdfs.sh", net, "hdfs", &[host.name()]))
    }

    fn of(rig: Rig) -> Self {
        Self { address: rig.env("HDFS_URL"), rig }
    }

    /// `hdfs://ADDRESS:PORT` and `path`, which starts with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// The URL of WebHDFS for `path`, which starts with `/`.
    pub fn web(&self, path: &str) -> String {
        let (address, port) = (self.rig.env("address"), self.rig.env("http_port"));
        format!("http://{address}:{port}/webhdfs/v1{path}")
    }

    /// Where configuration, logs and blocks lie.
    pub fn dir(&self) -> &Path {
        self.rig.dir()
    }

    /// SIGSTOP: it hangs, its connections stay.
    pub fn pause(&self, process: Process) {
        self.rig.run("pause", &[&process.to_string()]);
    }

    /// SIGCONT.
    pub fn resume(&self, process: Process) {
        self.rig.run("resume", &[&process.to_string()]);
    }

    /// SIGKILL.
    pub fn kill(&self, process: Process) {
        self.rig.run("kill", &[&process.to_string()]);
    }

    /// Starts it with its data, and waits until all of the rig is ready.
    pub fn restart(&self, process: Process) {
        self.rig.run("restart", &[&process.to_string()]);
    }

    /// Starts everything anew with its data, whatever state it is in, and waits until all of it is ready.
    pub fn restart_all(&self) {
        self.rig.run("stop", &[]);
        self.rig.run("start", &[]);
    }

    /// Kills everything and starts it empty on the same ports.
    pub fn reformat(&self) {
        self.rig.run("reformat", &[]);
    }

    /// Hadoop's own `hdfs dfs ARGS`; its standard output.
    pub fn dfs(&self, args: &[&str]) -> String {
        self.rig.run("dfs", args)
    }

    /// The files on the disks that hold the blocks of the file at `path`, with the number of the DataNode.
    pub fn blocks(&self, path: &str) -> Vec<(u8, PathBuf)> {
        let text = self.rig.run("blocks", &[path]);
        let line = |line: &str| {
            let (node, file) = line.strip_prefix("datanode-")?.split_once(' ')?;
            Some((node.parse().ok()?, PathBuf::from(file)))
        };
        text.lines()
            .map(|text| line(text).unwrap_or_else(|| panic!("hdfs.sh blocks said {text:?}")))
            .collect()
    }

    /// Flips one byte in the middle of each block of the file at `path` on the named DataNodes. A slow DataNode may
    /// get its replica only after the file was closed, and not from one whose byte is flipped: so it is waited for
    /// that all have theirs.
    pub fn flip_byte(&self, path: &str, datanodes: &[u8]) {
        let deadline = Instant::now() + REPLICATION_PATIENCE;
        let mut blocks = self.blocks(path);
        while let Some(node) = (1..=DATANODES).find(|node| !blocks.iter().any(|(of, _)| of == node))
        {
            let late = Instant::now() > deadline;
            assert!(!late, "datanode-{node} has no block of {path}: {blocks:?}");
            std::thread::sleep(Duration::from_millis(100));
            blocks = self.blocks(path);
        }
        for node in datanodes {
            for (_, file) in blocks.iter().filter(|(of, _)| of == node) {
                let block = std::fs::OpenOptions::new().read(true).write(true).open(file);
                let block = block.expect("a block file opens");
                let at = block.metadata().expect("a block file's length").len() / 2;
                let mut byte = [0];
                block.read_exact_at(&mut byte, at).expect("a block file reads");
                block.write_all_at(&[byte[0] ^ 0x20], at).expect("a block file takes a byte");
            }
        }
    }
}
