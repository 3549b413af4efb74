//! Who serves what: instances of services that others find by name and tag, with a check that says whether they are
//! well, and maintenance that takes them out.
//!
//! Invariants, the same in every implementation: who registers again replaces what was there, and its check keeps what
//! it found and its maintenance stays; a new instance is not passing before its check passed; maintenance ends with
//! the registration; every call ends, by its answer or by its time-out.
//!
//! Left out: who registers what, and when ([`crate::discovery`]). Two implementations pass one contract suite
//! (`sync/tests/services_contract/`): [`consul`] for a cluster, whose DNS answers for what is registered, and [`sqlite`]
//! for the processes of one machine.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::kv::{KvError, KvErrorKind};

mod address;
pub mod consul;
mod name;
pub mod sqlite;

pub use address::{InvalidServiceAddress, ServiceAddress};
pub(crate) use name::is_hyphenated;
pub use name::{InvalidName, Name};

/// The most tags of an instance. Consul 1.22.2 takes ten times as many, but writes the whole list twice at each change,
/// which is 3 MB for so many labels.
pub const TAGS_MAX: usize = 50_000;

/// How it is found out whether an instance is well: `GET` of a page, which answers 2xx then. 429 is a warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// The page.
    pub url: String,
    /// How often it is asked, in milliseconds; Consul takes 1,000 at least.
    pub interval_ms: u64,
    /// An answer that takes longer is none, in milliseconds.
    pub timeout_ms: u64,
    /// An instance that was critical for so long is no instance any more, in seconds; Consul takes 60 at least, and
    /// looks every 30.
    pub deregister_after_s: u64,
}

impl HttpCheck {
    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    fn deregister_after(&self) -> Duration {
        Duration::from_secs(self.deregister_after_s)
    }
}

/// One that serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// What it serves as.
    pub service: Name,
    /// Which it is, among all of every service on this machine.
    pub id: Name,
    /// Where it answers.
    pub address: ServiceAddress,
    /// What it is found by; at most [`TAGS_MAX`].
    pub tags: BTreeSet<Name>,
    /// How it is found out whether it is well.
    pub check: HttpCheck,
}

impl Instance {
    /// Why it is not sent.
    fn check_size(&self, attempted: &'static str, target: String) -> Result<(), KvError> {
        if self.tags.len() <= TAGS_MAX {
            return Ok(());
        }
        let reason = format!("it has {} tags, and at most {TAGS_MAX} are allowed", self.tags.len());
        Err(KvError { kind: KvErrorKind::TooLarge, attempted, target, reason })
    }
}

/// How an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Every check of it passes.
    Passing,
    /// It asks for less. DNS still names it.
    Warning,
    /// A check of it fails, or has not passed yet.
    Critical,
    /// A person took it out, or its machine.
    Maintenance,
}

/// An instance as others find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which it is.
    pub id: Name,
    /// Where it answers.
    pub address: ServiceAddress,
    /// What it is found by.
    pub tags: BTreeSet<Name>,
    /// How it is.
    pub health: Health,
}

/// As [`Services::instances`] says.
fn in_order(mut found: Vec<Found>) -> Vec<Found> {
    found.sort_by(|a, b| (&a.address, &a.id).cmp(&(&b.address, &b.id)));
    found
}

/// What a person took out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Maintenance {
    /// The machine, with all that is on it.
    pub node: bool,
    /// The instance.
    pub instance: bool,
}

impl Maintenance {
    /// Whether others are to leave the instance alone.
    pub fn is_on(self) -> bool {
        self.node || self.instance
    }
}

/// The services of a cluster, seen from one machine of it: what is registered is on this machine, and what is found
/// is anywhere.
#[async_trait]
pub trait Services: Send + Sync + fmt::Debug {
    /// Where it is, as an operator would write it.
    fn address(&self) -> String;

    /// Registers `instance`, or puts it in the place of the one with its id. Its check begins anew at a moment of its
    /// first interval.
    async fn register(&self, instance: &Instance) -> Result<(), KvError>;

    /// Takes the instance out, if it is there.
    async fn deregister(&self, id: &Name) -> Result<(), KvError>;

    /// Whether exactly `instance` is registered. Its check goes with it and is not looked at.
    async fn has(&self, instance: &Instance) -> Result<bool, KvError>;

    /// The instances of `service` that have `tag`, in order of address; `passing_only` leaves out all that are not
    /// [`Health::Passing`]. What was not registered by a trough is passed over. Each brings all of its tags: ask for one
    /// tag where there are many.
    async fn instances(
        &self,
        service: &Name,
        tag: Option<&Name>,
        passing_only: bool,
    ) -> Result<Vec<Found>, KvError>;

    /// Whether the instance, or this machine, is under maintenance.
    async fn maintenance(&self, id: &Name) -> Result<Maintenance, KvError>;
}
