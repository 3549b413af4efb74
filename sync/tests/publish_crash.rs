//! `put`, and a writer that publishes again and again, killed at each of their steps: what shows is whole, and the next
//! one succeeds.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fsd::segment::{Digest, SegmentId};
use futures::{StreamExt, TryStreamExt};
use sync::clock::{SystemClock, since_boot};
use sync::kv::SESSION_TTL_MIN;
use sync::kv::sqlite::{FILE_TIMEOUTS, SqliteKv};
use sync::node::NodeName;
use sync::publish::{OnProgress, PublishError, PublishSettings, Publisher};
use sync::seal::Seal;
use sync::store::{ListItem, Store, StoreError, StorePath, StoreTimeouts, open};
use sync::write_lock::{Claimant, Takeover};

/// Of both, after the lock is taken.
const STEPS: [&str; 11] = [
    "locked",
    "lower-deleted",
    "staging-made",
    "confirmed",
    "prepared",
    "staged-data",
    "read-back",
    "staged-seal",
    "before-rename",
    "seal-renamed",
    "data-renamed",
];
/// Those of them that a tenure goes through once.
const ONCE: [&str; 4] = ["locked", "lower-deleted", "staging-made", "confirmed"];

const WORK: &str = "TROUGH_TEST_WORK";
const URL: &str = "TROUGH_TEST_STORE";
const DIR: &str = "TROUGH_TEST_DIR";
const SOURCES: [&str; 2] = ["TROUGH_TEST_SOURCE_1", "TROUGH_TEST_SOURCE_2"];

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Put,
    /// It publishes twice, and is killed when it does the second time.
    Promote,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Promote => "promote",
        }
    }

    /// Publishes `sources`, one after another.
    async fn run(self, publisher: &Publisher, sources: &[PathBuf]) -> Result<(), PublishError> {
        let id = victim();
        if self == Self::Put {
            for source in sources {
                publisher.put(&id, source.clone()).await?;
            }
            return Ok(());
        }
        let (node, write_address) = (NodeName::new("north").unwrap(), "north:6222".to_owned());
        let takeover = Takeover::Never;
        let claimant =
            Claimant { node, write_address, schema: None, takeover, unpublished_since_ms: None };
        let tenure = publisher.take_over(&id, &claimant).await?;
        let quiet: OnProgress = Arc::new(|_, _| {});
        tenure.lock().tell(Some(1), true).await.unwrap();
        for source in sources {
            tenure.publish(source.clone(), |_| Ok(()), &quiet).await?;
        }
        tenure.end(None).await;
        Ok(())
    }
}

fn victim() -> SegmentId {
    SegmentId::new("victim").unwrap()
}

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
    let work = if variable(WORK) == Work::Put.name() { Work::Put } else { Work::Promote };
    let sources: Vec<PathBuf> =
        SOURCES.iter().filter_map(std::env::var_os).map(PathBuf::from).collect();
    let publisher = publisher(&variable(URL), Path::new(&variable(DIR)), Duration::ZERO);
    work.run(&publisher, &sources).await.unwrap();
}

/// The `n`th compact database, which says so by its table.
fn source(dir: &Path, n: usize) -> PathBuf {
    let (full, path) = (dir.join("full.db"), dir.join(format!("{n}.db")));
    let _ = std::fs::remove_file(&full);
    let db = rusqlite::Connection::open(&full).unwrap();
    db.execute_batch(&format!(
        "CREATE TABLE t{n} (x); INSERT INTO t{n} VALUES (zeroblob(300000));"
    ))
    .unwrap();
    db.execute("VACUUM INTO ?", [path.to_str().unwrap()]).unwrap();
    path
}

