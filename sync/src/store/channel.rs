//! A channel as a stream that gives up when nothing comes.

use std::time::Duration;

use futures::stream::{BoxStream, StreamExt};
use tokio::sync::mpsc::Receiver;

/// What `receiver` gets, until its sender ends; when the next item does not come within `limit`, the last
/// item is what `late` makes.
pub(super) fn until_late<T: Send + 'static>(
    receiver: Receiver<T>,
    limit: Duration,
    late: impl Fn() -> T + Send + Sync + 'static,
) -> BoxStream<'static, T> {
    let late = std::sync::Arc::new(late);
    futures::stream::unfold(Some(receiver), move |receiver| {
        let late = late.clone();
        async move {
            let mut receiver = receiver?;
            match tokio::time::timeout(limit, receiver.recv()).await {
                Ok(item) => item.map(|item| (item, Some(receiver))),
                Err(_) => Some((late(), None)),
            }
        }
    })
    .boxed()
}
