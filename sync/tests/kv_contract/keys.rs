//! Keys, compare-and-set, transactions and what is too large.

use std::time::Duration;

use bytes::Bytes;
use sync::kv::{Consistency, Index, Key, KvErrorKind, Op, SessionId, TXN_OPS_MAX, VALUE_BYTES_MAX};

use crate::places::Place;
use crate::support::*;

pub async fn a_key_reads_back_as_it_was_written(place: &impl Place) {
    let (kv, other) = (place.open(), place.open());
    let at = key("reads-back/A_b-9/x");
    assert_eq!(kv.get(&at).await.unwrap(), None);
    let bytes: Bytes = (0..=255u8).cycle().take(100_000).collect::<Vec<_>>().into();
    committed(&*kv, &[Op::Set { key: at.clone(), value: bytes.clone() }]).await;
    let entry = other.get(&at).await.unwrap().unwrap();
    assert!(entry.value == bytes && entry.key == at && entry.session.is_none());
    assert!(entry.created == entry.modified && entry.modified > Index::ABSENT);
    committed(&*kv, &[set(&at, "")]).await;
    let empty = other.get(&at).await.unwrap().unwrap();
    assert!(empty.value.is_empty() && empty.created == entry.created);
    assert!(empty.modified > entry.modified);
    committed(&*kv, &[Op::Delete { key: at.clone() }, Op::Delete { key: key("reads-back/none") }])
        .await;
    assert_eq!(other.get(&at).await.unwrap(), None);
}

pub async fn a_listing_is_what_lies_below_and_nothing_else(place: &impl Place) {
    let kv = place.open();
    let below = key("listing/a");
    assert_eq!(kv.list(&below, Consistency::Consistent).await.unwrap(), []);
    let beside =
        ["listing", "listing/a", "listing/a-b", "listing/a0", "listing/ab/x", "listing/A/x"];
    let within = ["listing/a/-", "listing/a/0", "listing/a/Z", "listing/a/_", "listing/a/z/deep"];
    for name in beside.iter().chain(within.iter().rev()) {
        committed(&*kv, &[Op::Set { key: key(name), value: (*name).into() }]).await;
    }
    for consistency in [Consistency::Consistent, Consistency::Default] {
        let found = kv.list(&below, consistency).await.unwrap();
        assert_eq!(names(&found), ["-", "0", "Z", "_", "deep"]);
        assert!(found.iter().all(|entry| entry.value == entry.key.as_str()["trough/".len()..]));
    }
}

pub async fn compare_and_set_sees_every_change(place: &impl Place) {
    let kv = place.open();
    let at = key("cas");
    assert_eq!(refused(&*kv, &[cas(&at, "x", Index(1))]).await, [0]);
    let made = committed(&*kv, &[cas(&at, "1", Index::ABSENT)]).await;
    assert_eq!(made[0].modified, modified(&*kv, &at).await);
    assert_eq!(refused(&*kv, &[cas(&at, "2", Index::ABSENT)]).await, [0], "0 creates only");
    let changed = committed(&*kv, &[cas(&at, "2", made[0].modified)]).await;
    assert!(changed[0].modified > made[0].modified && changed[0].created == made[0].created);
    assert_eq!(refused(&*kv, &[cas(&at, "3", made[0].modified)]).await, [0]);
    let delete = |index| Op::DeleteCas { key: at.clone(), index };
    assert_eq!(refused(&*kv, &[delete(made[0].modified)]).await, [0]);
    assert_eq!(value(&*kv, &at).await.unwrap(), "2");
    committed(&*kv, &[delete(changed[0].modified)]).await;
    assert_eq!(value(&*kv, &at).await, None);
    committed(&*kv, &[delete(changed[0].modified)]).await;
    let again = committed(&*kv, &[cas(&at, "4", Index::ABSENT)]).await;
    assert!(again[0].modified > changed[0].modified, "a key's second life has higher indexes");
}

pub async fn a_transaction_is_whole_or_nothing(place: &impl Place) {
    let kv = place.open();
    let [a, b, lead] = ["whole/a", "whole/b", "whole/lead"].map(key);
    let holder = session(&*kv, Duration::ZERO).await;
    assert!(kv.acquire(&lead, "me".into(), &holder).await.unwrap());
    let check =
        |session: &SessionId| Op::CheckSession { key: lead.clone(), session: session.clone() };
    let done = committed(
        &*kv,
        &[check(&holder), set(&a, "1"), cas(&b, "1", Index::ABSENT), Op::Get { key: a.clone() }],
    )
    .await;
    let of: Vec<_> = done.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
    let bare = |key: &Key| (key.clone(), Bytes::new());
    assert_eq!(of, [bare(&lead), bare(&a), bare(&b), (a.clone(), "1".into())]);
    assert_eq!(done[1].modified, done[2].modified, "one step has one index");

    assert_eq!(refused(&*kv, &[set(&a, "2"), cas(&b, "2", Index::ABSENT)]).await, [1]);
    let other = session(&*kv, Duration::ZERO).await;
    assert_eq!(refused(&*kv, &[check(&other), set(&a, "2")]).await, [0]);
    assert!(kv.release(&lead, "".into(), &holder).await.unwrap());
    assert_eq!(refused(&*kv, &[check(&holder), set(&a, "2")]).await, [0], "released");
    assert!(kv.acquire(&lead, "me".into(), &holder).await.unwrap());
    kv.destroy_session(&holder).await.unwrap();
    assert_eq!(refused(&*kv, &[check(&holder), set(&a, "2")]).await, [0], "its session is gone");
    committed(&*kv, &[Op::Delete { key: lead.clone() }]).await;
    assert_eq!(refused(&*kv, &[check(&holder), set(&a, "2")]).await, [0], "its key is gone");
    assert_eq!(value(&*kv, &a).await.unwrap(), "1");
    assert_eq!(value(&*kv, &b).await.unwrap(), "1");
}

