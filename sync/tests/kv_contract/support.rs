//! What the cases say often.

use std::time::Duration;

use bytes::Bytes;
use sync::kv::{Entry, Index, Key, Kv, Op, SESSION_TTL_MIN, SessionId, SessionOptions, Txn};

use crate::places::Place;

/// Longer than any wait that must not be used up.
pub const LONG: Duration = Duration::from_secs(60);

pub const LOCK_DELAY: Duration = Duration::from_secs(2);

pub fn key(text: &str) -> Key {
    Key::new(format!("trough/{text}")).unwrap()
}

pub fn set(key: &Key, value: &'static str) -> Op {
    Op::Set { key: key.clone(), value: value.into() }
}

pub fn cas(key: &Key, value: &'static str, index: Index) -> Op {
    Op::Cas { key: key.clone(), value: value.into(), index }
}

pub async fn committed(kv: &dyn Kv, ops: &[Op]) -> Vec<Entry> {
    match kv.txn(ops).await.unwrap() {
        Txn::Committed(entries) => entries,
        Txn::Refused(refusals) => panic!("refused: {refusals:?}"),
    }
}

/// The places of the operations that refused.
pub async fn refused(kv: &dyn Kv, ops: &[Op]) -> Vec<usize> {
    match kv.txn(ops).await.unwrap() {
        Txn::Committed(entries) => panic!("committed: {entries:?}"),
        Txn::Refused(refusals) => {
            assert!(refusals.iter().all(|refusal| !refusal.reason.is_empty()), "{refusals:?}");
            refusals.iter().map(|refusal| refusal.op).collect()
        }
    }
}

pub async fn value(kv: &dyn Kv, key: &Key) -> Option<Bytes> {
    kv.get(key).await.unwrap().map(|entry| entry.value)
}

pub async fn modified(kv: &dyn Kv, key: &Key) -> Index {
    kv.get(key).await.unwrap().unwrap().modified
}

pub async fn session(kv: &dyn Kv, lock_delay: Duration) -> SessionId {
    let options = SessionOptions::new("contract", SESSION_TTL_MIN, lock_delay).unwrap();
    kv.create_session(&options).await.unwrap()
}

pub fn names(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.key.as_str().rsplit('/').next().unwrap()).collect()
}

/// Asks until `session` gets the lock; the time passes by `step`.
pub async fn acquire_in(
    place: &impl Place,
    kv: &dyn Kv,
    key: &Key,
    session: &SessionId,
    limit: Duration,
) -> Duration {
    let step = Duration::from_millis(200);
    let mut waited = Duration::ZERO;
    while !kv.acquire(key, "".into(), session).await.unwrap() {
        assert!(waited < limit, "no lock on {key} within {limit:?}");
        place.pass(step).await;
        waited += step;
    }
    waited
}
