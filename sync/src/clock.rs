//! The time of day, as an argument, and the clock that leases are counted on. Other durations are measured
//! with tokio's monotonic clock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tells the time of day.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Time since this machine started, its sleep included: a lease runs out while a laptop is shut, which
/// `std::time::Instant` (CLOCK_MONOTONIC) would not see.
pub fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// [`since_boot`] as an argument.
pub type SinceBoot = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The moment until which a lease or a session may be believed in. Clones are of one moment.
#[derive(Clone)]
pub(crate) struct Deadline {
    since_boot: SinceBoot,
    /// Milliseconds since boot; 0 before the first.
    until_ms: Arc<AtomicU64>,
}

/// What a deadline is that was ended.
const ENDED: u64 = u64::MAX;

impl Deadline {
    /// One that has passed.
    pub(crate) fn new(since_boot: SinceBoot) -> Self {
        Self { since_boot, until_ms: Arc::default() }
    }

    /// What its clock says.
    pub(crate) fn now(&self) -> Duration {
        (self.since_boot)()
    }

    /// Moves it to `ttl` after `asked`, which is when the question was sent, unless it is later already or was ended.
    pub(crate) fn extend(&self, asked: Duration, ttl: Duration) {
        let later = |until| (until != ENDED).then(|| ms(asked + ttl).max(until));
        // refused only where it was ended
        let _ = self.until_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }

    /// Ends it for good: an answer that was on its way does not bring it back.
    pub(crate) fn end(&self) {
        self.until_ms.store(ENDED, Ordering::Relaxed);
    }

    /// The moment itself; the boot of the machine when it was ended.
    pub(crate) fn until(&self) -> Duration {
        match self.until_ms.load(Ordering::Relaxed) {
            ENDED => Duration::ZERO,
            until => Duration::from_millis(until),
        }
    }

    /// Whether it has not passed.
    pub(crate) fn holds(&self) -> bool {
        let until = self.until_ms.load(Ordering::Relaxed);
        until != ENDED && ms(self.now()) < until
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).map_or(ENDED - 1, |ms| ms.min(ENDED - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_passes_and_one_that_was_ended_stays_so() {
        let now_ms = Arc::new(AtomicU64::new(1_000));
        let clock = now_ms.clone();
        let until =
            Deadline::new(Arc::new(move || Duration::from_millis(clock.load(Ordering::Relaxed))));
        assert!(!until.holds());
        let (asked, ttl) = (until.now(), Duration::from_millis(100));
        until.extend(asked, ttl);
        // an answer to an earlier question, which comes later, takes nothing away
        until.extend(asked - Duration::from_millis(50), ttl);
        now_ms.store(1_099, Ordering::Relaxed);
        assert!(until.holds());
        now_ms.store(1_100, Ordering::Relaxed);
        assert!(!until.holds());
        until.extend(until.now(), Duration::MAX - until.now());
        assert!(until.holds());
        until.end();
        until.extend(until.now(), ttl);
        assert!(!until.holds());
    }
}
