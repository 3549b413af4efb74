//! What the pool table of one machine promises.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use fsd::segment::{Digest, SegmentId, Stamp};
use sync::registry::sqlite::SqliteRegistry;
use sync::registry::{Lookup, PoolChange, PoolRow, Registry, SegmentState};
use sync::store::StorePath;

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

/// The golden file was written by the first version; every later one must read it for ever.
#[tokio::test]
async fn s11_a_file_of_version_1_is_read() {
    let place = File::new();
    std::fs::write(place.path(), include_bytes!("../testdata/registry-v1.sqlite")).unwrap();
    let registry = place.open();
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
    let change = PoolChange { remove: vec![id("texas")], ..Default::default() };
    registry.change_pool(change).await.unwrap();
    assert_eq!(place.open().pool_meta().await.unwrap().unwrap().segments, 1);
    // its locks are elsewhere now: a trough of that version takes none here beside those
    let raw = rusqlite::Connection::open(place.path()).unwrap();
    let tables = "SELECT group_concat(name ORDER BY name) FROM sqlite_schema WHERE type = 'table'";
    let tables: String = raw.query_row(tables, [], |row| row.get(0)).unwrap();
    assert_eq!(tables, "meta,pool");
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
