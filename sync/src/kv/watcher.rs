//! Follows a key, or all below one, through changes, failures and the loss of the store.
//!
//! Invariant: what was seen last is what there was, or it is told again: after a failure and after an index
//! that went back (the store came back empty, or from a backup) the next call asks for all, without waiting.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::{Index, Kv, KvError, Snapshot, Watched};

/// A watch that goes on.
#[derive(Debug)]
pub struct Watcher {
    what: Watched,
    wait: Duration,
    after: Option<Index>,
}

impl Watcher {
    /// Watches `what`; each call waits at most `wait`. A store that came back empty while nobody was asking is
    /// noticed when that is over: Consul takes an index from before for one still to come.
    pub fn new(what: Watched, wait: Duration) -> Self {
        Self { what, wait, after: None }
    }

    /// What is there: at once the first time, and after that when it changed or the wait is over. After an
    /// error pause before the next call: it does not wait.
    pub async fn next(&mut self, kv: &dyn Kv) -> Result<Snapshot, KvError> {
        // taken, so that a failure, or this call dropped half way, starts over
        let after = self.after.take();
        let snapshot = kv.watch(&self.what, after, self.wait).await?;
        let went_back = after.is_some_and(|after| snapshot.index < after);
        self.after = (!went_back && snapshot.index > Index::ABSENT).then_some(snapshot.index);
        Ok(snapshot)
    }
}

/// How long [`notify_changes`] waits for a change before it asks again.
const WAIT: Duration = Duration::from_secs(60);
/// The pause after a call that failed.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// Hands all that there is of `what` to `heard`, for ever: when it changed, and when `wait` is over without that; with at
/// least `pause` between two of them. A look that fails says nothing. Returns only what `heard` fails with.
pub(crate) async fn follow(
    kv: &dyn Kv,
    what: Watched,
    wait: Duration,
    pause: Duration,
    mut heard: impl FnMut(Snapshot) -> Result<(), KvError>,
) -> Result<(), KvError> {
    let mut watcher = Watcher::new(what, wait);
    loop {
        match watcher.next(kv).await {
            Ok(seen) => {
                heard(seen)?;
                tokio::time::sleep(pause).await;
            }
            // whoever reads the pool from the same registry says what is wrong with it
            Err(error) => {
                tracing::debug!(%error, "keys cannot be read; what was read last holds");
                tokio::time::sleep(FAILED_PAUSE).await;
            }
        }
    }
}

/// Notifies `changed` whenever `what` becomes another than it was, for ever. Not of what is there at first.
pub async fn notify_changes(kv: Arc<dyn Kv>, what: Watched, changed: Arc<Notify>) {
    let mut watcher = Watcher::new(what, WAIT);
    let mut before = None;
    loop {
        match watcher.next(&*kv).await {
            Ok(Snapshot { entries, .. }) => {
                if before.as_ref().is_some_and(|before| *before != entries) {
                    changed.notify_one();
                }
                before = Some(entries);
            }
            // whoever is notified asks the same store, and says what is wrong with it
            Err(_) => tokio::time::sleep(FAILED_PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use bytes::Bytes;

    use super::super::{
        Consistency, Entry, Key, KvErrorKind, Op, SessionId, SessionInfo, SessionOptions, Txn,
    };
    use super::*;

    /// Answers watches with these indexes, and notes what it was asked; `None` is a failure.
    #[derive(Debug)]
    struct Script {
        answers: Mutex<Vec<Option<u64>>>,
        asked: Mutex<Vec<Option<u64>>>,
    }

    #[async_trait]
    impl Kv for Script {
        fn address(&self) -> String {
            String::new()
        }
        async fn watch(
            &self,
            _: &Watched,
            after: Option<Index>,
            _: Duration,
        ) -> Result<Snapshot, KvError> {
            self.asked.lock().unwrap().push(after.map(|index| index.0));
            let index = self.answers.lock().unwrap().remove(0).ok_or_else(|| KvError {
                kind: KvErrorKind::Unavailable,
                attempted: "watch keys",
                target: String::new(),
                reason: String::new(),
            })?;
            Ok(Snapshot { index: Index(index), entries: Vec::new() })
        }
        async fn get(&self, _: &Key) -> Result<Option<Entry>, KvError> {
            unreachable!("a watcher only watches")
        }
        async fn list(&self, _: &Key, _: Consistency) -> Result<Vec<Entry>, KvError> {
            unreachable!("a watcher only watches")
        }
        async fn txn(&self, _: &[Op]) -> Result<Txn, KvError> {
            unreachable!("a watcher only watches")
        }
        async fn create_session(&self, _: &SessionOptions) -> Result<SessionId, KvError> {
            unreachable!("a watcher only watches")
        }
        async fn renew_session(&self, _: &SessionId) -> Result<Duration, KvError> {
            unreachable!("a watcher only watches")
        }
        async fn destroy_session(&self, _: &SessionId) -> Result<(), KvError> {
            unreachable!("a watcher only watches")
        }
        async fn session(&self, _: &SessionId) -> Result<Option<SessionInfo>, KvError> {
            unreachable!("a watcher only watches")
        }
        async fn acquire(&self, _: &Key, _: Bytes, _: &SessionId) -> Result<bool, KvError> {
            unreachable!("a watcher only watches")
        }
        async fn release(&self, _: &Key, _: Bytes, _: &SessionId) -> Result<bool, KvError> {
            unreachable!("a watcher only watches")
        }
    }

    #[tokio::test]
    async fn it_goes_on_from_what_it_saw_and_starts_over_when_that_means_nothing_any_more() {
        let answers =
            [Some(5), Some(9), Some(9), Some(3), Some(3), None, Some(7), Some(0), Some(8)];
        let asked = [None, Some(5), Some(9), Some(9), None, Some(3), None, Some(7), None];
        let kv = Script { answers: Mutex::new(answers.to_vec()), asked: Mutex::default() };
        let what = Watched::Key(Key::new("a").unwrap());
        let mut watcher = Watcher::new(what, Duration::from_secs(1));
        for answer in answers {
            assert_eq!(watcher.next(&kv).await.ok().map(|seen| seen.index.0), answer);
        }
        assert_eq!(*kv.asked.lock().unwrap(), asked);
    }
}
