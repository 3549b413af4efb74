//! The settings of a writer.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use sync::write_lock::Takeover;

use crate::http::HttpSettings;
use crate::writable::WritableSettings;

/// How segments are written, published and given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WriterSettings {
    /// Where segments lie while they are open for writing.
    pub dir: PathBuf,
    /// Names that this server answers to, besides its addresses, `localhost` and the machine's name.
    pub host_names: Vec<String>,
    /// Take writes on an address that other machines reach, from anybody who can.
    pub insecure_open: bool,
    /// Segments that may be open at once; each takes two threads and six open files.
    pub open_max: usize,
    /// What was written is published when it is so old, in seconds.
    pub promote_after_s: u64,
    /// And when so many bytes of pages were written since.
    pub promote_bytes: u64,
    /// Segments that are published at the same time.
    pub promote_concurrency: usize,
    /// A segment to which nothing was written for so long is given back, in seconds, once its last version is read
    /// elsewhere.
    pub idle_s: u64,
    /// When another node's writes that are not published are given up for lost, so that the segment can be written
    /// again, in seconds; 0: at once; "never".
    pub takeover_dirty_after_s: DirtyTakeover,
    /// How long a segment that has copies is kept from its first write, until every reader knows who writes it, in
    /// milliseconds.
    pub view_max_age_ms: u64,
    /// How each segment is written.
    #[serde(flatten)]
    pub write: WritableSettings,
    /// The HTTP server's limits.
    pub http: HttpSettings,
}

impl Default for WriterSettings {
    fn default() -> Self {
        Self {
            dir: "writable".into(),
            host_names: Vec::new(),
            insecure_open: false,
            open_max: 1000,
            promote_after_s: 300,
            promote_bytes: 256 << 20,
            promote_concurrency: 2,
            idle_s: 600,
            takeover_dirty_after_s: DirtyTakeover::AfterS(900),
            view_max_age_ms: 2_000,
            write: WritableSettings::default(),
            http: HttpSettings { connections_max: 1024, ..HttpSettings::default() },
        }
    }
}

/// When unpublished writes of a node that is gone are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirtyTakeover {
    /// After so many seconds.
    AfterS(u64),
    /// Only when that node comes back.
    Never,
}

/// How a setting says [`DirtyTakeover::Never`].
const NEVER: &str = "never";

impl From<DirtyTakeover> for Takeover {
    fn from(setting: DirtyTakeover) -> Self {
        match setting {
            DirtyTakeover::AfterS(s) => Self::After(Duration::from_secs(s)),
            DirtyTakeover::Never => Self::Never,
        }
    }
}

impl Serialize for DirtyTakeover {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::AfterS(s) => serializer.serialize_u64(*s),
            Self::Never => serializer.serialize_str(NEVER),
        }
    }
}

impl<'de> Deserialize<'de> for DirtyTakeover {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = DirtyTakeover;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number of seconds, or \"{NEVER}\"")
            }

            fn visit_u64<E>(self, s: u64) -> Result<DirtyTakeover, E> {
                Ok(DirtyTakeover::AfterS(s))
            }

            fn visit_i64<E: de::Error>(self, s: i64) -> Result<DirtyTakeover, E> {
                u64::try_from(s).map(DirtyTakeover::AfterS).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<DirtyTakeover, E> {
                match text {
                    NEVER => Ok(DirtyTakeover::Never),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}
