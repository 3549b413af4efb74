//! The status as a person reads it.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;
use sync::local::status::{LeadView, LocalStatus};
use sync::pool::ListingReport;

use crate::columns;
use crate::rows::{ago, bytes, percent, short};

/// The most problems that are listed; `--json` has them all.
const PROBLEMS_SHOWN: usize = 20;

/// The most files of each kind that are named of those that a listing could not take.
const EXAMPLES_SHOWN: usize = 5;

/// The status as lines, at the time `now_ms`.
pub fn render(status: &LocalStatus, now_ms: u64) -> String {
    let mut lines = vec![
        ("segments", segments(status)),
        ("cache", cache(status)),
        ("mount", mount(status)),
        ("deep store", store(status, now_ms)),
        ("work", work(status, now_ms)),
        ("scrub", scrub(status, now_ms)),
    ];
    if let Some(view) = &status.lead {
        lines.insert(0, ("lead", lead(view, now_ms)));
    }
    listing(&mut lines, &status.store.listing);
    let disk = &status.disk;
    let held_back = status.removals_held_back.as_ref().map(|held_back| &held_back.reason);
    let attention = [disk.problem.as_ref(), disk.ledger_problem.as_ref(), held_back];
    lines.extend(attention.into_iter().flatten().map(|what| ("attention", what.clone())));
    for problem in status.problems.iter().take(PROBLEMS_SHOWN) {
        let served = if problem.served { " (an older version is served)" } else { "" };
        lines.push(("not held", format!("{}: {}{served}", problem.id, problem.reason)));
    }
    if let Some(more @ 1..) = status.problems.len().checked_sub(PROBLEMS_SHOWN) {
        lines.push(("not held", format!("and {more} more; `--json` lists them")));
    }
    columns::named(lines)
}

