//! Reads every object again, from the disk itself, and withdraws what no longer hashes to its name (S2).
//!
//! Invariants: every object that the cache has during a whole run is read in it, once in `period_s`; the time spent
//! reading stays at `disk_share` unless the period needs more (S12), and never above [`DISK_SHARE_MAX`]; a run goes
//! on where it stopped after any crash (S10). An object that is replaced or removed while it is read is no damage.
//! Limit: damaged bytes may be served until scrub comes by.
//!
//! Left out: the cure. Whoever is told of [`Damaged`] pulls the segments again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cache::disk::{self, now_ms};
use crate::cache::{Cache, CacheError};
use crate::direct::Buffer;
use crate::ledger::Fingerprint;
use crate::metrics;
use crate::segment::{Digest, SegmentId};
use crate::tranquilizer::Tranquilizer;
use crate::worker::{Worked, Worker, WorkerError};

mod direct;

use direct::{CHUNK_BYTES, Reader};

/// The largest share of the time that scrub reads, however late it is: queries come first.
pub const DISK_SHARE_MAX: f64 = 0.5;

/// How often progress is written down: what a crash may cost in work done twice.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);

/// How many verified objects wait at most for the next checkpoint.
const VERIFIED_MAX: usize = 4096;

/// The longest rest while nothing is due, so that [`ScrubHandle::scrub_now`] is noticed soon.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// How many of the last damaged objects the status tells of.
const DAMAGED_SHOWN_MAX: usize = 100;

/// Settings of scrub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScrubSettings {
    /// Every object is read once in this time, in seconds.
    pub period_s: u64,
    /// The share of the time spent reading, above 0 and at most 0.5. It gives way, up to 0.5, when the period would
    /// not be kept.
    pub disk_share: f64,
}

impl Default for ScrubSettings {
    fn default() -> Self {
        Self { period_s: 7 * 24 * 60 * 60, disk_share: 0.05 }
    }
}

/// An object that no longer is what it was; its segments are withdrawn and its bytes quarantined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// The segments that were this object; pull them again.
    pub ids: Vec<SegmentId>,
    /// What it should hash to.
    pub digest: Digest,
    /// What was wrong.
    pub error: String,
}

/// What sets the pace of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// The set share of the disk; the period is kept with it.
    #[default]
    DiskShare,
    /// The period: it needs more than the set share.
    Period,
    /// The most that scrub ever takes, and the period will not be kept: the disk is too slow or too full.
    DiskShareMax,
}

/// How scrub is.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ScrubStatus {
    /// A run is under way.
    pub running: bool,
    /// Part of the bytes that the present run has read, 0 to 1; 1 between runs.
    pub progress: f64,
    /// Bytes read in the present run, or the last one.
    pub read_bytes: u64,
    /// What sets the pace.
    pub pace: Pace,
    /// Share of the time spent reading, as it is now.
    pub disk_share: f64,
    /// When the last complete run ended, milliseconds since 1970.
    pub completed_at_ms: Option<u64>,
    /// When the next run begins, milliseconds since 1970; `None` while one is under way.
    pub next_at_ms: Option<u64>,
    /// Damaged objects found since the cache was made.
    pub corruptions: u64,
    /// The last of them that this process found.
    pub damaged: VecDeque<Damaged>,
}

/// Where scrub stands, as the ledger keeps it. Fields are only ever added, with a default (S11).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Checkpoint {
    run: Option<Run>,
    last_started_at_ms: Option<u64>,
    completed_at_ms: Option<u64>,
    corruptions: u64,
}

/// A run under way. Objects are read in the order of their digests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Run {
    started_at_ms: u64,
    /// The last object that is done.
    after: Option<Digest>,
    read_bytes: u64,
    busy_ms: u64,
}

/// An object that is being read.
struct Current {
    digest: Digest,
    reader: Reader,
    hasher: blake3::Hasher,
    /// Added to the run when the object is done, so that a resumed run counts it once.
    bytes: u64,
    busy: Duration,
}

#[derive(Default)]
struct Shared {
    status: Mutex<ScrubStatus>,
    now: AtomicBool,
}

