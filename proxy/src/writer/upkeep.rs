//! What a writer does by itself.
//!
//! Invariants: what was acknowledged is published without anybody asking, when it is old or much; a segment is given
//! back only when its last version is served; what a crash or a lost lock left is taken up again, for as long as it
//! takes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use fsd::segment::SegmentId;
use metrics::{counter, gauge};
use sync::publish::PublishError;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::desk::Desk;
use super::error::OpenError;
use super::orphans::watch;
use super::segment::Segment;
use crate::causes::causes;
use crate::metrics::{
    WRITABLE_OPEN, WRITABLE_PROMOTIONS, WRITABLE_UNPUBLISHED, WRITABLE_UNPUBLISHED_AGE,
};

/// Between two looks at all segments.
const TICK: Duration = Duration::from_millis(250);
/// Between two tries to take up again what was left, and two looks at the orphans.
const RESUME_EVERY: Duration = Duration::from_secs(2);
/// The pause after a publication that failed; doubled by each further one.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// The longest such pause.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What waits after a failure.
#[derive(Debug, Default)]
struct Retry {
    failures: u32,
    not_before: Option<Instant>,
}

type Retries = std::collections::HashMap<SegmentId, Retry>;

/// Looks after all segments of `desk` until `shutdown`, then leaves them.
pub async fn run(desk: Arc<Desk>, shutdown: CancellationToken) {
    let promoting = Arc::new(Semaphore::new(desk.outside.settings.promote_concurrency.max(1)));
    let mut promotions: JoinSet<(SegmentId, bool)> = JoinSet::new();
    let (mut under_way, mut retries) = (HashSet::new(), Retries::new());
    // beside the rest: what is opened again waits for its readers
    let resuming = tokio::spawn(resume_all(Arc::clone(&desk), shutdown.clone()));
    let watching = tokio::spawn(watch::run(Arc::clone(&desk), RESUME_EVERY, shutdown.clone()));
    while shutdown.run_until_cancelled(tokio::time::sleep(TICK)).await.is_some() {
        while let Some(ended) = promotions.try_join_next() {
            let Ok((id, done)) = ended else { continue };
            under_way.remove(&id);
            note_outcome(&mut retries, id, done);
        }
        let open = desk.open();
        for segment in &open {
            look(&desk, segment).await;
            let waits = retries.get(segment.id()).and_then(|retry| retry.not_before);
            let due = is_due(&desk, segment) && waits.is_none_or(|at| Instant::now() >= at);
            if !due || under_way.contains(segment.id()) {
                continue;
            }
            let Ok(permit) = Arc::clone(&promoting).try_acquire_owned() else { break };
            under_way.insert(segment.id().clone());
            let (desk, id) = (Arc::clone(&desk), segment.id().clone());
            promotions.spawn(async move {
                let _permit = permit;
                let done = promote(&desk, &id).await;
                (id, done)
            });
        }
        report(&open, &desk);
        if let Err(error) = desk.write_lease() {
            tracing::warn!(%error, "the reader of this node is not told what is writable");
        }
    }
    // a copy that is being made is thrown away, a publication finds its lock gone
    promotions.shutdown().await;
    // it ends with what it opens now, which its time-outs bound
    let _ = resuming.await;
    let _ = watching.await;
    desk.leave_all().await;
}

fn note_outcome(retries: &mut Retries, id: SegmentId, done: bool) {
    if done {
        retries.remove(&id);
        return;
    }
    let retry = retries.entry(id).or_default();
    let pause = RETRY_MIN * 2_u32.saturating_pow(retry.failures.min(16));
    retry.failures += 1;
    retry.not_before = Some(Instant::now() + pause.min(RETRY_MAX));
}

async fn resume_all(desk: Arc<Desk>, shutdown: CancellationToken) {
    let mut told = HashSet::new();
    loop {
        resume(&desk, &mut told, &shutdown).await;
        let waited = shutdown.run_until_cancelled(tokio::time::sleep(RESUME_EVERY)).await;
        if waited.is_none() {
            return;
        }
    }
}

