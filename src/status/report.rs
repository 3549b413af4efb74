//! The status as a person reads it.

use std::fmt::Write;

use serde::Deserialize;

use crate::rows::{bytes, counted};

/// REPLACE AT THE MERGE by `sync::local::LocalStatus`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct LocalStatus {
    /// Segments verified, published and seen through the mount.
    pub held: u64,
    /// Wanted, not yet pulled.
    pub pending: u64,
    /// The quota has no place for them.
    pub no_place: u64,
    /// Their current version was refused, with the reason; the first ones.
    pub refused: Vec<Refused>,
    /// Files in quarantine.
    pub quarantined: u64,
    /// Bytes of the verified files.
    pub stored_bytes: u64,
    /// The most they may take.
    pub quota_bytes: u64,
    /// Live, absent or dead, and how files are read through it.
    pub mount: String,
    /// The deep store's address.
    pub store: String,
    /// Whether it answered when it was last asked; why not.
    pub store_error: Option<String>,
    /// Seconds since the newest complete listing.
    pub view_age_s: Option<u64>,
    /// Parts of the files that the running scrub has read, 0 to 1.
    pub scrub_progress: Option<f64>,
    /// Damaged files found since the start.
    pub scrub_damaged: u64,
    /// Removals that wait for a person.
    pub removals_waiting: u64,
}

/// A segment that was refused.
#[derive(Debug, Clone, Deserialize)]
pub struct Refused {
    /// Its id.
    pub id: String,
    /// Why, and what to do.
    pub reason: String,
}

/// The most refused segments that are listed.
const REFUSED_SHOWN: usize = 20;

/// The status as lines.
pub fn render(status: &LocalStatus) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // writing to a string does not fail
        let _ = writeln!(text, "{name:<12}{value}");
    };
    let mut segments = format!("{} held", status.held);
    for (count, what) in [
        (status.pending, "pending"),
        (status.refused.len() as u64, "refused"),
        (status.no_place, "without a place in the quota"),
    ] {
        let _ = write!(segments, ", {count} {what}");
    }
    line("segments", segments);
    let percent = (status.stored_bytes * 100).checked_div(status.quota_bytes).unwrap_or(0);
    let (stored, quota) = (bytes(status.stored_bytes), bytes(status.quota_bytes));
    line("cache", format!("{stored} of {quota} ({percent} %)"));
    line("mount", status.mount.clone());
    let seen = match status.view_age_s {
        Some(age) => {
            format!("listed {} ago", counted(usize::try_from(age).unwrap_or(usize::MAX), "second"))
        }
        None => "never listed completely".to_owned(),
    };
    let reach = status
        .store_error
        .as_ref()
        .map_or_else(|| "reachable".to_owned(), |why| format!("AWAY: {why}"));
    line("deep store", format!("{}, {reach}, {seen}", status.store));
    let scrub = match status.scrub_progress {
        Some(part) => format!("{:.0} % of this round", part * 100.0),
        None => "not running".to_owned(),
    };
    line("scrub", format!("{scrub}, {} damaged", status.scrub_damaged));
    line("quarantine", counted(usize::try_from(status.quarantined).unwrap_or(usize::MAX), "file"));
    if status.removals_waiting > 0 {
        let waiting = status.removals_waiting;
        line(
            "attention",
            format!(
                "{waiting} segments vanished from the deep store at once and are kept; if that is right, say so with \
             POST /accept-removals"
            ),
        );
    }
    for refused in status.refused.iter().take(REFUSED_SHOWN) {
        line("refused", format!("{}: {}", refused.id, refused.reason));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_needs_attention() {
        let refused = Refused { id: "x".into(), reason: "not SQLite".into() };
        let status = LocalStatus {
            held: 3,
            stored_bytes: 1 << 20,
            quota_bytes: 4 << 20,
            refused: vec![refused],
            store_error: Some("timed out".into()),
            ..LocalStatus::default()
        };
        let text = render(&status);
        for part in [
            "3 held, 0 pending, 1 refused",
            "1.00 MiB of 4.00 MiB (25 %)",
            "AWAY: timed out",
            "x: not SQLite",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
