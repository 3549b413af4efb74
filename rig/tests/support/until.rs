//! What the rig's own suites share.

use std::time::{Duration, Instant};

/// The bound of every wait for an event: five times what a Consul agent that was alone may need to find its servers.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// Waits until `holds`, or fails saying `what` did not happen.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
