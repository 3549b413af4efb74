//! Nodes with a reader each, and writers made of what a writer shows to readers: a lock, a lease, and a file with a log.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fsd::segment::SegmentId;
use proxy::lease::{LeaseFile, Leases};
use proxy::reader::{Elsewhere, ReaderSettings};
use proxy::writer::Note;
use rusqlite::Connection;
use sync::clock::{SystemClock, since_boot};
use sync::kv::sqlite::{FILE_TIMEOUTS, SqliteKv};
use sync::kv::{Key, Kv};
use sync::owners_view::{Owner, OwnersView};
use sync::store::{StoreTimeouts, open};
use sync::write_lock::{Claimant, Takeover, WriteLock, WriteLocks};
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, node};
use crate::rig::{Rig, id, wait_for};

/// What has not happened in so long never will.
pub const BOUND: Duration = Duration::from_secs(30);
/// No lock and no lease runs out by itself.
const TTL: Duration = Duration::from_secs(600);

/// Settings of a reader that does not take another for silent because this machine has much to do.
pub fn patient() -> ReaderSettings {
    let mut settings = ReaderSettings::default();
    settings.forward.silent_ms = 10_000;
    settings
}

/// A registry, and what all readers know of the pool.
pub struct World {
    pub cluster: Cluster,
    pub kv: Arc<dyn Kv>,
    dir: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kv = SqliteKv::open(dir.path().join("kv.sqlite"), since_boot, FILE_TIMEOUTS).unwrap();
        let cluster = Cluster::default();
        // a pool table that was read
        cluster.held("unrelated", &[]);
        Self { cluster, kv: Arc::new(kv), dir }
    }

    pub async fn node(&self, name: &str) -> Node {
        self.node_with(name, patient()).await
    }

    pub async fn node_with(&self, name: &str, settings: ReaderSettings) -> Node {
        let view = Arc::new(OwnersView::default());
        let (followed, kv) = (view.clone(), self.kv.clone());
        let following = tokio::spawn(async move { followed.follow(&*kv).await.unwrap() });
        let node = self.deaf_node_with(name, settings, view, following).await;
        wait_for("the owners are known", BOUND, || node.view.age().is_some()).await;
        node
    }

    /// One whose `view` somebody else fills, or nobody.
    pub async fn deaf_node_with(
        &self,
        name: &str,
        settings: ReaderSettings,
        view: Arc<OwnersView>,
        following: JoinHandle<()>,
    ) -> Node {
        let writable = self.dir.path().join(name);
        std::fs::create_dir(&writable).unwrap();
        let leases = Leases::new(writable.clone(), Arc::new(since_boot));
        let elsewhere = Elsewhere {
            owners: Some(view.clone()),
            leases: Some(leases),
            ..self.cluster.elsewhere(name, &settings)
        };
        let rig = self.cluster.reader_of(name, settings, elsewhere).await;
        let root = self.dir.path().join("store");
        let store = open(root.to_str().unwrap(), StoreTimeouts::default()).unwrap();
        let (kv, clock) = (self.kv.clone(), Arc::new(SystemClock));
        let boot = Arc::new(since_boot);
        let locks = WriteLocks::new(kv, store, clock, boot, TTL, name.to_owned()).unwrap();
        let lease = Mutex::new(LeaseFile::new(&writable).unwrap());
        let name = name.to_owned();
        let leased = Mutex::default();
        Node { name, rig, view, following, writable, locks, lease, leased }
    }

    /// The session that holds the lock of `segment` ends.
    pub async fn end_lock(&self, segment: &str) {
        let key = Key::new(format!("trough/write/{}", id(segment).label())).unwrap();
        let entry = self.kv.get(&key).await.unwrap().unwrap();
        self.kv.destroy_session(&entry.session.unwrap()).await.unwrap();
    }
}

/// A node: its reader, and what its writer needs.
pub struct Node {
    pub name: String,
    pub rig: Rig,
    pub view: Arc<OwnersView>,
    following: JoinHandle<()>,
    pub writable: PathBuf,
    locks: WriteLocks,
    lease: Mutex<LeaseFile>,
    leased: Mutex<BTreeSet<SegmentId>>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Node {
    /// Takes `segment` for writing, with what `sql` makes.
    pub async fn own(&self, segment: &str, sql: &str) -> Written<'_> {
        let claimant = Claimant {
            node: node(&self.name),
            write_address: "127.0.0.1:1".to_owned(),
            schema: None,
            takeover: Takeover::Never,
            unpublished_since_ms: None,
        };
        let lock = self.locks.own(&id(segment), &claimant).await.unwrap();
        let path = self.writable.join(id(segment).file_name());
        let file = Connection::open(&path).unwrap();
        file.pragma_update(None, "journal_mode", "wal").unwrap();
        file.execute_batch(sql).unwrap();
        let written = Written { node: self, id: id(segment), lock, file, path };
        written.lend();
        written
    }

    /// Hears no more of the registry.
    pub fn deafen(&self) {
        self.following.abort();
    }

    /// What the writer wrote down of `segment`; `None`: something that nobody understands.
    pub fn write_note(&self, segment: &str, note: Option<&Note>) {
        let text = note.map_or("?".to_owned(), |note| serde_json::to_string(note).unwrap());
        std::fs::write(self.writable.join(format!("{segment}.json")), text).unwrap();
    }

