//! The reader's settings and their defaults.

use serde::{Deserialize, Serialize};
use sync::owners_view::OWNERS_AGE_MAX;

use crate::connection::SqliteSettings;
use crate::http::HttpSettings;
use crate::query::control::Limits;
use crate::route::ForwardSettings;

/// Settings of `trough read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReaderSettings {
    /// Names that this server answers to, besides its addresses, `localhost` and the machine's name. A host
    /// that is none of them and no segment's either is answered with 421.
    pub host_names: Vec<String>,
    /// Queries that run at once, each on a thread of its own.
    pub concurrency: usize,
    /// Queries that may wait for one of those; one more is answered with 429.
    pub queue_max: usize,
    /// The longest a query may take, from its head to the last byte of its answer, in milliseconds.
    pub query_ms: u64,
    /// The longest a query of a segment that is being written may take, if that is less, in milliseconds: while it reads,
    /// the log that is written cannot be emptied.
    pub writable_read_ms: u64,
    /// An answer from a copy says how long ago it was heard who writes what, if that is more, in milliseconds. So long it is
    /// waited for news of an owner that gave its segment back, too.
    pub view_max_age_ms: u64,
    /// How long a body may take to arrive, in milliseconds.
    pub body_ms: u64,
    /// The longest body, in bytes.
    pub body_bytes_max: u64,
    /// The longest answer, in bytes.
    pub answer_bytes_max: u64,
    /// The most temporary data that one query may write, in bytes.
    pub temp_bytes_max: u64,
    /// Connections to segments kept open for the next query; some 50 KB and one descriptor each.
    pub open_connections_max: usize,
    /// How many of them may be to one segment.
    pub connections_per_segment_max: usize,
    /// How long a query waits for a missing mount to come back before it is answered with 503, in
    /// milliseconds.
    pub mount_wait_ms: u64,
    /// How often segments that were replaced and are not asked for any more are looked for and closed, in
    /// milliseconds.
    pub sweep_ms: u64,
    /// The most memory that SQLite may take in the whole process, in bytes; the last resort.
    pub sqlite_heap_bytes_max: u64,
    /// SQLite's limits for each query.
    pub sqlite: SqliteSettings,
    /// How readers of other nodes are asked.
    pub forward: ForwardSettings,
    /// The HTTP server's limits.
    pub http: HttpSettings,
}

impl Default for ReaderSettings {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            host_names: Vec::new(),
            // a query waits for the disk now and then
            concurrency: (2 * cores).max(4),
            queue_max: 1024,
            query_ms: 60_000,
            writable_read_ms: 10_000,
            view_max_age_ms: OWNERS_AGE_MAX.as_millis() as u64,
            body_ms: 10_000,
            // clients of the original write long lists into their statements
            body_bytes_max: 1 << 20,
            answer_bytes_max: 1 << 30,
            temp_bytes_max: 1 << 30,
            open_connections_max: 4096,
            connections_per_segment_max: 8,
            mount_wait_ms: 2000,
            sweep_ms: 10_000,
            sqlite_heap_bytes_max: 2 << 30,
            sqlite: SqliteSettings::default(),
            forward: ForwardSettings::default(),
            http: HttpSettings::default(),
        }
    }
}

impl ReaderSettings {
    /// What one query is held to.
    pub fn limits(&self) -> Limits {
        Limits {
            query_ms: self.query_ms,
            stall_ms: self.http.stall_ms.into(),
            answer_bytes_max: self.answer_bytes_max,
            temp_bytes_max: self.temp_bytes_max,
        }
    }
}
