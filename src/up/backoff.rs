//! How long to wait before a child that ended is started again.

use std::time::Duration;

/// The waits of one child: each twice the one before, up to a limit; from the start again once it ran well.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    well_after: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `first` to `longest`; a child that ran for `well_after` is well.
    pub fn new(first: Duration, longest: Duration, well_after: Duration) -> Self {
        Self { first, longest, well_after, next: first }
    }

    /// The wait after a child that ran for `ran`.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= self.well_after {
            self.next = self.first;
        }
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_begin_again_after_a_good_run() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(1000), ms(5000));
        let waits: Vec<u128> = (0..6).map(|_| backoff.after(ms(1)).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.after(ms(5000)), ms(100));
        assert_eq!(backoff.after(ms(0)), ms(200));
    }
}
