//! `put` killed at each of its steps: what shows is whole, and the next `put` succeeds.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fsd::segment::{Digest, SegmentId};
use futures::{StreamExt, TryStreamExt};
use sync::clock::{SystemClock, since_boot};
use sync::kv::SESSION_TTL_MIN;
use sync::kv::sqlite::{FILE_TIMEOUTS, SqliteKv};
use sync::publish::{PublishError, PublishSettings, Publisher};
use sync::seal::Seal;
use sync::store::{ListItem, StorePath, StoreTimeouts, open};

const STEPS: [&str; 12] = [
    "put.prepared",
    "put.locked",
    "put.lower-deleted",
    "put.staging-made",
    "put.confirmed",
    "put.staged-data",
    "put.read-back",
    "put.staged-seal",
    "put.before-rename",
    "put.seal-renamed",
    "put.data-renamed",
    "none",
];

const URL: &str = "TROUGH_TEST_STORE";
const DIR: &str = "TROUGH_TEST_DIR";
const SOURCE: &str = "TROUGH_TEST_SOURCE";

/// One whose clock is `ahead` of the machine's.
fn publisher(url: &str, dir: &Path, ahead: Duration) -> Publisher {
    let clock = move || since_boot() + ahead;
    let kv = Arc::new(SqliteKv::open(dir.join("keys.sqlite"), clock, FILE_TIMEOUTS).unwrap());
    let store = open(url, StoreTimeouts::default()).unwrap();
    let (temp_dir, lock_ttl_s) = (Some(dir.to_owned()), SESSION_TTL_MIN.as_secs());
    let settings = PublishSettings { temp_dir, lock_ttl_s, ..Default::default() };
    let (name, quiet) = ("a test".to_owned(), Arc::new(|_: &SegmentId, _| {}));
    let (day, boot) = (Arc::new(SystemClock), Arc::new(clock));
    Publisher::new(store, kv, day, boot, settings, name, quiet).unwrap()
}

/// Not a test of its own: the process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the tests of this file as their child"]
async fn child() {
    fsd::failpoint::setup();
    let variable = |name: &str| std::env::var(name).unwrap();
    let (url, dir, source) = (variable(URL), variable(DIR), variable(SOURCE));
    let id = SegmentId::new("victim").unwrap();
    publisher(&url, Path::new(&dir), Duration::ZERO).put(&id, source.into()).await.unwrap();
}

async fn killed_at_every_step(url: &str, dir: &Path) {
    let id = SegmentId::new("victim").unwrap();
    let path = StorePath::published(&id);
    let store = open(url, StoreTimeouts::default()).unwrap();
    let mut whole = Vec::new();
    for (n, step) in STEPS.iter().enumerate() {
        let source = dir.join(format!("{n}.db"));
        let db = rusqlite::Connection::open(&source).unwrap();
        db.execute_batch(&format!(
            "CREATE TABLE t{n} (x); INSERT INTO t{n} VALUES (zeroblob(300000));"
        ))
        .unwrap();
        drop(db);
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env("FAILPOINTS", format!("{step}=return"))
            .envs([(URL, url), (DIR, dir.to_str().unwrap()), (SOURCE, source.to_str().unwrap())])
            .output()
            .unwrap();
        let killed = output.status.signal() == Some(9);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(killed, *step != "none", "{step}: {} {text}", output.status);

        // what shows is one of the versions that were put, whole
        let mut items = store.list();
        while let Some(item) = items.next().await {
            match item {
                ListItem::Segment(listed) => assert_eq!(listed.path, path, "{step}"),
                ListItem::Skipped { path, reason } => panic!("{step}: {path} is {reason:?}"),
                // nothing was ever put
                ListItem::Unseen(error) => assert!(whole.is_empty(), "{step}: {error}"),
            }
        }
        let read = |path: StorePath| {
            let store = store.clone();
            async move {
                let pieces: Vec<bytes::Bytes> = store.read(&path).await?.try_collect().await?;
                Ok::<_, sync::store::StoreError>(pieces.concat())
            }
        };
        if let Some(stamp) = store.stat(&path).await.unwrap() {
            let digest = Digest::from(blake3::hash(&read(path.clone()).await.unwrap()));
            let seal = Seal::parse(&read(Seal::path(&path).unwrap()).await.unwrap()).unwrap();
            if seal.applies_to(&id, &stamp) {
                assert_eq!(seal.blake3, digest, "{step}: a seal that lies");
            } else {
                assert!(whole.contains(&digest), "{step}: new data without its seal");
            }
        }
        // the lock outlives the dead one, for its time
        if !["put.prepared", "none"].contains(step) {
            let next = publisher(url, dir, Duration::ZERO);
            let error = next.put(&id, source.clone()).await.unwrap_err();
            assert!(matches!(error, PublishError::HeldBy { .. }), "{step}: {error:?}");
        }
        // then the next put clears up after it, and succeeds
        let next = publisher(url, dir, SESSION_TTL_MIN);
        let publication = next.put(&id, source.clone()).await.unwrap();
        next.close().await;
        whole.push(publication.version.digest);
        let label = StorePath::new(".staging/victim").unwrap();
        assert!(store.names(&label, 10).await.unwrap().is_empty(), "{step}: staging is left");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_s10_a_put_killed_at_every_step_shows_nothing_half_on_a_local_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    killed_at_every_step(root.to_str().unwrap(), dir.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_s10_a_put_killed_at_every_step_shows_nothing_half_on_hdfs() {
    let dir = tempfile::tempdir().unwrap();
    let hdfs = rig::hdfs::shared();
    killed_at_every_step(&hdfs.url("/crash"), dir.path()).await;
}
