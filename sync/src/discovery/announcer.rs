//! Keeps one instance registered, with the tags that somebody else's watch says.
//!
//! Invariants: nothing is registered before the watch says something; what was registered and is not there any more, or
//! is there otherwise, is registered again; a registry that is away is asked less and less often.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::debounce::Debounce;
use super::trouble::Trouble;
use super::{DiscoverySettings, millis};
use crate::kv::KvError;
use crate::metrics;
use crate::services::{Instance, Name, Services, TAGS_MAX};

/// What the tags of an instance are, of what is watched; `None` as long as there is nothing to tell.
type TagsOf<T> = Box<dyn Fn(&T) -> Option<BTreeSet<Name>> + Send + Sync>;

/// See the module. `T` is what is watched.
pub struct Announcer<T> {
    services: Arc<dyn Services>,
    settings: DiscoverySettings,
    wanted: watch::Receiver<T>,
    tags_of: TagsOf<T>,
    /// As it is to be registered.
    instance: Instance,
    /// How many tags there is no room for.
    left_out: usize,
    told: Told,
    trouble: Trouble,
}

/// How far the instance is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// There is nothing to tell yet.
    Nothing,
    /// It is to be registered, not before this.
    Due(Instant),
    /// It was registered, and at this time it is looked whether it still is.
    Until(Instant),
}

impl<T> fmt::Debug for Announcer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Announcer").field(&self.instance.id).finish()
    }
}

impl<T: Clone + Send + Sync> Announcer<T> {
    pub(super) fn new(
        services: Arc<dyn Services>,
        settings: &DiscoverySettings,
        instance: Instance,
        wanted: watch::Receiver<T>,
        tags_of: impl Fn(&T) -> Option<BTreeSet<Name>> + Send + Sync + 'static,
    ) -> Self {
        let trouble = Trouble::new(
            instance.id.clone(),
            "tell others what is here",
            millis(settings.retry_first_ms),
            millis(settings.retry_longest_ms),
        );
        let (settings, tags_of) = (settings.clone(), Box::new(tags_of));
        let (left_out, told) = (0, Told::Nothing);
        Self { services, settings, wanted, tags_of, instance, left_out, told, trouble }
    }

    /// The instance's id, for who asks whether it is under maintenance.
    pub fn id(&self) -> &Name {
        &self.instance.id
    }

    /// Tells until `shutdown`, and that it is gone then.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let (rest, longest) = (self.settings.rest_ms, self.settings.longest_ms);
        let mut changes = Debounce::new(millis(rest), millis(longest));
        // what is there already was not told either
        changes.changed(Instant::now());
        let mut watching = true;
        loop {
            let due = [changes.due(), self.due()].into_iter().flatten().min();
            tokio::select! {
                () = shutdown.cancelled() => break,
                changed = self.wanted.changed(), if watching => match changed {
                    Ok(()) => changes.changed(Instant::now()),
                    // who said it has ended, and what it said last holds until this ends too
                    Err(_) => watching = false,
                },
                () = sleep_until(due) => {
                    let now = Instant::now();
                    if changes.due().is_some_and(|due| due <= now) {
                        changes.told();
                        self.take_wanted(now);
                    }
                    self.tell(now).await;
                }
            }
        }
        self.leave().await;
    }

    fn due(&self) -> Option<Instant> {
        match self.told {
            Told::Nothing => None,
            Told::Due(at) | Told::Until(at) => Some(at),
        }
    }

    /// Takes what there is to tell now.
    fn take_wanted(&mut self, now: Instant) {
        // a copy, for who says it waits while it is borrowed
        let wanted = self.wanted.borrow_and_update().clone();
        let Some(mut tags) = (self.tags_of)(&wanted) else { return };
        let most = self.settings.tags_max.min(TAGS_MAX);
        let left_out = tags.len().saturating_sub(most);
        // in order: a segment that comes or goes moves one other at most
        if let Some(first_out) = tags.iter().nth(most).cloned() {
            drop(tags.split_off(&first_out));
        }
        if left_out > 0 && self.left_out == 0 {
            warn!(
                service = %self.instance.id, left_out, most,
                "DNS does not find all segments of this node: Consul is told of so many and no more; add nodes"
            );
        }
        self.left_out = left_out;
        metrics::announces(self.instance.service.as_str(), tags.len(), left_out);
        if self.instance.tags != tags {
            self.instance.tags = tags;
        } else if self.told != Told::Nothing {
            return;
        }
        // a wait after a failure goes on
        if !matches!(self.told, Told::Due(_)) {
            self.told = Told::Due(now);
        }
    }

    /// Does what is due.
    async fn tell(&mut self, now: Instant) {
        if self.due().is_none_or(|due| due > now) {
            return;
        }
        let told = match self.told {
            Told::Until(_) => self.look().await,
            Told::Due(_) | Told::Nothing => self.register().await,
        };
        match told {
            Ok(()) => {
                self.trouble.over();
                self.told = Told::Until(Instant::now() + millis(self.settings.look_ms));
            }
            Err(error) => {
                let wait = self.trouble.failed(&error);
                self.told = Told::Due(Instant::now() + wait);
            }
        }
    }

    async fn register(&self) -> Result<(), KvError> {
        let registered = self.services.register(&self.instance).await;
        metrics::announced(self.instance.service.as_str(), registered.is_ok());
        registered
    }

    /// Looks whether it is still registered as it was told, and tells again what is not.
    async fn look(&self) -> Result<(), KvError> {
        if self.services.has(&self.instance).await? {
            return Ok(());
        }
        info!(service = %self.instance.id, "it is not registered any more as it was; registering it again");
        self.register().await
    }

    async fn leave(&self) {
        let id = &self.instance.id;
        // a person's word on it would end with it, and the next start would bring it back too early
        if self.services.maintenance(id).await.is_ok_and(|maintenance| maintenance.instance) {
            info!(service = %id, "it is under maintenance and stays registered so");
            return;
        }
        if let Err(error) = self.services.deregister(id).await {
            warn!(service = %id, %error, "it stays registered, and fails its check");
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
