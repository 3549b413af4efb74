//! Running fsd: mount, watch, signals, hot upgrade.
//!
//! Invariant (S5, S10): whatever happens to this process, the next one repairs the mount. It ends by itself
//! in three ways: stopped (SIGTERM: unmounted, the bare directory given back), superseded by a newer fsd
//! (served its open handles until the last was closed), or with an error that its supervisor answers with a
//! restart. It never waits for readers at a stop: with passthrough they go on without it.
//!
//! Call [`run`] once in a process of its own: it installs signal handlers and makes every panic an abort.

mod supervisor;
mod upgrade;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{Config, Session, SessionACL};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info, warn};

use crate::filesystem::Tree;
use crate::filesystem::xattrs::FactsSource;
use crate::layout::Layout;
use crate::mount::{Feature, MountError, MountSettings, attach, bare, probe, source_name, table};
use crate::watch::Watch;

use upgrade::Upgrade;

/// How often fsd looks whether its mount still stands.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// How long a vanished mount may stay away before it counts as unmounted by hand: a newer fsd without
/// MOVE_MOUNT_BENEATH takes the old mount away before it places its own.
const SUCCESSOR_WAIT: Duration = Duration::from_secs(2);
/// How long a stop waits for the kernel to end the connection, which it does at once when no file is open.
const STOP_WAIT: Duration = Duration::from_secs(1);

/// What the daemon waits for.
#[derive(Debug)]
enum Event {
    Stop,
    Upgrade,
    Upgraded(Result<u32, String>),
    SessionEnded(io::Result<()>),
    WatchEnded(io::Error),
}

/// Ends [`run`] from within the process, as SIGTERM does from outside.
#[derive(Debug)]
pub struct Shutdown {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

/// The other end of a [`Shutdown`].
#[derive(Debug, Clone)]
pub struct Stopper(Sender<Event>);

impl Default for Shutdown {
    fn default() -> Self {
        let (sender, receiver) = channel();
        Self { sender, receiver }
    }
}

impl Shutdown {
    /// A handle that stops the daemon.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.sender.clone())
    }
}

impl Stopper {
    /// Unmounts and ends [`run`].
    pub fn stop(&self) {
        // a daemon that has ended already needs no stop
        let _ = self.0.send(Event::Stop);
    }
}

/// Shows the cache at `layout` at the mount point until it is stopped or superseded.
///
/// `ready` is called once, when the mount stands. Blocking.
///
/// # Errors
///
/// When the mount cannot be made or is lost: start again, a start repairs what it can.
pub fn run(
    settings: &MountSettings,
    layout: &Layout,
    facts: Box<dyn FactsSource>,
    shutdown: Shutdown,
    ready: impl FnOnce(),
) -> Result<(), MountError> {
    abort_on_panic();
    settings.check()?;
    let path = bare::resolve(&settings.mountpoint)?;
    let source = source_name(layout.dir())?;
    // refuse before anything is made
    probe::clear(&path, &source)?;
    let Shutdown { sender, receiver } = shutdown;
    signals(sender.clone())?;

    // first the watch, then the first answer: no change falls between
    let watch = Watch::new(layout)
        .map_err(|source| MountError::Watch { path: layout.segments(), source })?;
    let tree = Arc::new(Tree::new(layout, settings, facts));
    let detached = attach::create(settings, &source)?;
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(settings.threads);
    // fuser opens the clones at this path
    config.clone_fd = settings.fuse_device.as_os_str() == "/dev/fuse";
    let served = crate::filesystem::Served(tree.clone());
    let session = Session::from_fd(served, detached.device, SessionACL::All, config)
        .map_err(MountError::io("begin the FUSE session for", &path))?;
    let notifier = session.notifier();
    let serving = spawn("fuse-session", {
        let sender = sender.clone();
        move || {
            let _ = sender.send(Event::SessionEnded(session.run()));
        }
    })?;
    if settings.invalidation == Feature::Auto {
        let (tree, sender) = (tree.clone(), sender.clone());
        spawn("watch", move || {
            let _ = sender.send(Event::WatchEnded(watch.run(&tree, &notifier)));
        })?;
    }

    let (placed, device) = attach::place(detached.mount, &path, &source, settings)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    tree.figures().mounted(now_ms, &format!("{placed:?}").to_lowercase());
    upgrade::tell_predecessor();
    supervisor::ready(&path);
    supervisor::watchdog(serving)?;
    ready();

    let mut daemon = Daemon {
        path,
        source,
        device,
        tree,
        sender,
        receiver,
        upgrade: None,
        ended: None,
        away_since: None,
        superseded: false,
    };
    daemon.wait()
}

/// A thread that panics while it answers the kernel would leave its readers hanging; a dead process does not.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        error!("fsd ends at once after a panic; start it again");
        std::process::abort();
    }));
}

