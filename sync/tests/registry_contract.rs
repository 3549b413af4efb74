//! What every registry promises. The cluster's registry will run the same list.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use fsd::segment::{Digest, SegmentId, Stamp};
use sync::registry::sqlite::SqliteRegistry;
use sync::registry::{Acquired, Lookup, PoolChange, PoolRow, Registry, SegmentState, WriteLock};
use sync::store::StorePath;

const TTL: Duration = Duration::from_secs(60);

fn id(text: &str) -> SegmentId {
    SegmentId::new(text).unwrap()
}

fn row(name: &str, state: SegmentState) -> PoolRow {
    let id = id(name);
    PoolRow {
        path: StorePath::published(&id),
        id,
        stamp: Stamp { length: 4096, mtime_ms: 1_700_000_000_000 },
        state,
        digest: matches!(state, SegmentState::Held).then(|| Digest::from(blake3::hash(b"x"))),
        reason: matches!(state, SegmentState::Refused).then(|| "why".to_owned()),
    }
}

fn taken(acquired: Acquired) -> WriteLock {
    match acquired {
        Acquired::Yes(lock) => lock,
        Acquired::HeldBy(by) => panic!("held by {by}"),
    }
}

/// A place where a registry lives, opened by as many processes as a test likes.
trait Place {
    fn open(&self) -> Arc<dyn Registry>;
}

macro_rules! contract {
    ($place:expr, $module:ident: $($name:ident),* $(,)?) => {
        mod $module {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&$place).await;
            })*
        }
    };
}

struct File(tempfile::TempDir);

impl File {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("registry.sqlite")
    }
}

impl Place for File {
    fn open(&self) -> Arc<dyn Registry> {
        Arc::new(SqliteRegistry::open(self.path()).unwrap())
    }
}

contract!(super::File::new(), sqlite:
    a_pool_that_was_never_complete_is_unknown,
    a_change_is_one_step_and_counts,
    pages_come_in_order_of_id,
    an_incarnation_begins_once_and_without_one_nobody_writes,
    s4_a_write_lock_has_one_holder_and_an_epoch_that_grows,
    s4_a_lock_whose_time_ran_out_is_taken_over_and_its_holder_is_told,
    many_at_once_get_one_lock,
);

async fn a_pool_that_was_never_complete_is_unknown(place: &impl Place) {
    let registry = place.open();
    assert_eq!(registry.pool_meta().await.unwrap(), None);
    assert_eq!(registry.lookup(&id("a")).await.unwrap(), Lookup::Unknown);
    let upsert = vec![row("a", SegmentState::Pending)];
    registry
        .change_pool(PoolChange { upsert: upsert.clone(), ..Default::default() })
        .await
        .unwrap();
    assert_eq!(registry.lookup(&id("a")).await.unwrap(), Lookup::Listed(upsert[0].clone()));
    assert_eq!(registry.lookup(&id("b")).await.unwrap(), Lookup::Unknown);
    let complete = PoolChange { complete_at_ms: Some(7), ..Default::default() };
    registry.change_pool(complete).await.unwrap();
    assert_eq!(place.open().lookup(&id("b")).await.unwrap(), Lookup::Absent);
    assert_eq!(registry.lookup(&id("A")).await.unwrap(), Lookup::Absent, "ids differ by case");
}

async fn a_change_is_one_step_and_counts(place: &impl Place) {
    let registry = place.open();
    let all = [
        row("held", SegmentState::Held),
        row("pending", SegmentState::Pending),
        row("refused", SegmentState::Refused),
        row("no-place", SegmentState::NoPlace),
    ];
    let upsert = all.to_vec();
    let change = PoolChange { upsert, complete_at_ms: Some(1), ..Default::default() };
    registry.change_pool(change.clone()).await.unwrap();
    registry.change_pool(change).await.unwrap();
    assert_eq!(registry.pool_meta().await.unwrap().unwrap().segments, 4);
    for row in &all {
        assert_eq!(registry.lookup(&row.id).await.unwrap(), Lookup::Listed(row.clone()));
    }
    let remove = vec![id("held"), id("never-there")];
    let upsert = vec![row("pending", SegmentState::Held)];
    registry.change_pool(PoolChange { upsert, remove, complete_at_ms: Some(2) }).await.unwrap();
    let meta = place.open().pool_meta().await.unwrap().unwrap();
    assert_eq!((meta.segments, meta.complete_at_ms), (3, 2));
    assert_eq!(registry.lookup(&id("held")).await.unwrap(), Lookup::Absent);
}

