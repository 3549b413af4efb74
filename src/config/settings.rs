//! The settings of this layer, and the names under which it takes those of the others.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sync::kv::SESSION_TTL_MIN;
use sync::kv::consul::ConsulSettings;
use sync::lead::{CycleSettings, LeadSettings};
use sync::planner::{PlanSettings, Rule, Rules, RulesError};
use sync::store::StoreTimeouts;

/// `[node]`: this machine and its ports.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSettings {
    /// What this machine is called; `None`: its host name.
    pub name: Option<String>,
    /// Address and port of the reader.
    pub read_listen: String,
    /// Address and port of the writer.
    pub write_listen: String,
    /// Address and port of the synchronizer's status.
    pub manager_listen: String,
    /// Address and port of the lead's status.
    pub lead_listen: String,
    /// Where others reach the reader, as `host:port`; `None`: where it listens. So do the next three.
    pub read_address: Option<String>,
    /// Where others reach the writer.
    pub write_address: Option<String>,
    /// Where others reach the synchronizer's status.
    pub manager_address: Option<String>,
    /// Where others reach the lead's status.
    pub lead_address: Option<String>,
    /// What fails together with this machine.
    pub rack: Option<String>,
    /// How long a node counts as there when nobody hears of it, in seconds; the registry may take twice as long.
    pub session_ttl_s: u64,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            name: None,
            read_listen: "127.0.0.1:6444".to_owned(),
            write_listen: "127.0.0.1:6222".to_owned(),
            manager_listen: "127.0.0.1:6112".to_owned(),
            lead_listen: "127.0.0.1:6111".to_owned(),
            read_address: None,
            write_address: None,
            manager_address: None,
            lead_address: None,
            rack: None,
            session_ttl_s: SESSION_TTL_MIN.as_secs(),
        }
    }
}

/// `[store]`: the deep store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// A directory, or `hdfs://HOST:PORT/PATH`.
    pub url: String,
    /// How long one call may take.
    pub timeouts: StoreTimeouts,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self { url: "store".to_owned(), timeouts: StoreTimeouts::default() }
    }
}

/// `[registry]`: what processes agree on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrySettings {
    /// Whose processes.
    pub kind: RegistryKind,
    /// The pool table's file of [`RegistryKind::File`]; that of the locks lies beside it.
    pub path: PathBuf,
    /// The way to Consul of [`RegistryKind::Consul`].
    pub consul: ConsulSettings,
}

/// Where a registry is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistryKind {
    /// In a SQLite file, for the processes of one machine.
    File,
    /// In Consul, for the nodes of a cluster.
    Consul,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            kind: RegistryKind::File,
            path: "registry.sqlite".into(),
            consul: ConsulSettings::default(),
        }
    }
}

/// `[lead]`: the lead of a cluster.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeadSection {
    /// Whether `trough up` runs one that would lead.
    pub candidate: bool,
    /// How leading is decided.
    #[serde(flatten)]
    pub election: LeadSettings,
    /// What the lead does, and when.
    pub cycle: CycleSettings,
}

/// `[plan]`: who holds what in a cluster.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlanSection {
    /// What holds for all segments.
    #[serde(flatten)]
    pub settings: PlanSettings,
    /// What holds for some of them.
    pub rules: Vec<Rule>,
}

impl PlanSection {
    /// As the planner takes them.
    pub fn rules(&self) -> Result<Rules, RulesError> {
        Rules::new(self.settings.clone(), self.rules.clone())
    }
}

pub use fsd::cache::CacheSettings;
pub use fsd::mount::MountSettings;
pub use fsd::scrub::ScrubSettings;
pub use proxy::manager::ManagerSettings;
pub use proxy::reader::ReaderSettings;
pub use proxy::tokens::TokenSettings;
pub use proxy::writer::WriterSettings;
pub use sync::discovery::DiscoverySettings;
pub use sync::local::LocalSettings;
pub use sync::publish::PublishSettings;
