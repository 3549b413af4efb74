//! A node of a cluster: the lead says what to hold, and hears what is held.
//!
//! Invariant: what the lead says counts from when it was seen until it says something else, whatever becomes of the
//! registry meanwhile (S9).

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use fsd::segment::{SegmentId, Stamp};
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Earlier, Report, Seat, SeatError, Seen};
use crate::kv::{Key, Kv, Watched, Watcher, notify_changes};
use crate::membership::{Membership, MembershipError, Told};
use crate::planner::CopyState;
use crate::pool::Pool;
use crate::quota::{Assignment, Wanted};
use crate::tomb::{TOMBS_KEY, Tombs};

/// How long a look at the tombstones waits for a change.
const TOMBS_WAIT: Duration = Duration::from_secs(60);
/// The least pause between two: each look brings all, and deletions come in crowds.
const TOMBS_PAUSE: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub struct Member {
    kv: Arc<dyn Kv>,
    speaking: Mutex<Speaking>,
    /// How often it looks whether the registry says of this node what it told.
    doubt: Duration,
    to_hold: ToHold,
    changed: Arc<Notify>,
    served: watch::Sender<Served>,
    tombs: Arc<Followed>,
}

/// What was deleted, as far as it was heard.
#[derive(Debug, Default)]
struct Followed(StdMutex<Arc<Tombs>>);

/// What others may be sent to a node for. `None` as long as it has not said all that it holds, and was heard; after that
/// what was so last, be the registry away or empty.
pub type Served = Option<Arc<BTreeSet<SegmentId>>>;

#[derive(Debug)]
struct Speaking {
    membership: Membership,
    doubted_at: Instant,
    /// Of this registration: a registry that came back empty would be waited for by a watch that began before.
    watching: JoinSet<()>,
}

/// What the lead wants here: the assignment of a node of a cluster.
#[derive(Debug, Clone, Default)]
pub struct ToHold(Arc<StdMutex<HashSet<SegmentId>>>);

impl Member {
    /// A node that is registered by its first look, and that looks every `doubt` whether the registry still says of it
    /// what it told.
    pub fn new(kv: Arc<dyn Kv>, membership: Membership, doubt: Duration) -> Self {
        let (doubted_at, watching) = (Instant::now(), JoinSet::new());
        let speaking = Mutex::new(Speaking { membership, doubted_at, watching });
        let (to_hold, changed) = (ToHold::default(), Arc::new(Notify::new()));
        let (served, tombs) = (watch::Sender::default(), Arc::default());
        Self { kv, speaking, doubt, to_hold, changed, served, tombs }
    }

    /// What others may be sent here for, for those who tell them.
    pub fn served(&self) -> watch::Receiver<Served> {
        self.served.subscribe()
    }

    /// Says whether a person took this node out. After an error say it again.
    pub async fn maintain(&self, on: bool) -> Result<(), MembershipError> {
        let mut speaking = self.speaking.lock().await;
        let was_there = speaking.membership.holds();
        let said = speaking.membership.maintain(on).await;
        self.spoke(&mut speaking, was_there)?;
        said
    }

    /// Says what its cache may take, in bytes. After an error say it again.
    pub async fn room(&self, quota_bytes: u64) -> Result<(), MembershipError> {
        let mut speaking = self.speaking.lock().await;
        let was_there = speaking.membership.holds();
        let said = speaking.membership.room(quota_bytes).await;
        self.spoke(&mut speaking, was_there)?;
        said
    }

    /// What the lead wants, as the synchronizer takes it.
    pub fn assignment(&self) -> ToHold {
        self.to_hold.clone()
    }

    /// Watches for as long as this registration goes on, and for its end.
    fn watch(&self, speaking: &mut Speaking) -> Result<(), MembershipError> {
        let Some(ending) = speaking.membership.ending() else { return Ok(()) };
        speaking.watching = JoinSet::new();
        for what in speaking.membership.watched()? {
            let watching = notify_changes(self.kv.clone(), what, self.changed.clone());
            speaking.watching.spawn(watching);
        }
        let below = crate::kv::key(TOMBS_KEY)?;
        let (kv, tombs, changed) = (self.kv.clone(), self.tombs.clone(), self.changed.clone());
        speaking.watching.spawn(async move { tombs.follow(&*kv, below, &changed).await });
        let changed = self.changed.clone();
        speaking.watching.spawn(async move {
            ending.cancelled().await;
            changed.notify_one();
        });
        Ok(())
    }

