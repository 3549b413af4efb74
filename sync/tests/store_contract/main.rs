//! What every deep store promises, asked of a local directory and of a real HDFS alike; then what only the
//! one or the other can be asked.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fsd::segment::Stamp;
use futures::{StreamExt, TryStreamExt};
use sync::store::{
    ListItem, Listed, SkipReason, Store, StoreError, StoreErrorKind, StorePath, StoreTimeouts, open,
};

mod hdfs_only;
mod local_only;

/// Long enough for a loaded machine, short enough for tests that wait for it.
const SHORT: StoreTimeouts = StoreTimeouts { call_ms: 2_000, io_ms: 6_000 };

fn path(text: &str) -> StorePath {
    StorePath::new(text).unwrap()
}

async fn write(store: &dyn Store, at: &str, bytes: impl Into<Bytes>) -> Stamp {
    let mut writer = store.create(&path(at)).await.unwrap();
    writer.write(bytes.into()).await.unwrap();
    writer.close().await.unwrap();
    store.stat(&path(at)).await.unwrap().unwrap()
}

async fn read(store: &dyn Store, at: &str) -> Result<Vec<u8>, StoreError> {
    let pieces: Vec<Bytes> = store.read(&path(at)).await?.try_collect().await?;
    Ok(pieces.concat())
}

#[derive(Default)]
struct Listing {
    segments: BTreeMap<String, Listed>,
    skipped: BTreeMap<String, SkipReason>,
    unseen: Vec<StoreError>,
}

async fn list(store: &dyn Store) -> Listing {
    let mut listing = Listing::default();
    let mut items = store.list();
    while let Some(item) = items.next().await {
        match item {
            ListItem::Segment(listed) => {
                let path = listed.path.to_string();
                assert!(listing.segments.insert(path, listed).is_none(), "listed twice");
            }
            ListItem::Skipped { path, reason } => {
                let name = path.rsplit('/').next().unwrap().to_owned();
                listing.skipped.insert(name, reason);
            }
            ListItem::Unseen(error) => listing.unseen.push(error),
        }
    }
    listing
}

/// Each test of this list runs against both stores, each time with an empty root of its own.
macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod local {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let root = dir.path().join("store");
                super::$name(super::open(root.to_str().unwrap(), super::SHORT).unwrap()).await;
            })*
        }
        mod hdfs {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let hdfs = rig::hdfs::shared();
                let root = hdfs.url(concat!("/contract/", stringify!($name)));
                super::$name(super::open(&root, super::SHORT).unwrap()).await;
            })*
        }
    };
}

contract!(
    a_file_reads_back_as_it_was_written,
    create_never_overwrites_and_never_makes_a_parent,
    a_rename_replaces_in_one_step_and_keeps_the_mtime,
    deletes_say_whether_there_was_something,
    names_are_one_directory_and_bounded,
    a_listing_finds_segments_at_any_depth_and_passes_over_the_rest,
    a_root_that_is_not_there_is_unseen,
    twenty_thousand_entries_come_as_a_stream,
    a_listing_goes_on_while_files_come_and_go,
);

async fn a_file_reads_back_as_it_was_written(store: Arc<dyn Store>) {
    store.mkdir(&path("a/b")).await.unwrap();
    store.mkdir(&path("a/b")).await.unwrap();
    let big: Vec<u8> = (0..3_000_001u32).map(|n| (n % 251) as u8).collect();
    let stamp = write(&*store, "a/b/big", big.clone()).await;
    assert_eq!(stamp.length, big.len() as u64);
    assert!(stamp.mtime_ms > 1_700_000_000_000);
    assert!(read(&*store, "a/b/big").await.unwrap() == big);

    let writer = store.create(&path("a/empty")).await.unwrap();
    writer.close().await.unwrap();
    assert_eq!(read(&*store, "a/empty").await.unwrap(), b"");

    assert_eq!(store.stat(&path("a/none")).await.unwrap(), None);
    assert_eq!(store.stat(&path("a/b")).await.unwrap(), None, "a directory is no file");
    let error = read(&*store, "a/none").await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("a/none"), "{error}");
}

