//! One file as a stream of pieces, each with a time-out, that a DataNode's failure does not end.

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use hdfs_native::HdfsError;
use tokio::time::timeout;

use super::super::{StoreError, StoreErrorKind};
use super::error::{failed, late};
use super::{Current, HdfsStore};

/// How often one read asks for the places of the blocks anew; Hadoop's own client does it up to three times.
const NEW_READS: u32 = 2;

struct Reading {
    store: HdfsStore,
    full: String,
    pieces: BoxStream<'static, Result<Bytes, HdfsError>>,
    length: u64,
    done: u64,
    new_reads: u32,
}

/// Opens the file at `full` and streams it.
pub(super) async fn stream(
    store: HdfsStore,
    full: String,
) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
    let (pieces, length) = open(&store, &full, 0).await?;
    let reading = Reading { store, full, pieces, length, done: 0, new_reads: NEW_READS };
    let next = |reading: Option<Reading>| async move {
        let mut reading = reading?;
        match reading.next().await {
            Ok(None) => None,
            Ok(Some(bytes)) => Some((Ok(bytes), Some(reading))),
            Err(error) => Some((Err(error), None)),
        }
    };
    Ok(futures::stream::unfold(Some(reading), next).boxed())
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let limit = self.store.shared.timeouts.io();
        loop {
            let target = self.store.target(&self.full);
            match timeout(limit, self.pieces.next()).await {
                Ok(Some(Ok(bytes))) => {
                    self.done += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Ok(None) if self.done == self.length => return Ok(None),
                Ok(None) => {
                    let reason = format!("{} of {} bytes came", self.done, self.length);
                    let kind = StoreErrorKind::Corrupt;
                    return Err(StoreError { kind, attempted: "read", target, reason });
                }
                Ok(Some(Err(error))) if self.new_reads == 0 => {
                    return Err(failed("read", target, error));
                }
                Ok(Some(Err(error))) => {
                    self.new_reads -= 1;
                    tracing::debug!(%error, path = self.full, "a new read after an error");
                    let (pieces, length) = open(&self.store, &self.full, self.done).await?;
                    if length != self.length {
                        // replaced meanwhile; one of the same length is the caller's to see, by its mtime
                        return Err(failed("read", target, error));
                    }
                    self.pieces = pieces;
                }
                Err(_) => return Err(late("read", target, limit)),
            }
        }
    }
}

/// The pieces from byte `from` on, and the length of the whole file.
async fn open(
    store: &HdfsStore,
    full: &str,
    from: u64,
) -> Result<(BoxStream<'static, Result<Bytes, HdfsError>>, u64), StoreError> {
    let Current { client, generation } = store.current();
    let limit = store.shared.timeouts.io();
    let Ok(opened) = timeout(limit, client.read(full)).await else {
        store.renew(generation);
        return Err(late("read", store.target(full), limit));
    };
    let reader = opened.map_err(|error| failed("read", store.target(full), error))?;
    let length = reader.file_length();
    // the crate panics where a range ends behind the file
    let start = usize::try_from(from).unwrap_or(usize::MAX).min(length);
    Ok((reader.read_range_stream(start, length - start).boxed(), length as u64))
}
