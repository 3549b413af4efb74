//! What a segment is when it is opened for writing: what was published last, or an empty one with its schema.
//!
//! Invariant: published bytes are verified as the cache verifies them, by their seal's digest, or by SQLite's
//! `quick_check` where there is none.

use std::path::Path;
use std::time::Duration;

use fsd::header::{self, HEADER_BYTES};
use fsd::segment::{Digest, SegmentId};
use futures::StreamExt;
use sync::publish::{self, Published};
use sync::store::{Store, StoreError, StorePath};
use tempfile::TempPath;
use tokio::io::AsyncWriteExt;

use super::error::OpenError;
use super::files::Files;

/// How often a file that changes while it is read is read again.
const RESTARTS_MAX: u32 = 3;
/// The pause before that.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// Is told how many bytes have come, and how many there are.
pub type OnFetched<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// Fetches what is published as `id` at the moment, to a file that goes when it is dropped, for who only looks at it;
/// `None`: nothing is published.
pub async fn fetch_published(
    store: &dyn Store,
    files: &Files,
    id: &SegmentId,
    on_fetched: OnFetched<'_>,
) -> Result<Option<TempPath>, OpenError> {
    for _ in 0..RESTARTS_MAX {
        let Some(published) = publish::look(store, id).await? else { return Ok(None) };
        match fetch(store, files, id, &published, on_fetched).await {
            // there is a newer one for good
            Err(OpenError::Changing(_)) => {}
            fetched => return fetched.map(Some),
        }
    }
    Err(OpenError::Changing(id.clone()))
}

/// Fetches what is published as `id`, to a file that is not in its place yet.
pub(super) async fn fetch(
    store: &dyn Store,
    files: &Files,
    id: &SegmentId,
    published: &Published,
    on_fetched: OnFetched<'_>,
) -> Result<TempPath, OpenError> {
    let path = StorePath::published(id);
    let on_bytes = |bytes| on_fetched(bytes, published.stamp.length);
    for _ in 0..RESTARTS_MAX {
        let part = files.part()?;
        let digest = match read(store, &path, &part, &on_bytes).await {
            Ok(digest) => digest,
            Err(OpenError::Store(error)) if changed(store, &path, published).await => {
                tracing::debug!(segment = %id, %error, "it changed while it was read");
                tokio::time::sleep(RESTART_PAUSE).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        if changed(store, &path, published).await {
            tokio::time::sleep(RESTART_PAUSE).await;
            continue;
        }
        let sealed = published.seal.as_ref().map(|seal| seal.blake3);
        let (checked, length) = (part, published.stamp.length);
        let check = move || check(&checked, length, digest, sealed).map(|()| checked);
        let damaged = |reason| OpenError::Damaged { id: id.clone(), reason };
        let task = tokio::task::spawn_blocking(check).await;
        return task.unwrap_or_else(|error| Err(error.to_string())).map_err(damaged);
    }
    Err(OpenError::Changing(id.clone()))
}

/// Whether something else is published now than was.
async fn changed(store: &dyn Store, path: &StorePath, published: &Published) -> bool {
    !matches!(store.stat(path).await, Ok(Some(stamp)) if stamp == published.stamp)
}

async fn read(
    store: &dyn Store,
    path: &StorePath,
    part: &Path,
    on_bytes: &(dyn Fn(u64) + Send + Sync),
) -> Result<Digest, OpenError> {
    let io = |error: std::io::Error| OpenError::Disk(format!("write {}: {error}", part.display()));
    let mut file = tokio::fs::File::create_new(part).await.map_err(io)?;
    let mut hasher = blake3::Hasher::new();
    let mut pieces = store.read(path).await?;
    let mut bytes = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error: StoreError| error)?;
        hasher.update(&piece);
        file.write_all(&piece).await.map_err(io)?;
        bytes += piece.len() as u64;
        on_bytes(bytes);
    }
    file.flush().await.map_err(io)?;
    Ok(Digest::from(hasher.finalize()))
}

fn check(part: &Path, length: u64, digest: Digest, sealed: Option<Digest>) -> Result<(), String> {
    use std::io::Read;
    let mut start = Vec::with_capacity(HEADER_BYTES);
    let file = std::fs::File::open(part).map_err(|error| error.to_string())?;
    let head = file.take(HEADER_BYTES as u64).read_to_end(&mut start);
    head.map_err(|error| error.to_string())?;
    header::check(&start, length).map_err(|error| error.to_string())?;
    match sealed {
        Some(sealed) if sealed == digest => Ok(()),
        Some(_) => Err("its bytes are not those that its seal names".to_owned()),
        None => {
            quick_check(part).map_err(|error| error.to_string()).and_then(|said| match &*said {
                "ok" => Ok(()),
                said => Err(said.to_owned()),
            })
        }
    }
}

fn quick_check(path: &Path) -> rusqlite::Result<String> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = rusqlite::Connection::open_with_flags(path, flags)?;
    db.pragma_query_value(None, "quick_check", |row| row.get(0))
}