/// Which one the database of these bytes is, once it is whole.
fn number(dir: &Path, bytes: &[u8]) -> usize {
    let path = dir.join("seen.db");
    std::fs::write(&path, bytes).unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    let checked: String = db.pragma_query_value(None, "integrity_check", |row| row.get(0)).unwrap();
    assert_eq!(checked, "ok");
    let table: String =
        db.query_row("SELECT name FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    table[1..].parse().unwrap()
}

async fn read(store: &dyn Store, path: &StorePath) -> Result<Vec<u8>, StoreError> {
    let pieces: Vec<bytes::Bytes> = store.read(path).await?.try_collect().await?;
    Ok(pieces.concat())
}

/// What shows is `new`, with its seal, or one of `old`, with its own or none that counts.
async fn shows(store: &dyn Store, dir: &Path, old: &[usize], new: usize, step: &str) {
    let (id, path) = (victim(), StorePath::published(&victim()));
    let mut items = store.list();
    while let Some(item) = items.next().await {
        match item {
            ListItem::Segment(listed) => assert_eq!(listed.path, path, "{step}"),
            ListItem::Skipped { path, reason } => panic!("{step}: {path} is {reason:?}"),
            // nothing was ever published
            ListItem::Unseen(error) => assert!(old.len() <= 1, "{step}: {error}"),
        }
    }
    let Some(stamp) = store.stat(&path).await.unwrap() else { return };
    let bytes = read(store, &path).await.unwrap();
    let number = number(dir, &bytes);
    assert!(number == new || old.contains(&number), "{step}: {number} shows");
    let seal = read(store, &Seal::path(&path).unwrap()).await.unwrap();
    let seal = Seal::parse(&seal).unwrap();
    if seal.applies_to(&id, &stamp) {
        let digest = Digest::from(blake3::hash(&bytes));
        assert_eq!(seal.blake3, digest, "{step}: a seal that lies");
    } else {
        assert!(number != new, "{step}: new data without its seal");
    }
}

async fn killed_at_every_step(work: Work, url: &str, dir: &Path) {
    let store = open(url, StoreTimeouts::default()).unwrap();
    let mut before = None;
    for (n, step) in STEPS.iter().chain(&["none"]).enumerate() {
        let [first, second, third] = [3 * n, 3 * n + 1, 3 * n + 2];
        let mut command = Command::new(std::env::current_exe().unwrap());
        let (directory, name) = (dir.to_str().unwrap(), work.name());
        command
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .envs([(WORK, name), (URL, url), (DIR, directory)])
            .env(SOURCES[0], source(dir, first));
        let (mut old, mut new) = (Vec::from_iter(before), first);
        let mut at = "return";
        if work == Work::Promote {
            command.env(SOURCES[1], source(dir, second));
            old.push(first);
            new = second;
            at = if ONCE.contains(step) { at } else { "1*off->return" };
        }
        let output = command.env("FAILPOINTS", format!("{name}.{step}={at}")).output().unwrap();
        let killed = output.status.signal() == Some(9);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(killed, *step != "none", "{step}: {} {text}", output.status);
        shows(&*store, dir, &old, new, step).await;
        let third_source = [source(dir, third)];

        // the lock outlives the dead one, for its time
        let locked = work == Work::Promote || *step != "prepared";
        if locked && *step != "none" {
            let next = publisher(url, dir, Duration::ZERO);
            let error = work.run(&next, &third_source).await.unwrap_err();
            assert!(matches!(error, PublishError::HeldBy { .. }), "{step}: {error:?}");
        }
        // then the next clears up after it, and succeeds
        let next = publisher(url, dir, SESSION_TTL_MIN);
        work.run(&next, &third_source).await.unwrap();
        next.close().await;
        before = Some(third);
        shows(&*store, dir, &[], third, "the next").await;
        let label = StorePath::new(".staging/victim").unwrap();
        assert!(store.names(&label, 10).await.unwrap().is_empty(), "{step}: staging is left");
    }
}

macro_rules! killed {
    ($($name:ident: $work:expr;)*) => {
        mod local {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let root = dir.path().join("store");
                killed_at_every_step($work, root.to_str().unwrap(), dir.path()).await;
            })*
        }
        mod hdfs {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let hdfs = rig::hdfs::shared();
                let root = hdfs.url(concat!("/crash/", stringify!($name)));
                killed_at_every_step($work, &root, dir.path()).await;
            })*
        }
    };
}

killed!(
    s4_s10_a_put_killed_at_every_step_shows_nothing_half: Work::Put;
    s4_s10_a_writer_killed_at_every_step_shows_nothing_half: Work::Promote;
);