/// Takes up again what was written when this writer ended, or lost its lock.
async fn resume(desk: &Desk, told: &mut HashSet<SegmentId>, shutdown: &CancellationToken) {
    let notes = match desk.files().notes() {
        Ok(notes) => notes,
        Err(error) => {
            tracing::warn!(%error, "what this writer left cannot be looked up");
            return;
        }
    };
    for note in notes {
        let id = note.segment;
        if shutdown.is_cancelled() {
            return;
        }
        match desk.resume(&id).await {
            Ok(()) | Err(OpenError::Stopping) => drop(told.remove(&id)),
            Err(OpenError::SetAside(_)) => drop(told.remove(&id)),
            // another has it, or a lock of this node's last life lasts for a moment
            Err(OpenError::Publish(PublishError::HeldBy { .. })) => {}
            Err(error) => {
                if told.insert(id.clone()) {
                    tracing::warn!(segment = %id, error = %causes(&error), "what was written here is not open yet; it is tried again and again");
                }
            }
        }
    }
}

/// Sees to a segment that lost its lock, whose disk failed, or that nobody writes to any more.
async fn look(desk: &Arc<Desk>, segment: &Arc<Segment>) {
    if !segment.holds() {
        let (desk, id) = (Arc::clone(desk), segment.id().clone());
        // beside this loop: requests that are under way may take their time
        tokio::spawn(async move { desk.leave_lost(&id).await });
        return;
    }
    if let Some(reason) = segment.recover(&desk.outside).await {
        tracing::error!(segment = %segment.id(), reason, "the disk failed under a segment that is written");
    }
    let idle_s = desk.outside.settings.idle_s;
    let (Some(version), None) = (segment.version(), segment.unpublished().since_ms) else { return };
    if segment.idle() < Duration::from_secs(idle_s) {
        return;
    }
    if desk.outside.readers.have(segment.id(), &version).await {
        let (desk, id) = (Arc::clone(desk), segment.id().clone());
        tokio::spawn(async move { desk.hand_back(&id).await });
    }
}

/// Whether it is time to publish.
fn is_due(desk: &Desk, segment: &Segment) -> bool {
    let settings = &desk.outside.settings;
    let unpublished = segment.unpublished();
    let Some(since_ms) = unpublished.since_ms else {
        // one that was made, and never written to, becomes one of the pool before it is given back
        return segment.version().is_none()
            && segment.idle() >= Duration::from_secs(settings.idle_s);
    };
    let age_ms = desk.outside.clock.now_ms().saturating_sub(since_ms);
    age_ms >= settings.promote_after_s.saturating_mul(1000)
        || unpublished.bytes >= settings.promote_bytes
}

async fn promote(desk: &Desk, id: &SegmentId) -> bool {
    let promoted = desk.promote(id).await;
    match &promoted {
        Ok(version) => {
            counter!(WRITABLE_PROMOTIONS, "outcome" => "published").increment(1);
            tracing::info!(segment = %id, digest = %version.digest, length = version.stamp.length, "published");
        }
        Err(error) => {
            counter!(WRITABLE_PROMOTIONS, "outcome" => "failed").increment(1);
            tracing::warn!(segment = %id, error = %causes(error), "not published; it is tried again");
        }
    }
    promoted.is_ok()
}

fn report(open: &[Arc<Segment>], desk: &Desk) {
    let unpublished: Vec<_> = open.iter().map(|segment| segment.unpublished()).collect();
    let oldest = unpublished.iter().filter_map(|one| one.since_ms).min();
    let age_ms = oldest.map_or(0, |since_ms| desk.outside.clock.now_ms().saturating_sub(since_ms));
    gauge!(WRITABLE_OPEN).set(open.len() as f64);
    gauge!(WRITABLE_UNPUBLISHED)
        .set(unpublished.iter().filter(|one| one.since_ms.is_some()).count() as f64);
    gauge!(WRITABLE_UNPUBLISHED_AGE).set(age_ms as f64 / 1000.0);
}
