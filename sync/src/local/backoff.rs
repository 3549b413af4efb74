//! How long to leave alone what failed: doubling, bounded, and forgotten on success.
//!
//! Left out: what is retried. The owner keeps one value for each thing that can fail by itself.

use std::time::Duration;

/// A doubling delay between two bounds.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts at `first` and never waits longer than `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// Counts one failure and says how long to wait after it.
    pub fn failed(&mut self) -> Duration {
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        self.first.saturating_mul(factor).min(self.longest)
    }

    /// Begins anew.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_bound_and_begins_anew() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::new(seconds(1), seconds(5));
        let delays: Vec<_> = (0..5).map(|_| backoff.failed()).collect();
        assert_eq!(delays, [1, 2, 4, 5, 5].map(seconds));
        for _ in 0..100 {
            assert_eq!(backoff.failed(), seconds(5));
        }
        backoff.succeeded();
        assert_eq!(backoff.failed(), seconds(1));
    }
}
