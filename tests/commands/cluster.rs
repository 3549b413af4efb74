//! A cluster on this machine: a Consul, a directory as deep store, and machines that have their ports on loopback.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use fsd::segment::SegmentId;
use rig::consul::Consul;
use sync::store::StorePath;
use trough::status::cluster::ClusterStatus;

pub use crate::machines::{BINARY, CONSUL_AWAY, COPIES, Machines, Place, Role, until};
use crate::segment;
use crate::steps::text;

/// All that there is.
pub struct Cluster {
    // those who use the rest go first
    pub machines: Machines,
    pub consul: Consul,
    pub dir: tempfile::TempDir,
}

impl Deref for Cluster {
    type Target = Machines;
    fn deref(&self) -> &Machines {
        &self.machines
    }
}

impl DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut Machines {
        &mut self.machines
    }
}

pub fn id(n: i64) -> String {
    format!("s{n:03}")
}

impl Cluster {
    /// A Consul and an empty deep store; no machine yet.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("trough-test.").tempdir().unwrap();
        let store = dir.path().join("store");
        std::fs::create_dir(&store).unwrap();
        let consul = Consul::start();
        let machines = Machines::new(store.display().to_string(), consul.address().to_owned());
        Self { machines, consul, dir }
    }

    /// Nodes `a`, `b` and `c`, and candidates on `a` and `b`.
    pub fn of_three() -> Self {
        let mut cluster = Self::new();
        for name in ["a", "b", "c"] {
            cluster.add(name);
            cluster.start_node(name);
        }
        for name in ["a", "b"] {
            cluster.start(name, Role::Lead);
        }
        cluster
    }

    /// A machine with its settings; nothing runs on it yet.
    pub fn add(&mut self, name: &'static str) {
        self.machines.add(name, self.dir.path(), Place::Here);
    }

    /// A machine without settings.
    pub fn add_bare(&mut self, name: &'static str) {
        self.machines.add_bare(name, self.dir.path(), Place::Here);
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

    /// What `trough status` knows.
    pub fn status(&self) -> ClusterStatus {
        let output = self.command("a", &["status", "--json"]);
        let said = || format!("{}{}", text(&output.stdout), text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", said()))
    }
}
