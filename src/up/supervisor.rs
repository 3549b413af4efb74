//! Keeps child processes running: starts them in order, starts one again that ended, stops them in reverse.
//!
//! Invariants: after [`Supervisor::stop`] no child is left, whatever it does with SIGTERM (S10); a child whose
//! supervisor is killed gets SIGTERM from the kernel; a child that keeps ending is started again with growing
//! waits, so it never takes the machine.
//!
//! Must be used inside a current-thread runtime: the kernel ties a child's fate to the *thread* that started
//! it, and the threads of a larger runtime may end.
//!
//! Left out: what the children are, and whether they do their work; see [`crate::up`].

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;

/// The longest line of a child's standard error that is passed on whole, in bytes.
const LINE_BYTES_MAX: usize = 16 << 10;

/// The most children of one name that may be on their way out; one more replacement is refused.
const DRAINING_MAX: usize = 4;

/// The program that a child runs.
#[derive(Debug, Clone)]
pub struct ChildSpec {
    /// What it is called in the log.
    pub name: &'static str,
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// How long it may take to end after SIGTERM before it gets SIGKILL.
    pub stop_wait: Duration,
}

/// The waits of a supervisor.
#[derive(Debug, Clone)]
pub struct Waits {
    /// Before the first restart; doubles with each.
    pub restart_first: Duration,
    /// The longest wait before a restart.
    pub restart_longest: Duration,
    /// A child that ran this long is well, and its waits begin again.
    pub well_after: Duration,
    /// How long a child may take to vanish after SIGKILL: one that hangs in the kernel is left behind then.
    pub kill_wait: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            restart_first: Duration::from_millis(100),
            restart_longest: Duration::from_secs(10),
            well_after: Duration::from_secs(10),
            kill_wait: Duration::from_secs(5),
        }
    }
}

/// Running children.
#[derive(Debug)]
pub struct Supervisor {
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    name: &'static str,
    stop: CancellationToken,
    replace: mpsc::Sender<()>,
    task: JoinHandle<()>,
}

impl Supervisor {
    /// Starts the children in the order given.
    pub fn start(specs: Vec<ChildSpec>, waits: &Waits) -> Self {
        let slots = specs.into_iter().map(|spec| {
            let (replace, replacements) = mpsc::channel(1);
            let stop = CancellationToken::new();
            let name = spec.name;
            let keeper = Keeper {
                backoff: Backoff::new(waits.restart_first, waits.restart_longest, waits.well_after),
                kill_wait: waits.kill_wait,
                spec,
                stop: stop.clone(),
                draining: JoinSet::new(),
            };
            Slot { name, stop, replace, task: tokio::spawn(keeper.keep(replacements)) }
        });
        Self { slots: slots.collect() }
    }

    /// Starts a second child of that name and lets the first one end by itself when it has handed over.
    pub fn replace(&self, name: &str) {
        for slot in self.slots.iter().filter(|slot| slot.name == name) {
            if slot.replace.try_send(()).is_err() {
                tracing::warn!(child = name, "a replacement is under way already; ignored");
            }
        }
    }

    /// Stops the children in reverse order, each within its wait.
    pub async fn stop(mut self) {
        while let Some(slot) = self.slots.pop() {
            slot.stop.cancel();
            // the task ends by itself: each of its waits has a limit
            if let Err(error) = slot.task.await {
                tracing::error!(child = slot.name, %error, "the child's keeper ended badly");
            }
        }
    }
}

/// Keeps one child running.
struct Keeper {
    spec: ChildSpec,
    backoff: Backoff,
    kill_wait: Duration,
    stop: CancellationToken,
    draining: JoinSet<()>,
}

enum Ended {
    Stopped,
    Replaced,
    ByItself,
}

