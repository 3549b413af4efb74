//! The local synchronizer as its HTTP pages see it.

use std::time::Duration;

use async_trait::async_trait;
use fsd::segment::SegmentId;
use fsd::view::MountView;
use proxy::manager::{Cycle, LocalControl};
use sync::clock::{Clock, SystemClock};
use sync::local::LocalHandle;
use sync::local::health::NodeHealth;

/// How long an order may wait for its place in the synchronizer's queue.
const ORDER_TIMEOUT: Duration = Duration::from_secs(1);

/// Joins the two.
pub struct Control {
    handle: LocalHandle,
    view: MountView,
    lag_max: Duration,
}

impl Control {
    /// The synchronizer behind `handle`, whose cache `view` shows; `lag_max` as [`NodeHealth::of`] has it.
    pub fn new(handle: LocalHandle, view: MountView, lag_max: Duration) -> Self {
        Self { handle, view, lag_max }
    }
}

#[async_trait]
impl LocalControl for Control {
    async fn status(&self) -> serde_json::Value {
        serde_json::to_value(&*self.handle.status()).unwrap_or_default()
    }

    async fn sync_now(&self, wait: Duration) -> Cycle {
        if wait.is_zero() {
            // the order is what counts; whoever waits for the end asks for that
            let handle = self.handle.clone();
            tokio::spawn(async move { handle.sync_now(ORDER_TIMEOUT).await });
            return Cycle::Ordered;
        }
        match self.handle.sync_now(wait).await {
            true => Cycle::Ended,
            false => Cycle::StillRunning,
        }
    }

    async fn accept_removals(&self) -> Result<String, String> {
        if self.handle.status().lead.is_some() {
            let text = "this is a node of a cluster, and its lead removes; `trough sync accept-removals` tells it";
            return Err(text.to_owned());
        }
        self.handle.accept_removals().await;
        let held_back = &self.handle.status().removals_held_back;
        Ok(match held_back {
            Some(held_back) => format!(
                "the next complete listing removes what is missing: {} of {} segments at the moment",
                held_back.missing, held_back.of
            ),
            None => {
                "no removals wait now; those of the next complete listing are accepted".to_owned()
            }
        })
    }

    fn scrub_now(&self) {
        self.handle.scrub_now();
    }

    fn health(&self) -> NodeHealth {
        NodeHealth::of(&self.handle.status(), SystemClock.now_ms(), self.lag_max)
    }

    async fn holds(&self, id: &SegmentId) -> bool {
        let (view, id) = (self.view.clone(), id.clone());
        let look = tokio::task::spawn_blocking(move || view.digest(&id));
        matches!(look.await, Ok(Ok(Some(_))))
    }
}