pub async fn a_refusal_names_each_operation_that_refused(place: &impl Place) {
    let kv = place.open();
    let [a, none] = ["refusal/a", "refusal/none"].map(key);
    let index = committed(&*kv, &[set(&a, "1")]).await[0].modified;
    let check = |key: &Key, index| Op::CheckIndex { key: key.clone(), index };
    let absent = |key: &Key| Op::CheckNotExists { key: key.clone() };
    let get = |key: &Key| Op::Get { key: key.clone() };
    let done = committed(&*kv, &[check(&a, index), absent(&none), get(&a)]).await;
    assert_eq!(names(&done), ["a", "a"]);
    assert_eq!(done[1].value, "1");
    let ops = [
        check(&a, index),
        check(&a, Index(index.0 + 1)),
        absent(&a),
        get(&none),
        set(&none, "1"),
        check(&key("refusal/z"), index),
    ];
    assert_eq!(refused(&*kv, &ops).await, [1, 2, 3, 5]);
    assert_eq!(value(&*kv, &none).await, None);
    let ops = [set(&none, "1"), get(&none), Op::Delete { key: none.clone() }, absent(&none)];
    assert_eq!(committed(&*kv, &ops).await[1].value, "1", "an operation sees those before it");
    assert_eq!(value(&*kv, &none).await, None);
}

pub async fn what_exceeds_a_limit_is_refused_and_changes_nothing(place: &impl Place) {
    let kv = place.open();
    let at = key("limit/at");
    let holder = session(&*kv, Duration::ZERO).await;
    let most = Bytes::from(vec![7; VALUE_BYTES_MAX]);
    let over = Bytes::from(vec![7; VALUE_BYTES_MAX + 1]);
    let error = kv.acquire(&at, over.clone(), &holder).await.unwrap_err();
    assert_eq!(error.kind, KvErrorKind::TooLarge, "{error}");
    assert_eq!(value(&*kv, &at).await, None);
    assert!(kv.acquire(&at, most.clone(), &holder).await.unwrap());
    assert!(value(&*kv, &at).await.unwrap() == most);

    // the most that a transaction takes, in operations and in bytes: whatever the check lets through must go through
    let ops: Vec<Op> =
        (0..TXN_OPS_MAX).map(|n| set(&key(&format!("limit/ops/{n}")), "x")).collect();
    assert_eq!(committed(&*kv, &ops).await.len(), TXN_OPS_MAX);
    let ops: Vec<Op> =
        (0..=TXN_OPS_MAX).map(|n| set(&key(&format!("limit/over/{n}")), "x")).collect();
    let error = kv.txn(&ops).await.unwrap_err();
    assert_eq!(error.kind, KvErrorKind::TooLarge, "{error}");
    assert!(error.to_string().contains("split"), "{error}");
    assert_eq!(kv.list(&key("limit/over"), Consistency::Consistent).await.unwrap(), []);
    let many = |bytes: usize| -> Vec<Op> {
        let value = Bytes::from(vec![255; bytes / TXN_OPS_MAX]);
        (0..TXN_OPS_MAX)
            .map(|n| Op::Cas {
                key: key(&format!("limit/bytes/{n}")),
                value: value.clone(),
                index: Index::ABSENT,
            })
            .collect()
    };
    assert_eq!(kv.txn(&many(VALUE_BYTES_MAX)).await.unwrap_err().kind, KvErrorKind::TooLarge);
    assert_eq!(committed(&*kv, &many(380_000)).await.len(), TXN_OPS_MAX);
    let one = |bytes: usize| [Op::Set { key: at.clone(), value: vec![255; bytes].into() }];
    committed(&*kv, &one(393_000)).await;
    for bytes in [394_000, VALUE_BYTES_MAX] {
        let error = kv.txn(&one(bytes)).await.unwrap_err();
        assert_eq!(error.kind, KvErrorKind::TooLarge, "{error}");
        assert!(error.to_string().contains("split"), "{error}");
    }
    assert_eq!(value(&*kv, &at).await.unwrap().len(), 393_000);
}