/// Looks at scrub and asks for it from other threads. Cloning is cheap.
#[derive(Clone)]
pub struct ScrubHandle(Arc<Shared>);

impl ScrubHandle {
    /// How it is now.
    pub fn status(&self) -> ScrubStatus {
        lock(&self.0.status).clone()
    }

    /// Begins a run now, at the set pace; one that is under way goes on.
    pub fn scrub_now(&self) {
        self.0.now.store(true, Ordering::Relaxed);
    }
}

fn lock(status: &Mutex<ScrubStatus>) -> MutexGuard<'_, ScrubStatus> {
    status.lock().expect("a panic aborts the process, so the lock is never poisoned")
}

/// The worker. Its unit of work is one read of at most 8 MiB.
pub struct Scrub {
    cache: Cache,
    settings: ScrubSettings,
    report: Box<dyn FnMut(Damaged) + Send>,
    checkpoint: Checkpoint,
    saved_at: Instant,
    verified: Vec<Digest>,
    current: Option<Current>,
    buffer: Buffer,
    tranquilizer: Tranquilizer,
    shared: Arc<Shared>,
}

impl Scrub {
    /// A scrub of `cache` that goes on where the last one stopped; `report` is told of each damaged object after
    /// its segments are withdrawn.
    pub fn new(
        cache: Cache,
        settings: ScrubSettings,
        report: impl FnMut(Damaged) + Send + 'static,
    ) -> Result<Self, CacheError> {
        let text = cache.scrub_checkpoint()?;
        let decode = |text: String| {
            serde_json::from_str(&text).unwrap_or_else(|error| {
                tracing::warn!(%error, "scrub's checkpoint cannot be read: a run begins afresh");
                Checkpoint::default()
            })
        };
        let scrub = Self {
            cache,
            settings,
            report: Box::new(report),
            checkpoint: text.map_or_else(Checkpoint::default, decode),
            saved_at: Instant::now(),
            verified: Vec::new(),
            current: None,
            buffer: Buffer::new(CHUNK_BYTES),
            tranquilizer: Tranquilizer::default(),
            shared: Arc::default(),
        };
        scrub.show(scrub.pace());
        Ok(scrub)
    }

    /// For other threads.
    pub fn handle(&self) -> ScrubHandle {
        ScrubHandle(self.shared.clone())
    }

    /// Reads every object now, at full speed, from the first to the last; ends early, to be resumed, when `stop` is set.
    pub fn run_once(&mut self, stop: &AtomicBool) -> Result<ScrubStatus, CacheError> {
        self.begin()?;
        while self.checkpoint.run.is_some() && !stop.load(Ordering::Relaxed) {
            self.unit()?;
        }
        self.save()?;
        self.show(self.pace());
        Ok(self.handle().status())
    }

    fn begin(&mut self) -> Result<(), CacheError> {
        let now_ms = now_ms();
        self.current = None;
        self.checkpoint.last_started_at_ms = Some(now_ms);
        self.checkpoint.run = Some(Run { started_at_ms: now_ms, ..Run::default() });
        self.save()
    }

    fn next_at_ms(&self) -> u64 {
        let period_ms = self.settings.period_s.saturating_mul(1000);
        self.checkpoint.last_started_at_ms.map_or(0, |at| at.saturating_add(period_ms))
    }

    /// One read, or the end of a run.
    fn unit(&mut self) -> Result<(), CacheError> {
        let started = Instant::now();
        let Some(run) = &self.checkpoint.run else { return Ok(()) };
        if self.current.is_none() {
            let Some(digest) = self.cache.object_after(run.after.as_ref()) else {
                return self.complete();
            };
            match Reader::open(&self.cache.layout().object(&digest)) {
                Ok(reader) => {
                    let (hasher, busy) = (blake3::Hasher::new(), Duration::ZERO);
                    self.current = Some(Current { digest, reader, hasher, bytes: 0, busy });
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    self.damaged(digest, None, "the object is missing".to_owned())?;
                    return self.done(digest, 0, started.elapsed());
                }
                Err(error) => return self.read_error(digest, None, error),
            }
        }
        let Some(mut current) = self.current.take() else { return Ok(()) };
        let chunk = match current.reader.read(&mut self.buffer) {
            Ok(chunk) => chunk,
            Err(error) => {
                let fingerprint = current.reader.fingerprint();
                return self.read_error(current.digest, Some(fingerprint), error);
            }
        };
        current.hasher.update(chunk);
        current.bytes += chunk.len() as u64;
        ::metrics::counter!(metrics::SCRUB_READ_BYTES).increment(chunk.len() as u64);
        let at_end = chunk.len() < CHUNK_BYTES;
        current.busy += started.elapsed();
        if !at_end {
            self.current = Some(current);
            return Ok(());
        }
        let Current { digest, reader, hasher, bytes, busy } = current;
        let got = Digest::from(hasher.finalize());
        if got == digest {
            self.verified.push(digest);
        } else {
            self.damaged(digest, Some(reader.fingerprint()), format!("it hashes to {got}"))?;
        }
        self.done(digest, bytes, busy)
    }

