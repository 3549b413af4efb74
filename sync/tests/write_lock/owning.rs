//! Owners: what they tell, what they leave, and who gets that.

use std::time::Duration;

use fsd::segment::SegmentId;
use futures::future::join_all;
use sync::kv::{Kv, Op};
use sync::write_lock::{Claimant, Ownership, Takeover, WriteLockError};

use crate::breaking::Break;
use crate::places::Place;
use crate::support::*;

const S: Duration = Duration::from_secs(1);
/// The time after which others take what was left, and that `left` is counted down from.
const LATER: Takeover = Takeover::After(Duration::from_secs(60));

/// What everybody reads at the lock of `id`.
async fn said(kv: &dyn Kv, id: &SegmentId) -> Ownership {
    Ownership::read(&entry(kv, id).await.unwrap().value).unwrap()
}

pub async fn s4_a_segment_has_one_owner_whom_everybody_can_read(place: &impl Place) {
    let writers = Writers::new(place);
    let (north, kv) = writers.start("the writer of north");
    let (south, _) = writers.start("the writer of south");
    let a = id("Owned.A");
    let schema = Some(id("schema"));
    let mut of_north = claimant("north", Takeover::Never);
    of_north.schema = schema.clone();
    let of_south = claimant("south", AT_ONCE);
    assert_eq!(south.owner(&a).await.unwrap(), None);

    let mut epochs = Vec::new();
    for _ in 0..3 {
        let lock = north.own(&a, &of_north).await.unwrap();
        epochs.push(lock.epoch());
        assert!(lock.before().is_none() && lock.holds() && lock.confirm().await.unwrap());
        let owned = south.owner(&a).await.unwrap().unwrap();
        assert!(owned.held);
        let said = owned.ownership;
        assert_eq!((said.segment.clone(), said.schema.clone()), (a.clone(), schema.clone()));
        assert_eq!((said.node.as_str(), said.write_address.as_str()), ("north", "north:6222"));
        assert!(said.epoch.is_none() && said.dirty_since_ms.is_none() && !said.promoting);
        // whoever asks is told who has it
        for refused in [
            south.own(&a, &of_south).await,
            south.acquire(&a).await,
            north.own(&a, &of_north).await,
        ] {
            let Err(WriteLockError::HeldBy { holder, owner }) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(
                (holder.as_str(), owner),
                ("the writer of north", Some(said.clone().into()))
            );
        }
        lock.release().await;
        assert_eq!(entry(&*kv, &a).await, None);
        let put = south.acquire(&a).await.unwrap();
        epochs.push(put.epoch());
        assert_eq!(held_by(&north, &a).await, "the writer of south");
        assert_eq!(south.owner(&a).await.unwrap(), None, "who puts owns nothing");
        put.tell(Some(1), true).await.unwrap();
        assert_eq!(south.owner(&a).await.unwrap(), None, "nor has it anything to tell");
        put.release().await;
    }
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
    // one that died with a put of it is followed at once
    let put = south.acquire(&a).await.unwrap();
    die(&*kv, &a).await;
    let lock = north.own(&a, &of_north).await.unwrap();
    assert!(lock.before().is_none() && lock.epoch() > put.epoch());
}

