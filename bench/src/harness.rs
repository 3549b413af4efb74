//! How a comparison is made: every side in turn, round after round, and the median of the rounds' ratios.
//!
//! Invariant: within a round the sides run one right after the other, and who begins changes from round to
//! round, so what the machine does meanwhile (other load, a warming disk) meets both.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;
use signal_hook::consts::{SIGINT, SIGTERM};

/// What one side of a comparison is: it runs once and says how long the part took that counts.
pub type Side<'a> = &'a mut dyn FnMut() -> anyhow::Result<Duration>;

static STOPPED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on SIGINT and SIGTERM end the measurement between two runs, so that everything is cleaned up.
pub fn stop_on_signals() -> std::io::Result<()> {
    let flag = STOPPED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(())
}

/// An error once a signal has come.
pub fn check_stopped() -> anyhow::Result<()> {
    if STOPPED.get().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
        bail!("stopped by a signal");
    }
    Ok(())
}

/// The time that `work` takes.
pub fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}

/// Runs every side `rounds` times and gives the times back, one list for each side.
pub fn interleave(rounds: usize, sides: &mut [Side<'_>]) -> anyhow::Result<Vec<Vec<Duration>>> {
    let mut times = vec![Vec::with_capacity(rounds); sides.len()];
    for round in 0..rounds {
        for turn in 0..sides.len() {
            check_stopped()?;
            let side = (round + turn) % sides.len();
            times[side].push(sides[side]()?);
        }
        progress(round + 1, rounds);
    }
    Ok(times)
}

fn progress(done: usize, rounds: usize) {
    let mut out = std::io::stderr();
    if out.is_terminal() {
        let end = if done == rounds { "\n" } else { "" };
        // whoever closed it does not look
        let _ = write!(out, "\r  {done} of {rounds} rounds{end}");
        let _ = out.flush();
    }
}

/// Lowest, middle and highest of some figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The lowest.
    pub min: f64,
    /// The middle one; between two, the mean of them.
    pub median: f64,
    /// The highest.
    pub max: f64,
}

impl Spread {
    /// Of at least one figure.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let count = sorted.len();
        let median = f64::midpoint(at(count.saturating_sub(1) / 2), at(count / 2));
        Self { min: at(0), median, max: at(count.saturating_sub(1)) }
    }

    /// Of times, in seconds.
    pub fn of_times(times: &[Duration]) -> Self {
        Self::of(times.iter().map(Duration::as_secs_f64))
    }

    /// Of the quotients of the times of each round.
    pub fn of_ratios(over: &[Duration], under: &[Duration]) -> Self {
        Self::of(
            over.iter().zip(under).map(|(over, under)| over.as_secs_f64() / under.as_secs_f64()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_two() {
        assert_eq!(Spread::of([3.0, 1.0, 9.0]), Spread { min: 1.0, median: 3.0, max: 9.0 });
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 9.0]).median, 3.0);
    }

    #[test]
    fn sides_take_turns_and_who_begins_changes() {
        let order = std::cell::RefCell::new(Vec::new());
        let side = |name: char| {
            let order = &order;
            move || {
                order.borrow_mut().push(name);
                Ok(Duration::from_millis(1))
            }
        };
        let (mut a, mut b) = (side('a'), side('b'));
        let times = interleave(3, &mut [&mut a, &mut b]).unwrap();
        assert_eq!(times, vec![vec![Duration::from_millis(1); 3]; 2]);
        assert_eq!(String::from_iter(order.take()), "abbaab");
    }
}
