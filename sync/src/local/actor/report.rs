//! What the actor says of itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Actor;
use crate::local::status::{CacheStatus, PROBLEMS_MAX, WorkStatus};
use crate::metrics;

/// A look at the mount that takes longer counts as no mount.
const LOOK_HUNG: Duration = Duration::from_secs(5);

/// Status is written anew at most this often.
const STATUS_PERIOD: Duration = Duration::from_millis(100);

impl Actor {
    pub(super) fn write_status(&mut self, now: Instant) {
        self.next_status = now + STATUS_PERIOD;
        let usage = self.outside.cache.usage();
        let (queued, unseen, draining) = self.state.work();
        let status = &mut self.status;
        status.segments = self.state.counts();
        match status.segments.pending {
            0 => status.behind_since_ms = None,
            _ => {
                status.behind_since_ms.get_or_insert_with(|| self.outside.clock.now_ms());
            }
        }
        if status.segments.pending == 0 && draining == 0 {
            // nothing is to be written, so nothing fails
            (status.disk.problem, status.disk.ledger_problem) = (None, None);
        }
        status.cache = CacheStatus {
            quota_bytes: self.outside.cache.quota_bytes(),
            objects_bytes: usage.objects_bytes,
            incoming_bytes: usage.incoming_bytes,
            quarantine_bytes: usage.quarantine_bytes,
            writable_bytes: self.outside.cache.taken_bytes(),
        };
        status.work = WorkStatus {
            listing: self.listing,
            pulls: self.pulls as u64,
            queued,
            unseen,
            draining,
            ..status.work
        };
        if self.looking.is_some_and(|since| now - since > LOOK_HUNG) {
            status.mount.live = false;
        }
        status.store.pulls_paused = self.paused_until.as_ref().map(|(_, why)| why.clone());
        status.problems = self.state.problems(PROBLEMS_MAX);
        status.removals_held_back = self.held_back.clone();
        status.scrub = serde_json::to_value(self.scrub.status()).ok();
        metrics::gauges(status);
        if **self.tell_status.borrow() != *status {
            self.tell_status.send_replace(Arc::new(status.clone()));
        }
    }
}
