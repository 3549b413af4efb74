//! One pull: a segment file from the deep store into the cache's staging area, verified.
//!
//! Invariants (S1, S2): the file did not change while it was read (stat before and after agree; where the seal speaks
//! of the version that was listed, the listing is the first of the two), and what comes out is [`Verified`]: the only
//! thing the cache publishes. A pull that fails leaves nothing behind.
//!
//! Left out: publishing, retries and which segments to pull ([`crate::local`]).

use std::time::Duration;

use fsd::cache::{Cache, CacheError, Refusal, Source, Staged, Verified};
use fsd::segment::{Digest, SegmentId, Stamp};
use futures::StreamExt;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::pool::PoolEntry;
use crate::seal;
use crate::store::{Store, StoreError, StoreErrorKind, StorePath};

/// How often a file that changes while it is read is begun again before the pull gives up.
const RESTARTS_MAX: u32 = 3;

/// A pause before a changing file is read again, so that whoever writes it can finish.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// A file without a seal that changed so lately, by this machine's clock, may still be being written in place.
const FRESH_MS: u64 = 60_000;

/// So long such a file must rest before it is read: its writer may have been kept from going on.
const SETTLE: Duration = Duration::from_millis(500);

/// A whole file that lies in the staging area and did not change while it was read; nothing is known of its bytes.
#[derive(Debug)]
pub struct Fetched {
    staged: Staged,
    path: StorePath,
    stamp: Stamp,
    sealed: Option<Digest>,
}

/// A segment that may be published, and the version it is.
#[derive(Debug)]
pub struct Pulled {
    /// The verified bytes.
    pub verified: Verified,
    /// Where they came from.
    pub source: Source,
}

/// Why a pull came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The deep store did not give the bytes; another try may.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file was gone.
    #[error("{path} is no longer in the deep store", path = .0)]
    Gone(StorePath),
    /// It changed under every try.
    #[error(
        "{path} changed while it was read, {RESTARTS_MAX} times; publish with `trough put`, which never shows a file half"
    )]
    Changing {
        /// Which file.
        path: StorePath,
    },
    /// This version is not a segment, or not what its seal says. It is in quarantine.
    #[error("{path} is refused: {refusal}")]
    Refused {
        /// Which file.
        path: StorePath,
        /// Which version.
        stamp: Stamp,
        /// Which step of the admission, and the remedy.
        refusal: Refusal,
    },
    /// It has a side file, so it is not the whole database.
    #[error(
        "{path} is refused: {side} lies beside it and holds what the file lacks; publish it with `trough put`, or checkpoint it and remove the side file"
    )]
    SideFile {
        /// Which file.
        path: StorePath,
        /// Which version.
        stamp: Stamp,
        /// What lies beside it.
        side: StorePath,
    },
    /// The cache could not take it: the disk, or the quota.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl PullError {
    /// Whether a file that changed while it was read looks like this.
    fn may_be_a_change(&self) -> bool {
        match self {
            Self::Store(error) => {
                matches!(error.kind, StoreErrorKind::Corrupt | StoreErrorKind::NotFound)
            }
            Self::Cache(error) => matches!(error, CacheError::LengthDiffers { .. }),
            Self::Gone(_)
            | Self::Changing { .. }
            | Self::Refused { .. }
            | Self::SideFile { .. } => false,
        }
    }
}