fn signals(sender: Sender<Event>) -> Result<(), MountError> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(MountError::io("handle signals of", std::path::Path::new("this process")))?;
    spawn("signals", move || {
        for signal in signals.forever() {
            let event = if signal == SIGHUP { Event::Upgrade } else { Event::Stop };
            if sender.send(event).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

fn spawn(
    name: &'static str,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, MountError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(MountError::io("start the thread", std::path::Path::new(name)))
}

/// Where our mount is.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// On top: what people see.
    Top,
    /// Something was mounted over it.
    Covered,
    /// Away, and a mount of the same cache stands there.
    Replaced,
    /// Away.
    Gone,
    /// It stands, but its connection has ended.
    Dead,
}

struct Daemon {
    path: PathBuf,
    source: String,
    device: (u32, u32),
    tree: Arc<Tree>,
    sender: Sender<Event>,
    receiver: Receiver<Event>,
    upgrade: Option<Upgrade>,
    /// How the session ended, once it has.
    ended: Option<String>,
    away_since: Option<Instant>,
    superseded: bool,
}

impl Daemon {
    fn wait(&mut self) -> Result<(), MountError> {
        loop {
            let period = if self.away_since.is_some() { LOOK_PERIOD / 10 } else { LOOK_PERIOD };
            match self.receiver.recv_timeout(period) {
                Ok(Event::Stop) => return self.stop(),
                Ok(Event::Upgrade) => self.begin_upgrade(),
                Ok(Event::Upgraded(result)) => self.finish_upgrade(result),
                Ok(Event::SessionEnded(result)) => {
                    self.ended = Some(match result {
                        Ok(()) => "unmounted or aborted".to_owned(),
                        Err(error) => error.to_string(),
                    });
                }
                Ok(Event::WatchEnded(source)) => {
                    let path = self.tree.layout().segments();
                    return Err(MountError::Watch { path, source });
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            self.tree.log_suppressed();
            if let Some(end) = self.look()? {
                return Ok(end);
            }
        }
    }

    /// Looks where the mount is; `Some` when there is nothing left to serve.
    fn look(&mut self) -> Result<Option<()>, MountError> {
        match self.place()? {
            Place::Top | Place::Covered => {
                self.away_since = None;
                Ok(None)
            }
            Place::Dead => {
                let cause = self.ended.take().unwrap_or_default();
                Err(MountError::Aborted { path: self.path.clone(), cause })
            }
            Place::Replaced => {
                if !self.superseded {
                    info!("superseded by a newer fsd; open handles are served until they close");
                }
                self.superseded = true;
                Ok(self.is_drained().then_some(()))
            }
            // whoever superseded us may be gone too by now
            Place::Gone if self.superseded => Ok(self.is_drained().then_some(())),
            Place::Gone => {
                let since = *self.away_since.get_or_insert_with(Instant::now);
                match self.upgrade.is_none() && since.elapsed() > SUCCESSOR_WAIT {
                    true => {
                        bare::release(&self.path);
                        Err(MountError::Unmounted { path: self.path.clone() })
                    }
                    false => Ok(None),
                }
            }
        }
    }

    /// Nothing is left to serve, and the service manager knows who is the main process now: a new fsd takes the
    /// mount over before it says that it is ready, and the manager hears its process id from this one only.
    fn is_drained(&self) -> bool {
        self.ended.is_some() && self.upgrade.is_none()
    }

    fn place(&self) -> Result<Place, MountError> {
        let failed = MountError::io("look at", &self.path);
        let layers = table::at(&self.path).map_err(failed)?;
        let ours = layers.iter().any(|layer| layer.device == self.device);
        let top = match layers.is_empty() {
            true => None,
            false => table::top(&self.path).map_err(failed)?,
        };
        let Some(top) = top else { return Ok(Place::Gone) };
        // once the session has ended, the device's number may be another mount's
        Ok(match (self.ended.is_some(), top.source == self.source) {
            (false, _) if top.device == self.device => Place::Top,
            (false, _) if ours => Place::Covered,
            (false, true) => Place::Replaced,
            (true, true) if probe::is_live(&self.path) => Place::Replaced,
            (true, true) => Place::Dead,
            (_, false) => Place::Gone,
        })
    }

    fn stop(&mut self) -> Result<(), MountError> {
        let upgrade = self.upgrade.take();
        let is_service = upgrade.is_some() || !self.is_superseded()?;
        if is_service {
            supervisor::stopping();
        }
        if let Some(upgrade) = upgrade {
            upgrade.cancel();
        }
        if self.superseded {
            return Ok(());
        }
        match self.place()? {
            Place::Top => {
                probe::detach(&self.path)?;
                bare::release(&self.path);
                self.await_session();
                info!(path = %self.path.display(), "unmounted");
            }
            place @ (Place::Covered | Place::Replaced | Place::Gone | Place::Dead) => {
                warn!(path = %self.path.display(), ?place, "the mount on top is not ours; nothing is unmounted");
            }
        }
        Ok(())
    }

    /// Whether a newer fsd is the service now, also when it came since the last look.
    fn is_superseded(&self) -> Result<bool, MountError> {
        Ok(self.superseded || self.place()? == Place::Replaced)
    }

    fn await_session(&mut self) {
        let deadline = Instant::now() + STOP_WAIT;
        while self.ended.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.receiver.recv_timeout(left) {
                Ok(Event::SessionEnded(_)) => return,
                Ok(_) => {}
                Err(_) => {
                    info!("files are still open; those in passthrough go on without fsd");
                    return;
                }
            }
        }
    }

    fn begin_upgrade(&mut self) {
        if self.superseded || self.upgrade.is_some() {
            warn!("an upgrade is done or under way; this one is ignored");
            return;
        }
        match Upgrade::begin(self.sender.clone()) {
            Ok(upgrade) => self.upgrade = Some(upgrade),
            Err(error) => self.upgrade_failed(&error.to_string()),
        }
    }

    fn finish_upgrade(&mut self, result: Result<u32, String>) {
        self.upgrade = None;
        match result {
            Ok(pid) => {
                info!(pid, "the new fsd is ready");
                supervisor::main_process(pid);
            }
            Err(reason) => self.upgrade_failed(&reason),
        }
    }

    fn upgrade_failed(&self, reason: &str) {
        error!(reason, "the upgrade failed; this fsd goes on");
        self.tree.figures().trouble(format!("upgrade failed: {reason}"));
    }
}
