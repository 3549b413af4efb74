//! When changes are told that come in crowds: after a rest, and at the latest so long after the first.

use std::time::Duration;

use tokio::time::Instant;

/// Changes that wait.
#[derive(Debug)]
pub(super) struct Debounce {
    rest: Duration,
    longest: Duration,
    /// The first and the last of those that were not told.
    waiting: Option<(Instant, Instant)>,
}

impl Debounce {
    pub(super) fn new(rest: Duration, longest: Duration) -> Self {
        Self { rest, longest, waiting: None }
    }

    /// Something changed.
    pub(super) fn changed(&mut self, now: Instant) {
        let first = self.waiting.map_or(now, |(first, _)| first);
        self.waiting = Some((first, now));
    }

    /// When to tell; `None` when nothing waits.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.map(|(first, last)| (first + self.longest).min(last + self.rest))
    }

    /// All was told.
    pub(super) fn told(&mut self) {
        self.waiting = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_after_a_rest_and_not_put_off_for_ever() {
        let (ms, begun) = (Duration::from_millis, Instant::now());
        let mut debounce = Debounce::new(ms(1_000), ms(2_000));
        assert_eq!(debounce.due(), None);
        for (at, due) in [(0, 1_000), (300, 1_300), (900, 1_900), (1_800, 2_000), (1_999, 2_000)] {
            debounce.changed(begun + ms(at));
            assert_eq!(debounce.due(), Some(begun + ms(due)), "{at}");
        }
        debounce.told();
        assert_eq!(debounce.due(), None);
        debounce.changed(begun + ms(2_000));
        assert_eq!(debounce.due(), Some(begun + ms(3_000)));
    }
}
