//! The one task that owns the [`State`]: it starts jobs, takes their events, and starts what follows.
//!
//! Invariant: nothing here waits for anything but the next event; every job is bounded in number, and by its
//! own time-outs in time.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fsd::cache::CacheError;
use fsd::scrub::ScrubHandle;
use fsd::segment::SegmentId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::backoff::Backoff;
use super::jobs::Event;
use super::seat::Earlier;
use super::state::{Delays, Removal, State};
use super::status::{LocalStatus, MountStatus, StoreStatus};
use super::{Command, LocalError, LocalSettings, Outside};
use crate::pool::guard::HeldBack;
use crate::pull::Pulled;
use crate::quota::Assignment;

mod events;
mod report;
mod steps;

/// One asked to be told when all that follows from a listing is done.
struct Waiter {
    done: oneshot::Sender<()>,
    /// The listing that it waits for, by number.
    listing: u64,
}

pub(super) struct Actor {
    settings: LocalSettings,
    outside: Outside,
    assignment: Box<dyn Assignment>,
    commands: mpsc::Receiver<Command>,
    tell_status: watch::Sender<Arc<LocalStatus>>,
    state: State,
    jobs: JoinSet<Event>,

    listing: bool,
    listings_begun: u64,
    listings_done: u64,
    next_listing: Instant,
    accept_removals: bool,
    held_back: Option<HeldBack>,
    /// Segments that vanished and stay until a person says so.
    removals_waiting: HashSet<SegmentId>,
    /// A complete listing that the registry was not told of yet.
    complete_at_ms: Option<u64>,
    waiters: Vec<Waiter>,

    /// Files on their way from the deep store.
    pulls: usize,
    /// Files that are being verified and synced. They wait for this machine only, so others may come meanwhile.
    verifying: usize,
    ready: Vec<(SegmentId, Pulled)>,
    /// When the first of `ready` came.
    ready_since: Option<Instant>,
    publishing: bool,
    pause: Backoff,
    /// The segments that failed since one last came; see `FAILURES_BEFORE_PAUSE`.
    failed_in_a_row: HashSet<SegmentId>,
    paused_until: Option<(Instant, String)>,

    looking: Option<Instant>,
    next_look: Instant,
    telling: bool,
    /// Whether a live mount was seen since the start.
    mount_seen: bool,
    /// Whether all that there is was told once.
    told_all: bool,
    tell: Backoff,
    next_tell: Instant,
    removing: bool,
    removals: Vec<Removal>,

    /// Why nothing can be done here any more.
    gone: Option<CacheError>,
    scrub: ScrubHandle,
    status: LocalStatus,
    next_status: Instant,
}

impl Actor {
    pub(super) async fn start(
        settings: LocalSettings,
        outside: Outside,
        assignment: Box<dyn Assignment>,
        commands: mpsc::Receiver<Command>,
        tell_status: watch::Sender<Arc<LocalStatus>>,
        scrub: ScrubHandle,
    ) -> Result<Self, LocalError> {
        let Earlier { rows, complete_at_ms } = outside.seat.earlier().await?;
        let holdings = outside.cache.holdings()?;
        let now = Instant::now();
        let millis = Duration::from_millis;
        let delays = Delays {
            drain: millis(settings.drain_ms),
            failed: (millis(settings.retry_first_ms), millis(settings.retry_longest_ms)),
            refused: (millis(settings.refused_first_ms), millis(settings.refused_longest_ms)),
        };
        let (known, held) = (rows.len(), holdings.len());
        info!(known, held, "starting from what the registry knew and the ledger proves");
        let mut state = State::new(delays, outside.cache.quota_bytes(), rows, holdings);
        // what was interrupted, or damaged while nobody looked, is pulled before the first listing ends
        state.assign(&*assignment);
        let status = LocalStatus {
            node: outside.node.clone(),
            begun_at_ms: outside.clock.now_ms(),
            store: StoreStatus {
                address: outside.store.address(),
                complete_listing_at_ms: complete_at_ms,
                ..StoreStatus::default()
            },
            mount: MountStatus {
                path: outside.view.root().display().to_string(),
                ..MountStatus::default()
            },
            ..LocalStatus::default()
        };
        Ok(Self {
            pause: Backoff::new(delays.failed.0, delays.failed.1),
            tell: Backoff::new(delays.failed.0, delays.failed.1),
            settings,
            outside,
            assignment,
            commands,
            tell_status,
            state,
            jobs: JoinSet::new(),
            listing: false,
            listings_begun: 0,
            listings_done: 0,
            next_listing: now,
            accept_removals: false,
            held_back: None,
            removals_waiting: HashSet::new(),
            complete_at_ms: None,
            waiters: Vec::new(),
            pulls: 0,
            verifying: 0,
            ready: Vec::new(),
            ready_since: None,
            publishing: false,
            failed_in_a_row: HashSet::new(),
            paused_until: None,
            looking: None,
            next_look: now,
            telling: false,
            mount_seen: false,
            told_all: false,
            next_tell: now,
            removing: false,
            removals: Vec::new(),
            gone: None,
            scrub,
            status,
            next_status: now,
        })
    }

    /// Until `shutdown`, or until the cache is gone.
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> Result<(), CacheError> {
        while self.gone.is_none() {
            self.step();
            let wake = self.next_wake();
            tokio::select! {
                () = shutdown.cancelled() => break,
                command = self.commands.recv() => match command {
                    Some(command) => self.take_command(command),
                    None => break,
                },
                Some(event) = self.jobs.join_next() => match event {
                    Ok(event) => self.take_event(event),
                    Err(error) => error!(%error, "a job of the synchronizer ended without an answer"),
                },
                () = self.outside.seat.changed() => self.next_listing = Instant::now(),
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        self.jobs.abort_all();
        self.gone.map_or(Ok(()), Err)
    }

    fn take_command(&mut self, command: Command) {
        match command {
            Command::Sync(done) => {
                // a listing that runs already may have passed what the caller means
                self.waiters.push(Waiter { done, listing: self.listings_begun + 1 });
                self.next_listing = Instant::now();
            }
            Command::AcceptRemovals => {
                info!("removals accepted; the next listing carries them out");
                self.accept_removals = true;
                self.next_listing = Instant::now();
            }
            Command::Damaged(ids) => {
                self.status.work.damaged_total += ids.len() as u64;
                self.state.damaged(&ids);
            }
        }
    }

    fn next_wake(&self) -> Instant {
        let mut wakes = BTreeSet::from([self.next_status]);
        if !self.listing {
            wakes.insert(self.next_listing);
        }
        if self.looking.is_none() {
            wakes.insert(self.next_look);
        }
        if !self.telling && self.has_to_tell() {
            wakes.insert(self.next_tell);
        }
        if !self.publishing {
            wakes.extend(self.publish_due());
        }
        wakes.extend(self.paused_until.as_ref().map(|(until, _)| *until));
        wakes.extend(self.state.next_due());
        wakes.first().copied().unwrap_or(self.next_status)
    }
}
