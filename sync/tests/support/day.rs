//! The time of day, which only the test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sync::clock::Clock;

/// Begins at a million seconds after 1970. Clones are of one clock.
#[derive(Debug, Clone)]
pub struct Day(Arc<AtomicU64>);

impl Day {
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_000_000_000)))
    }

    pub fn pass(&self, time: Duration) {
        self.0.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub fn set_back(&self, time: Duration) {
        self.0.fetch_sub(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for Day {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}
