//! The local synchronizer: makes this node's cache hold what it should, and says what it does hold.
//!
//! ```text
//!   deep store --list--> pool --assignment--> wanted --pull, verify--> cache --publish--> mount
//!                                                                                           |
//!   readers <------------- pool table in the registry <-------- seen through the mount -----+
//! ```
//!
//! Invariants: what is announced was seen through the mount first (S1); a deep store or registry that is away
//! stops nothing that is served (S9); every step can be cut by `kill -9` and is taken up again from the
//! ledger and the next listing (S10).
//!
//! Left out: what to hold ([`crate::quota`]), one pull ([`crate::pull`]), the cache's own promises
//! ([`fsd::cache`]).

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fsd::cache::{Cache, CacheError};
use fsd::scrub::{Scrub, ScrubHandle, ScrubSettings};
use fsd::segment::SegmentId;
use fsd::view::MountView;
use fsd::worker;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::quota::Assignment;
use crate::store::Store;

mod actor;
mod backoff;
pub mod health;
mod jobs;
pub mod seat;
pub mod state;
pub mod status;

use actor::Actor;
pub(crate) use backoff::Backoff;
use seat::{Seat, SeatError};
use status::LocalStatus;

/// Commands that wait for the synchronizer; a caller beyond that waits itself.
const COMMANDS_MAX: usize = 64;

/// Settings of the local synchronizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocalSettings {
    /// Time between the starts of two listings of the deep store, in seconds.
    pub period_s: u64,
    /// Transfers at the same time; as many more may be being verified meanwhile.
    pub pulls: usize,
    /// Most segments published in one step; they share their directory syncs.
    pub publish_batch_max: usize,
    /// Share of the pool that may vanish in one listing before removals wait for
    /// `trough sync accept-removals`; 20 segments may always.
    pub max_removed_ratio: f64,
    /// Time between telling readers that a segment goes and removing it, in milliseconds.
    pub drain_ms: u64,
    /// How long a segment that left the pool stays in the cache, unpublished, while space allows; in seconds.
    pub withdraw_grace_s: u64,
    /// First wait after a pull that failed, in milliseconds; it doubles with each failure.
    pub retry_first_ms: u64,
    /// Longest wait after a pull that failed, in milliseconds.
    pub retry_longest_ms: u64,
    /// First wait before a refused version is tried again, in milliseconds; it doubles with each refusal.
    pub refused_first_ms: u64,
    /// Longest wait before a refused version is tried again, in milliseconds.
    pub refused_longest_ms: u64,
    /// A node that is behind for longer, in seconds beyond [`Self::period_s`], says so ([`health`]).
    pub lag_max_s: u64,
    /// Segments that keep their place before all others when the quota is short.
    pub pinned: HashSet<SegmentId>,
}

impl LocalSettings {
    /// How far a node may be behind.
    pub fn lag_max(&self) -> Duration {
        Duration::from_secs(self.lag_max_s.saturating_add(self.period_s))
    }
}

impl Default for LocalSettings {
    fn default() -> Self {
        Self {
            period_s: 30,
            // two streams fill a DataNode's disk or a 2-core machine (knowledge: cluster.md 0); four hide latency
            pulls: 4,
            publish_batch_max: 64,
            max_removed_ratio: 0.1,
            drain_ms: 2_000,
            withdraw_grace_s: 24 * 60 * 60,
            retry_first_ms: 1_000,
            retry_longest_ms: 60_000,
            refused_first_ms: 30_000,
            refused_longest_ms: 60 * 60 * 1_000,
            lag_max_s: 300,
            pinned: HashSet::new(),
        }
    }
}

/// The outside world of a local synchronizer.
#[derive(Clone)]
pub struct Outside {
    /// This node's name.
    pub node: String,
    /// The cache; this process is the only one that changes it.
    pub cache: Cache,
    /// The deep store.
    pub store: Arc<dyn Store>,
    /// Where it learns what to hold, and whom it tells what it holds.
    pub seat: Arc<dyn Seat>,
    /// The mount that shows the cache.
    pub view: MountView,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Why a local synchronizer could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The cache's holdings could not be read, or the cache is gone.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The thread of the scrub could not be started, or ended by a panic.
    #[error("run the scrub: {0}")]
    Scrub(std::io::Error),
    /// What was known before could not be read.
    #[error(transparent)]
    Seat(#[from] SeatError),
}

/// What can be asked of a running synchronizer.
#[derive(Debug)]
enum Command {
    /// List now; answer when all that follows from it is done.
    Sync(oneshot::Sender<()>),
    /// The removals that wait are meant.
    AcceptRemovals,
    /// These were found damaged and have been withdrawn.
    Damaged(Vec<SegmentId>),
}

/// A running synchronizer, for those who look at it and ask it for things.
#[derive(Clone)]
pub struct LocalHandle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Arc<LocalStatus>>,
    scrub: ScrubHandle,
}

impl LocalHandle {
    /// What it does now.
    pub fn status(&self) -> Arc<LocalStatus> {
        self.status.borrow().clone()
    }

    /// Has it list at once, and waits at most `wait` until all that follows from that is done.
    /// `false` when it was not done by then (it goes on all the same).
    pub async fn sync_now(&self, wait: Duration) -> bool {
        let (done, finished) = oneshot::channel();
        if self.commands.send(Command::Sync(done)).await.is_err() {
            return false;
        }
        matches!(tokio::time::timeout(wait, finished).await, Ok(Ok(())))
    }

    /// Says that the removals that wait are meant; the next listing carries them out.
    pub async fn accept_removals(&self) {
        let _ = self.commands.send(Command::AcceptRemovals).await;
    }

    /// Has a scrub run begin now.
    pub fn scrub_now(&self) {
        self.scrub.scrub_now();
    }
}

/// A local synchronizer that is ready to run.
pub struct Local {
    actor: Actor,
    scrub: Scrub,
    handle: LocalHandle,
}

impl Local {
    /// Reads what ledger and registry say of earlier days; [`Self::run`] announces it.
    pub async fn start(
        settings: LocalSettings,
        scrub: ScrubSettings,
        outside: Outside,
        assignment: Box<dyn Assignment>,
    ) -> Result<Self, LocalError> {
        let (send, commands) = mpsc::channel(COMMANDS_MAX);
        let (tell, status) = watch::channel(Arc::default());
        let damaged = send.clone();
        let scrub = Scrub::new(outside.cache.clone(), scrub, move |found| {
            // nobody takes it when the synchronizer is stopping: the next start sees what is missing
            let _ = damaged.blocking_send(Command::Damaged(found.ids));
        })?;
        let handle = LocalHandle { commands: send, status, scrub: scrub.handle() };
        let actor =
            Actor::start(settings, outside, assignment, commands, tell, scrub.handle()).await?;
        Ok(Self { actor, scrub, handle })
    }

    /// For those who look at it.
    pub fn handle(&self) -> LocalHandle {
        self.handle.clone()
    }

    /// Runs until `shutdown`; what is under way then is given up, and the next start takes it up again. It ends by
    /// itself when somebody took its cache away: whoever starts it again has it begin with what is there.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), LocalError> {
        let scrubbing = worker::spawn(self.scrub).map_err(LocalError::Scrub)?;
        let ended = self.actor.run(shutdown).await;
        let stopping = tokio::task::spawn_blocking(move || scrubbing.stop()).await;
        stopping.map_err(|error| LocalError::Scrub(std::io::Error::other(error)))?;
        Ok(ended?)
    }
}