    fn read_error(
        &mut self,
        digest: Digest,
        read: Option<Fingerprint>,
        error: std::io::Error,
    ) -> Result<(), CacheError> {
        let path = self.cache.layout().object(&digest);
        if !direct::is_damage(&error) {
            return Err(CacheError::io("read", &path, 0, error));
        }
        let read = read.or_else(|| disk::fingerprint(&path).ok());
        self.damaged(digest, read, format!("it cannot be read: {error}"))?;
        self.done(digest, 0, Duration::ZERO)
    }

    fn damaged(
        &mut self,
        digest: Digest,
        read: Option<Fingerprint>,
        error: String,
    ) -> Result<(), CacheError> {
        let Some(ids) = self.cache.condemn(&digest, read, &error)? else { return Ok(()) };
        tracing::error!(%digest, ?ids, error, "damaged object found: its segments are withdrawn");
        self.checkpoint.corruptions += 1;
        let damaged = Damaged { ids, digest, error };
        {
            let mut status = lock(&self.shared.status);
            if status.damaged.len() == DAMAGED_SHOWN_MAX {
                status.damaged.pop_front();
            }
            status.damaged.push_back(damaged.clone());
        }
        (self.report)(damaged);
        Ok(())
    }

    fn done(&mut self, digest: Digest, bytes: u64, busy: Duration) -> Result<(), CacheError> {
        if let Some(run) = &mut self.checkpoint.run {
            run.after = Some(digest);
            run.read_bytes += bytes;
            run.busy_ms += u64::try_from(busy.as_millis()).unwrap_or(0);
        }
        if self.saved_at.elapsed() > CHECKPOINT_INTERVAL || self.verified.len() >= VERIFIED_MAX {
            self.save()?;
        }
        Ok(())
    }

    fn complete(&mut self) -> Result<(), CacheError> {
        let now_ms = now_ms();
        if let Some(run) = self.checkpoint.run.take() {
            lock(&self.shared.status).read_bytes = run.read_bytes;
        }
        self.checkpoint.completed_at_ms = Some(now_ms);
        ::metrics::gauge!(metrics::SCRUB_COMPLETED).set(now_ms as f64 / 1000.0);
        self.save()
    }

    fn save(&mut self) -> Result<(), CacheError> {
        let fail = |error: serde_json::Error| {
            CacheError::io("note scrub's progress in", &self.cache.layout().ledger(), 0, error)
        };
        let text = serde_json::to_string(&self.checkpoint).map_err(fail)?;
        self.cache.save_scrub(&std::mem::take(&mut self.verified), now_ms(), text)?;
        self.saved_at = Instant::now();
        Ok(())
    }

    fn pace(&self) -> (Pace, f64) {
        let Some(run) = &self.checkpoint.run else {
            return (Pace::DiskShare, self.settings.disk_share);
        };
        let left_bytes = self.cache.usage().objects_bytes.saturating_sub(run.read_bytes);
        pace(&self.settings, run, left_bytes, now_ms())
    }

