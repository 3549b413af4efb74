//! Which life of the registry this is, counted in the deep store.
//!
//! Invariant: no two lives of a registry get the same number, because the deep store creates each counter file
//! `<root>/.trough/incarnation/<n>` once and never overwrites it. So a registry that comes back empty starts
//! above every epoch that was handed out before.

use crate::kv::{Entry, Index, Key, Kv, KvError, Op, Txn};
use crate::store::{Store, StoreError, StoreErrorKind, StorePath};

/// The counter's directory below the store's root; a listing passes over it.
const DIRECTORY: &str = ".trough/incarnation";
/// Where the registry says which it is.
const KEY: &str = "trough/incarnation";
/// The most counter files there may be: one for each time that a registry was lost.
const INCARNATIONS_MAX: usize = 100_000;
/// How often the next number may be taken by somebody else at the same moment.
const ATTEMPTS: u64 = 16;

/// Why the incarnation could not be found out or begun.
#[derive(Debug, thiserror::Error)]
pub enum IncarnationError {
    /// The deep store failed.
    #[error("cannot count the registry's incarnation")]
    Store(#[from] StoreError),
    /// The registry failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// Every number tried was taken at that moment.
    #[error("the next {ATTEMPTS} incarnations were all taken by others at this moment; try again")]
    Contended,
}

/// The incarnation of the registry in `kv`; one that has none, or says what is no number, begins the next that
/// `store` counts.
pub async fn ensure(store: &dyn Store, kv: &dyn Kv) -> Result<u64, IncarnationError> {
    let key = key()?;
    for _ in 0..ATTEMPTS {
        let entry = kv.get(&key).await?;
        if let Some(incarnation) = entry.as_ref().and_then(number) {
            return Ok(incarnation);
        }
        let counted = count(store).await?;
        tracing::info!(incarnation = counted, "the registry has no incarnation; beginning one");
        let index = entry.map_or(Index::ABSENT, |entry| entry.modified);
        let (key, value) = (key.clone(), counted.to_string().into());
        if let Txn::Committed(_) = kv.txn(&[Op::Cas { key, value, index }]).await? {
            return Ok(counted);
        }
        // somebody else began one between the two questions: what the registry says holds
    }
    Err(IncarnationError::Contended)
}

/// The incarnation of the registry in `kv`; `None` when it has none yet.
pub async fn read(kv: &dyn Kv) -> Result<Option<u64>, KvError> {
    Ok(kv.get(&key()?).await?.as_ref().and_then(number))
}

/// Where the registry says it.
pub(crate) fn key() -> Result<Key, KvError> {
    crate::kv::key(KEY)
}

/// What the key says; `None` when that is no number.
pub(crate) fn number(entry: &Entry) -> Option<u64> {
    std::str::from_utf8(&entry.value).ok()?.parse().ok()
}

/// Creates the next counter file and returns its number.
async fn count(store: &dyn Store) -> Result<u64, IncarnationError> {
    let directory = StorePath::new(DIRECTORY).map_err(path_error)?;
    store.mkdir(&directory).await?;
    let names = store.names(&directory, INCARNATIONS_MAX).await?;
    let highest = names.iter().filter_map(|name| name.parse::<u64>().ok()).max().unwrap_or(0);
    for next in highest + 1..=highest + ATTEMPTS {
        let path = directory.join(&next.to_string()).map_err(path_error)?;
        match store.create(&path).await {
            Ok(file) => {
                file.close().await?;
                return Ok(next);
            }
            Err(error) if error.kind == StoreErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(IncarnationError::Contended)
}

fn path_error(error: crate::store::InvalidStorePath) -> StoreError {
    StoreError {
        kind: StoreErrorKind::NotFound,
        attempted: "name the counter in",
        target: DIRECTORY.to_owned(),
        reason: error.to_string(),
    }
}
