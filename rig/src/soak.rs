//! What `make soak` makes longer: the same tests with faults that last.
//!
//! Invariant: without `TROUGH_SOAK` nothing here waits.

use std::time::Duration;

/// So long a process stays stopped in a soak: longer than any time-out and back-off of the tests' settings.
const HOLD: Duration = Duration::from_secs(120);

/// Whether the tests run in a soak's long round.
pub fn is_on() -> bool {
    std::env::var_os("TROUGH_SOAK").is_some()
}

/// Leaves a fault as it is, for minutes in a soak.
pub fn hold() {
    if is_on() {
        std::thread::sleep(HOLD);
    }
}