    fn show(&self, (pace, disk_share): (Pace, f64)) {
        let objects_bytes = self.cache.usage().objects_bytes;
        let mut status = lock(&self.shared.status);
        status.running = self.checkpoint.run.is_some();
        status.progress = 1.0;
        if let Some(run) = &self.checkpoint.run {
            let bytes = run.read_bytes + self.current.as_ref().map_or(0, |current| current.bytes);
            status.read_bytes = bytes;
            status.progress = (bytes as f64 / objects_bytes.max(1) as f64).min(1.0);
        }
        (status.pace, status.disk_share) = (pace, disk_share);
        status.completed_at_ms = self.checkpoint.completed_at_ms;
        status.next_at_ms = (!status.running).then(|| self.next_at_ms());
        status.corruptions = self.checkpoint.corruptions;
    }
}

/// The share of the time to read, so that `left_bytes` are read before the period is over.
fn pace(settings: &ScrubSettings, run: &Run, left_bytes: u64, now_ms: u64) -> (Pace, f64) {
    let share = settings.disk_share.clamp(f64::MIN_POSITIVE, DISK_SHARE_MAX);
    if run.read_bytes == 0 {
        return (Pace::DiskShare, share);
    }
    let end_ms = run.started_at_ms.saturating_add(settings.period_s.saturating_mul(1000));
    let left_ms = end_ms.saturating_sub(now_ms);
    let needed_ms = run.busy_ms as f64 / run.read_bytes as f64 * left_bytes as f64;
    let needed_share = needed_ms / left_ms.max(1) as f64;
    if needed_share <= share {
        (Pace::DiskShare, share)
    } else if needed_share <= DISK_SHARE_MAX {
        (Pace::Period, needed_share)
    } else {
        (Pace::DiskShareMax, DISK_SHARE_MAX)
    }
}

impl Drop for Scrub {
    /// A stop in good order does no work twice.
    fn drop(&mut self) {
        if let Err(error) = self.save() {
            tracing::warn!(%error, "scrub's progress since its last checkpoint is lost");
        }
    }
}

impl Worker for Scrub {
    fn name(&self) -> &'static str {
        "scrub"
    }

    fn work(&mut self) -> Result<Worked, WorkerError> {
        let now = self.shared.now.swap(false, Ordering::Relaxed);
        if self.checkpoint.run.is_none() {
            let wait_ms = self.next_at_ms().saturating_sub(now_ms());
            if wait_ms > 0 && !now {
                self.show(self.pace());
                return Ok(Worked::Idle(Duration::from_millis(wait_ms).min(IDLE_MAX)));
            }
            self.begin()?;
        }
        let started = Instant::now();
        self.unit()?;
        let (pace, share) = self.pace();
        self.show((pace, share));
        Ok(Worked::Throttled(self.tranquilizer.rest_after(started.elapsed(), share)))
    }

    fn status(&self) -> String {
        let status = lock(&self.shared.status);
        match status.running {
            true => format!("{:.1} % read", 100.0 * status.progress),
            false => "waiting for the next run".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s12_the_period_wins_over_the_share_up_to_a_cap() {
        let settings = ScrubSettings { period_s: 1000, disk_share: 0.1 };
        // 1 ms for a byte, 1000 s to read 100,000, 200,000 and 600,000 more
        let run = Run { started_at_ms: 5, after: None, read_bytes: 100, busy_ms: 100 };
        assert_eq!(pace(&settings, &run, 100_000, 5), (Pace::DiskShare, 0.1));
        assert_eq!(pace(&settings, &run, 200_000, 5), (Pace::Period, 0.2));
        assert_eq!(pace(&settings, &run, 600_000, 5), (Pace::DiskShareMax, DISK_SHARE_MAX));
        // late already
        assert_eq!(pace(&settings, &run, 1, 2_000_000), (Pace::DiskShareMax, DISK_SHARE_MAX));
        // nothing measured yet
        assert_eq!(pace(&settings, &Run::default(), 600_000, 5), (Pace::DiskShare, 0.1));
    }

    #[test]
    fn s11_a_checkpoint_of_another_version_is_read() {
        let text = r#"{"run":{"started_at_ms":1,"from_the_future":2},"corruptions":3}"#;
        let checkpoint: Checkpoint = serde_json::from_str(text).unwrap();
        assert_eq!((checkpoint.run.unwrap().started_at_ms, checkpoint.corruptions), (1, 3));
    }
}
