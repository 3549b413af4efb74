//! What the cases say often.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use proxy::writable::{
    Lease, Opening, SyncData, Verbs, Writable, WritableSettings, WriteError, WriteRequest, Written,
};
use rusqlite::{Connection, OpenFlags};
use sync::clock::SystemClock;
use sync::verb::Verb;
use tempfile::TempDir;

/// A lease that tests take away.
#[derive(Debug, Default)]
pub struct TestLease {
    pub lost: AtomicBool,
    /// Nobody hears what it tells.
    pub deaf: AtomicBool,
    /// What it told: whether there is something unpublished.
    pub told: Mutex<Vec<bool>>,
}

impl Lease for TestLease {
    fn holds(&self) -> bool {
        !self.lost.load(Ordering::Relaxed)
    }

    fn tell(&self, since_ms: Option<u64>) -> Result<(), WriteError> {
        if self.deaf.load(Ordering::Relaxed) {
            return Err(WriteError::Closed("nobody hears it".to_owned()));
        }
        self.told.lock().unwrap().push(since_ms.is_some());
        Ok(())
    }
}

/// A segment `s` with the table `t (n INTEGER PRIMARY KEY, x)`.
pub struct Bench {
    pub dir: TempDir,
    pub lease: Arc<TestLease>,
    pub settings: WritableSettings,
    pub verbs: Verbs,
}

impl Bench {
    pub fn new() -> Self {
        Self::with("CREATE TABLE t (n INTEGER PRIMARY KEY, x)")
    }

    pub fn with(schema: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = Connection::open(dir.path().join("s.sqlite")).unwrap();
        db.execute_batch(schema).unwrap();
        let (lease, settings) = (Arc::default(), WritableSettings::default());
        Self { dir, lease, settings, verbs: Verbs::default() }
    }

    pub fn allow(mut self, verbs: impl IntoIterator<Item = Verb>) -> Self {
        self.verbs = self.verbs.with(verbs);
        self
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("s.sqlite")
    }

    pub fn open(&self) -> Writable {
        self.open_with(Arc::new(std::fs::File::sync_data))
    }

    pub fn open_with(&self, sync_data: SyncData) -> Writable {
        let path = self.path();
        let opening = Opening {
            database: &path,
            name: "s".to_owned(),
            verbs: self.verbs,
            unpublished_since_ms: None,
        };
        let (lease, clock) = (self.lease.clone(), Arc::new(SystemClock));
        Writable::open(opening, &self.settings, lease, clock, sync_data).unwrap()
    }

    /// What a reader sees that opens the file as it is.
    pub fn rows(&self) -> Vec<i64> {
        rows(&self.path())
    }
}

pub fn rows(path: &Path) -> Vec<i64> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let check: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let mut rows = db.prepare("SELECT n FROM t ORDER BY n").unwrap();
    rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

pub async fn sql(writable: &Writable, sql: &str) -> Result<Written, WriteError> {
    writable.write(WriteRequest::Script(sql.to_owned())).await
}

pub async fn json(writable: &Writable, body: serde_json::Value) -> Result<Written, WriteError> {
    let request = WriteRequest::from_json(body.to_string().as_bytes())?;
    writable.write(request).await
}
