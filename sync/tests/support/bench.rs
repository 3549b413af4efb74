//! A deep store with a registry beside it, sources to publish, and a look at what shows.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use fsd::segment::{Digest, SegmentId};
use futures::{StreamExt, TryStreamExt};
use rusqlite::Connection;
use sync::clock::SystemClock;
use sync::kv::SESSION_TTL_MIN;
use sync::publish::{PublishSettings, Publisher};
use sync::seal::Seal;
use sync::store::{ListItem, Store, StorePath, StoreTimeouts, open};

use crate::places::{self, Place};

/// Each of these runs on a local directory and on a real HDFS, there below the directory that is named first.
macro_rules! on_both {
    ($root:literal: $($name:ident),* $(,)?) => {
        mod local {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Bench::new(None)).await;
            })*
        }
        mod hdfs {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let hdfs = rig::hdfs::shared();
                let root = hdfs.url(concat!($root, stringify!($name)));
                super::$name(super::Bench::new(Some(root))).await;
            })*
        }
    };
}

pub struct Bench {
    pub store: Arc<dyn Store>,
    pub registry: places::File,
    pub dir: tempfile::TempDir,
}

impl Bench {
    pub fn new(url: Option<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = url.unwrap_or_else(|| dir.path().join("store").to_str().unwrap().to_owned());
        let store = open(&url, StoreTimeouts::default()).unwrap();
        Self { store, registry: places::File::new(), dir }
    }

    pub fn settings(&self) -> PublishSettings {
        let temp_dir = self.dir.path().join("temp");
        std::fs::create_dir_all(&temp_dir).unwrap();
        PublishSettings {
            temp_dir: Some(temp_dir),
            lock_ttl_s: SESSION_TTL_MIN.as_secs(),
            // so that some copies are made in memory, and the larger ones in files
            memory_bytes: 100 << 10,
            ..Default::default()
        }
    }

    pub fn publisher(&self) -> Publisher {
        self.publisher_on(self.store.clone(), &self.registry)
    }

    pub fn publisher_on(&self, store: Arc<dyn Store>, registry: &impl Place) -> Publisher {
        let (kv, boot, name) = (registry.open(), registry.since_boot(), "a test".to_owned());
        let (day, quiet) = (Arc::new(SystemClock), Arc::new(|_: &SegmentId, _| {}));
        Publisher::new(store, kv, day, boot, self.settings(), name, quiet).unwrap()
    }

    pub fn source(&self, name: &str, rows: u32) -> PathBuf {
        let path = self.dir.path().join(format!("{name}.db"));
        let _ = std::fs::remove_file(&path);
        let db = Connection::open(&path).unwrap();
        db.execute_batch(
            "CREATE TABLE t (n INTEGER, text TEXT); CREATE VIEW v AS SELECT n FROM t;",
        )
        .unwrap();
        let fill = "INSERT INTO t SELECT value, hex(randomblob(200)) FROM
                    (WITH RECURSIVE c(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM c LIMIT ?)
                     SELECT value FROM c)";
        db.execute(fill, [rows]).unwrap();
        path
    }

    pub async fn published(&self) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut items = self.store.list();
        while let Some(item) = items.next().await {
            match item {
                ListItem::Segment(listed) => assert!(seen.insert(listed.path.to_string())),
                ListItem::Skipped { path, reason } => panic!("{path} is {reason:?}"),
                ListItem::Unseen(error) => assert!(seen.is_empty(), "{error}"),
            }
        }
        seen
    }

    /// The rows of the published segment, after its bytes were compared with its seal.
    pub async fn rows(&self, id: &SegmentId) -> u32 {
        let path = StorePath::published(id);
        let bytes = self.bytes(&path).await;
        let stamp = self.store.stat(&path).await.unwrap().unwrap();
        let seal = Seal::parse(&self.bytes(&Seal::path(&path).unwrap()).await).unwrap();
        assert!(seal.applies_to(id, &stamp), "the seal is of another version");
        assert_eq!(seal.blake3, Digest::from(blake3::hash(&bytes)));
        assert_eq!(bytes[18..20], [1, 1], "published in WAL mode");
        assert_eq!(bytes[24..28], bytes[92..96], "the page count in the header is stale");
        let rows = self.rows_unsealed(id).await;
        assert_eq!(seal.rows["t"], u64::from(rows));
        rows
    }

    /// The rows of the published segment, whose seal may be gone: which makes it unsealed, and not wrong.
    pub async fn rows_unsealed(&self, id: &SegmentId) -> u32 {
        let bytes = self.bytes(&StorePath::published(id)).await;
        let copy = self.dir.path().join("seen.sqlite");
        std::fs::write(&copy, &bytes).unwrap();
        let db = Connection::open(&copy).unwrap();
        db.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    }

    pub async fn bytes(&self, path: &StorePath) -> Vec<u8> {
        let pieces: Vec<Bytes> = self.store.read(path).await.unwrap().try_collect().await.unwrap();
        pieces.concat()
    }

    pub async fn staged(&self, id: &SegmentId) -> Vec<String> {
        let label = StorePath::new(&format!(".staging/{}", id.label())).unwrap();
        self.store.names(&label, 100).await.unwrap()
    }

    pub fn temp_files(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("temp")).unwrap().count()
    }
}

pub fn id(text: &str) -> SegmentId {
    SegmentId::new(text).unwrap()
}