    /// Waits until that is known here of `segment`: who has it, whether it holds it, whether it has more than others.
    pub async fn hears(&self, segment: &str, expected: Option<(&str, bool, bool)>) {
        let expected =
            expected.map(|(name, held, unpublished)| Owner { node: node(name), held, unpublished });
        let what = format!("{} hears {expected:?} of {segment}", self.name);
        wait_for(&what, BOUND, || self.view.find(&id(segment)) == expected).await;
    }

    pub async fn ask(&self, segment: &str, sql: &str) -> Answer {
        self.ask_with(segment, sql, &[]).await
    }

    pub async fn ask_with(&self, segment: &str, sql: &str, headers: &[(&str, &str)]) -> Answer {
        let url = format!("{}?segment={segment}", self.rig.url());
        let mut request = self.rig.client.post(url).body(sql.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let header =
            |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().into());
        Answer {
            status: response.status().as_u16(),
            version: header("trough-version"),
            writable: header("trough-writable"),
            view_age_ms: header("trough-view-age-ms"),
            retry_after: header("retry-after"),
            segment: header("trough-segment"),
            text: response.text().await.unwrap_or_else(|error| format!("broken: {error}")),
        }
    }

    fn write_lease(&self, until: Duration) {
        let leased = self.leased.lock().unwrap();
        self.lease.lock().unwrap().write(leased.iter().cloned(), until).unwrap();
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub text: String,
    pub version: Option<String>,
    pub writable: Option<String>,
    pub view_age_ms: Option<String>,
    pub retry_after: Option<String>,
    pub segment: Option<String>,
}

impl Answer {
    /// It is `text`, from the file that is being written.
    #[track_caller]
    pub fn is_written(&self, text: &str) {
        assert_eq!((self.status, self.text.as_str()), (200, text), "{self:?}");
        assert_eq!((self.writable.as_deref(), &self.version), (Some("1"), &None), "{self:?}");
        assert_eq!(self.view_age_ms, None, "{self:?}");
    }

    /// It is `text`, from a copy.
    #[track_caller]
    pub fn is_copied(&self, text: &str) {
        assert_eq!((self.status, self.text.as_str()), (200, text), "{self:?}");
        assert!(self.writable.is_none() && self.version.is_some(), "{self:?}");
    }

    /// It says that `node` has the rows, and cannot be asked.
    #[track_caller]
    pub fn is_away(&self, node: &str) {
        assert_eq!((self.status, self.retry_after.as_deref()), (503, Some("1")), "{self:?}");
        assert!(self.text.contains(&format!("written by node {node}, and only")), "{self:?}");
    }
}

/// A segment that is being written.
pub struct Written<'a> {
    node: &'a Node,
    id: SegmentId,
    pub lock: WriteLock,
    file: Connection,
    pub path: PathBuf,
}

impl Written<'_> {
    /// It may be read.
    pub fn lend(&self) {
        self.node.leased.lock().unwrap().insert(self.id.clone());
        self.node.write_lease(since_boot() + TTL);
    }

    /// The time is up for all that the node writes.
    pub fn lease_passes(&self) {
        self.node.write_lease(since_boot());
    }

    /// What a writer writes down of it.
    pub fn note(&self, unpublished_since_ms: Option<u64>) -> Note {
        Note {
            format: 1,
            segment: self.id.clone(),
            epoch: self.lock.epoch(),
            schema: None,
            from: None,
            publishing: None,
            unpublished_since_ms,
        }
    }

    pub async fn dirty(&self) {
        self.lock.tell(Some(1), false).await.unwrap();
    }

    pub async fn clean(&self) {
        self.lock.tell(None, false).await.unwrap();
    }

    /// Writes and acknowledges.
    pub fn write(&self, sql: &str) {
        self.file.execute_batch(sql).unwrap();
    }

    /// Whether the log can be emptied: nobody reads in it.
    pub fn log_can_be_emptied(&self) -> bool {
        self.file.busy_timeout(Duration::ZERO).unwrap();
        let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
        self.file.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() == 0
    }

    /// Whether a query reads in the file now.
    pub fn is_being_read(&self) -> bool {
        // with something in the log that is not in the file it can only be emptied where nobody reads
        self.write("CREATE TABLE IF NOT EXISTS noise (n); INSERT INTO noise VALUES (1)");
        !self.log_can_be_emptied()
    }

    /// A copy of all that was written, for the mount of `reader`.
    pub fn publish_to(&self, reader: &Node) {
        let aside = reader.rig.temp.path().join("published");
        self.file.execute("VACUUM INTO ?", [aside.to_str().unwrap()]).unwrap();
        let mount = reader.rig.directory.root.join(self.id.file_name());
        std::fs::rename(&aside, mount).unwrap();
    }

    /// Gives it back, all of it published: first nobody may read it any more, then it goes, then its lock.
    pub async fn hand_back(self) {
        let Self { node, id, lock, file, path } = self;
        lock.tell(None, false).await.unwrap();
        node.leased.lock().unwrap().remove(&id);
        node.write_lease(since_boot() + TTL);
        drop(file);
        for end in ["", "-wal", "-shm"] {
            // the log is gone if nobody else had it open
            drop(std::fs::remove_file(format!("{}{end}", path.display())));
        }
        lock.release().await;
    }
}

/// What this process has open below `directory`.
pub fn open_below(directory: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = all.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.starts_with(directory)).collect()
}
