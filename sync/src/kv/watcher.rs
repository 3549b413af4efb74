//! Follows a key, or all below one, through changes, failures and the loss of the store.
//!
//! Invariant: what was seen last is what there was, or it is told again: after a failure and after an index
//! that went back (the store came back empty, or from a backup) the next call asks for all, without waiting.

use std::time::Duration;

use super::{Index, Kv, KvError, Snapshot, Watched};

/// A watch that goes on.
#[derive(Debug)]
pub struct Watcher {
    what: Watched,
    wait: Duration,
    after: Option<Index>,
}

impl Watcher {
    /// Watches `what`; each call waits at most `wait`.
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
