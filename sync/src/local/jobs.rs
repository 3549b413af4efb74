//! The work of the local synchronizer that takes time: each job runs beside the others and comes back as an
//! [`Event`].
//!
//! Invariant: a job changes the cache or the registry, never the [`super::state::State`].

use std::time::{Duration, Instant};

use fsd::cache::{CacheError, Holding};
use fsd::segment::{Digest, SegmentId, Stamp};
use fsd::status::FsStatus;
use fsd::view::{MountState, MountView};
use tokio::task::spawn_blocking;

use super::Outside;
use super::seat::{Report, SeatError, Seen};
use super::state::Removal;
use crate::pool::PoolEntry;
use crate::pull::{self, Fetched, PullError, Pulled};

/// How long one look at the mount waits for published segments to show; then it looks again.
const LOOK: Duration = Duration::from_secs(1);

/// The first pause while waiting for the mount; it doubles.
const LOOK_PAUSE: Duration = Duration::from_micros(500);

/// What a job came to.
pub(super) enum Event {
    Seen(Seen),
    Fetched { id: SegmentId, entry: PoolEntry, result: Result<Fetched, PullError> },
    Verified { id: SegmentId, entry: PoolEntry, result: Result<Pulled, PullError> },
    Published { results: Vec<(SegmentId, Stamp, Result<Option<Holding>, CacheError>)> },
    Republished { id: SegmentId, stamp: Stamp, result: Result<Option<Holding>, CacheError> },
    Looked(Look),
    Told { report: Report, result: Result<(), SeatError> },
    Removed { results: Vec<(Removal, Option<Holding>, Result<(), CacheError>)> },
}

/// What there is on this machine.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Why the cache is none any more.
    pub(super) gone: Option<CacheError>,
    /// What its volume has free.
    pub(super) free_bytes: Option<u64>,
    /// What of the unseen the mount shows.
    pub(super) seen: Vec<(SegmentId, Digest)>,
    /// Whether the mount answers.
    pub(super) live: bool,
    /// What fsd says of itself.
    pub(super) figures: Option<FsStatus>,
}

/// Looks at what is to be held.
pub(super) async fn hear(outside: Outside) -> Event {
    Event::Seen(outside.seat.look().await)
}

/// Brings one segment file here.
pub(super) async fn fetch(outside: Outside, id: SegmentId, entry: PoolEntry) -> Event {
    let result = pull::fetch(&*outside.store, &outside.cache, &*outside.clock, &id, &entry).await;
    Event::Fetched { id, entry, result }
}

/// Verifies what was brought, and brings it to the disk to stay.
pub(super) async fn verify(
    outside: Outside,
    id: SegmentId,
    entry: PoolEntry,
    fetched: Fetched,
) -> Event {
    let result = fetched.verify(&outside.cache).await;
    Event::Verified { id, entry, result }
}

/// Publishes a batch.
pub(super) async fn publish(outside: Outside, batch: Vec<(SegmentId, Pulled)>) -> Event {
    let keys: Vec<_> = batch.iter().map(|(id, p)| (id.clone(), p.source.stamp)).collect();
    let cache = outside.cache.clone();
    let job = spawn_blocking(move || {
        let batch = batch.into_iter().map(|(_, pulled)| (pulled.verified, pulled.source));
        let results = cache.publish(batch.collect());
        let holding = |published: fsd::cache::Published| cache.holding(&published.id);
        let results = results.into_iter().map(|result| result.and_then(holding));
        keys.into_iter().zip(results).map(|((id, stamp), result)| (id, stamp, result)).collect()
    });
    Event::Published { results: job.await.unwrap_or_default() }
}

/// Publishes a withdrawn segment again, without a pull.
pub(super) async fn republish(outside: Outside, id: SegmentId, entry: PoolEntry) -> Event {
    let (cache, key, stamp) = (outside.cache.clone(), id.clone(), entry.stamp);
    let job = spawn_blocking(move || {
        let source = fsd::cache::Source { path: entry.path.to_string(), stamp, sealed: false };
        match cache.republish(&key, &source)? {
            Some(_) => cache.holding(&key),
            None => Ok(None),
        }
    });
    Event::Republished { id, stamp, result: job.await.unwrap_or(Ok(None)) }
}

/// Looks whether the cache and the mount are there, and the mount shows what was published. One thread at a time, which
/// a hung fsd can hold: the actor counts the mount as down when this does not come back.
pub(super) async fn look(outside: Outside, unseen: Vec<(SegmentId, Digest)>) -> Event {
    let (view, cache) = (outside.view.clone(), outside.cache.clone());
    let job = spawn_blocking(move || {
        let gone = cache.check().err();
        let seen = look_until(&view, unseen, Instant::now() + LOOK);
        let live = view.state() == MountState::Live;
        let figures = live.then(|| figures(&view)).flatten();
        Look { gone, free_bytes: cache.free_bytes(), seen, live, figures }
    });
    Event::Looked(job.await.unwrap_or_default())
}

fn look_until(
    view: &MountView,
    mut unseen: Vec<(SegmentId, Digest)>,
    end: Instant,
) -> Vec<(SegmentId, Digest)> {
    let mut seen = Vec::new();
    let mut pause = LOOK_PAUSE;
    while !unseen.is_empty() && view.state() == MountState::Live {
        unseen.retain(|(id, digest)| {
            let shown = shows(view, id, *digest);
            if shown {
                seen.push((id.clone(), *digest));
            }
            !shown
        });
        if unseen.is_empty() || Instant::now() >= end {
            break;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LOOK / 10);
    }
    seen
}

/// The open asks fsd itself and freshens a cached `stat`; the `stat` after it is what readers will get.
fn shows(view: &MountView, id: &SegmentId, digest: Digest) -> bool {
    matches!(view.digest(id), Ok(Some(shown)) if shown == digest)
        && matches!(view.stat(id), Ok(Some(_)))
}

fn figures(view: &MountView) -> Option<FsStatus> {
    let text = std::fs::read(view.root().join(".trough/status.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Tells what changed here.
pub(super) async fn tell(outside: Outside, report: Report) -> Event {
    let result = outside.seat.tell(&report).await;
    Event::Told { report, result }
}

/// Takes segments out of the cache.
pub(super) async fn remove(outside: Outside, removals: Vec<Removal>) -> Event {
    let cache = outside.cache.clone();
    let job = spawn_blocking(move || {
        let one = |removal: Removal| {
            let (id, result) = match &removal {
                Removal::Unpublish(id) => (id, cache.unpublish(id)),
                Removal::Remove(id) => (id, cache.remove(id)),
            };
            let left = cache.holding(id).ok().flatten();
            (removal, left, result.map(drop))
        };
        removals.into_iter().map(one).collect()
    });
    Event::Removed { results: job.await.unwrap_or_default() }
}
