//! Taking locks, and giving them back.

use std::sync::atomic::Ordering;

use futures::future::join_all;
use sync::write_lock::WriteLockError;

use crate::places::Place;
use crate::support::*;

pub async fn s4_a_lock_has_one_holder_and_an_epoch_that_grows(place: &impl Place) {
    let writers = Writers::new(place);
    let (one, _) = writers.start("one");
    let (two, _) = writers.start("two");
    let (a, b) = (id("holder-a"), id("holder-b"));
    let first = one.acquire(&a).await.unwrap();
    assert!(first.holds() && first.confirm().await.unwrap());
    assert_eq!(held_by(&two, &a).await, "one");
    assert_eq!(held_by(&one, &a).await, "one", "its own process, on the same session");
    let mut epochs = vec![first.epoch()];
    epochs.push(two.acquire(&b).await.unwrap().epoch());
    first.release().await;
    for n in 0..4 {
        let lock = [&one, &two][n % 2].acquire(&a).await.unwrap();
        assert_eq!(held_by([&two, &one][n % 2], &a).await, ["one", "two"][n % 2]);
        assert!(lock.confirm().await.unwrap());
        epochs.push(lock.epoch());
        lock.release().await;
    }
    assert!(epochs.is_sorted_by(|a, b| a < b && a.to_string() < b.to_string()), "{epochs:?}");
}

pub async fn what_is_given_back_is_free_at_once_and_leaves_nothing(place: &impl Place) {
    let writers = Writers::new(place);
    let kv = place.open();
    let (one, _) = writers.start("one");
    let (two, _) = writers.start("two");
    let all: Vec<_> = ["ids-a", "ids.with-dots", "Ids_B", "ids"].map(id).into();
    let locks = join_all(all.iter().map(|id| one.acquire(id))).await;
    let rests_on = session(&*kv, &all[0]).await;
    for lock in locks {
        lock.unwrap().release().await;
    }
    for id in &all {
        assert_eq!(entry(&*kv, id).await, None, "{id}");
        two.acquire(id).await.unwrap().release().await;
        assert_eq!(entry(&*kv, id).await, None, "{id}");
    }
    assert!(kv.session(&rests_on).await.unwrap().is_some());
    one.close().await;
    assert_eq!(kv.session(&rests_on).await.unwrap(), None);
    // who was closed may go on, and one that holds a lock still is left alone
    let lock = one.acquire(&all[0]).await.unwrap();
    one.close().await;
    assert!(lock.confirm().await.unwrap());
    lock.release().await;
}

pub async fn a_hundred_locks_share_a_session(place: &impl Place) {
    let writers = Writers::new(place);
    let (locks, kv) = writers.start("one");
    let ids: Vec<_> = (0..100).map(|n| id(&format!("hundred-{n}"))).collect();
    for _ in 0..2 {
        let taken = join_all(ids.iter().map(|id| locks.acquire(id))).await;
        let taken: Vec<_> = taken.into_iter().map(Result::unwrap).collect();
        let mut sessions = Vec::new();
        for id in &ids {
            sessions.push(session(&*kv, id).await);
        }
        sessions.dedup();
        assert_eq!(sessions.len(), 1);
        for lock in taken {
            lock.release().await;
        }
    }
    assert_eq!(kv.sessions.load(Ordering::SeqCst), 1);
}

pub async fn many_at_once_get_one_lock(place: &impl Place) {
    let writers = Writers::new(place);
    let many = id("many");
    let starts: Vec<_> = (0..8).map(|n| writers.start(&format!("p{n}")).0).collect();
    // three of each process
    let asking = (0..24).map(|n| starts[n % 8].acquire(&many));
    let answers = join_all(asking).await;
    let refused = |e: &_| matches!(e, WriteLockError::HeldBy { .. } | WriteLockError::Contended);
    assert!(answers.iter().all(|answer| answer.as_ref().map_or_else(refused, |_| true)));
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
}
