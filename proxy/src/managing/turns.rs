//! One at a time for each segment.
//!
//! Invariant: what is kept is as much as is waited for and held: the last who leaves a segment takes its place away,
//! also one that gave up waiting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fsd::segment::SegmentId;
use tokio::sync::OwnedMutexGuard;

type Places = HashMap<SegmentId, Arc<tokio::sync::Mutex<()>>>;

/// See the module. Clones are of the same turns.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<Mutex<Places>>);

/// A turn, from when it is waited for until this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    id: SegmentId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the turn of `id`.
    pub(super) async fn take(&self, id: &SegmentId) -> Turn {
        let place = self.places().entry(id.clone()).or_default().clone();
        // before it waits, so that its place goes with it
        let mut turn = Turn { turns: self.clone(), id: id.clone(), guard: None };
        turn.guard = Some(place.lock_owned().await);
        turn
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        // nothing panics while it is held
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut places = self.turns.places();
        self.guard = None;
        // who waits has a clone of its own; none is made without the lock that is held here
        if places.get(&self.id).is_some_and(|place| Arc::strong_count(place) == 1) {
            places.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn id(text: &str) -> SegmentId {
        SegmentId::new(text).unwrap()
    }

    #[tokio::test]
    async fn those_of_one_segment_wait_for_each_other_and_nothing_is_left() {
        let (turns, running) = (Turns::default(), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..50).map(|n| {
            let (turns, running) = (turns.clone(), Arc::clone(&running));
            tokio::spawn(async move {
                let _turn = turns.take(&id("ohio")).await;
                assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "{n}");
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
            })
        });
        let other = turns.take(&id("texas")).await;
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        drop(other);
        assert!(turns.places().is_empty());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_leaves_nothing_whoever_goes_first() {
        let turns = Turns::default();
        for waiter_first in [true, false] {
            let held = turns.take(&id("ohio")).await;
            let waiting = {
                let turns = turns.clone();
                tokio::spawn(async move { turns.take(&id("ohio")).await })
            };
            tokio::task::yield_now().await;
            if waiter_first {
                waiting.abort();
                assert!(waiting.await.is_err());
                drop(held);
            } else {
                drop(held);
                waiting.abort();
                drop(waiting.await);
            }
            assert!(turns.places().is_empty(), "{waiter_first}");
        }
    }
}
