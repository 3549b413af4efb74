//! Watches: woken by a change of what they watch and by nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sync::kv::{Index, Kv, Op, SESSION_TTL_MIN, Snapshot, Watched, Watcher};

use crate::places::Place;
use crate::support::*;

/// Follows `what` until it is no longer as `seen` or `wait` is over, and hands back how to see the end of that.
/// (Consul's watch of a key that is not there also wakes for other keys.)
pub async fn waiting(
    kv: &Arc<dyn Kv>,
    what: &Watched,
    seen: &Snapshot,
    wait: Duration,
) -> tokio::task::JoinHandle<(Snapshot, Duration)> {
    let (kv, what, mut snapshot) = (kv.clone(), what.clone(), seen.clone());
    let before = seen.entries.clone();
    let watch = tokio::spawn(async move {
        let begun = Instant::now();
        while snapshot.entries == before && begun.elapsed() < wait {
            snapshot = kv.watch(&what, Some(snapshot.index), wait).await.unwrap();
        }
        (snapshot, begun.elapsed())
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!watch.is_finished(), "it did not wait: {:?}", watch.await);
    watch
}

/// A watch that a change ended: long before its wait was over.
pub async fn woken(watch: tokio::task::JoinHandle<(Snapshot, Duration)>) -> Snapshot {
    let (snapshot, took) = watch.await.unwrap();
    assert!(took < LONG / 2, "it waited {took:?}, as if nothing had changed");
    snapshot
}

pub async fn a_watch_returns_on_a_change_and_on_nothing_else(place: &impl Place) {
    let kv = place.open();
    let [at, beside] = ["watch/at", "watch/at-x"].map(key);
    let what = Watched::Key(at.clone());
    committed(&*kv, &[set(&beside, "1"), set(&at, "1")]).await;
    let first = kv.watch(&what, None, LONG).await.unwrap();
    assert_eq!((names(&first.entries), &*first.entries[0].value), (vec!["at"], &b"1"[..]));
    assert!(first.index >= first.entries[0].modified);

    let watch = waiting(&kv, &what, &first, LONG).await;
    committed(&*place.open(), &[set(&beside, "2"), set(&beside, "3")]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!watch.is_finished(), "woken by a key beside it");
    committed(&*place.open(), &[set(&at, "2")]).await;
    let second = woken(watch).await;
    assert!(second.index > first.index && second.entries[0].value == "2");
    // a change that came between two watches is not missed
    let late = kv.watch(&what, Some(first.index), LONG).await.unwrap();
    assert_eq!(late, second);

    let watch = waiting(&kv, &what, &second, LONG).await;
    committed(&*kv, &[Op::Delete { key: at.clone() }]).await;
    let third = woken(watch).await;
    assert!(third.index > second.index && third.entries.is_empty());

    let watch = waiting(&kv, &what, &third, LONG).await;
    committed(&*kv, &[set(&at, "4")]).await;
    assert_eq!(woken(watch).await.entries[0].value, "4");
}

pub async fn a_watch_of_what_lies_below_sees_changes_and_removals(place: &impl Place) {
    let kv = place.open();
    let [a, b, beside] = ["below/w/a", "below/w/b", "below/wx/c"].map(key);
    committed(&*kv, &[set(&a, "1"), set(&b, "1"), set(&beside, "1")]).await;
    let what = Watched::Below(key("below/w"));
    let first = kv.watch(&what, None, LONG).await.unwrap();
    assert_eq!(names(&first.entries), ["a", "b"]);
    // two removals: the second must be seen even by one who saw the first
    let watch = waiting(&kv, &what, &first, LONG).await;
    committed(&*kv, &[Op::Delete { key: a.clone() }]).await;
    let second = woken(watch).await;
    assert_eq!(names(&second.entries), ["b"]);
    let watch = waiting(&kv, &what, &second, LONG).await;
    committed(&*kv, &[Op::Delete { key: b }]).await;
    let third = woken(watch).await;
    assert!(third.entries.is_empty() && third.index > second.index);
    let watch = waiting(&kv, &what, &third, LONG).await;
    committed(&*kv, &[set(&a, "2")]).await;
    assert_eq!(names(&woken(watch).await.entries), ["a"]);
}

pub async fn a_watch_that_waits_in_vain_ends(place: &impl Place) {
    let kv = place.open();
    let at = key("vain/at");
    committed(&*kv, &[set(&at, "1")]).await;
    for what in [Watched::Key(at), Watched::Below(key("vain"))] {
        let first = kv.watch(&what, None, LONG).await.unwrap();
        let begun = Instant::now();
        let wait = Duration::from_secs(1);
        assert_eq!(kv.watch(&what, Some(first.index), wait).await.unwrap(), first);
        let took = begun.elapsed();
        assert!(took > wait / 2 && took < LONG / 2, "it waited {took:?}, told to wait {wait:?}");
    }
    // what is not there can be watched too: its index is one to wait on
    let none = kv.watch(&Watched::Below(key("vain/none")), None, LONG).await.unwrap();
    assert!(none.entries.is_empty() && none.index > Index::ABSENT);
    let long_since = kv.watch(&Watched::Key(key("vain/at")), Some(Index(1)), LONG).await.unwrap();
    assert_eq!(long_since.entries.len(), 1);
}

pub async fn a_watch_sees_a_session_end(place: &impl Place) {
    let kv = place.open();
    let at = key("watched-end");
    let holder = session(&*kv, Duration::ZERO).await;
    assert!(kv.acquire(&at, "".into(), &holder).await.unwrap());
    let what = Watched::Key(at.clone());
    let mut index = kv.watch(&what, None, LONG).await.unwrap().index;
    let ended = async {
        loop {
            let snapshot = kv.watch(&what, Some(index), LONG).await.unwrap();
            index = snapshot.index;
            if snapshot.entries[0].session.is_none() {
                return;
            }
        }
    };
    // the time passes while the watch waits; nobody else asks
    let (seen, ()) = tokio::join!(
        tokio::time::timeout(5 * 2 * SESSION_TTL_MIN, ended),
        place.pass(SESSION_TTL_MIN)
    );
    seen.expect("the watch saw the session end");
}

pub async fn a_store_that_comes_back_empty_is_seen_so(place: &impl Place) {
    let kv = place.open();
    let at = key("again/at");
    for n in 0..200 {
        committed(&*kv, &[Op::Set { key: at.clone(), value: n.to_string().into() }]).await;
    }
    let what = Watched::Below(key("again"));
    let mut watcher = Watcher::new(what, Duration::from_secs(2));
    let before = watcher.next(&*kv).await.unwrap();
    assert_eq!(names(&before.entries), ["at"]);
    place.empty();
    // whether it saw the connection break or the index go back: soon it says what is there, and then follows it
    let deadline = Instant::now() + LONG;
    let mut follow = async |until: &dyn Fn(&Snapshot) -> bool| loop {
        assert!(Instant::now() < deadline, "the watch did not start over");
        match watcher.next(&*kv).await {
            Ok(snapshot) if until(&snapshot) => return snapshot,
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    let after = follow(&|snapshot| snapshot.entries.is_empty()).await;
    assert!(after.index < before.index, "{} after {}", after.index, before.index);
    committed(&*kv, &[set(&at, "new")]).await;
    let new = follow(&|snapshot| !snapshot.entries.is_empty()).await;
    assert_eq!(new.entries[0].value, "new");
}