async fn pages_come_in_order_of_id(place: &impl Place) {
    let registry = place.open();
    let upsert = (0..25).map(|n| row(&format!("s{n:02}"), SegmentState::Pending)).collect();
    registry.change_pool(PoolChange { upsert, ..Default::default() }).await.unwrap();
    let mut seen: Vec<PoolRow> = Vec::new();
    loop {
        let after = seen.last().map(|row| row.id.clone());
        let page = registry.pool_page(after.as_ref(), 10).await.unwrap();
        assert!(page.len() <= 10);
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    let names: Vec<String> = seen.iter().map(|row| row.id.to_string()).collect();
    assert_eq!(names, (0..25).map(|n| format!("s{n:02}")).collect::<Vec<_>>());
}

async fn an_incarnation_begins_once_and_without_one_nobody_writes(place: &impl Place) {
    let registry = place.open();
    assert_eq!(registry.incarnation().await.unwrap(), None);
    let error = registry.acquire_write(&id("a"), "me", TTL).await.unwrap_err();
    assert!(error.to_string().contains("incarnation"), "{error}");
    assert!(registry.begin_incarnation(3).await.unwrap());
    assert!(!registry.begin_incarnation(4).await.unwrap());
    assert_eq!(place.open().incarnation().await.unwrap(), Some(3));
    let lock = taken(registry.acquire_write(&id("a"), "me", TTL).await.unwrap());
    assert_eq!(lock.epoch.incarnation, 3);
}

async fn s4_a_write_lock_has_one_holder_and_an_epoch_that_grows(place: &impl Place) {
    let (one, two) = (place.open(), place.open());
    one.begin_incarnation(1).await.unwrap();
    let first = taken(one.acquire_write(&id("a"), "one", TTL).await.unwrap());
    let held = Acquired::HeldBy("one".to_owned());
    assert_eq!(two.acquire_write(&id("a"), "two", TTL).await.unwrap(), held);
    assert!(one.renew_write(&first, TTL).await.unwrap());
    let other = taken(two.acquire_write(&id("b"), "two", TTL).await.unwrap());
    one.release_write(&first).await.unwrap();
    one.release_write(&first).await.unwrap();
    assert!(!one.renew_write(&first, TTL).await.unwrap());
    let again = taken(two.acquire_write(&id("a"), "two", TTL).await.unwrap());
    assert!(first.epoch < other.epoch && other.epoch < again.epoch);
    assert!(first.epoch.to_string() < again.epoch.to_string());
    // a late release of the first holder must not free what the second holds
    one.release_write(&first).await.unwrap();
    assert!(two.renew_write(&again, TTL).await.unwrap());
}

async fn s4_a_lock_whose_time_ran_out_is_taken_over_and_its_holder_is_told(place: &impl Place) {
    let (one, two) = (place.open(), place.open());
    one.begin_incarnation(1).await.unwrap();
    let short = Duration::from_millis(200);
    let first = taken(one.acquire_write(&id("a"), "one", short).await.unwrap());
    let mut second = None;
    for _ in 0..100 {
        if let Acquired::Yes(lock) = two.acquire_write(&id("a"), "two", TTL).await.unwrap() {
            second = Some(lock);
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let second = second.expect("a lock that ran out can be taken");
    assert!(second.epoch > first.epoch);
    assert!(!one.renew_write(&first, TTL).await.unwrap());
    assert!(two.renew_write(&second, TTL).await.unwrap());
}

async fn many_at_once_get_one_lock(place: &impl Place) {
    place.open().begin_incarnation(1).await.unwrap();
    let tries = (0..8).map(|n| {
        let registry = place.open();
        async move { registry.acquire_write(&id("a"), &format!("p{n}"), TTL).await.unwrap() }
    });
    let answers = futures::future::join_all(tries.map(tokio::spawn)).await;
    let won = answers.into_iter().filter(|a| matches!(a, Ok(Acquired::Yes(_)))).count();
    assert_eq!(won, 1);
}

#[tokio::test]
async fn a_lock_of_an_earlier_boot_is_over() {
    let place = File::new();
    let registry = place.open();
    registry.begin_incarnation(1).await.unwrap();
    let first = taken(registry.acquire_write(&id("a"), "before", TTL).await.unwrap());
    let raw = rusqlite::Connection::open(place.path()).unwrap();
    raw.execute("UPDATE write_lock SET boot = 'an earlier one'", []).unwrap();
    assert!(!registry.renew_write(&first, TTL).await.unwrap());
    let second = taken(registry.acquire_write(&id("a"), "after", TTL).await.unwrap());
    assert!(second.epoch > first.epoch);
}

/// The golden file was written by the first version; every later one must read it for ever.
#[tokio::test]
async fn s11_a_file_of_version_1_is_read() {
    let place = File::new();
    std::fs::write(place.path(), include_bytes!("../testdata/registry-v1.sqlite")).unwrap();
    let registry = place.open();
    assert_eq!(registry.incarnation().await.unwrap(), Some(7));
    let meta = registry.pool_meta().await.unwrap().unwrap();
    assert_eq!((meta.complete_at_ms, meta.segments), (1_795_364_100_000, 2));
    let Lookup::Listed(ohio) = registry.lookup(&id("ohio")).await.unwrap() else {
        panic!("ohio is not there")
    };
    let stamp = Stamp { length: 8192, mtime_ms: 1_795_364_008_524 };
    let digest = Some(Digest::from(blake3::hash(b"ohio")));
    let path = StorePath::published(&id("ohio"));
    let state = SegmentState::Held;
    assert_eq!(ohio, PoolRow { id: id("ohio"), path, stamp, state, digest, reason: None });
    let Lookup::Listed(texas) = registry.lookup(&id("texas")).await.unwrap() else {
        panic!("texas is not there")
    };
    assert_eq!(texas.state, SegmentState::Refused);
    assert_eq!(texas.reason.as_deref(), Some("not SQLite"));
    // its lock is of an earlier boot, and its epoch is never given again
    let lock = taken(registry.acquire_write(&id("ohio"), "me", TTL).await.unwrap());
    assert_eq!((lock.epoch.incarnation, lock.epoch.index), (7, 2));
}

#[tokio::test]
async fn s11_a_file_of_a_newer_version_is_refused_and_left_alone() {
    let place = File::new();
    drop(place.open());
    let raw = rusqlite::Connection::open(place.path()).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    let error = SqliteRegistry::open(place.path()).unwrap_err();
    assert!(error.to_string().contains("upgrade trough"), "{error}");
    let version: i64 = raw.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 99);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_rows_change_in_one_step() {
    let place = File::new();
    let registry = place.open();
    let rows = |state| (0..100_000).map(|n| row(&format!("segment-{n:06}"), state)).collect();
    for (state, what) in [(SegmentState::Pending, "new"), (SegmentState::Held, "changed")] {
        let upsert: Vec<PoolRow> = rows(state);
        let started = std::time::Instant::now();
        let change = PoolChange { upsert, complete_at_ms: Some(1), ..Default::default() };
        registry.change_pool(change).await.unwrap();
        println!("100,000 rows {what}: {:?}", started.elapsed());
    }
    let started = std::time::Instant::now();
    for n in 0..1_000 {
        registry.lookup(&id(&format!("segment-{:06}", n * 97))).await.unwrap();
    }
    println!("one lookup: {:?}", started.elapsed() / 1_000);
    assert_eq!(registry.pool_meta().await.unwrap().unwrap().segments, 100_000);
}

#[tokio::test]
async fn s4_a_registry_that_was_lost_begins_above_every_epoch_before() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let store = sync::store::open(root.to_str().unwrap(), Default::default()).unwrap();
    let (kept, lost) = (File::new(), File::new());
    let ensure = |registry: Arc<dyn Registry>| {
        let store = store.clone();
        async move { sync::incarnation::ensure(store.as_ref(), registry.as_ref()).await.unwrap() }
    };
    assert_eq!(ensure(lost.open()).await, 1);
    assert_eq!(ensure(lost.open()).await, 1, "one that is there stays");
    let before = taken(lost.open().acquire_write(&id("a"), "me", TTL).await.unwrap());
    assert_eq!(ensure(kept.open()).await, 2);
    let after = taken(kept.open().acquire_write(&id("a"), "me", TTL).await.unwrap());
    assert!(after.epoch > before.epoch);
    // many that find it lost at the same moment agree on one
    let empty = File::new();
    let all = futures::future::join_all((0..6).map(|_| ensure(empty.open()))).await;
    assert!(all.iter().all(|n| *n == all[0] && *n > 2), "{all:?}");
}
