//! A writer tells of the orphans on its disk: in the registry, where they outlive it, and as a figure.
//!
//! Invariants: nothing waits for this; one orphan is compared at a time, and each once, for that fetches what is
//! published; a comparison that failed is tried again, and told of in the log once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fsd::segment::SegmentId;
use metrics::gauge;
use sync::orphans::Orphan as Told;
use sync::registry::Epoch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::Outside;
use super::super::content::fetch_published;
use super::super::desk::Desk;
use super::super::files::FilesError;
use super::Orphan;
use super::difference::{Stop, compare};
use crate::metrics::WRITABLE_ORPHANS;

/// The pause before an orphan that could not be compared is compared again: the deep store may be away for a while.
const RETRY: Duration = Duration::from_secs(300);

type Key = (SegmentId, Epoch);

fn key(orphan: &Orphan) -> Key {
    (orphan.note.segment.clone(), orphan.note.epoch)
}

/// See the module. Looks after `every`, until `shutdown`.
pub(in super::super) async fn run(desk: Arc<Desk>, every: Duration, shutdown: CancellationToken) {
    let mut watch = Watch::default();
    loop {
        let looking = async {
            watch.look(&desk);
            watch.take_count().await;
            watch.count_next(&desk.outside);
            watch.tell(&desk.outside).await;
            tokio::time::sleep(every).await;
        };
        if shutdown.run_until_cancelled(looking).await.is_none() {
            break;
        }
    }
    if let Some(counting) = watch.counting.take() {
        counting.stop.store(true, Ordering::Relaxed);
        counting.task.abort();
        let _ = counting.task.await;
    }
}

#[derive(Default)]
struct Watch {
    /// What lay in the directory when its notes were read.
    names: Option<Vec<String>>,
    orphans: Vec<Orphan>,
    /// Rows that were not published when they were counted.
    rows: HashMap<Key, u64>,
    counting: Option<Counting>,
    /// When what failed is tried again.
    not_before: HashMap<Key, Instant>,
    /// What is in the log already.
    logged: HashSet<Key>,
    directory_logged: bool,
    untold_logged: bool,
}

/// The comparison that is under way.
struct Counting {
    of: Key,
    stop: Stop,
    task: JoinHandle<Result<u64, String>>,
}

impl Watch {
    /// Looks what there is.
    fn look(&mut self, desk: &Desk) {
        match self.read(desk) {
            Ok(()) => self.directory_logged = false,
            Err(error) => {
                if !std::mem::replace(&mut self.directory_logged, true) {
                    tracing::warn!(%error, "the orphans of this writer cannot be looked up");
                }
            }
        }
        gauge!(WRITABLE_ORPHANS).set(self.orphans.len() as f64);
    }

    fn read(&mut self, desk: &Desk) -> Result<(), FilesError> {
        let names = desk.files().orphan_names()?;
        if self.names.as_ref() == Some(&names) {
            return Ok(());
        }
        // one that changes meanwhile is seen the next time
        self.orphans = Orphan::all(desk.files())?;
        self.names = Some(names);
        let there: HashSet<_> = self.orphans.iter().map(key).collect();
        self.rows.retain(|key, _| there.contains(key));
        self.not_before.retain(|key, _| there.contains(key));
        self.logged.retain(|key| there.contains(key));
        Ok(())
    }

    /// Takes note of a comparison that has ended.
    async fn take_count(&mut self) {
        let Some(counting) = self.counting.take_if(|counting| counting.task.is_finished()) else {
            return;
        };
        let Counting { of, task, .. } = counting;
        match task.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(rows) => drop(self.rows.insert(of, rows)),
            Err(error) => {
                self.not_before.insert(of.clone(), Instant::now() + RETRY);
                if self.logged.insert(of.clone()) {
                    let (segment, epoch) = of;
                    tracing::warn!(%segment, %epoch, %error, "the rows of an orphan are not counted yet; it is tried again");
                }
            }
        }
    }

    /// Begins to compare the oldest that was not, unless one is under way.
    fn count_next(&mut self, outside: &Outside) {
        if self.counting.is_some() {
            return;
        }
        let now = Instant::now();
        let waits = |of: &Key| self.not_before.get(of).is_some_and(|at| now < *at);
        let due = |orphan: &&Orphan| {
            let of = key(orphan);
            !self.rows.contains_key(&of) && !waits(&of)
        };
        let Some(orphan) = self.orphans.iter().find(due).cloned() else { return };
        let (of, stop) = (key(&orphan), Arc::<AtomicBool>::default());
        let task = tokio::spawn(count(outside.clone(), orphan, Arc::clone(&stop)));
        self.counting = Some(Counting { of, stop, task });
    }

    async fn tell(&mut self, outside: &Outside) {
        let told: Vec<_> = self.orphans.iter().map(|orphan| self.told(orphan)).collect();
        match outside.orphans.tell(&told).await {
            Ok(()) => self.untold_logged = false,
            Err(error) => {
                if !std::mem::replace(&mut self.untold_logged, true) {
                    tracing::warn!(%error, "the registry is not told of this writer's orphans; it is tried again");
                }
            }
        }
    }

    fn told(&self, orphan: &Orphan) -> Told {
        Told {
            segment: orphan.note.segment.clone(),
            epoch: orphan.note.epoch,
            unpublished_since_ms: orphan.note.unpublished_since_ms,
            set_aside_ms: orphan.set_aside_ms,
            bytes: orphan.bytes,
            rows: self.rows.get(&key(orphan)).copied(),
        }
    }
}

/// How many rows `orphan` has that are not published.
async fn count(outside: Outside, orphan: Orphan, stop: Stop) -> Result<u64, String> {
    let (store, files) = (&*outside.store, outside.files.clone());
    let theirs = fetch_published(store, &files, &orphan.note.segment, &|_, _| {}).await;
    let theirs = theirs.map_err(|error| error.to_string())?;
    let count = move || {
        compare(&files, &orphan.path, theirs.as_deref(), &stop, &mut |_, _| Ok(()))
            .map(|difference| difference.missing())
            .map_err(|error| error.to_string())
    };
    let counted = tokio::task::spawn_blocking(count).await;
    counted.unwrap_or_else(|error| Err(error.to_string()))
}
