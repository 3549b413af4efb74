//! What the service manager is told (sd_notify(3)); without one all of it does nothing.

use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

use crate::mount::MountError;

/// The mount stands.
pub fn ready(path: &Path) {
    let status = format!("mounted at {}", path.display());
    notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// The mount is being taken away.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// `pid` is the service's main process from now on.
pub fn main_process(pid: u32) {
    notify(&[NotifyState::MainPid(pid)]);
}

/// Pings for as long as the threads that answer the kernel live, where the unit has WatchdogSec.
pub fn watchdog(serving: JoinHandle<()>) -> Result<(), MountError> {
    let Some(limit) = sd_notify::watchdog_enabled() else { return Ok(()) };
    // half the limit, as sd_watchdog_enabled(3) advises
    let period = (limit / 2).max(Duration::from_millis(1));
    super::spawn("watchdog", move || {
        while !serving.is_finished() {
            notify(&[NotifyState::Watchdog]);
            std::thread::sleep(period);
        }
    })?;
    Ok(())
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager was not told");
    }
}
