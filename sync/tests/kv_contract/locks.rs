//! Sessions, and the locks that they hold.

use std::time::Duration;

use sync::kv::{KvErrorKind, Op, SESSION_TTL_MIN, SessionId};

use crate::places::Place;
use crate::support::*;

pub async fn a_lock_has_one_holder_and_a_fence_that_grows(place: &impl Place) {
    let kv = place.open();
    let at = key("fence");
    let (one, two) = (session(&*kv, Duration::ZERO).await, session(&*kv, Duration::ZERO).await);
    assert!(kv.acquire(&at, "one".into(), &one).await.unwrap());
    let held = kv.get(&at).await.unwrap().unwrap();
    assert_eq!((held.session.as_ref(), &*held.value), (Some(&one), &b"one"[..]));
    assert!(!kv.acquire(&at, "two".into(), &two).await.unwrap());
    assert!(!kv.release(&at, "two".into(), &two).await.unwrap());
    assert_eq!(
        kv.get(&at).await.unwrap().unwrap(),
        held,
        "a refused acquire or release changes nothing"
    );
    assert!(kv.acquire(&at, "one".into(), &one).await.unwrap(), "by the holder");
    assert_eq!(kv.get(&at).await.unwrap().unwrap(), held, "what says the same keeps its index");
    assert!(kv.acquire(&at, "one again".into(), &one).await.unwrap(), "by the holder");
    let again = kv.get(&at).await.unwrap().unwrap();
    assert!(again.session.as_ref() == Some(&one) && again.modified > held.modified);

    // locks are advisory: whoever writes leaves it with its holder
    committed(&*kv, &[set(&at, "anybody")]).await;
    assert_eq!(kv.get(&at).await.unwrap().unwrap().session.as_ref(), Some(&one));

    let mut fence = modified(&*kv, &at).await;
    for (holder, next) in [(&one, &two), (&two, &one), (&one, &two)] {
        assert!(kv.release(&at, "free".into(), holder).await.unwrap());
        assert_eq!(value(&*kv, &at).await.unwrap(), "free");
        assert!(kv.acquire(&at, "".into(), next).await.unwrap());
        let now = modified(&*kv, &at).await;
        assert!(now > fence, "{now} after {fence}");
        fence = now;
    }
    // also over the life of the key
    committed(&*kv, &[Op::Delete { key: at.clone() }]).await;
    assert!(kv.acquire(&at, "".into(), &one).await.unwrap());
    assert!(modified(&*kv, &at).await > fence);
}

pub async fn many_at_once_get_one_lock(place: &impl Place) {
    let at = key("many");
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (kv, at) = (place.open(), at.clone());
        asking.spawn(async move {
            let own = session(&*kv, Duration::ZERO).await;
            kv.acquire(&at, "".into(), &own).await.unwrap()
        });
    }
    let got = asking.join_all().await;
    assert_eq!(got.into_iter().filter(|got| *got).count(), 1);
}

pub async fn a_transaction_takes_a_lock_or_changes_nothing(place: &impl Place) {
    let kv = place.open();
    let [at, beside] = ["txn-lock/at", "txn-lock/beside"].map(key);
    let (one, two) = (session(&*kv, Duration::ZERO).await, session(&*kv, LOCK_DELAY).await);
    let absent = || Op::CheckNotExists { key: at.clone() };
    let acquire = |session: &SessionId, value: &'static str| Op::Acquire {
        key: at.clone(),
        value: value.into(),
        session: session.clone(),
    };
    let done = committed(&*kv, &[absent(), acquire(&one, "one"), set(&beside, "1")]).await;
    let held = kv.get(&at).await.unwrap().unwrap();
    assert_eq!((held.session.as_ref(), &*held.value), (Some(&one), &b"one"[..]));
    assert!(done[0].key == at && done[0].session == held.session && done[0].value.is_empty());
    assert_eq!(
        (done.len(), done[0].modified),
        (2, held.modified),
        "the fence comes with the answer"
    );

    assert_eq!(refused(&*kv, &[absent(), acquire(&two, "two")]).await, [0, 1]);
    assert_eq!(refused(&*kv, &[set(&beside, "2"), acquire(&two, "two")]).await, [1]);
    assert_eq!(refused(&*kv, &[absent(), acquire(&one, "one")]).await, [0], "its holder has it");
    assert_eq!(committed(&*kv, &[acquire(&one, "one")]).await[0].modified, held.modified);
    assert_eq!(value(&*kv, &beside).await.unwrap(), "1");

    // who holds it removes it, and the next has it at once, with a higher fence
    let check = Op::CheckSession { key: at.clone(), session: one.clone() };
    committed(&*kv, &[check, Op::Delete { key: at.clone() }]).await;
    let next = committed(&*kv, &[absent(), acquire(&two, "two")]).await;
    assert!(next[0].modified > held.modified);
    kv.destroy_session(&two).await.unwrap();
    let index = modified(&*kv, &at).await;
    let unchanged = Op::CheckIndex { key: at.clone(), index };
    assert_eq!(refused(&*kv, &[unchanged, acquire(&one, "one")]).await, [1], "in its lock-delay");

    let gone = [
        set(&beside, "3"),
        Op::Acquire { key: key("txn-lock/free"), value: "".into(), session: two },
    ];
    let error = kv.txn(&gone).await.unwrap_err();
    assert_eq!(error.kind, KvErrorKind::SessionGone, "{error}");
    assert_eq!(value(&*kv, &beside).await.unwrap(), "1");
}

