//! Hot upgrade: a new fsd takes over while the old one serves.
//!
//! The old process starts the program at its own path again with its own arguments. The new one's standard
//! input is a pipe; it writes one line there once its mount stands. Until then the old one has changed
//! nothing, so a new one that fails costs nothing.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use tracing::warn;

use super::Event;

/// Set in the environment of a new fsd whose standard input is the pipe to the old one.
const READY_ON_STDIN: &str = "TROUGH_FSD_READY_ON_STDIN";
/// What it writes there.
const READY: &[u8] = b"ready\n";
/// How long a new fsd may take to stand its mount.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// An upgrade under way.
pub struct Upgrade {
    child: Pid,
}

impl Upgrade {
    /// Starts the new process; its fate comes as [`Event::Upgraded`].
    pub fn begin(sender: Sender<Event>) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let child = Command::new(program()?)
            .args(std::env::args_os().skip(1))
            .env(READY_ON_STDIN, "1")
            // the watchdog's time is the new process's too, once it is the main one
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::from(writer))
            .spawn()?;
        let pid = Pid::from_child(&child);
        let name = "upgrade".to_owned();
        std::thread::Builder::new().name(name).spawn(move || {
            let _ = sender.send(Event::Upgraded(await_ready(child, reader)));
        })?;
        Ok(Self { child: pid })
    }

    /// Stops the new process: the old one is being stopped.
    pub fn cancel(self) {
        if let Err(error) = kill_process(self.child, Signal::TERM) {
            warn!(%error, "the new fsd of an unfinished upgrade could not be stopped");
        }
    }
}

/// The path this program was started from; after a replacement of the file, the new file.
fn program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    Ok(match path.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(bytes) => std::ffi::OsString::from_vec(bytes.to_vec()).into(),
        None => path,
    })
}

fn await_ready(mut child: Child, mut pipe: io::PipeReader) -> Result<u32, String> {
    let deadline = Instant::now() + READY_LIMIT;
    let mut said = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)];
        let timeout = Timespec::try_from(left).map_err(|error| error.to_string())?;
        match poll(&mut fds, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(give_up(child, format!("wait for the new fsd: {errno}"))),
            Ok(0) => {
                return Err(give_up(child, format!("it was not ready within {READY_LIMIT:?}")));
            }
            Ok(_) => {}
        }
        let mut buffer = [0_u8; 64];
        match pipe.read(&mut buffer) {
            Ok(0) => return Err(give_up(child, "it ended before it was ready".to_owned())),
            Ok(length) => said.extend_from_slice(&buffer[..length]),
            Err(error) => return Err(give_up(child, format!("read from it: {error}"))),
        }
        if said.ends_with(READY) {
            let pid = child.id();
            // collected when it ends, should this process still be there
            std::thread::spawn(move || child.wait());
            return Ok(pid);
        }
    }
}

fn give_up(mut child: Child, reason: String) -> String {
    // it may have ended by itself
    let _ = child.kill();
    match child.wait() {
        Ok(status) => format!("{reason} ({status}); its log says why"),
        Err(error) => format!("{reason} ({error})"),
    }
}

/// Says to the process that started this one for an upgrade, if one did, that the mount stands.
pub fn tell_predecessor() {
    if std::env::var_os(READY_ON_STDIN).is_none() {
        return;
    }
    let told = rustix::io::write(io::stdin().as_fd(), READY);
    if let Err(error) = told {
        warn!(%error, "the old fsd was not told that this one is ready");
    }
}
