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
    /// Milliseconds since boot; 0 before the first and after the end.
    until_ms: Arc<AtomicU64>,
}

impl Deadline {
    /// One that has passed.
    pub(crate) fn new(since_boot: SinceBoot) -> Self {
        Self { since_boot, until_ms: Arc::default() }
    }

    /// What its clock says.
    pub(crate) fn now(&self) -> Duration {
        (self.since_boot)()
    }

    /// Moves it to `ttl` after `asked`, which is when the question was sent, unless it is later already.
    pub(crate) fn extend(&self, asked: Duration, ttl: Duration) {
        self.until_ms.fetch_max(ms(asked + ttl), Ordering::Relaxed);
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        self.until_ms.store(0, Ordering::Relaxed);
    }

    /// Whether it has not passed.
    pub(crate) fn holds(&self) -> bool {
        ms(self.now()) < self.until_ms.load(Ordering::Relaxed)
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
