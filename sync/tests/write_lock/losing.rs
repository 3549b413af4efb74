//! Holders that die or sleep, sessions that end, and registries that forget.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sync::kv::{Key, Kv, Op};
use sync::write_lock::WriteLockError;

use crate::breaking::Break;
use crate::places::Place;
use crate::support::*;

pub async fn s4_a_dead_holder_is_followed_by_a_higher_epoch(place: &impl Place) {
    let writers = Writers::new(place);
    let (dead, cut) = writers.start("dead");
    let (next, _) = writers.start("next");
    let a = id("dead");
    let old = dead.acquire(&a).await.unwrap();
    cut.cut_off();
    assert_eq!(held_by(&next, &a).await, "dead");
    let new = take_over(place, &next, &a).await;
    assert!(!old.holds(), "two hold it");
    assert!(new.epoch() > old.epoch());
    let taken = entry(&*place.open(), &a).await.unwrap();
    assert_eq!(new.epoch().index, taken.modified.0);

    // what comes too late finds that it is too late, and takes nothing away
    assert!(old.confirm().await.is_err(), "it is still cut off");
    cut.mend();
    assert!(!old.confirm().await.unwrap());
    old.release().await;
    assert!(new.holds() && new.confirm().await.unwrap());
    new.release().await;
    assert_eq!(entry(&*place.open(), &a).await, None);
}

pub async fn s4_a_holder_whose_time_has_passed_does_not_hold<P: Place>(place: &P) {
    let writers = Writers::new(place);
    let (locks, cut) = writers.start("paused");
    let lock = locks.acquire(&id("paused")).await.unwrap();
    cut.cut_off();
    place.pass(P::SHORT_OF_TTL).await;
    assert!(lock.holds(), "short of its time it goes on, though it hears nothing");
    let mut passed = P::SHORT_OF_TTL;
    while passed <= TTL {
        place.pass(Duration::from_secs(1)).await;
        passed += Duration::from_secs(1);
    }
    // Consul has not ended its session, and nobody else asked
    assert!(!lock.holds());
    cut.mend();
    assert!(!lock.confirm().await.unwrap());
    assert!(!lock.holds());
}

pub async fn s4_the_end_of_the_session_ends_every_lock_and_the_next_has_a_new_one(
    place: &impl Place,
) {
    let writers = Writers::new(place);
    let (locks, kv) = writers.start("one");
    let (other, _) = writers.start("other");
    let (a, b, c) = (id("ends-a"), id("ends-b"), id("ends-c"));
    let (first, second) = (locks.acquire(&a).await.unwrap(), locks.acquire(&b).await.unwrap());
    let rests_on = session(&*kv, &a).await;
    kv.destroy_session(&rests_on).await.unwrap();
    let new = other.acquire(&a).await.unwrap();
    assert!(new.epoch() > first.epoch());
    assert!(!first.confirm().await.unwrap());
    assert!(!first.holds() && !second.holds(), "one of them was told");
    first.release().await;
    assert!(new.confirm().await.unwrap());

    let third = locks.acquire(&c).await.unwrap();
    assert!(third.confirm().await.unwrap() && third.epoch() > second.epoch());
    assert!(!second.holds());
    assert_eq!(kv.sessions.load(Ordering::SeqCst), 2);

    // also where the next lock is what tells of it
    kv.destroy_session(&session(&*kv, &c).await).await.unwrap();
    let fourth = locks.acquire(&b).await.unwrap();
    assert!(fourth.holds() && !third.holds());
    assert!(!second.confirm().await.unwrap(), "its lock is there, and another's");
    assert_eq!(kv.sessions.load(Ordering::SeqCst), 3);
}

