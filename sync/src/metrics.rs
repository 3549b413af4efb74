//! The names of what this crate counts, with unit and meaning; recorded here so that a name stands once.

use std::time::Duration;

use fsd::status::FsStatus;
use metrics::{counter, gauge, histogram};

use crate::lead::CycleReport;
use crate::local::status::LocalStatus;
use crate::pull::PullError;

/// Listings of the deep store, by whether they saw everything.
pub const LISTINGS_TOTAL: &str = "trough_sync_listings_total";
/// How long listings took, in seconds.
pub const LISTING_SECONDS: &str = "trough_sync_listing_seconds";
/// Segments published into the cache.
pub const PUBLISHED_TOTAL: &str = "trough_sync_published_total";
/// Bytes of them.
pub const PUBLISHED_BYTES_TOTAL: &str = "trough_sync_published_bytes_total";
/// Pulls that came to nothing, by reason.
pub const PULL_FAILURES_TOTAL: &str = "trough_sync_pull_failures_total";
/// Segments of the pool, by state.
pub const SEGMENTS: &str = "trough_sync_segments";
/// Bytes in the cache, by kind.
pub const CACHE_BYTES: &str = "trough_sync_cache_bytes";
/// When the newest complete listing ended, seconds since 1970: the age of this node's view (S9).
pub const COMPLETE_LISTING_TIME: &str = "trough_sync_complete_listing_timestamp_seconds";
/// Since when there has been something to pull all the time, seconds since 1970; 0 while there is nothing.
pub const BEHIND_SINCE: &str = "trough_sync_behind_since_timestamp_seconds";
/// When the lead of the cluster was last heard, seconds since 1970 (S9).
pub const LEAD_HEARD_TIME: &str = "trough_sync_lead_heard_timestamp_seconds";
/// Bytes that the volume of the cache has free for trough.
pub const VOLUME_FREE_BYTES: &str = "trough_sync_volume_free_bytes";
/// 1 while the volume (`disk`) or the ledger does not take what is written, by part.
pub const WRITE_PROBLEM: &str = "trough_sync_write_problem";
/// 1 while a live mount shows the cache (S5, S6).
pub const MOUNT_LIVE: &str = "trough_sync_mount_live";
/// What fsd counts, by figure: it has no port of its own, so the synchronizer shows its `.trough/status.json`.
/// They begin again when fsd does.
pub const MOUNT_FIGURES: &str = "trough_fsd";
/// Requests of the kernel that fsd answered with an error, by kind.
pub const MOUNT_ERRORS: &str = "trough_fsd_errors";
/// Objects whose bytes were found damaged after admission (S2).
pub const DAMAGED_TOTAL: &str = "trough_sync_damaged_total";

/// Counter: segments published by this process.
pub const PUBLISHED_SEGMENTS: &str = "trough_put_segments_total";
/// Counter, bytes: how much of segments this process published.
pub const PUBLISHED_BYTES: &str = "trough_put_bytes_total";
/// Counter: publications that failed, by `step`.
pub const PUBLISH_FAILURES: &str = "trough_put_failures_total";
/// Counter: publications refused because the fence had moved on (S4).
pub const PUBLISH_FENCED: &str = "trough_put_fenced_total";

/// 1 while this process leads.
pub const LEADS: &str = "trough_lead";
/// Cycles of the lead, by whether they came to their end.
pub const CYCLES_TOTAL: &str = "trough_lead_cycles_total";
/// How long they took, by step, in seconds.
pub const CYCLE_SECONDS: &str = "trough_lead_cycle_seconds";
/// Bytes that they wrote into the registry.
pub const CYCLE_WRITTEN_BYTES_TOTAL: &str = "trough_lead_written_bytes_total";
/// Copies of segments as the lead plans them, by kind: wanted, missing, without a place.
pub const COPIES: &str = "trough_lead_copies";
/// Segments that the deep store does not show any more and that wait for a person (S9).
pub const REMOVALS_WAITING: &str = "trough_lead_removals_waiting";

/// Tags that others are told for an instance of a service, by service.
pub const ANNOUNCED_TAGS: &str = "trough_discovery_tags";
/// Tags that they are not told, because there are too many, by service.
pub const ANNOUNCED_TAGS_LEFT_OUT: &str = "trough_discovery_tags_left_out";
/// Times that they were told, by service and whether it was done.
pub const ANNOUNCEMENTS_TOTAL: &str = "trough_discovery_registrations_total";
/// 1 while a person has taken this node out.
pub const MAINTENANCE: &str = "trough_maintenance";

pub(crate) fn announces(service: &str, tags: usize, left_out: usize) {
    gauge!(ANNOUNCED_TAGS, "service" => service.to_owned()).set(tags as f64);
    gauge!(ANNOUNCED_TAGS_LEFT_OUT, "service" => service.to_owned()).set(left_out as f64);
}

pub(crate) fn announced(service: &str, done: bool) {
    let done = if done { "yes" } else { "no" };
    counter!(ANNOUNCEMENTS_TOTAL, "service" => service.to_owned(), "done" => done).increment(1);
}

pub(crate) fn maintenance(on: bool) {
    gauge!(MAINTENANCE).set(if on { 1.0 } else { 0.0 });
}

pub(crate) fn leads(yes: bool) {
    gauge!(LEADS).set(if yes { 1.0 } else { 0.0 });
}