impl Keeper {
    async fn keep(mut self, mut replacements: mpsc::Receiver<()>) {
        loop {
            let begun = Instant::now();
            let ended = match spawn(&self.spec) {
                Ok(child) => self.watch(child, &mut replacements).await,
                Err(error) => {
                    tracing::error!(child = self.spec.name, %error, "the child could not be started");
                    Ended::ByItself
                }
            };
            match ended {
                Ended::Stopped => break,
                Ended::Replaced => continue,
                Ended::ByItself => {}
            }
            let wait = self.backoff.after(begun.elapsed());
            tracing::warn!(child = self.spec.name, wait_ms = wait.as_millis(), "starting it again");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => break,
            }
        }
        while self.draining.join_next().await.is_some() {}
    }

    async fn watch(&mut self, mut child: Child, replacements: &mut mpsc::Receiver<()>) -> Ended {
        let pid = child.id();
        tracing::info!(child = self.spec.name, pid, "started");
        loop {
            // the finished ones are only kept until somebody looks
            while self.draining.try_join_next().is_some() {}
            tokio::select! {
                status = child.wait() => {
                    match status {
                        Ok(status) => {
                            tracing::warn!(child = self.spec.name, pid, %status, "the child ended");
                        }
                        Err(error) => tracing::error!(child = self.spec.name, pid, %error, "wait for the child"),
                    }
                    return Ended::ByItself;
                }
                () = self.stop.cancelled() => {
                    end(&mut child, &self.spec, self.kill_wait).await;
                    return Ended::Stopped;
                }
                Some(()) = replacements.recv() => {
                    if self.draining.len() >= DRAINING_MAX {
                        tracing::warn!(child = self.spec.name, "too many are still on their way out; not replaced");
                        continue;
                    }
                    tracing::info!(child = self.spec.name, pid, "replacing it; it ends when it has handed over");
                    self.drain(child);
                    return Ended::Replaced;
                }
            }
        }
    }

    /// Lets a replaced child end by itself, or with the supervisor.
    fn drain(&mut self, mut child: Child) {
        let (spec, stop, kill_wait) = (self.spec.clone(), self.stop.clone(), self.kill_wait);
        self.draining.spawn(async move {
            tokio::select! {
                status = child.wait() => {
                    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                    tracing::info!(child = spec.name, status, "the replaced child ended");
                }
                () = stop.cancelled() => end(&mut child, &spec, kill_wait).await,
            }
        });
    }
}

fn spawn(spec: &ChildSpec) -> std::io::Result<Child> {
    let supervisor = rustix::process::getpid();
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // who is told that the service is ready is the supervisor's affair
        .env_remove("NOTIFY_SOCKET")
        // Ctrl-C goes to the supervisor alone, which then stops the children in order
        .process_group(0);
    // SAFETY: between fork and exec only two system calls are made (prctl, getppid); neither allocates or locks
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            // the supervisor may have died before the line above took effect
            match rustix::process::getppid() {
                Some(parent) if parent == supervisor => Ok(()),
                _ => Err(std::io::ErrorKind::Interrupted.into()),
            }
        });
    }
    let mut child = command.spawn()?;
    if let Some(stderr) = child.stderr.take() {
        tokio::spawn(pass_on(spec.name, stderr));
    }
    Ok(child)
}

/// SIGTERM, a wait, SIGKILL to the child and whatever it started, a wait.
async fn end(child: &mut Child, spec: &ChildSpec, kill_wait: Duration) {
    let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) else { return };
    // an error means that it is gone already, which the wait sees
    let _ = rustix::process::kill_process(pid, Signal::TERM);
    if let Ok(status) = tokio::time::timeout(spec.stop_wait, child.wait()).await {
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        tracing::info!(child = spec.name, status, "stopped");
        return;
    }
    tracing::warn!(
        child = spec.name,
        waited_s = spec.stop_wait.as_secs(),
        "it does not stop; killing it"
    );
    let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    if tokio::time::timeout(kill_wait, child.wait()).await.is_err() {
        tracing::error!(
            child = spec.name,
            pid = pid.as_raw_nonzero(),
            "it hangs in the kernel; left behind"
        );
    }
}

/// Passes a child's standard error on, line by line, with its name before each.
async fn pass_on(name: &'static str, mut from: impl AsyncRead + Unpin) {
    let mut line = Vec::new();
    let mut piece = [0_u8; 4096];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        for part in piece[..length].split_inclusive(|&byte| byte == b'\n') {
            line.extend_from_slice(part);
            if part.ends_with(b"\n") || line.len() >= LINE_BYTES_MAX {
                print_line(name, &mut line);
            }
        }
    }
    if !line.is_empty() {
        print_line(name, &mut line);
    }
}

fn print_line(name: &str, line: &mut Vec<u8>) {
    let mut text = format!("{name:<5}| ").into_bytes();
    text.extend_from_slice(line.trim_ascii_end());
    text.push(b'\n');
    // one write a line, so that lines of two children do not mix; nobody is left to tell of an error
    let _ = std::io::stderr().lock().write_all(&text);
    line.clear();
}

#[cfg(test)]
mod tests;