pub async fn s4_what_an_owner_tells_last_stays_and_leaves_its_epoch(place: &impl Place) {
    let writers = Writers::new(place);
    let (north, kv) = writers.start("north");
    let a = id("tells");
    let lock = north.own(&a, &claimant("north", Takeover::Never)).await.unwrap();
    let (epoch, taken) = (lock.epoch(), entry(&*kv, &a).await.unwrap().modified);
    for (dirty_since_ms, promoting) in [(Some(5), false), (Some(5), true), (None, false)] {
        lock.tell(dirty_since_ms, promoting).await.unwrap();
        let said = said(&*kv, &a).await;
        assert_eq!((said.dirty_since_ms, said.promoting), (dirty_since_ms, promoting));
        assert_eq!(said.epoch, Some(epoch));
        assert!(entry(&*kv, &a).await.unwrap().modified > taken);
        assert!(lock.epoch() == epoch && lock.confirm().await.unwrap());
    }
    // all at once
    for told in join_all((0..30).map(|n| lock.tell(Some(n), false))).await {
        told.unwrap();
    }
    assert_eq!(said(&*kv, &a).await.dirty_since_ms, Some(29));

    // one whose outcome is not known, and one that was never done
    for (n, how) in [(100, Break::AnswerLost), (200, Break::Refused)] {
        kv.break_at(0, how);
        let error = lock.tell(Some(n), false).await.unwrap_err();
        assert!(matches!(error, WriteLockError::Kv(_)), "{error}");
        kv.mend();
        lock.tell(Some(n + 1), false).await.unwrap();
        assert_eq!(said(&*kv, &a).await.dirty_since_ms, Some(n + 1));
    }
    // one that arrives after a later one, which said the same as the one before it
    lock.tell(Some(300), false).await.unwrap();
    kv.break_at(0, Break::Late);
    lock.tell(None, false).await.unwrap_err();
    kv.mend();
    lock.tell(Some(300), false).await.unwrap();
    kv.arrive().await;
    assert_eq!(said(&*kv, &a).await.dirty_since_ms, Some(300), "what was told before came back");
    // and one of this process that arrives when another of it has the lock
    kv.break_at(0, Break::Late);
    lock.tell(None, false).await.unwrap_err();
    kv.mend();
    lock.leave(Some(300)).await;
    let next = north.own(&a, &claimant("north", Takeover::Never)).await.unwrap();
    assert!(next.epoch() > epoch);
    kv.arrive().await;
    assert_eq!(said(&*kv, &a).await.dirty_since_ms, Some(300), "what another told came back");
    next.leave(None).await;
    assert_eq!(entry(&*kv, &a).await, None);
}

pub async fn what_is_clean_goes_to_whoever_asks_first(place: &impl Place) {
    let writers = Writers::new(place);
    let (north, kv) = writers.start("north");
    let (south, _) = writers.start("south");
    let (a, of_south) = (id("clean"), claimant("south", Takeover::Never));
    // in good order
    let lock = north.own(&a, &claimant("north", Takeover::Never)).await.unwrap();
    lock.tell(Some(1), false).await.unwrap();
    lock.tell(None, false).await.unwrap();
    lock.leave(None).await;
    assert_eq!(entry(&*kv, &a).await, None);
    let lock = south.own(&a, &of_south).await.unwrap();
    assert_eq!(lock.before(), None);
    // by death
    lock.tell(Some(1), true).await.unwrap();
    lock.tell(None, false).await.unwrap();
    let last = said(&*kv, &a).await;
    die(&*kv, &a).await;
    let owned = north.owner(&a).await.unwrap().unwrap();
    assert!(!owned.held && owned.ownership == last);
    let lock = north.own(&a, &claimant("north", Takeover::Never)).await.unwrap();
    assert_eq!(lock.before(), Some(&last));
    die(&*kv, &a).await;
    north.acquire(&a).await.unwrap().release().await;
    assert_eq!(entry(&*kv, &a).await, None);
}

