//! Background work in small units, one thread a worker.
//!
//! Invariant: a worker that fails is tried again with back-off, counted and visible, and a stop is answered
//! after at most one unit of work.
//!
//! Left out: what the work is and how it paces itself; see [`crate::scrub`] and [`crate::tranquilizer`].

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use crate::metrics;

/// The wait after the first of several errors in a row; it doubles with each.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
/// The longest wait after an error.
const BACK_OFF_MAX: Duration = Duration::from_secs(300);

/// What a unit of work came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worked {
    /// There is more: call again at once.
    Busy,
    /// There is more: call again after this rest.
    Throttled(Duration),
    /// Nothing to do now: look again after this.
    Idle(Duration),
}

/// Something that works in small units.
pub trait Worker: Send {
    /// What it is called in the log and in metrics.
    fn name(&self) -> &'static str;

    /// Does one unit, small enough that a stop or a throttle comes soon (well below a second).
    fn work(&mut self) -> Result<Worked, WorkerError>;

    /// One line for people.
    fn status(&self) -> String;
}

/// Why a unit failed.
pub type WorkerError = Box<dyn std::error::Error + Send + Sync>;

/// How a running worker is.
#[derive(Debug, Clone, Default, Serialize)]
pub struct WorkerStatus {
    /// Its name.
    pub name: &'static str,
    /// What it says of itself.
    pub line: String,
    /// Units that failed since the start.
    pub errors: u64,
    /// Units that failed one after another until now; 0 when the last one went well.
    pub consecutive_errors: u32,
    /// The last error, also after it is over.
    pub last_error: Option<String>,
}

#[derive(Default)]
struct Shared {
    status: WorkerStatus,
    stop: bool,
}

type State = Arc<(Mutex<Shared>, Condvar)>;

/// A worker on its own thread; stops when dropped.
pub struct Running {
    state: State,
    thread: Option<JoinHandle<()>>,
}

/// Starts `worker` on a thread of its own.
pub fn spawn(worker: impl Worker + 'static) -> std::io::Result<Running> {
    let status = WorkerStatus { name: worker.name(), ..WorkerStatus::default() };
    let state = State::new((Mutex::new(Shared { status, stop: false }), Condvar::new()));
    let thread_state = state.clone();
    let thread = std::thread::Builder::new()
        .name(worker.name().to_owned())
        .spawn(move || run(worker, &thread_state))?;
    Ok(Running { state, thread: Some(thread) })
}

impl Running {
    /// How it is now.
    pub fn status(&self) -> WorkerStatus {
        lock(&self.state).status.clone()
    }

    /// Stops it after the unit it is at, and waits for that.
    pub fn stop(self) {}
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.state).stop = true;
        self.state.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(state: &State) -> MutexGuard<'_, Shared> {
    state.0.lock().expect("a panic aborts the process, so the lock is never poisoned")
}

fn run(mut worker: impl Worker, state: &State) {
    loop {
        let result = worker.work();
        let line = worker.status();
        let mut shared = lock(state);
        shared.status.line = line;
        let wait = match result {
            Ok(worked) => {
                shared.status.consecutive_errors = 0;
                match worked {
                    Worked::Busy => Duration::ZERO,
                    Worked::Throttled(wait) | Worked::Idle(wait) => wait,
                }
            }
            Err(error) => {
                let status = &mut shared.status;
                status.errors += 1;
                status.consecutive_errors += 1;
                status.last_error = Some(error.to_string());
                let wait = back_off(status.consecutive_errors);
                metrics::worker_error(status.name);
                tracing::warn!(
                    worker = status.name,
                    error,
                    retry_s = wait.as_secs(),
                    "background work failed"
                );
                wait
            }
        };
        let waited = state.1.wait_timeout_while(shared, wait, |shared| !shared.stop);
        if waited.expect("a panic aborts the process, so the lock is never poisoned").0.stop {
            return;
        }
    }
}

fn back_off(consecutive_errors: u32) -> Duration {
    let doublings = consecutive_errors.saturating_sub(1).min(16);
    (BACK_OFF_MIN * 2_u32.pow(doublings)).min(BACK_OFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Counting {
        units: u32,
        done: mpsc::Sender<u32>,
    }

    impl Worker for Counting {
        fn name(&self) -> &'static str {
            "counting"
        }
        fn work(&mut self) -> Result<Worked, WorkerError> {
            self.units += 1;
            self.done.send(self.units)?;
            match self.units {
                1 => Ok(Worked::Busy),
                2 => Ok(Worked::Throttled(Duration::from_millis(1))),
                3 => Err("the third unit fails".into()),
                _ => Ok(Worked::Idle(Duration::from_secs(3600))),
            }
        }
        fn status(&self) -> String {
            format!("{} units", self.units)
        }
    }

    #[test]
    fn a_worker_goes_on_after_an_error_and_stops_out_of_an_hour_of_idling() {
        let (done, units) = mpsc::channel();
        let running = spawn(Counting { units: 0, done }).unwrap();
        for unit in 1..=4 {
            assert_eq!(units.recv_timeout(Duration::from_secs(10)), Ok(unit));
        }
        while running.status().consecutive_errors != 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let status = running.status();
        assert_eq!((status.errors, status.line.as_str()), (1, "4 units"));
        assert_eq!(status.last_error.as_deref(), Some("the third unit fails"));
        running.stop();
        assert!(units.try_recv().is_err(), "work went on after the stop");
    }

    #[test]
    fn the_wait_doubles_up_to_its_bound() {
        assert_eq!(back_off(1), BACK_OFF_MIN);
        assert_eq!(back_off(3), 4 * BACK_OFF_MIN);
        assert_eq!(back_off(u32::MAX), BACK_OFF_MAX);
    }
}
