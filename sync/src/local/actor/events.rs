//! What the actor makes of a job's answer.

use std::time::Duration;

use fsd::cache::{CacheError, Holding};
use fsd::segment::{SegmentId, Stamp};
use tokio::time::Instant;
use tracing::{info, warn};

use super::Actor;
use crate::local::jobs::{self, Event, Look};
use crate::local::seat::{Report, SeatError, Seen};
use crate::local::state::Removal;
use crate::membership::Told;
use crate::metrics;
use crate::pool::guard;
use crate::pool::{PoolEntry, PoolListing};
use crate::pull::{Fetched, PullError, Pulled};
use crate::tomb::Tombs;

/// Between two looks at the mount, when nothing waits to be seen.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Before the lead is listened to again when it could not be heard.
const UNHEARD_PAUSE: Duration = Duration::from_secs(1);

/// Between two looks while something waits to be seen.
const LOOK_PERIOD_UNSEEN: Duration = Duration::from_millis(100);

/// When so many segments failed to come and none came in between, the deep store counts as away. One damaged
/// file that fails again and again holds nothing else up.
const FAILURES_BEFORE_PAUSE: usize = 4;

impl Actor {
    pub(super) fn take_event(&mut self, event: Event) {
        match event {
            Event::Seen(seen) => self.seen(seen),
            Event::Fetched { id, entry, result } => self.fetched(id, entry, result),
            Event::Verified { id, entry, result } => self.verified(id, entry, result),
            Event::Published { results } => {
                self.publishing = false;
                for (id, stamp, result) in results {
                    self.published(&id, stamp, result);
                }
                if self.state.is_short_of_space() {
                    self.state.assign(&*self.assignment);
                }
            }
            Event::Republished { id, stamp, result } => {
                self.pulls -= 1;
                self.published(&id, stamp, result);
            }
            Event::Looked(Look { gone, free_bytes, seen, live, figures }) => {
                self.looking = None;
                self.gone = gone;
                self.status.disk.free_bytes = free_bytes;
                self.status.mount.live = live;
                self.mount_seen |= live;
                self.status.mount.figures = figures;
                for (id, digest) in seen {
                    self.state.seen(&id, digest);
                }
                let (_, unseen, _) = self.state.work();
                let period = if unseen > 0 { LOOK_PERIOD_UNSEEN } else { LOOK_PERIOD };
                self.next_look = Instant::now() + period;
            }
            Event::Told { report, result } => self.told(report, result),
            Event::Removed { results } => {
                self.removing = false;
                for (removal, left, result) in results {
                    self.removed(&removal, left, result);
                }
                // what left made room, and what came back meanwhile may be pulled again
                self.state.assign(&*self.assignment);
            }
        }
    }

    fn seen(&mut self, seen: Seen) {
        self.listing = false;
        self.state.set_quota(self.outside.cache.quota_bytes());
        self.listings_done = self.listings_begun;
        match seen {
            Seen::Listing { listing, took } => self.listed(*listing, took),
            Seen::Lead { told, registered, tombs } => self.heard(told, registered, &tombs),
            Seen::Nothing(error) => {
                let lead = self.status.lead.get_or_insert_default();
                let problem = error.to_string();
                // said once for each fault, not at every look that it lasts
                if lead.problem.as_ref() != Some(&problem) {
                    warn!(problem, "the lead is not heard; what it said last still holds");
                }
                lead.problem = Some(problem);
                self.next_listing = self.next_listing.min(Instant::now() + UNHEARD_PAUSE);
            }
        }
    }

    fn heard(&mut self, told: Option<Told>, registered: bool, tombs: &Tombs) {
        let lead = self.status.lead.get_or_insert_default();
        if lead.problem.take().is_some() {
            info!("the lead is heard again");
        }
        // what could not be told before can be now
        self.next_tell = Instant::now();
        lead.registered = registered;
        lead.heard_at_ms = Some(self.outside.clock.now_ms());
        if let Some(told) = told {
            lead.epoch = told.epoch.or(lead.epoch);
            let (lines, dropped) = (told.lines.len(), told.dropped.len());
            info!(lines, dropped, "the lead said something new");
            self.state.take_told(&told, &*self.assignment);
        }
        self.bury(tombs);
    }

    fn bury(&mut self, tombs: &Tombs) {
        let deleted = self.state.bury(tombs, &*self.assignment, Instant::now());
        if deleted > 0 {
            info!(deleted, "segments were deleted");
        }
    }

    fn listed(&mut self, listing: PoolListing, took: Duration) {
        let report = listing.report.clone();
        let complete = report.complete();
        // said once for each fault, not in every period that it lasts
        if !complete && report.unseen_examples != self.status.store.listing.unseen_examples {
            let first = report.unseen_examples.first().map_or("", String::as_str);
            warn!(unseen = report.unseen, first, "the listing of the deep store is incomplete");
        }
        self.bury(&listing.tombs);
        let ratio = self.settings.max_removed_ratio;
        let delta = guard::compare(
            self.state.pool(),
            &listing,
            ratio,
            self.accept_removals,
            &self.removals_waiting,
        );
        if complete {
            self.accept_removals = false;
        }
        if self.held_back != delta.held_back
            && complete
            && let Some(held_back) = &delta.held_back
        {
            warn!(missing = held_back.missing, of = held_back.of, "{}", held_back.reason);
        }
        self.held_back = delta.held_back.clone();
        self.removals_waiting.clone_from(&delta.waiting);
        let (changed, removed) = (delta.changed.len(), delta.removed.len());
        if changed + removed > 0 {
            let segments = listing.pool.len();
            info!(segments, changed, removed, "the deep store changed");
        }
        self.state.take_listing(delta, listing, &*self.assignment);
        let now_ms = self.outside.clock.now_ms();
        let store = &mut self.status.store;
        if complete && store.reachable == Some(false) {
            info!("the whole deep store can be seen again");
        }
        store.reachable = Some(complete);
        store.listing_ms = Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        store.listing = report;
        if complete {
            store.complete_listing_at_ms = Some(now_ms);
            self.complete_at_ms = Some(now_ms);
        }
        metrics::listed(complete, took);
    }