pub(crate) fn cycle_failed() {
    counter!(CYCLES_TOTAL, "done" => "no").increment(1);
}

pub(crate) fn cycled(report: &CycleReport) {
    counter!(CYCLES_TOTAL, "done" => "yes").increment(1);
    let steps = [
        ("look", Some(report.look_ms)),
        ("list", report.list_ms),
        ("plan", Some(report.plan_ms)),
        ("write", Some(report.write_ms)),
    ];
    for (step, ms) in steps {
        if let Some(ms) = ms {
            histogram!(CYCLE_SECONDS, "step" => step).record(ms as f64 / 1_000.0);
        }
    }
    counter!(CYCLE_WRITTEN_BYTES_TOTAL).increment(report.written.bytes as u64);
    if let Some(figures) = &report.figures {
        gauge!(COPIES, "kind" => "wanted").set(figures.copies_wanted as f64);
        gauge!(COPIES, "kind" => "missing").set(figures.copies_missing as f64);
        gauge!(COPIES, "kind" => "unplaced").set(figures.copies_unplaced as f64);
    }
    let waiting = report.held_back.as_ref().map_or(0, |held_back| held_back.missing);
    gauge!(REMOVALS_WAITING).set(waiting as f64);
}

pub(crate) fn listed(complete: bool, took: Duration) {
    let complete = if complete { "yes" } else { "no" };
    counter!(LISTINGS_TOTAL, "complete" => complete).increment(1);
    histogram!(LISTING_SECONDS).record(took.as_secs_f64());
}

pub(crate) fn published(bytes: u64) {
    counter!(PUBLISHED_TOTAL).increment(1);
    counter!(PUBLISHED_BYTES_TOTAL).increment(bytes);
}

pub(crate) fn pull_failed(error: &PullError) {
    let reason = match error {
        PullError::Store(_) => "store",
        PullError::Gone(_) => "gone",
        PullError::Changing { .. } => "changing",
        PullError::Refused { .. } | PullError::SideFile { .. } => "refused",
        PullError::Cache(_) => "cache",
    };
    counter!(PULL_FAILURES_TOTAL, "reason" => reason).increment(1);
}

/// A count as a gauge takes it.
fn float(count: u64) -> f64 {
    count as f64
}

pub(crate) fn gauges(status: &LocalStatus) {
    let segments = status.segments;
    for (state, count) in [
        ("held", segments.held),
        ("pending", segments.pending),
        ("refused", segments.refused),
        ("no_place", segments.no_place),
        ("withdrawn", segments.withdrawn),
    ] {
        gauge!(SEGMENTS, "state" => state).set(float(count));
    }
    let cache = status.cache;
    for (kind, bytes) in [
        ("quota", cache.quota_bytes),
        ("objects", cache.objects_bytes),
        ("incoming", cache.incoming_bytes),
        ("quarantine", cache.quarantine_bytes),
    ] {
        gauge!(CACHE_BYTES, "kind" => kind).set(float(bytes));
    }
    if let Some(at_ms) = status.store.complete_listing_at_ms {
        gauge!(COMPLETE_LISTING_TIME).set(float(at_ms) / 1_000.0);
    }
    gauge!(BEHIND_SINCE).set(float(status.behind_since_ms.unwrap_or_default()) / 1_000.0);
    if let Some(at_ms) = status.lead.as_ref().and_then(|lead| lead.heard_at_ms) {
        gauge!(LEAD_HEARD_TIME).set(float(at_ms) / 1_000.0);
    }
    let disk = &status.disk;
    if let Some(free_bytes) = disk.free_bytes {
        gauge!(VOLUME_FREE_BYTES).set(float(free_bytes));
    }
    for (part, problem) in [("disk", &disk.problem), ("ledger", &disk.ledger_problem)] {
        gauge!(WRITE_PROBLEM, "part" => part).set(if problem.is_some() { 1.0 } else { 0.0 });
    }
    gauge!(MOUNT_LIVE).set(if status.mount.live { 1.0 } else { 0.0 });
    counter!(DAMAGED_TOTAL).absolute(status.work.damaged_total);
    if let Some(figures) = &status.mount.figures {
        mount_figures(figures);
    }
}

fn mount_figures(figures: &FsStatus) {
    let signed = |count: i64| count as f64;
    for (figure, value) in [
        ("passthrough", if figures.passthrough { 1.0 } else { 0.0 }),
        ("open_handles", signed(figures.open_handles)),
        ("backing_ids", signed(figures.backing_ids)),
        ("mapped_objects", signed(figures.mapped_objects)),
        ("inodes", float(figures.inodes)),
        ("lookups", float(figures.lookups)),
        ("negative_lookups", float(figures.negative_lookups)),
        ("opens_passthrough", float(figures.opens_passthrough)),
        ("opens_mapped", float(figures.opens_mapped)),
        ("stale_answers", float(figures.stale_answers)),
        ("invalidations", float(figures.invalidations)),
        ("invalidations_failed", float(figures.invalidations_failed)),
        ("watch_overflows", float(figures.watch_overflows)),
        ("mounted_at_seconds", float(figures.mounted_at_ms) / 1_000.0),
    ] {
        gauge!(MOUNT_FIGURES, "figure" => figure).set(value);
    }
    for (kind, count) in &figures.errors {
        gauge!(MOUNT_ERRORS, "kind" => kind.clone()).set(float(*count));
    }
}
