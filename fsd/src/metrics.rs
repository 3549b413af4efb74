//! The names of all figures that this crate counts, with their units and meaning.

/// Segments published into the cache (count).
pub const CACHE_PUBLISHED: &str = "trough_cache_published_total";
/// Staged files that were refused, by label `step` (count; S2).
pub const CACHE_REFUSED: &str = "trough_cache_refused_total";
/// Files moved into quarantine (count; S2).
pub const CACHE_QUARANTINED: &str = "trough_cache_quarantined_total";
/// Bytes that scrub has read from the disk (bytes; S2).
pub const SCRUB_READ_BYTES: &str = "trough_scrub_read_bytes_total";
/// Objects that scrub found damaged (count; S2).
pub const SCRUB_CORRUPTIONS: &str = "trough_scrub_corruptions_total";
/// When scrub last completed a run (seconds since 1970; S2).
pub const SCRUB_COMPLETED: &str = "trough_scrub_completed_timestamp_seconds";
/// Units of background work that failed, by label `worker` (count).
pub const WORKER_ERRORS: &str = "trough_worker_errors_total";

pub(crate) fn worker_error(worker: &'static str) {
    metrics::counter!(WORKER_ERRORS, "worker" => worker).increment(1);
}
