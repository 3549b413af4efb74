//! The figures of one fsd, as `.trough/status.json` shows them.
//!
//! Invariant: counting never blocks and never fails. [`FsStatus`] is what other processes parse; fields are
//! only ever added to it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::filesystem::errno::{Failure, KINDS};

/// What fsd says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FsStatus {
    /// The process that serves this mount.
    pub pid: u32,
    /// The version of trough it runs.
    pub version: String,
    /// When it was mounted, milliseconds since 1970; another value is another mount.
    pub mounted_at_ms: u64,
    /// How the mount came to its place: `fresh`, `beneath` or `replaced`.
    pub placed: String,
    /// The cache it shows.
    pub cache_dir: String,
    /// The kernel's release.
    pub kernel: String,
    /// The FUSE protocol the kernel offered.
    pub fuse_protocol: String,
    /// Whether reads bypass fsd.
    pub passthrough: bool,
    /// Why they do not.
    pub passthrough_off_reason: Option<String>,
    /// Why invalidation or an upgrade failed last, if one did.
    pub last_error: Option<String>,
    /// Inodes that the kernel remembers.
    pub inodes: u64,
    /// Handles open on segments now.
    pub open_handles: i64,
    /// Objects registered with the kernel for passthrough now.
    pub backing_ids: i64,
    /// Objects mapped into memory because passthrough is not there.
    pub mapped_objects: i64,
    /// Names looked up.
    pub lookups: u64,
    /// Of them, answered as absent.
    pub negative_lookups: u64,
    /// Opens answered with passthrough.
    pub opens_passthrough: u64,
    /// Opens answered from a mapping.
    pub opens_mapped: u64,
    /// Opens of a version that was replaced; the kernel looks the name up again.
    pub stale_answers: u64,
    /// Names whose memory in the kernel was dropped.
    pub invalidations: u64,
    /// Invalidations that the kernel refused.
    pub invalidations_failed: u64,
    /// How often events were lost and all names invalidated.
    pub watch_overflows: u64,
    /// Requests that failed, by kind.
    pub errors: BTreeMap<String, u64>,
}

/// The counters behind [`FsStatus`].
#[derive(Debug, Default)]
pub struct Figures {
    /// See the field of the same name in [`FsStatus`]; likewise below.
    pub open_handles: AtomicI64,
    #[allow(missing_docs)]
    pub backing_ids: AtomicI64,
    #[allow(missing_docs)]
    pub mapped_objects: AtomicI64,
    #[allow(missing_docs)]
    pub lookups: AtomicU64,
    #[allow(missing_docs)]
    pub negative_lookups: AtomicU64,
    #[allow(missing_docs)]
    pub opens_passthrough: AtomicU64,
    #[allow(missing_docs)]
    pub opens_mapped: AtomicU64,
    #[allow(missing_docs)]
    pub stale_answers: AtomicU64,
    #[allow(missing_docs)]
    pub invalidations: AtomicU64,
    #[allow(missing_docs)]
    pub invalidations_failed: AtomicU64,
    #[allow(missing_docs)]
    pub watch_overflows: AtomicU64,
    errors: [AtomicU64; KINDS.len()],
    facts: Mutex<Facts>,
}

/// What does not change by counting.
#[derive(Debug, Default, Clone)]
struct Facts {
    mounted_at_ms: u64,
    placed: String,
    fuse_protocol: String,
    passthrough_off_reason: Option<String>,
    last_error: Option<String>,
}

/// Adds one.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn kernel_release() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    text.trim_end().to_owned()
}

impl Figures {
    /// Counts a request that failed.
    pub fn failed(&self, failure: &Failure) {
        count(&self.errors[failure.kind() as usize]);
    }

    /// Notes that the mount stands since `mounted_at_ms`.
    pub fn mounted(&self, mounted_at_ms: u64, placed: &str) {
        self.with(|facts| {
            facts.mounted_at_ms = mounted_at_ms;
            facts.placed = placed.to_owned();
        });
    }

    /// Notes what the kernel offered.
    pub fn protocol(&self, text: String) {
        self.with(|facts| facts.fuse_protocol = text);
    }

    /// Notes why passthrough is not used; the first reason stays. True when it is the first.
    pub fn no_passthrough(&self, reason: String) -> bool {
        let mut first = false;
        self.with(|facts| {
            first = facts.passthrough_off_reason.is_none();
            facts.passthrough_off_reason.get_or_insert(reason);
        });
        first
    }

    /// Notes a failure that went on beside the requests.
    pub fn trouble(&self, text: String) {
        self.with(|facts| facts.last_error = Some(text));
    }

    fn with(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.lock().expect("a panic ends the process, so no lock is poisoned"));
    }

    /// The figures now.
    pub fn snapshot(&self, cache_dir: &str, inodes: u64) -> FsStatus {
        let mut facts = Facts::default();
        self.with(|now| facts = now.clone());
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let errors = KINDS.iter().zip(&self.errors).map(|(kind, n)| (kind.to_string(), get(n)));
        FsStatus {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mounted_at_ms: facts.mounted_at_ms,
            placed: facts.placed,
            cache_dir: cache_dir.to_owned(),
            kernel: kernel_release(),
            fuse_protocol: facts.fuse_protocol,
            passthrough: facts.passthrough_off_reason.is_none(),
            passthrough_off_reason: facts.passthrough_off_reason,
            last_error: facts.last_error,
            inodes,
            open_handles: self.open_handles.load(Ordering::Relaxed),
            backing_ids: self.backing_ids.load(Ordering::Relaxed),
            mapped_objects: self.mapped_objects.load(Ordering::Relaxed),
            lookups: get(&self.lookups),
            negative_lookups: get(&self.negative_lookups),
            opens_passthrough: get(&self.opens_passthrough),
            opens_mapped: get(&self.opens_mapped),
            stale_answers: get(&self.stale_answers),
            invalidations: get(&self.invalidations),
            invalidations_failed: get(&self.invalidations_failed),
            watch_overflows: get(&self.watch_overflows),
            errors: errors.filter(|(_, n)| *n > 0).collect(),
        }
    }
}