    fn fetched(&mut self, id: SegmentId, entry: PoolEntry, result: Result<Fetched, PullError>) {
        self.pulls -= 1;
        match result {
            Ok(fetched) => {
                self.failed_in_a_row.clear();
                self.pause.succeeded();
                self.verifying += 1;
                self.jobs.spawn(jobs::verify(self.outside.clone(), id, entry, fetched));
            }
            Err(error) => self.pull_failed(id, &entry, &error),
        }
    }

    fn verified(&mut self, id: SegmentId, entry: PoolEntry, result: Result<Pulled, PullError>) {
        self.verifying -= 1;
        match result {
            Ok(pulled) => {
                self.ready.push((id, pulled));
                self.ready_since.get_or_insert(Instant::now());
            }
            Err(error) => self.pull_failed(id, &entry, &error),
        }
    }

    fn pull_failed(&mut self, id: SegmentId, entry: &PoolEntry, error: &PullError) {
        let now = Instant::now();
        metrics::pull_failed(error);
        match error {
            PullError::Refused { stamp, .. } | PullError::SideFile { stamp, .. } => {
                self.status.work.refused_total += 1;
                warn!(segment = %id, "{error}");
                self.state.failed(&id, *stamp, true, error.to_string(), now);
            }
            PullError::Store(_) => {
                warn!(segment = %id, "{error}");
                self.state.failed(&id, entry.stamp, false, error.to_string(), now);
                if self.failed_in_a_row.len() < FAILURES_BEFORE_PAUSE {
                    self.failed_in_a_row.insert(id);
                }
                if self.failed_in_a_row.len() >= FAILURES_BEFORE_PAUSE {
                    self.paused_until = Some((now + self.pause.failed(), error.to_string()));
                }
            }
            PullError::Gone(_) => {
                self.state.failed(&id, entry.stamp, false, error.to_string(), now);
                self.next_listing = self.next_listing.min(now + self.pause.failed());
            }
            PullError::Changing { .. } | PullError::Cache(_) => {
                if let PullError::Cache(error) = error {
                    self.cache_failed(error);
                }
                warn!(segment = %id, "{error}");
                self.state.failed(&id, entry.stamp, false, error.to_string(), now);
            }
        }
    }

    fn published(
        &mut self,
        id: &SegmentId,
        stamp: Stamp,
        result: Result<Option<Holding>, CacheError>,
    ) {
        let now = Instant::now();
        match result {
            Ok(Some(holding)) => {
                self.status.work.published_total += 1;
                self.status.work.published_bytes_total += holding.version.stamp.length;
                metrics::published(holding.version.stamp.length);
                self.cache_took();
                self.state.published(holding);
                self.next_look = now;
            }
            // it could not come back without a pull
            Ok(None) => self.state.not_back(id.clone()),
            Err(error) => {
                self.cache_failed(&error);
                warn!(segment = %id, "{error}");
                self.state.failed(id, stamp, false, error.to_string(), now);
            }
        }
    }

    /// The volume and the ledger took something.
    fn cache_took(&mut self) {
        self.status.disk.problem = None;
        self.status.disk.ledger_problem = None;
    }

    /// One of them did not, or something else is the matter.
    fn cache_failed(&mut self, error: &CacheError) {
        let disk = &mut self.status.disk;
        match error {
            CacheError::DiskFull { .. } | CacheError::Io { .. } => {
                disk.problem = Some(error.to_string());
            }
            CacheError::Ledger(_) => disk.ledger_problem = Some(error.to_string()),
            CacheError::Locked { .. }
            | CacheError::Gone { .. }
            | CacheError::OverQuota { .. }
            | CacheError::LengthDiffers { .. } => {}
        }
    }

    fn told(&mut self, report: Report, result: Result<(), SeatError>) {
        self.telling = false;
        let now = Instant::now();
        let Report { change, all, .. } = report;
        let told = change.upsert.iter().map(|row| &row.id).chain(&change.remove);
        match result {
            Ok(()) => {
                self.tell.succeeded();
                self.told_all |= all;
                self.state.told(told, now);
            }
            Err(error) => {
                warn!("{error}");
                self.next_tell = now + self.tell.failed();
                self.state.tell_failed(told.cloned());
                self.complete_at_ms = self.complete_at_ms.or(change.complete_at_ms);
            }
        }
    }

    fn removed(
        &mut self,
        removal: &Removal,
        left: Option<Holding>,
        result: Result<(), CacheError>,
    ) {
        let (Removal::Unpublish(id) | Removal::Remove(id)) = removal;
        if let Err(error) = result {
            self.cache_failed(&error);
            warn!(segment = %id, "{error}");
        }
        self.state.removal_ended(id, left);
    }
}
