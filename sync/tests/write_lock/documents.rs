//! What holders say of themselves, and what newer ones may say.

use std::time::Duration;

use bytes::Bytes;
use sync::kv::{Kv, Op, SESSION_TTL_MIN, SessionOptions};
use sync::write_lock::WriteLockError;

use crate::places::Place;
use crate::support::*;

pub async fn who_asks_for_a_lock_that_is_held_is_told_by_whom(place: &impl Place) {
    let writers = Writers::new(place);
    let (locks, kv) = writers.start("`trough put` of process 7 on \"north\"");
    let (other, _) = writers.start("other");
    let a = id("named");
    let lock = locks.acquire(&a).await.unwrap();
    assert_eq!(held_by(&other, &a).await, "`trough put` of process 7 on \"north\"");
    let said = entry(&*kv, &a).await.unwrap().value;
    let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
    let holder = "`trough put` of process 7 on \"north\"";
    assert_eq!(said, serde_json::json!({ "format": 1, "holder": holder }));
    lock.release().await;

    // whatever a trough of another version says of itself, what it holds is held
    let options = SessionOptions::new("newer", SESSION_TTL_MIN, Duration::ZERO).unwrap();
    let newer = kv.create_session(&options).await.unwrap();
    for (value, name) in [
        (r#"{"format":3,"holder":"newer","dirty":true}"#, "newer"),
        (r#"{"format":2,"holder":"newer","dirty":true}"#, "newer"),
        (r#"{"format":1,"holder":"newer","promoting":true}"#, "newer"),
        ("?", "somebody who does not say a name"),
    ] {
        assert!(kv.acquire(&key(&a), value.into(), &newer).await.unwrap());
        assert_eq!(held_by(&other, &a).await, name);
        assert_eq!(session(&*kv, &a).await, newer);
        assert_eq!(entry(&*kv, &a).await.unwrap().value, value);
    }
}

pub async fn what_is_not_understood_is_left_as_it_is(place: &impl Place) {
    let writers = Writers::new(place);
    let (locks, kv) = writers.start("one");
    let a = id("left-behind");
    let leave = async |value: Bytes| {
        kv.txn(&[Op::Set { key: key(&a), value }]).await.unwrap();
        entry(&*kv, &a).await
    };
    for value in [
        r#"{"format":3,"holder":"newer"}"#,
        r#"{"format":2,"holder":"newer","dirty":true}"#,
        r#"{"format":1,"holder":"newer","dirty":true}"#,
        "",
        "?",
    ] {
        let left = leave(value.into()).await;
        let error = locks.acquire(&a).await.unwrap_err();
        assert!(matches!(error, WriteLockError::NotUnderstood { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains("upgrade trough") && said.contains(key(&a).as_str()), "{said}");
        assert!(said.contains(&kv.address()), "{said}");
        let error = locks.own(&a, &claimant("north", AT_ONCE)).await.unwrap_err();
        assert!(matches!(error, WriteLockError::NotUnderstood { .. }), "{error}");
        assert_eq!(locks.owner(&a).await.unwrap(), None);
        assert_eq!(entry(&*kv, &a).await, left);
    }
    // what is, and nobody holds, is taken over
    leave(r#"{"format":1,"holder":"dead"}"#.into()).await;
    let lock = locks.acquire(&a).await.unwrap();
    assert!(lock.confirm().await.unwrap());
    lock.release().await;
    assert_eq!(entry(&*kv, &a).await, None);
}