async fn create_never_overwrites_and_never_makes_a_parent(store: Arc<dyn Store>) {
    store.mkdir(&StorePath::root()).await.unwrap();
    write(&*store, "x", "first").await;
    let error = store.create(&path("x")).await.err().unwrap();
    assert_eq!(error.kind, StoreErrorKind::AlreadyExists, "{error}");
    assert_eq!(read(&*store, "x").await.unwrap(), b"first");
    let error = store.create(&path("no/x")).await.err().unwrap();
    assert_eq!(error.kind, StoreErrorKind::NotFound, "{error}");
    assert_eq!(store.names(&StorePath::root(), 10).await.unwrap(), ["x"]);
}

async fn a_rename_replaces_in_one_step_and_keeps_the_mtime(store: Arc<dyn Store>) {
    store.mkdir(&path("d")).await.unwrap();
    let old = vec![1u8; 2_000_000];
    write(&*store, "d/x", old.clone()).await;
    let mut reading = store.read(&path("d/x")).await.unwrap();
    let first = reading.next().await.unwrap().unwrap();

    let staged = write(&*store, "d/new", vec![2u8; 100]).await;
    store.rename(&path("d/new"), &path("d/x")).await.unwrap();
    assert_eq!(store.stat(&path("d/x")).await.unwrap(), Some(staged));
    assert_eq!(store.stat(&path("d/new")).await.unwrap(), None);
    assert_eq!(read(&*store, "d/x").await.unwrap(), vec![2u8; 100]);
    let rest: Vec<Bytes> = reading.try_collect().await.unwrap();
    assert!([first.to_vec(), rest.concat()].concat() == old, "not the old file to its end");

    let error = store.rename(&path("d/none"), &path("d/x")).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NotFound, "{error}");
    let error = store.rename(&path("d/x"), &path("none/x")).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::NotFound, "{error}");
    assert_eq!(store.stat(&path("d/x")).await.unwrap(), Some(staged));
}

async fn deletes_say_whether_there_was_something(store: Arc<dyn Store>) {
    store.mkdir(&path("d/e")).await.unwrap();
    write(&*store, "d/e/x", "1").await;
    assert!(store.delete(&path("d/e/x")).await.unwrap());
    assert!(!store.delete(&path("d/e/x")).await.unwrap());
    assert!(!store.delete(&path("no/x")).await.unwrap());
    write(&*store, "d/e/y", "1").await;
    assert!(store.delete_tree(&path("d")).await.unwrap());
    assert!(!store.delete_tree(&path("d")).await.unwrap());
    assert_eq!(store.stat(&path("d/e/y")).await.unwrap(), None);
}

async fn names_are_one_directory_and_bounded(store: Arc<dyn Store>) {
    assert!(store.names(&path("d"), 10).await.unwrap().is_empty());
    store.mkdir(&path("d/sub")).await.unwrap();
    write(&*store, "d/.x", "1").await;
    let mut names = store.names(&path("d"), 2).await.unwrap();
    names.sort();
    assert_eq!(names, [".x", "sub"]);
    assert!(store.names(&path("d"), 1).await.is_err());
}

async fn a_listing_finds_segments_at_any_depth_and_passes_over_the_rest(store: Arc<dyn Store>) {
    for directory in ["a/b/c", ".staging/x/1", "a/.hidden", "dir.sqlite"] {
        store.mkdir(&path(directory)).await.unwrap();
    }
    let mut expected = BTreeMap::new();
    for at in ["top.sqlite", "a/b/c/deep.sqlite", "a/x.y-z.sqlite", "dir.sqlite/in.sqlite"] {
        expected.insert(at.to_owned(), write(&*store, at, format!("bytes of {at}")).await);
    }
    for at in [
        ".staging/x/1/staged.sqlite",
        "a/.hidden/x.sqlite",
        "a/.x.sqlite",
        "a/readme.txt",
        "top.sqlite.seal",
        "a b.sqlite",
        "a/w.sqlite",
        "a/w.sqlite-wal",
        "a/j.sqlite",
        "a/j.sqlite-journal",
    ] {
        write(&*store, at, "x").await;
    }
    store.create(&path("a/empty.sqlite")).await.unwrap().close().await.unwrap();
    let mut being_written = store.create(&path("a/being-written.sqlite")).await.unwrap();
    // HDFS shows a file being written with length 0; a local one has the length it has, so it stays empty
    if store.address().starts_with("hdfs:") {
        being_written.write(Bytes::from_static(b"half")).await.unwrap();
    }

    let listing = list(&*store).await;
    assert!(listing.unseen.is_empty(), "{:?}", listing.unseen);
    let seen: BTreeMap<String, Stamp> =
        listing.segments.iter().map(|(at, listed)| (at.clone(), listed.stamp)).collect();
    assert_eq!(seen, expected);
    assert_eq!(listing.segments["a/b/c/deep.sqlite"].id.as_str(), "deep");
    let skipped: Vec<(&str, SkipReason)> =
        listing.skipped.iter().map(|(name, reason)| (name.as_str(), *reason)).collect();
    assert_eq!(
        skipped,
        [
            ("a b.sqlite", SkipReason::InvalidId),
            ("being-written.sqlite", SkipReason::Empty),
            ("dir.sqlite", SkipReason::NotAFile),
            ("empty.sqlite", SkipReason::Empty),
            ("j.sqlite", SkipReason::SideFile),
            ("w.sqlite", SkipReason::SideFile),
        ]
    );
    being_written.close().await.unwrap();
}

