//! A running `trough` of the release build, on a directory of its own.
//!
//! Invariant: when it is dropped, also by an error, its processes have ended and nothing is mounted; should
//! this process be killed, the kernel tells the child to stop.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use fsd::view::{MountState, MountView};
use rig::net::Host;
use rustix::process::{Pid, Signal};

/// How long anything here may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks while waiting for something that is not measured.
const PERIOD: Duration = Duration::from_millis(20);

/// The release binary, which `rig/bench.sh` builds beside this one.
pub fn trough() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find this program's own file")?;
    let path = own.with_file_name("trough");
    match path.is_file() && !cfg!(debug_assertions) {
        true => Ok(path),
        false => {
            bail!("{} is not there, or this is no release build: use `make bench`", path.display())
        }
    }
}

/// A process of trough.
#[derive(Debug)]
pub struct Service {
    child: Child,
    mountpoint: PathBuf,
    log: PathBuf,
}

/// Where a trough lives.
#[derive(Debug, Clone)]
pub struct Dir {
    /// Settings, registry, log.
    pub dir: PathBuf,
    /// The cache, which may be an earlier run's.
    pub cache: PathBuf,
    /// `SECTION.KEY=VALUE` beyond where things lie.
    pub set: Vec<String>,
}

impl Dir {
    /// Where its mount stands.
    pub fn mountpoint(&self) -> PathBuf {
        self.dir.join("mount")
    }

    /// The options that every command takes.
    pub fn options(&self) -> Vec<String> {
        let mut options = vec!["--dir".to_owned(), self.dir.display().to_string()];
        let places = [
            format!("cache.dir={:?}", self.cache.display().to_string()),
            format!("mount.mountpoint={:?}", self.mountpoint().display().to_string()),
        ];
        for set in places.iter().chain(&self.set) {
            options.extend(["--set".to_owned(), set.clone()]);
        }
        options
    }
}

impl Service {
    /// Starts `trough COMMAND` on `dir`; waits for nothing.
    pub fn start(dir: &Dir, command: &[&str]) -> anyhow::Result<Self> {
        Self::spawn(Command::new(trough()?), dir, command)
    }

    /// The same on a host of a net.
    pub fn start_on(host: &Host, dir: &Dir, command: &[&str]) -> anyhow::Result<Self> {
        Self::spawn(host.command(trough()?), dir, command)
    }

    fn spawn(mut program: Command, dir: &Dir, command: &[&str]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir.mountpoint()).context("make the mount point")?;
        let log = dir.dir.join("log");
        program.args(command).args(dir.options()).stdin(Stdio::null());
        program.stdout(Stdio::null()).stderr(File::create(&log).context("make the log")?);
        // SAFETY: between fork and exec only one system call is made
        unsafe {
            program.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
                Ok(())
            });
        }
        let child = program.spawn().context("start trough")?;
        Ok(Self { child, mountpoint: dir.mountpoint(), log })
    }

    /// Starts the mount alone, and waits until it stands.
    pub fn mount(dir: &Dir) -> anyhow::Result<(Self, MountView)> {
        let mut service = Self::start(dir, &["fsd"])?;
        let view = MountView::new(dir.mountpoint());
        service.until("the mount stands", || Ok(view.state() == MountState::Live))?;
        Ok((service, view))
    }

    /// Waits until `holds`, looking now and then.
    pub fn until(
        &mut self,
        what: &str,
        mut holds: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !holds()? {
            crate::harness::check_stopped()?;
            if let Some(status) = self.child.try_wait().context("look at trough")? {
                bail!("trough ended ({status}) before {what}:\n{}", self.log());
            }
            if begun.elapsed() > PATIENCE {
                bail!("not within {PATIENCE:?}: {what}; trough said:\n{}", self.log());
            }
            std::thread::sleep(PERIOD);
        }
        Ok(())
    }

    /// Its exit status, if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Resident memory of the process now, in MiB.
    pub fn resident_mib(&self) -> anyhow::Result<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        Ok(kib.with_context(|| format!("VmRSS in {path}"))? / 1024.0)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < PATIENCE / 4 {
            std::thread::sleep(PERIOD);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        while fsd::mount::table::at(&self.mountpoint).is_ok_and(|layers| !layers.is_empty()) {
            let flags = rustix::mount::UnmountFlags::DETACH;
            if rustix::mount::unmount(&self.mountpoint, flags).is_err() {
                break;
            }
        }
        fsd::mount::bare::release(&self.mountpoint);
    }
}

/// A port on loopback that nobody listened on a moment ago.
pub fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

/// Runs a program that must be there and succeed.
pub fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("run {:?}", command.get_program()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{:?} failed ({}): {said}", command.get_program(), output.status);
    }
    Ok(())
}
