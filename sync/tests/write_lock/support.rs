//! What the cases say often.

use std::sync::Arc;
use std::time::Duration;

use fsd::segment::SegmentId;
use sync::kv::{Entry, Key, Kv, SESSION_TTL_MIN, SessionId};
use sync::node::NodeName;
use sync::store::{Store, StoreTimeouts, open};
use sync::write_lock::{Claimant, Ownership, Takeover, WriteLock, WriteLockError, WriteLocks};

use crate::breaking::BreakingKv;
use crate::day::Day;
use crate::places::Place;

pub const TTL: Duration = SESSION_TTL_MIN;

pub fn id(text: &str) -> SegmentId {
    SegmentId::new(text).unwrap()
}

/// The key of the lock of `id`.
pub fn key(id: &SegmentId) -> Key {
    Key::new(format!("trough/write/{}", id.label())).unwrap()
}

pub async fn entry(kv: &dyn Kv, id: &SegmentId) -> Option<Entry> {
    kv.get(&key(id)).await.unwrap()
}

/// Who holds the lock of `id`.
pub async fn session(kv: &dyn Kv, id: &SegmentId) -> SessionId {
    entry(kv, id).await.unwrap().session.unwrap()
}

/// Those who take locks in one registry and count its incarnations in one deep store.
pub struct Writers<'a, P> {
    pub place: &'a P,
    pub store: Arc<dyn Store>,
    pub dir: tempfile::TempDir,
    /// What all of them tell the time of day by.
    pub day: Day,
}

impl<'a, P: Place> Writers<'a, P> {
    pub fn new(place: &'a P) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let store = open(root.to_str().unwrap(), StoreTimeouts::default()).unwrap();
        Self { place, store, dir, day: Day::new() }
    }

    /// A process called `name`, and what it knows the registry by.
    pub fn start(&self, name: &str) -> (WriteLocks, Arc<BreakingKv>) {
        let kv = BreakingKv::new(self.place.open());
        let (day, boot) = (Arc::new(self.day.clone()), self.place.since_boot());
        let (store, name) = (self.store.clone(), name.to_owned());
        let locks = WriteLocks::new(kv.clone(), store, day, boot, TTL, name).unwrap();
        (locks, kv)
    }
}

/// Asks until `locks` gets the lock of `id`, for five times as long as the end of a session may take.
pub async fn take_over(place: &impl Place, locks: &WriteLocks, id: &SegmentId) -> WriteLock {
    let step = Duration::from_millis(500);
    let mut waited = Duration::ZERO;
    loop {
        match locks.acquire(id).await {
            Ok(lock) => return lock,
            Err(WriteLockError::HeldBy { holder, .. }) => {
                assert!(waited < 5 * 2 * TTL, "{id} is still locked by {holder}");
            }
            Err(error) => panic!("{id}: {error}"),
        }
        place.pass(step).await;
        waited += step;
    }
}

/// Who has the lock of `id` instead of `locks`.
pub async fn held_by(locks: &WriteLocks, id: &SegmentId) -> String {
    match locks.acquire(id).await {
        Err(WriteLockError::HeldBy { holder, .. }) => holder,
        other => panic!("{id}: {other:?}"),
    }
}

/// Takes what another node left with rows that are not published.
pub const AT_ONCE: Takeover = Takeover::After(Duration::ZERO);

/// The writer of `node`.
pub fn claimant(node: &str, takeover: Takeover) -> Claimant {
    let write_address = format!("{node}:6222");
    Claimant {
        node: NodeName::new(node).unwrap(),
        write_address,
        schema: None,
        takeover,
        unpublished_since_ms: None,
    }
}

/// What keeps `id` from `locks`: what was left there, and how long it keeps it.
pub async fn kept(
    locks: &WriteLocks,
    id: &SegmentId,
    claimant: &Claimant,
) -> (Ownership, Option<Duration>) {
    match locks.own(id, claimant).await {
        Err(WriteLockError::Dirty { owner, left, .. }) => (*owner, left),
        other => panic!("{id}: {other:?}"),
    }
}

/// The holder of the lock of `id` dies: its session ends, and it hears nothing of that.
pub async fn die(kv: &dyn Kv, id: &SegmentId) {
    kv.destroy_session(&session(kv, id).await).await.unwrap();
}
