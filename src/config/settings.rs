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

pub use mirrors::*;

/// REPLACE AT THE MERGE: the structs of the subsystems, under the names they have there.
mod mirrors {
    #![allow(missing_docs, reason = "these go when the subsystems' own structs are there")]

    use std::collections::HashSet;

    use fsd::segment::SegmentId;

    use super::{Deserialize, PathBuf, Serialize};

    #[derive(Debug, Clone, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct CacheSettings {
        pub dir: PathBuf,
        pub quota_bytes: Option<u64>,
        pub immutable_flag: bool,
        pub quarantine_bytes_max: u64,
        pub quarantine_files_max: usize,
    }

    impl Default for CacheSettings {
        fn default() -> Self {
            Self {
                dir: PathBuf::new(),
                quota_bytes: None,
                immutable_flag: false,
                quarantine_bytes_max: 1 << 30,
                quarantine_files_max: 1000,
            }
        }
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Feature {
        Auto,
        Off,
    }

    #[derive(Debug, Clone, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct MountSettings {
        pub mountpoint: PathBuf,
        pub passthrough: Feature,
        pub beneath: Feature,
        pub negative_ttl_s: u64,
        pub entry_ttl_s: u64,
        pub threads: usize,
        pub fuse_device: PathBuf,
        pub mountpoint_immutable: bool,
        pub invalidation: Feature,
    }

    impl Default for MountSettings {
        fn default() -> Self {
            Self {
                mountpoint: "/var/lib/trough/mount".into(),
                passthrough: Feature::Auto,
                beneath: Feature::Auto,
                negative_ttl_s: 3600,
                entry_ttl_s: 3600,
                threads: 4,
                fuse_device: "/dev/fuse".into(),
                mountpoint_immutable: true,
                invalidation: Feature::Auto,
            }
        }
    }

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

    #[derive(Debug, Clone, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct ScrubSettings {
        pub period_s: u64,
        pub disk_share: f64,
    }

    impl Default for ScrubSettings {
        fn default() -> Self {
            Self { period_s: 2_592_000, disk_share: 0.1 }
        }
    }

    #[derive(Debug, Clone, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct ReaderSettings {
        pub concurrency: usize,
        pub time_limit_ms: u64,
        pub body_bytes_max: usize,
        pub answer_bytes_max: u64,
        pub open_segments_max: usize,
        pub mount_wait_ms: u64,
    }

    impl Default for ReaderSettings {
        fn default() -> Self {
            Self {
                concurrency: 32,
                time_limit_ms: 60_000,
                body_bytes_max: 1 << 20,
                answer_bytes_max: 1 << 32,
                open_segments_max: 256,
                mount_wait_ms: 2_000,
            }
        }
    }
}
