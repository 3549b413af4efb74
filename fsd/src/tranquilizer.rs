//! Keeps background work to a set share of the time (S12): after each unit of work it says how long to rest,
//! as a multiple of the mean time of the last units, so the share holds whatever the disk's speed.

use std::collections::VecDeque;
use std::time::Duration;

/// How many of the last units the mean is taken over: few enough to follow a disk that slows down.
const WINDOW_UNITS: usize = 16;

/// The longest rest after one unit: one slow unit does not stop the work for hours.
const REST_MAX: Duration = Duration::from_secs(60);

/// Remembers the time of the last units of work.
#[derive(Debug, Default)]
pub struct Tranquilizer {
    units: VecDeque<Duration>,
}

impl Tranquilizer {
    /// Notes a unit that took `unit` and returns the rest that keeps the work at `share` (above 0, at most 1)
    /// of the time: `mean(unit time) x (1 - share) / share`.
    pub fn rest_after(&mut self, unit: Duration, share: f64) -> Duration {
        if self.units.len() == WINDOW_UNITS {
            self.units.pop_front();
        }
        self.units.push_back(unit);
        let mean =
            self.units.iter().map(Duration::as_secs_f64).sum::<f64>() / self.units.len() as f64;
        let share = share.clamp(0.0, 1.0);
        Duration::try_from_secs_f64(mean * (1.0 - share) / share)
            .map_or(REST_MAX, |rest| rest.min(REST_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s12_work_and_rest_stand_in_the_set_ratio() {
        let mut tranquilizer = Tranquilizer::default();
        let unit = Duration::from_millis(10);
        assert_eq!(tranquilizer.rest_after(unit, 0.1).as_millis(), 90);
        assert_eq!(tranquilizer.rest_after(unit, 1.0), Duration::ZERO);
        // the mean of 10, 10 and 40 ms
        assert_eq!(tranquilizer.rest_after(4 * unit, 0.5).as_millis(), 20);
        // old units leave the mean
        for _ in 0..WINDOW_UNITS {
            tranquilizer.rest_after(unit, 0.5);
        }
        assert_eq!(tranquilizer.rest_after(unit, 0.5).as_millis(), 10);
        assert_eq!(tranquilizer.rest_after(unit, 0.0), REST_MAX);
    }
}