/// Brings `id` from `entry.path` to the staging area, in the version that lies there now.
pub async fn fetch(
    store: &dyn Store,
    cache: &Cache,
    clock: &dyn Clock,
    id: &SegmentId,
    entry: &PoolEntry,
) -> Result<Fetched, PullError> {
    let path = &entry.path;
    for attempt in 0..RESTARTS_MAX {
        // without one that counts the database itself is checked instead
        let seal = seal::beside(store, id, path).await?;
        let vouched_for = |stamp| seal.as_ref().filter(|seal| seal.applies_to(id, stamp));
        let before = if attempt == 0 && vouched_for(&entry.stamp).is_some() {
            // unchanged since the listing, if it still is in the end: one question to the NameNode less
            entry.stamp
        } else {
            store.stat(path).await?.ok_or_else(|| PullError::Gone(path.clone()))?
        };
        let sealed = vouched_for(&before).map(|seal| seal.blake3);
        if sealed.is_none() {
            refuse_side_files(store, path, before).await?;
            if clock.now_ms().saturating_sub(before.mtime_ms) < FRESH_MS {
                tokio::time::sleep(SETTLE).await;
                if store.stat(path).await? != Some(before) {
                    continue;
                }
            }
        }
        let staged = match stage(store, cache, id, path, before).await {
            Ok(staged) => Some(staged),
            // the file became another length in the middle: the same as a stamp that changed
            Err(error) if error.may_be_a_change() && store.stat(path).await? != Some(before) => {
                None
            }
            Err(error) => return Err(error),
        };
        let after = store.stat(path).await?;
        if let (Some(staged), Some(after)) = (staged, after)
            && after == before
        {
            return Ok(Fetched { staged, path: path.clone(), stamp: before, sealed });
        }
        tokio::time::sleep(RESTART_PAUSE).await;
    }
    Err(PullError::Changing { path: path.clone() })
}

/// The listing looks for side files as well; this is for one that came since.
async fn refuse_side_files(
    store: &dyn Store,
    path: &StorePath,
    stamp: Stamp,
) -> Result<(), PullError> {
    for suffix in ["-wal", "-journal"] {
        let Ok(side) = StorePath::new(&format!("{path}{suffix}")) else { continue };
        if store.stat(&side).await?.is_some() {
            return Err(PullError::SideFile { path: path.clone(), stamp, side: side.clone() });
        }
    }
    Ok(())
}

/// Streams the file into the staging area, all of it on one thread of its own: what was received lies in that core's
/// cache when it is written and hashed.
async fn stage(
    store: &dyn Store,
    cache: &Cache,
    id: &SegmentId,
    path: &StorePath,
    stamp: Stamp,
) -> Result<Staged, PullError> {
    let mut pieces = store.read(path).await?;
    let (cache, id, runtime) = (cache.clone(), id.clone(), Handle::current());
    let given_up = CancellationToken::new();
    let _give_up = given_up.clone().drop_guard();
    let staging = tokio::task::spawn_blocking(move || {
        let mut staging = cache.stage(&id, stamp.length)?;
        let all = async move {
            while let Some(piece) = pieces.next().await {
                staging.write(&piece?)?;
            }
            Ok(staging.finish()?)
        };
        // what was staged goes with a pull that nobody waits for any more
        let staged = runtime.block_on(given_up.run_until_cancelled(all));
        staged.unwrap_or_else(|| Err(join_error("the pull was given up").into()))
    });
    staging.await.map_err(join_error)?
}

impl Fetched {
    /// Verifies the bytes and brings them to the disk to stay. What is refused goes to quarantine.
    pub async fn verify(self, cache: &Cache) -> Result<Pulled, PullError> {
        let Self { staged, path, stamp, sealed } = self;
        let source = Source { path: path.to_string(), stamp, sealed: sealed.is_some() };
        let cache = cache.clone();
        let verifying = tokio::task::spawn_blocking(move || match staged.verify(sealed) {
            Ok(mut verified) => {
                verified.make_durable(source.stamp)?;
                Ok(Ok(Pulled { verified, source }))
            }
            Err(rejected) => {
                let refusal = rejected.refusal.clone();
                cache.quarantine_staged(rejected, &source)?;
                Ok(Err(refusal))
            }
        });
        let outcome: Result<Result<Pulled, Refusal>, CacheError> =
            verifying.await.map_err(join_error)?;
        outcome?.map_err(|refusal| PullError::Refused { path, stamp, refusal })
    }
}

/// A blocking task that did not come back: it panicked, and the process is about to abort.
fn join_error(error: impl ToString) -> StoreError {
    StoreError {
        kind: StoreErrorKind::Unavailable,
        attempted: "stage",
        target: "the cache".to_owned(),
        reason: error.to_string(),
    }
}