pub async fn a_released_lock_is_free_at_once_and_a_destroyed_session_s_after_its_delay(
    place: &impl Place,
) {
    let kv = place.open();
    let at = key("delay");
    let next = session(&*kv, Duration::ZERO).await;
    let holder = session(&*kv, LOCK_DELAY).await;
    assert!(kv.acquire(&at, "".into(), &holder).await.unwrap());
    assert!(kv.release(&at, "".into(), &holder).await.unwrap());
    assert!(kv.acquire(&at, "".into(), &next).await.unwrap(), "a released lock is free at once");
    assert!(kv.release(&at, "".into(), &next).await.unwrap());

    assert!(kv.acquire(&at, "".into(), &holder).await.unwrap());
    let held = modified(&*kv, &at).await;
    kv.destroy_session(&holder).await.unwrap();
    kv.destroy_session(&holder).await.unwrap();
    assert_eq!(kv.session(&holder).await.unwrap(), None);
    let freed = kv.get(&at).await.unwrap().unwrap();
    assert!(freed.session.is_none() && freed.modified > held);
    assert!(!kv.acquire(&at, "".into(), &next).await.unwrap(), "closed for the lock-delay");
    acquire_in(place, &*kv, &at, &next, 5 * LOCK_DELAY).await;

    // without a lock-delay it is free at once
    kv.destroy_session(&next).await.unwrap();
    let last = session(&*kv, Duration::ZERO).await;
    assert!(kv.acquire(&at, "".into(), &last).await.unwrap());
}

pub async fn a_session_that_is_not_renewed_ends_and_can_change_nothing<P: Place>(place: &P) {
    let kv = place.open();
    let [lead, document] = ["expiry/lead", "expiry/document"].map(key);
    let holder = session(&*kv, LOCK_DELAY).await;
    let next = session(&*kv, Duration::ZERO).await;
    let info = kv.session(&holder).await.unwrap().unwrap();
    assert_eq!(
        (info.ttl, info.lock_delay, info.name.as_str()),
        (SESSION_TTL_MIN, LOCK_DELAY, "contract")
    );
    assert!(kv.acquire(&lead, "".into(), &holder).await.unwrap());
    let fence = modified(&*kv, &lead).await;

    // short of its time to live it lives, and a renewal gives it all of it again
    for _ in 0..2 {
        place.pass(P::SHORT_OF_TTL).await;
        assert!(kv.renew_session(&holder).await.unwrap() >= SESSION_TTL_MIN);
        kv.renew_session(&next).await.unwrap();
    }
    assert_eq!(kv.get(&lead).await.unwrap().unwrap().session.as_ref(), Some(&holder));

    // Consul ends it after twice its time to live
    let step = Duration::from_millis(500);
    let mut waited = Duration::ZERO;
    while kv.get(&lead).await.unwrap().unwrap().session.is_some() {
        assert!(waited < 5 * SESSION_TTL_MIN, "the session did not end");
        place.pass(step).await;
        waited += step;
        kv.renew_session(&next).await.unwrap();
    }
    assert!(modified(&*kv, &lead).await > fence);
    assert!(!kv.acquire(&lead, "".into(), &next).await.unwrap(), "closed for the lock-delay");
    assert_eq!(kv.session(&holder).await.unwrap(), None);
    assert_eq!(kv.renew_session(&holder).await.unwrap_err().kind, KvErrorKind::SessionGone);
    assert!(
        !kv.acquire(&lead, "".into(), &holder).await.unwrap(),
        "nor does it reopen for the old one"
    );
    assert!(!kv.release(&lead, "".into(), &holder).await.unwrap());
    let check =
        |session: &SessionId| Op::CheckSession { key: lead.clone(), session: session.clone() };
    assert_eq!(refused(&*kv, &[check(&holder), set(&document, "late")]).await, [0]);
    acquire_in(place, &*kv, &lead, &next, 5 * LOCK_DELAY).await;
    assert_eq!(refused(&*kv, &[check(&holder), set(&document, "late")]).await, [0]);
    let error = kv.acquire(&lead, "".into(), &holder).await.unwrap_err();
    assert_eq!(error.kind, KvErrorKind::SessionGone, "{error}");
    assert_eq!(value(&*kv, &document).await, None);
    committed(&*kv, &[check(&next), set(&document, "new")]).await;
}