/// A call whose answer is lost, a lock that is dropped, and one that cannot be given back.
pub async fn a_lock_that_nobody_gives_back_is_free_when_its_time_is_over(place: &impl Place) {
    let writers = Writers::new(place);
    let (locks, kv) = writers.start("careless");
    let (next, _) = writers.start("next");
    // its session is used all the while
    let used = locks.acquire(&id("careless-used")).await.unwrap();
    let lost = [id("careless-unheard"), id("careless-dropped"), id("careless-kept")];

    kv.break_at(0, Break::AnswerLost);
    assert!(matches!(locks.acquire(&lost[0]).await, Err(WriteLockError::Kv(_))));
    kv.mend();
    drop(locks.acquire(&lost[1]).await.unwrap());
    let lock = locks.acquire(&lost[2]).await.unwrap();
    kv.break_at(0, Break::Refused);
    lock.release().await;
    kv.mend();
    let good = id("careless-good");
    let lock = locks.acquire(&good).await.unwrap();
    let rests_on = session(&*kv, &good).await;

    for id in &lost {
        assert_ne!(session(&*kv, id).await, rests_on, "{id} rests on a session that goes on");
        assert_eq!(held_by(&locks, id).await, "careless");
    }
    assert!(used.confirm().await.unwrap() && lock.confirm().await.unwrap());
    used.release().await;
    for id in &lost {
        take_over(place, &next, id).await.release().await;
    }
    // a call that was not done closes nothing
    kv.break_at(0, Break::Refused);
    let never = id("careless-never");
    assert!(matches!(locks.acquire(&never).await, Err(WriteLockError::Kv(_))));
    next.acquire(&never).await.unwrap();
}

pub async fn s4_a_registry_that_comes_back_empty_or_garbled_gives_higher_epochs(
    place: &impl Place,
) {
    let writers = Writers::new(place);
    let (one, _) = writers.start("one");
    let (two, _) = writers.start("two");
    let (a, b) = (id("life-a"), id("life-b"));
    let before = one.acquire(&a).await.unwrap();
    place.empty();
    let after = two.acquire(&a).await.unwrap();
    assert!(after.epoch().incarnation > before.epoch().incarnation);
    assert!(!before.confirm().await.unwrap() && !before.holds());
    // who was there before begins anew, too
    let next = one.acquire(&b).await.unwrap();
    assert_eq!(next.epoch().incarnation, after.epoch().incarnation);
    assert!(next.confirm().await.unwrap() && after.confirm().await.unwrap());

    let garbled = Op::Set { key: Key::new("trough/incarnation").unwrap(), value: "what?".into() };
    place.open().txn(&[garbled]).await.unwrap();
    next.release().await;
    let last = one.acquire(&b).await.unwrap();
    assert!(last.epoch().incarnation > after.epoch().incarnation);
    assert!(last.confirm().await.unwrap());
}

pub async fn without_an_incarnation_nobody_takes_a_lock(place: &impl Place) {
    let writers = Writers::new(place);
    let (locks, kv) = writers.start("one");
    let a = id("early");
    let root = writers.dir.path().join("store");
    std::fs::write(&root, "in the way").unwrap();
    let error = locks.acquire(&a).await.unwrap_err();
    assert!(matches!(error, WriteLockError::Incarnation(_)), "{error}");
    assert_eq!(entry(&*kv, &a).await, None);
    std::fs::remove_file(&root).unwrap();
    // all locks of a process that find none at the same moment begin one
    let ids: Vec<_> = (0..50).map(|n| id(&format!("early-{n}"))).collect();
    for lock in futures::future::join_all(ids.iter().map(|id| locks.acquire(id))).await {
        assert_eq!(lock.unwrap().epoch().incarnation, 1);
    }
    let counters = sync::store::StorePath::new(".trough/incarnation").unwrap();
    assert_eq!(writers.store.names(&counters, 100).await.unwrap(), ["1"]);
    // and many processes agree on one
    place.empty();
    let many: Vec<_> = (0..6).map(|n| writers.start(&n.to_string()).0).collect();
    let asking = many.iter().zip(&ids).map(|(locks, id)| locks.acquire(id));
    let epochs: Vec<_> = futures::future::join_all(asking)
        .await
        .into_iter()
        .map(|lock| lock.unwrap().epoch())
        .collect();
    let one = epochs[0].incarnation;
    assert!(one > 1 && epochs.iter().all(|epoch| epoch.incarnation == one), "{epochs:?}");
}
