//! What the actor starts: whatever its state allows now, within its bounds.

use std::time::Duration;

use fsd::segment::SegmentId;
use tokio::time::Instant;

use super::Actor;
use crate::local::jobs;
use crate::local::seat::Report;
use crate::pool::PoolEntry;
use crate::registry::PoolChange;

/// Rows in one change of the pool table: a transaction of some milliseconds.
const ROWS_PER_CHANGE_MAX: usize = 5_000;

/// So long a verified segment waits for others that are on their way: those published together share the syncs
/// of the directories and of the ledger, each of which is a commit of the file system's journal. A small part of
/// what a change in the deep store waits for its listing.
const PUBLISH_LINGER: Duration = Duration::from_millis(250);

/// Removals carried out in one job.
const REMOVALS_PER_JOB_MAX: usize = 256;

/// Published segments looked for through the mount in one job.
const LOOKS_PER_JOB_MAX: usize = 1_024;

impl Actor {
    /// Starts all that can be started now.
    pub(super) fn step(&mut self) {
        let now = Instant::now();
        if !self.listing && now >= self.next_listing {
            self.listing = true;
            self.listings_begun += 1;
            self.next_listing = now + Duration::from_secs(self.settings.period_s.max(1));
            self.jobs.spawn(jobs::hear(self.outside.clone()));
        }
        if self.paused_until.as_ref().is_some_and(|(until, _)| *until <= now) {
            self.paused_until = None;
        }
        while self.may_pull() {
            let Some((id, entry)) = self.state.next_pull(now) else { break };
            if !self.start_pull(id, entry) {
                break;
            }
        }
        self.start_publish(now);
        self.start_look(now);
        self.start_tell(now);
        self.start_removals(now);
        self.answer_waiters();
        if now >= self.next_status {
            self.write_status(now);
        }
    }

    fn may_pull(&self) -> bool {
        let most = self.settings.pulls.max(1);
        self.pulls < most
            && self.verifying < most
            && self.paused_until.is_none()
            // what is verified waits in memory for its batch; it is bounded like the batch
            && self.ready.len() < self.publish_batch_max()
    }

    /// When what is ready is to be published, if anything is: at once where waiting brings nothing more.
    pub(super) fn publish_due(&self) -> Option<Instant> {
        let more_may_come =
            self.pulls + self.verifying > 0 && self.ready.len() < self.publish_batch_max();
        let linger = if more_may_come { PUBLISH_LINGER } else { Duration::ZERO };
        self.ready_since.map(|since| since + linger)
    }

    fn start_publish(&mut self, now: Instant) {
        if self.publishing || self.publish_due().is_none_or(|due| due > now) {
            return;
        }
        let most = self.publish_batch_max().min(self.ready.len());
        let batch = self.ready.drain(..most).collect();
        self.ready_since = (!self.ready.is_empty()).then_some(now);
        self.publishing = true;
        self.jobs.spawn(jobs::publish(self.outside.clone(), batch));
    }

    fn publish_batch_max(&self) -> usize {
        self.settings.publish_batch_max.max(1)
    }

    /// `false` when there is no room now, but will be.
    fn start_pull(&mut self, id: SegmentId, entry: PoolEntry) -> bool {
        let outside = self.outside.clone();
        if self.state.can_come_back(&id, entry.stamp) {
            self.pulls += 1;
            self.jobs.spawn(jobs::republish(outside, id, entry));
            return true;
        }
        let usage = outside.cache.usage();
        let taken = usage.objects_bytes.saturating_add(usage.incoming_bytes);
        let room = outside.cache.quota_bytes().saturating_sub(taken);
        if entry.stamp.length > room && self.room_will_come() {
            self.state.put_back(id);
            return false;
        }
        self.pulls += 1;
        self.jobs.spawn(jobs::fetch(outside, id, entry));
        true
    }

    /// Whether bytes are about to leave the cache; has the longest withdrawn segment leave if need be.
    fn room_will_come(&mut self) -> bool {
        let (_, _, draining) = self.state.work();
        if self.removing || !self.removals.is_empty() || draining > 0 {
            return true;
        }
        if let Some(id) = self.state.withdrawn().first().map(|holding| holding.id.clone()) {
            let removal = self.state.remove_withdrawn(id);
            self.removals.push(removal);
            return true;
        }
        self.pulls + self.verifying > 0 || self.publishing || !self.ready.is_empty()
    }

    fn start_look(&mut self, now: Instant) {
        if self.looking.is_some() || now < self.next_look {
            return;
        }
        let mut unseen = self.state.unseen();
        unseen.truncate(LOOKS_PER_JOB_MAX);
        self.looking = Some(now);
        self.jobs.spawn(jobs::look(self.outside.clone(), unseen));
    }

    /// Whether there is something to tell, and somebody to be told.
    pub(super) fn has_to_tell(&self) -> bool {
        let announces = self.outside.seat.announces();
        let something = self.state.is_dirty() || self.complete_at_ms.is_some();
        (something || (announces && !self.told_all)) && (self.mount_seen || !announces)
    }

    fn start_tell(&mut self, now: Instant) {
        if self.telling || now < self.next_tell || !self.has_to_tell() {
            return;
        }
        let (upsert, remove) = self.state.take_dirty(ROWS_PER_CHANGE_MAX);
        let ids = upsert.iter().map(|row| &row.id).chain(&remove);
        let holds = ids.map(|id| (id.clone(), self.state.served(id))).collect();
        // "complete" may be said only with the last of its rows: before, a segment would look absent
        let all = !self.state.is_dirty();
        let complete_at_ms = if all { self.complete_at_ms.take() } else { None };
        self.telling = true;
        let change = PoolChange { upsert, remove, complete_at_ms };
        self.jobs.spawn(jobs::tell(self.outside.clone(), Report { change, holds, all }));
    }

    fn start_removals(&mut self, now: Instant) {
        self.removals.extend(self.state.due_removals(now));
        let grace_ms = self.settings.withdraw_grace_s.saturating_mul(1_000);
        let gone_before_ms = self.outside.clock.now_ms().saturating_sub(grace_ms);
        if !self.removing {
            let over: Vec<_> = self
                .state
                .withdrawn()
                .iter()
                .take(REMOVALS_PER_JOB_MAX)
                .filter(|holding| holding.withdrawn_at_ms.is_some_and(|at| at <= gone_before_ms))
                .map(|holding| holding.id.clone())
                .collect();
            for id in over {
                let removal = self.state.remove_withdrawn(id);
                self.removals.push(removal);
            }
        }
        if self.removing || self.removals.is_empty() {
            return;
        }
        let most = self.removals.len().min(REMOVALS_PER_JOB_MAX);
        let batch = self.removals.drain(..most).collect();
        self.removing = true;
        self.jobs.spawn(jobs::remove(self.outside.clone(), batch));
    }

    fn answer_waiters(&mut self) {
        let quiet = !self.telling
            && self.state.settled()
            && self.complete_at_ms.is_none()
            && self.state.work().1 == 0;
        let done = self.listings_done;
        if quiet && self.waiters.iter().any(|waiter| waiter.listing <= done) {
            // whoever hears that it is done finds it in the status
            self.write_status(Instant::now());
        }
        for waiter in std::mem::take(&mut self.waiters) {
            if quiet && waiter.listing <= done {
                // whoever asked may have gone away
                let _ = waiter.done.send(());
            } else if !waiter.done.is_closed() {
                self.waiters.push(waiter);
            }
        }
        if !self.waiters.is_empty() && self.waiters.iter().any(|w| w.listing > self.listings_begun)
        {
            self.next_listing = Instant::now();
        }
    }
}