    /// After something was said or heard: who `was_there` before has its watches.
    fn spoke(&self, speaking: &mut Speaking, was_there: bool) -> Result<(), MembershipError> {
        if let Some(serves) = speaking.membership.serves() {
            self.served.send_if_modified(|before| {
                let changed = before.as_deref() != Some(&serves);
                if changed {
                    *before = Some(Arc::new(serves));
                }
                changed
            });
        }
        if was_there { Ok(()) } else { self.watch(speaking) }
    }

    async fn hear(&self) -> Result<(Option<Told>, bool), MembershipError> {
        let mut speaking = self.speaking.lock().await;
        let heard = speaking.membership.look().await;
        if let Ok(Some(told)) = &heard {
            self.to_hold.take(told);
        }
        let was_there = speaking.membership.holds();
        // also when nothing could be heard: the others are to know that this node is here
        let spoken = if !speaking.membership.is_heard() {
            Some(speaking.membership.tell([], false).await)
        } else if speaking.doubted_at.elapsed() >= self.doubt {
            speaking.doubted_at = Instant::now();
            Some(speaking.membership.mend().await)
        } else {
            None
        };
        if spoken.is_some() || matches!(heard, Ok(Some(_))) {
            self.spoke(&mut speaking, was_there)?;
        }
        let (told, spoken) = (heard?, spoken.unwrap_or(Ok(())));
        match spoken {
            // what was heard must not be lost: the next look says it no more
            Err(error) if told.is_some() => tracing::warn!(%error, "this node is not heard"),
            spoken => spoken?,
        }
        Ok((told, speaking.membership.holds()))
    }
}

#[async_trait]
impl Seat for Member {
    async fn earlier(&self) -> Result<Earlier, SeatError> {
        // the ledger proves what is here, and the lead says what for
        Ok(Earlier::default())
    }

    async fn look(&self) -> Seen {
        match self.hear().await {
            Ok((told, registered)) => Seen::Lead { told, registered, tombs: self.tombs.now() },
            Err(error) => Seen::Nothing(error.into()),
        }
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn tell(&self, report: &Report) -> Result<(), SeatError> {
        let mut speaking = self.speaking.lock().await;
        let was_there = speaking.membership.holds();
        let told = speaking.membership.tell(report.holds.iter().cloned(), report.all).await;
        self.spoke(&mut speaking, was_there)?;
        Ok(told?)
    }

    fn announces(&self) -> bool {
        true
    }
}

impl Followed {
    fn now(&self) -> Arc<Tombs> {
        self.0.lock().expect("no code panics while it holds the tombstones").clone()
    }

    /// Follows what lies `below`, for ever, and notifies `changed`.
    async fn follow(&self, kv: &dyn Kv, below: Key, changed: &Notify) {
        let mut watcher = Watcher::new(Watched::Below(below), TOMBS_WAIT);
        loop {
            // what fails is told by whoever looks at the assignment, who asks the same store
            if let Ok(seen) = watcher.next(kv).await {
                let mut tombs = Tombs::clone(&self.now());
                if tombs.take(seen.entries) {
                    *self.0.lock().expect("no code panics while it holds the tombstones") =
                        Arc::new(tombs);
                    changed.notify_one();
                }
            }
            tokio::time::sleep(TOMBS_PAUSE).await;
        }
    }
}

impl ToHold {
    fn ids(&self) -> MutexGuard<'_, HashSet<SegmentId>> {
        self.0.lock().expect("no code panics while it holds the ids")
    }

    fn take(&self, told: &Told) {
        let mut ids = self.ids();
        for row in &told.lines {
            match row.state {
                CopyState::Hold | CopyState::Leave => ids.insert(row.id.clone()),
                CopyState::Drain { .. } => ids.remove(&row.id),
            };
        }
        for id in told.dropped.iter().map(|(id, _)| id).chain(&told.kept) {
            ids.remove(id);
        }
    }
}

impl Assignment for ToHold {
    fn wanted(&self, pool: &Pool, _: &HashMap<SegmentId, Stamp>, _: u64) -> Wanted {
        let ids = self.ids();
        let known = |id: &SegmentId| Some((Reverse(pool.get(id)?.stamp.mtime_ms), id.clone()));
        let mut hold: Vec<_> = ids.iter().filter_map(known).collect();
        hold.sort_unstable();
        let hold = hold.into_iter().map(|(_, id)| id).collect();
        // the lead saw to it that there is a place
        Wanted { hold, no_place: HashMap::new() }
    }
}
