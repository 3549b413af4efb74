//! The settings of this layer, and the names under which it takes those of the others.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sync::store::StoreTimeouts;

/// `[node]`: this machine and its ports.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSettings {
    /// What this machine is called; `None`: its host name.
    pub name: Option<String>,
    /// Address and port of the reader.
    pub read_listen: String,
    /// Address and port of the synchronizer's status.
    pub manager_listen: String,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            name: None,
            read_listen: "127.0.0.1:6444".to_owned(),
            manager_listen: "127.0.0.1:6112".to_owned(),
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

/// `[registry]`: what the processes of this machine agree on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrySettings {
    /// The registry's SQLite file.
    pub path: PathBuf,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self { path: "registry.sqlite".into() }
    }
}

pub use fsd::cache::CacheSettings;
pub use fsd::mount::MountSettings;
pub use fsd::scrub::ScrubSettings;
pub use proxy::manager::ManagerSettings;
pub use proxy::reader::ReaderSettings;
pub use sync::local::LocalSettings;
pub use sync::publish::PublishSettings;