pub async fn rows_that_are_not_published_keep_the_lock_for_their_node(place: &impl Place) {
    let writers = Writers::new(place);
    let (north, kv) = writers.start("north");
    let (south, _) = writers.start("south");
    let (a, of_north) = (id("dirty"), claimant("north", Takeover::Never));
    let lock = north.own(&a, &of_north).await.unwrap();
    lock.tell(Some(999_990_000), true).await.unwrap();
    die(&*kv, &a).await;
    drop(lock);

    // others count from when one of them saw it
    writers.day.pass(3_600 * S);
    let died = said(&*kv, &a).await;
    assert_eq!(kept(&south, &a, &claimant("south", Takeover::Never)).await, (died, None));
    let (seen, left) = kept(&south, &a, &claimant("south", LATER)).await;
    assert_eq!((seen.abandoned_ms, left), (Some(1_003_600_000), Some(60 * S)));
    assert_eq!(said(&*kv, &a).await, seen);
    writers.day.pass(59 * S);
    assert_eq!(kept(&south, &a, &claimant("south", LATER)).await, (seen.clone(), Some(S)));
    let error = south.own(&a, &claimant("south", LATER)).await.unwrap_err().to_string();
    assert!(error.contains("node north") && error.contains("for 3669s"), "{error}");
    assert!(error.contains("start trough on that node again, or wait 2s"), "{error}");

    // the node itself has it at once, also when it dies before it told anything
    let lock = north.own(&a, &of_north).await.unwrap();
    assert_eq!(lock.before(), Some(&seen));
    die(&*kv, &a).await;
    drop(lock);
    let (again, left) = kept(&south, &a, &claimant("south", LATER)).await;
    assert_eq!((again.dirty_since_ms, left), (Some(999_990_000), Some(60 * S)));

    // one that goes in good order is counted from its going
    let lock = north.own(&a, &of_north).await.unwrap();
    writers.day.pass(10 * S);
    lock.tell(Some(7), true).await.unwrap();
    lock.leave(Some(7)).await;
    let left_behind = said(&*kv, &a).await;
    assert!(!left_behind.promoting && left_behind.dirty_since_ms == Some(7));
    assert!(!north.owner(&a).await.unwrap().unwrap().held);
    writers.day.pass(20 * S);
    assert_eq!(
        kept(&south, &a, &claimant("south", LATER)).await,
        (left_behind.clone(), Some(40 * S))
    );
    writers.day.pass(40 * S);
    let lock = south.own(&a, &claimant("south", LATER)).await.unwrap();
    assert_eq!(lock.before(), Some(&left_behind));
    // those rows were given up with that
    assert_eq!(said(&*kv, &a).await.dirty_since_ms, None);
    lock.tell(Some(8), false).await.unwrap();
    die(&*kv, &a).await;
    assert_eq!(kept(&north, &a, &of_north).await.0.node.as_str(), "south");
    // who does not want to wait does not
    let lock = north.own(&a, &claimant("north", AT_ONCE)).await.unwrap();
    assert_eq!(lock.before().unwrap().node.as_str(), "south");
}

pub async fn rows_that_are_not_published_keep_put_away_for_ever(place: &impl Place) {
    let writers = Writers::new(place);
    let (north, kv) = writers.start("north");
    let (put, _) = writers.start("put");
    let (a, of_north) = (id("dirty-put"), claimant("north", Takeover::Never));
    let lock = north.own(&a, &of_north).await.unwrap();
    lock.tell(Some(1), false).await.unwrap();
    lock.leave(Some(1)).await;
    for _ in 0..3 {
        let left = entry(&*kv, &a).await;
        let error = put.acquire(&a).await.unwrap_err();
        assert!(matches!(error, WriteLockError::Dirty { left: None, .. }), "{error:?}");
        assert!(error.to_string().ends_with("start trough on that node again"), "{error}");
        assert_eq!(entry(&*kv, &a).await, left);
        writers.day.pass(365 * 86_400 * S);
    }
    north.own(&a, &of_north).await.unwrap().leave(None).await;
    put.acquire(&a).await.unwrap();
}

pub async fn a_time_that_is_counted_from_the_future_begins_now(place: &impl Place) {
    let writers = Writers::new(place);
    let (north, _) = writers.start("north");
    let (south, kv) = writers.start("south");
    let a = id("future");
    let lock = north.own(&a, &claimant("north", Takeover::Never)).await.unwrap();
    lock.tell(Some(1), false).await.unwrap();
    lock.leave(Some(1)).await;
    writers.day.set_back(3_600 * S);
    let (seen, left) = kept(&south, &a, &claimant("south", LATER)).await;
    assert_eq!((seen.abandoned_ms, left), (Some(996_400_000), Some(60 * S)));
    assert_eq!(said(&*kv, &a).await, seen);
    writers.day.pass(60 * S);
    south.own(&a, &claimant("south", LATER)).await.unwrap();
}

