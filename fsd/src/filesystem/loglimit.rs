//! A bound on how many lines a flood of failures writes to the log.
//!
//! Invariant: in any period at most [`LINES_MAX`] failures are let through, and each one that is not is in the
//! count of some later [`LogLimit::suppressed`]. The status counts every failure all the same.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How many failures a period may log: enough to see what fails, too few to fill a disk.
pub const LINES_MAX: u32 = 10;
/// The period: what is wrong for longer is said again each minute.
pub const PERIOD: Duration = Duration::from_secs(60);

/// Lets some failures of a flood through and counts the rest.
#[derive(Debug, Default)]
pub struct LogLimit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the first failure of this period came; `None` before the first of all.
    began: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl State {
    fn is_over(&self, now: Instant) -> bool {
        self.began.is_none_or(|began| now.saturating_duration_since(began) >= PERIOD)
    }
}

impl LogLimit {
    /// Whether a failure at `now` may be logged.
    pub fn admits(&self, now: Instant) -> bool {
        let mut state = self.state();
        if state.is_over(now) {
            (state.began, state.lines) = (Some(now), 0);
        }
        if state.lines < LINES_MAX {
            state.lines += 1;
            return true;
        }
        state.suppressed += 1;
        false
    }

    /// How many failures were not logged since this said so last; `None` for none, and before the period is over.
    pub fn suppressed(&self, now: Instant) -> Option<u64> {
        let mut state = self.state();
        if state.suppressed == 0 || !state.is_over(now) {
            return None;
        }
        Some(std::mem::take(&mut state.suppressed))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("a panic ends the process, so no lock is poisoned")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;
    use crate::filesystem::Tree;
    use crate::filesystem::errno::Failure;
    use crate::layout::Layout;
    use crate::mount::MountSettings;
    use crate::segment::{Digest, SegmentId};

    /// Counts lines.
    struct Lines(Arc<AtomicU32>);

    impl Subscriber for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn a_failing_disk_does_not_flood_the_log_and_the_status_counts_every_request() {
        let facts = |_: &SegmentId, _: &Digest| None;
        let layout = Layout::new("/nowhere");
        let tree = Tree::new(&layout, &MountSettings::default(), Box::new(facts));
        let lines = Arc::new(AtomicU32::new(0));
        tracing::subscriber::with_default(Lines(lines.clone()), || {
            for _ in 0..1000 {
                tree.failed("lookup", &Failure::Io(rustix::io::Errno::IO.into()));
            }
        });
        // the two periods that a slow machine may see
        let lines = lines.load(Ordering::Relaxed);
        assert!((LINES_MAX..=2 * LINES_MAX).contains(&lines), "{lines} lines");
        assert_eq!(tree.status().errors["io"], 1000);
    }

    #[test]
    fn a_flood_logs_a_few_lines_a_period_and_tells_of_the_rest_once() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let flood = |at: Instant| (0..1000).filter(|_| limit.admits(at)).count();
        assert_eq!(limit.suppressed(start), None, "nothing has failed yet");
        assert_eq!(flood(start), LINES_MAX as usize);
        let late = start + PERIOD - Duration::from_millis(1);
        assert_eq!(flood(late), 0, "the period is not over");
        assert_eq!(limit.suppressed(late), None, "a line for the rest comes once a period, too");
        assert_eq!(limit.suppressed(start + PERIOD), Some(1990));
        assert_eq!(limit.suppressed(start + PERIOD), None);
        assert_eq!(flood(start + PERIOD), LINES_MAX as usize);
        // a period that began before the count was told keeps it
        assert_eq!(flood(start + 2 * PERIOD), LINES_MAX as usize);
        assert_eq!(limit.suppressed(start + 3 * PERIOD), Some(1980));
    }

    #[test]
    fn single_failures_are_all_logged() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        for minute in 0..100 {
            assert!(limit.admits(start + minute * PERIOD));
        }
        assert_eq!(limit.suppressed(start + 101 * PERIOD), None);
    }
}
