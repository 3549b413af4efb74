//! The clock that leases are counted on.

use std::time::Duration;

/// Time since this machine started, its sleep included: a lease runs out while a laptop is shut, which
/// `std::time::Instant` (CLOCK_MONOTONIC) would not see.
pub fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