pub async fn a_lock_that_is_put_back_is_as_it_was(place: &impl Place) {
    let writers = Writers::new(place);
    let (north, kv) = writers.start("north");
    let (south, _) = writers.start("south");
    let (a, of_north) = (id("put-back"), claimant("north", Takeover::Never));
    north.own(&a, &of_north).await.unwrap().leave(Some(3)).await;
    let left = said(&*kv, &a).await;
    writers.day.pass(60 * S);
    for locks in [&south, &north] {
        let node = if std::ptr::eq(locks, &north) { "north" } else { "south" };
        locks.own(&a, &claimant(node, LATER)).await.unwrap().put_back().await;
        let owned = south.owner(&a).await.unwrap().unwrap();
        assert!(!owned.held && owned.ownership == left, "{node}: {owned:?}");
    }
    // what was clean leaves nothing
    north.own(&a, &of_north).await.unwrap().leave(None).await;
    south.own(&a, &claimant("south", LATER)).await.unwrap().put_back().await;
    assert_eq!(entry(&*kv, &a).await, None);
}

pub async fn s3_rows_that_the_registry_forgot_are_told_from_the_first_moment(place: &impl Place) {
    let writers = Writers::new(place);
    let (north, kv) = writers.start("north");
    let (south, _) = writers.start("south");
    let a = id("forgotten");
    let clean = claimant("north", LATER);
    let of_north = Claimant { unpublished_since_ms: Some(3), ..clean };
    let lock = north.own(&a, &of_north).await.unwrap();
    assert!(lock.before().is_none());
    assert_eq!(said(&*kv, &a).await.dirty_since_ms, Some(3));
    // it could not begin
    lock.put_back().await;
    assert_eq!(said(&*kv, &a).await.dirty_since_ms, Some(3));
    let (seen, _) = kept(&south, &a, &claimant("south", LATER)).await;
    assert_eq!((seen.node.as_str(), seen.dirty_since_ms), ("north", Some(3)));
    // its own node goes on, and sees that nobody else had it
    let lock = north.own(&a, &of_north).await.unwrap();
    let before = lock.before().unwrap();
    assert_eq!((before.node.as_str(), before.epoch), ("north", None));
    lock.leave(None).await;
    assert_eq!(entry(&*kv, &a).await, None);
}

pub async fn s4_what_is_told_under_a_lost_lock_changes_nothing(place: &impl Place) {
    let writers = Writers::new(place);
    let (north, kv) = writers.start("north");
    let (south, _) = writers.start("south");
    let a = id("lost");
    let lost = async |result: Result<(), WriteLockError>| {
        assert!(matches!(result, Err(WriteLockError::Lost { .. })), "{result:?}");
    };
    // to another
    let old = north.own(&a, &claimant("north", Takeover::Never)).await.unwrap();
    old.tell(Some(1), false).await.unwrap();
    die(&*kv, &a).await;
    let new = south.own(&a, &claimant("south", AT_ONCE)).await.unwrap();
    new.tell(Some(2), false).await.unwrap();
    let told = entry(&*kv, &a).await;
    lost(old.tell(None, false).await).await;
    assert!(!old.holds());
    lost(old.tell(None, false).await).await;
    old.leave(Some(1)).await;
    assert_eq!(entry(&*kv, &a).await, told);
    new.tell(Some(3), false).await.unwrap();

    // to nobody: a person removed the key
    kv.txn(&[Op::Delete { key: key(&a) }]).await.unwrap();
    lost(new.tell(Some(4), false).await).await;
    assert_eq!(entry(&*kv, &a).await, None);
    // also where it has to look first what it told
    let other = south.own(&a, &claimant("south", AT_ONCE)).await.unwrap();
    let (cut, cut_kv) = writers.start("north again");
    other.release().await;
    let last = cut.own(&a, &claimant("north", Takeover::Never)).await.unwrap();
    cut_kv.break_at(0, Break::Refused);
    last.tell(Some(5), false).await.unwrap_err();
    cut_kv.mend();
    kv.txn(&[Op::Delete { key: key(&a) }]).await.unwrap();
    lost(last.tell(Some(6), false).await).await;
    assert_eq!(entry(&*kv, &a).await, None);
}
