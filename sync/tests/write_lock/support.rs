//! What the cases say often.

use std::sync::Arc;
use std::time::Duration;

use fsd::segment::SegmentId;
use sync::kv::{Entry, Key, Kv, SESSION_TTL_MIN, SessionId};
use sync::store::{Store, StoreTimeouts, open};
use sync::write_lock::{WriteLock, WriteLockError, WriteLocks};

use crate::breaking::BreakingKv;
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
}

impl<'a, P: Place> Writers<'a, P> {
    pub fn new(place: &'a P) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let store = open(root.to_str().unwrap(), StoreTimeouts::default()).unwrap();
        Self { place, store, dir }
    }

    /// A process called `name`, and what it knows the registry by.
    pub fn start(&self, name: &str) -> (WriteLocks, Arc<BreakingKv>) {
        let kv = BreakingKv::new(self.place.open());
        let (clock, name) = (self.place.since_boot(), name.to_owned());
        let locks = WriteLocks::new(kv.clone(), self.store.clone(), clock, TTL, name).unwrap();
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
            Err(WriteLockError::HeldBy(by)) => {
                assert!(waited < 5 * 2 * TTL, "{id} is still locked by {by}");
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
        Err(WriteLockError::HeldBy(by)) => by,
        other => panic!("{id}: {other:?}"),
    }
}
