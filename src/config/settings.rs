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
pub use mirrors::*;
pub use proxy::manager::ManagerSettings;
pub use proxy::reader::ReaderSettings;

/// REPLACE AT THE MERGE by `sync::local::LocalSettings`.
mod mirrors {
    #![allow(missing_docs, reason = "this goes when the synchronizer's own struct is there")]

    use std::collections::HashSet;

    use fsd::segment::SegmentId;

    use super::{Deserialize, Serialize};

    #[derive(Debug, Clone, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct LocalSettings {
        pub period_s: u64,
        pub pulls: usize,
        pub publish_batch_max: usize,
        pub max_removed_ratio: f64,
        pub drain_ms: u64,
        pub withdraw_grace_s: u64,
        pub retry_first_ms: u64,
        pub retry_longest_ms: u64,
        pub refused_first_ms: u64,
        pub refused_longest_ms: u64,
        pub pinned: HashSet<SegmentId>,
    }

    impl Default for LocalSettings {
        fn default() -> Self {
            Self {
                period_s: 30,
                pulls: 4,
                publish_batch_max: 64,
                max_removed_ratio: 0.1,
                drain_ms: 2_000,
                withdraw_grace_s: 24 * 60 * 60,
                retry_first_ms: 1_000,
                retry_longest_ms: 60_000,
                refused_first_ms: 30_000,
                refused_longest_ms: 60 * 60 * 1_000,
                pinned: HashSet::new(),
            }
        }
    }
}