/// What a listing passed over, found twice or could not see.
pub fn listing(lines: &mut Vec<(&'static str, String)>, listing: &ListingReport) {
    let skipped = listing.skipped.values().sum();
    examples(lines, "passed over", &listing.skipped_examples, skipped);
    examples(lines, "found twice", &listing.duplicate_examples, listing.duplicates);
    examples(lines, "not seen", &listing.unseen_examples, listing.unseen);
}

/// The first of what a listing has to say, and how much more there is.
fn examples(
    lines: &mut Vec<(&'static str, String)>,
    name: &'static str,
    examples: &[String],
    count: u64,
) {
    let shown = examples.len().min(EXAMPLES_SHOWN);
    lines.extend(examples[..shown].iter().map(|example| (name, example.clone())));
    if let Some(more @ 1..) = count.checked_sub(shown as u64) {
        lines.push((name, format!("and {more} more; `--json` has more of them")));
    }
}

fn segments(status: &LocalStatus) -> String {
    let counts = &status.segments;
    // in a cluster the lead says what of the pool is this node's
    let whole = if status.lead.is_some() { "for this node" } else { "in the pool" };
    let mut text = format!("{} {whole}: {} held", counts.pool, counts.held);
    for (count, what) in [
        (counts.pending, "pending"),
        (counts.refused, "refused"),
        (counts.no_place, "without a place in the quota"),
        (counts.withdrawn, "withdrawn"),
    ] {
        if count > 0 || what == "pending" {
            // writing to a string does not fail
            let _ = write!(text, ", {count} {what}");
        }
    }
    text
}

fn cache(status: &LocalStatus) -> String {
    let cache = &status.cache;
    let used = cache.objects_bytes + cache.incoming_bytes;
    let quota = cache.quota_bytes;
    let mut text = format!("{} of {} ({})", bytes(used), bytes(quota), percent(used, quota));
    if let Some(free) = status.disk.free_bytes {
        // writing to a string does not fail
        let _ = write!(text, "; its volume has {} free", bytes(free));
    }
    if cache.writable_bytes > 0 {
        // writing to a string does not fail
        let _ = write!(text, "; {} more are written here", bytes(cache.writable_bytes));
    }
    if cache.quarantine_bytes > 0 {
        // writing to a string does not fail
        let _ = write!(text, "; {} in quarantine", bytes(cache.quarantine_bytes));
    }
    text
}

fn mount(status: &LocalStatus) -> String {
    let mount = &status.mount;
    if !mount.live {
        return format!("{}: NOT THERE; is `trough fsd` running?", mount.path);
    }
    let reads = match &mount.figures {
        Some(figures) if figures.passthrough => {
            "; the kernel reads the files itself (passthrough)".to_owned()
        }
        Some(figures) => match &figures.passthrough_off_reason {
            Some(why) => format!("; without passthrough: {why}"),
            None => "; without passthrough".to_owned(),
        },
        None => String::new(),
    };
    format!("{}: live{reads}", mount.path)
}

/// The cluster's lead, as this node hears it.
fn lead(view: &LeadView, now_ms: u64) -> String {
    let epoch = match view.epoch {
        Some(epoch) => format!("epoch {}", short(epoch)),
        None => "has said nothing to this node yet".to_owned(),
    };
    let heard = match (&view.problem, view.heard_at_ms) {
        (Some(problem), _) => format!("NOT HEARD (what it said last holds): {problem}"),
        (None, Some(at)) => format!("heard {}", ago(at, now_ms)),
        (None, None) => "not heard yet".to_owned(),
    };
    let counted = if view.registered { "" } else { "; the others do NOT count on this node" };
    format!("{epoch}; {heard}{counted}")
}

fn store(status: &LocalStatus, now_ms: u64) -> String {
    let store = &status.store;
    let paused = store.pulls_paused.as_ref().map(|why| format!("; pulls pause: {why}"));
    let paused = paused.unwrap_or_default();
    if status.lead.is_some() {
        // the lead lists it
        return format!("{}{paused}", store.address);
    }
    let reach = match store.reachable {
        Some(true) => "reachable",
        Some(false) => "NOT WHOLLY REACHABLE (what is held stays served)",
        None => "not listed yet",
    };
    let age = store
        .complete_listing_at_ms
        .map(|at| format!(", its last complete listing was {}", ago(at, now_ms)));
    format!("{}: {reach}{}{paused}", store.address, age.unwrap_or_default())
}

fn work(status: &LocalStatus, now_ms: u64) -> String {
    let work = &status.work;
    let (done, size) = (work.published_total, bytes(work.published_bytes_total));
    let (pulls, queued) = (work.pulls, work.queued);
    let behind = status.behind_since_ms.map(|since| {
        let time = Duration::from_millis(now_ms.saturating_sub(since));
        format!(", something to pull for {} now", indicatif::HumanDuration(time))
    });
    let behind = behind.unwrap_or_default();
    format!("{pulls} pulls run, {queued} wait{behind}; {done} published since the start, {size}")
}

fn scrub(status: &LocalStatus, now_ms: u64) -> String {
    let figure = |name: &str| status.scrub.as_ref().and_then(|figures| figures.get(name));
    let time = |name: &str| figure(name).and_then(Value::as_u64);
    let share = |name: &str| 100.0 * figure(name).and_then(Value::as_f64).unwrap_or(0.0);
    let mut text = if figure("running").and_then(Value::as_bool) == Some(true) {
        let (done, share) = (share("progress"), share("disk_share"));
        let pace = match figure("pace").and_then(Value::as_str) {
            Some("period") => ", more than its share, to keep its period",
            Some("disk_share_max") => "; it cannot keep its period, the disk is too slow",
            Some(_) | None => "",
        };
        format!(
            "reading every file again, {done:.0} % done, at {share:.0} % of the disk's time{pace}"
        )
    } else {
        let last = time("completed_at_ms").map(|at| match time("read_bytes") {
            None | Some(0) => format!("found no file to read {}", ago(at, now_ms)),
            Some(read) => format!("read every file again {}, {}", ago(at, now_ms), bytes(read)),
        });
        let next = time("next_at_ms").map(|at| {
            let wait = Duration::from_millis(at.saturating_sub(now_ms));
            format!("next in {}", indicatif::HumanDuration(wait))
        });
        let parts: Vec<_> = last.into_iter().chain(next).collect();
        if parts.is_empty() { "not running".to_owned() } else { parts.join("; ") }
    };
    let damaged = match status.work.damaged_total {
        0 => "no damage found since the start".to_owned(),
        1 => "1 damaged file found since the start".to_owned(),
        count => format!("{count} damaged files found since the start"),
    };
    text.push_str("; ");
    text.push_str(&damaged);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use fsd::status::FsStatus;
    use sync::local::status::Problem;
    use sync::pool::guard::HeldBack;
    use sync::registry::{Epoch, SegmentState};
    use sync::store::SkipReason;

    #[test]
    fn a_status_says_what_needs_attention() {
        let mut status = LocalStatus::default();
        status.store.address = "hdfs://h:1/p".into();
        status.store.reachable = Some(false);
        status.store.complete_listing_at_ms = Some(40_000);
        status.segments.pool = 5;
        status.segments.held = 3;
        status.segments.pending = 1;
        status.segments.refused = 1;
        status.cache.quota_bytes = 4 << 20;
        status.cache.objects_bytes = 1 << 20;
        status.cache.quarantine_bytes = 9;
        status.disk.free_bytes = Some(2 << 20);
        status.disk.problem = Some("the volume is full".into());
        status.behind_since_ms = Some(40_000);
        status.mount.path = "/m".into();
        status.mount.live = true;
        status.mount.figures = Some(FsStatus { passthrough: true, ..FsStatus::default() });
        status.work.damaged_total = 2;
        let (id, state) = (fsd::segment::SegmentId::new("x").unwrap(), SegmentState::Refused);
        status.problems.push(Problem { id, state, reason: "not SQLite".into(), served: true });
        let held_back = HeldBack { missing: 30, of: 40, reason: "30 vanished".into() };
        status.removals_held_back = Some(held_back);
        let skipped = &mut status.store.listing;
        skipped.skipped.insert(SkipReason::Empty, 7);
        skipped.skipped_examples = (0..7).map(|n| format!("f{n}: it is empty")).collect();
        let text = render(&status, 100_000);
        for part in [
            "5 in the pool: 3 held, 1 pending, 1 refused\n",
            "1.00 MiB of 4.00 MiB (25 %); its volume has 2.00 MiB free; 9 B in quarantine",
            "0 pulls run, 0 wait, something to pull for 60 seconds now; 0 published",
            "attention   the volume is full\n",
            "/m: live; the kernel reads",
            "NOT WHOLLY REACHABLE (what is held stays served), its last complete listing was 60 seconds ago",
            "attention   30 vanished\n",
            "passed over f4: it is empty\npassed over and 2 more;",
            "x: not SQLite (an older version is served)",
            "2 damaged files",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn the_scrub_is_one_sentence() {
        let mut status = LocalStatus::default();
        let at = |figures: serde_json::Value, status: &mut LocalStatus| {
            status.scrub = Some(figures);
            scrub(status, 100_000)
        };
        let idle = serde_json::json!({"running": false, "read_bytes": 2048, "completed_at_ms": 99_500, "next_at_ms": 220_000});
        assert_eq!(
            at(idle, &mut status),
            "read every file again just now, 2.00 KiB; next in 2 minutes; no damage found since the start"
        );
        status.work.damaged_total = 1;
        let runs = serde_json::json!({"running": true, "progress": 0.25, "disk_share": 0.05, "pace": "disk_share"});
        assert_eq!(
            at(runs, &mut status),
            "reading every file again, 25 % done, at 5 % of the disk's time; 1 damaged file found since the start"
        );
    }

    #[test]
    fn a_node_of_a_cluster_says_whether_it_hears_the_lead_and_is_counted_on() {
        let mut status = LocalStatus::default();
        let mut view = LeadView { registered: true, heard_at_ms: Some(0), ..LeadView::default() };
        view.epoch = Some(Epoch { incarnation: 2, index: 70 });
        status.lead = Some(view.clone());
        assert!(
            render(&status, 5_000).starts_with("lead        epoch 2-70; heard 5 seconds ago\n")
        );
        view.problem = Some("Consul is away".into());
        view.registered = false;
        status.lead = Some(view);
        let text = render(&status, 5_000);
        assert!(
            text.contains("NOT HEARD") && text.contains("Consul is away; the others do NOT count")
        );
    }

    #[test]
    fn a_missing_mount_is_said() {
        assert!(render(&LocalStatus::default(), 0).contains("NOT THERE"));
    }
}
