//! One pull while somebody else changes the file: never a mix (S2).

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use fsd::cache::{Cache, CacheSettings};
use fsd::segment::{SegmentId, Stamp};
use futures::StreamExt;
use futures::stream::BoxStream;
use sync::clock::SystemClock;
use sync::pool::PoolEntry;
use sync::pull::{PullError, fetch};
use sync::store::local::LocalStore;
use sync::store::{ListItem, Store, StoreError, StorePath, StoreWriter};

/// A store whose file is written over in place after the first piece of a read, as often as there is a version
/// left to write.
#[derive(Debug)]
struct Meddling {
    store: LocalStore,
    file: PathBuf,
    versions: Mutex<Vec<Vec<u8>>>,
    /// Nothing comes after the first piece of a read, and no end.
    hangs: bool,
}

#[async_trait]
impl Store for Meddling {
    fn address(&self) -> String {
        self.store.address()
    }
    fn list(&self) -> BoxStream<'_, ListItem> {
        self.store.list()
    }
    async fn stat(&self, path: &StorePath) -> Result<Option<Stamp>, StoreError> {
        self.store.stat(path).await
    }
    async fn read(
        &self,
        path: &StorePath,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let mut pieces = self.store.read(path).await?;
        let first = pieces.next().await;
        if let Some(version) = self.versions.lock().unwrap().pop() {
            overwrite(&self.file, &version);
        }
        let first = futures::stream::iter(first);
        match self.hangs {
            true => Ok(first.chain(futures::stream::pending()).boxed()),
            false => Ok(first.chain(pieces).boxed()),
        }
    }
    async fn create(&self, path: &StorePath) -> Result<Box<dyn StoreWriter>, StoreError> {
        self.store.create(path).await
    }
    async fn mkdir(&self, path: &StorePath) -> Result<(), StoreError> {
        self.store.mkdir(path).await
    }
    async fn rename(&self, from: &StorePath, to: &StorePath) -> Result<(), StoreError> {
        self.store.rename(from, to).await
    }
    async fn delete(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.store.delete(path).await
    }
    async fn delete_tree(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.store.delete_tree(path).await
    }
    async fn names(&self, path: &StorePath, limit: usize) -> Result<Vec<String>, StoreError> {
        self.store.names(path, limit).await
    }
}

/// The same inode with other bytes, and an mtime of now.
fn overwrite(file: &Path, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(file).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.set_modified(SystemTime::now()).unwrap();
}

/// A database of 4 MiB that is sound whichever pages of another one are mixed in: only the bytes of blobs differ.
fn version(directory: &Path, fill: u8) -> Vec<u8> {
    let path = directory.join(format!("version-{fill}"));
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE t (b)").unwrap();
    for _ in 0..4 {
        connection.execute("INSERT INTO t VALUES (?)", [vec![fill; 1 << 20]]).unwrap();
    }
    drop(connection);
    std::fs::read(path).unwrap()
}

struct Fixture {
    directory: tempfile::TempDir,
    store: Meddling,
    cache: Cache,
    versions: Vec<Vec<u8>>,
    id: SegmentId,
    entry: PoolEntry,
}

/// A store with version 0, to be written over with as many others as `meddles` says.
fn fixture(age: Duration, meddles: usize) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    std::fs::create_dir(&root).unwrap();
    let versions: Vec<_> = (0..=8).map(|fill| version(directory.path(), fill)).collect();
    let file = root.join("ohio.sqlite");
    std::fs::write(&file, &versions[0]).unwrap();
    let written = std::fs::File::options().write(true).open(&file).unwrap();
    written.set_modified(SystemTime::now() - age).unwrap();
    let path = StorePath::new("ohio.sqlite").unwrap();
    // what a listing saw some time ago
    let stamp = Stamp { length: versions[0].len() as u64, mtime_ms: 1 };
    let settings = CacheSettings { dir: directory.path().join("cache"), ..Default::default() };
    let mut left = versions[1..=meddles].to_vec();
    left.reverse();
    let store = LocalStore::new(&root, Default::default()).unwrap();
    Fixture {
        store: Meddling { store, file, versions: Mutex::new(left), hangs: false },
        cache: Cache::open(&settings).unwrap().0,
        id: SegmentId::new("ohio").unwrap(),
        entry: PoolEntry { path, stamp },
        versions,
        directory,
    }
}

impl Fixture {
    /// The version that a pull brings, by its number.
    async fn pull(&self) -> Result<usize, PullError> {
        let Self { store, cache, id, entry, .. } = self;
        let pulled = fetch(store, cache, &SystemClock, id, entry).await?.verify(cache).await?;
        let digest = pulled.verified.digest();
        let whole = |bytes: &Vec<u8>| digest == blake3::hash(bytes).into();
        Ok(self.versions.iter().position(whole).expect("a mix of two versions"))
    }
}

const OLD: Duration = Duration::from_secs(3600);
/// The bound of every wait for an event.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_is_given_up_ends_and_leaves_nothing() {
    let mut fixture = fixture(OLD, 0);
    fixture.store.hangs = true;
    let incoming = fixture.directory.path().join("cache/incoming");
    let staged = || std::fs::read_dir(&incoming).unwrap().count();
    let until = async |count: usize| {
        while staged() != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        pulled = fixture.pull() => panic!("it came to an end: {pulled:?}"),
        () = until(1) => {}
    }
    tokio::time::timeout(PATIENCE, until(0)).await.expect("what was staged goes");
}

#[tokio::test]
async fn s2_a_file_that_is_written_over_while_it_is_read_is_read_again() {
    assert_eq!(fixture(OLD, 0).pull().await.unwrap(), 0);
    // the second try finds it changed just now, lets it rest, and gets all of it
    assert_eq!(fixture(OLD, 1).pull().await.unwrap(), 1);
}

#[tokio::test]
async fn s2_a_file_that_changes_under_every_try_is_given_up_and_leaves_nothing() {
    let fixture = fixture(OLD, 8);
    let error = fixture.pull().await.unwrap_err();
    assert!(matches!(error, PullError::Changing { .. }), "{error}");
    assert_eq!(fixture.cache.usage().incoming_bytes, 0);
}

#[tokio::test]
async fn s2_a_fresh_file_without_a_seal_rests_before_it_is_read() {
    let fixture = fixture(Duration::ZERO, 0);
    let (file, half) = (fixture.store.file.clone(), fixture.versions[1].clone());
    // a writer that was held up in the middle when the pull began, and goes on
    overwrite(&file, &half[..half.len() / 2]);
    let (length, rest) = (half.len() / 2, half[half.len() / 2..].to_vec());
    let writer = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options().write(true).open(file).unwrap();
        file.write_all_at(&rest, length as u64).unwrap();
    });
    assert_eq!(fixture.pull().await.unwrap(), 1);
    writer.await.unwrap();
}