async fn a_root_that_is_not_there_is_unseen(store: Arc<dyn Store>) {
    let listing = list(&*store).await;
    assert!(listing.segments.is_empty() && listing.skipped.is_empty());
    assert_eq!(listing.unseen.len(), 1);
    assert_eq!(listing.unseen[0].kind, StoreErrorKind::NotFound);
}

async fn twenty_thousand_entries_come_as_a_stream(store: Arc<dyn Store>) {
    const DIRECTORIES: usize = 20;
    const FILES: usize = 1_000;
    if store.address().starts_with("hdfs:") {
        let make = |n: usize| {
            let store = store.clone();
            async move {
                let directory = path(&format!("d{n}"));
                store.mkdir(&directory).await.unwrap();
                for f in 0..FILES {
                    let at = directory.join(&format!("s{n}-{f}.sqlite")).unwrap();
                    store.create(&at).await.unwrap().close().await.unwrap();
                }
            }
        };
        futures::stream::iter((0..DIRECTORIES).map(make)).buffer_unordered(16).count().await;
    } else {
        let root = std::path::PathBuf::from(store.address());
        for n in 0..DIRECTORIES {
            let directory = root.join(format!("d{n}"));
            std::fs::create_dir_all(&directory).unwrap();
            for f in 0..FILES {
                std::fs::write(directory.join(format!("s{n}-{f}.sqlite")), "").unwrap();
            }
        }
    }
    // a slow reader holds the walk back: what is ahead of it is bounded, and nothing is lost or late
    let mut items = store.list();
    let mut seen = 0;
    while let Some(item) = items.next().await {
        match item {
            ListItem::Skipped { reason: SkipReason::Empty, .. } => seen += 1,
            other => panic!("{other:?}"),
        }
        if seen % 5_000 == 1 {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
    assert_eq!(seen, DIRECTORIES * FILES);
    // a stream that is dropped half way leaves nothing that holds the store up
    let mut items = store.list();
    items.next().await.unwrap();
    drop(items);
}

async fn a_listing_goes_on_while_files_come_and_go(store: Arc<dyn Store>) {
    for n in 0..4 {
        store.mkdir(&path(&format!("d{n}"))).await.unwrap();
        write(&*store, &format!("d{n}/stays-{n}.sqlite"), "x").await;
    }
    let churn = tokio::spawn({
        let store = store.clone();
        async move {
            for round in 0.. {
                let at = path(&format!("d{}/comes-and-goes.sqlite", round % 4));
                let mut writer = store.create(&at).await.unwrap();
                writer.write(Bytes::from_static(b"x")).await.unwrap();
                writer.close().await.unwrap();
                store.delete(&at).await.unwrap();
            }
        }
    });
    for _ in 0..30 {
        let listing = list(&*store).await;
        assert!(listing.unseen.is_empty(), "{:?}", listing.unseen);
        for n in 0..4 {
            assert!(listing.segments.contains_key(&format!("d{n}/stays-{n}.sqlite")));
        }
    }
    churn.abort();
}
