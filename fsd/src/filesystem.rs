//! What the kernel asks of the mount, and the answers.
//!
//! A flat, read-only directory of `<id>.sqlite` files and `.trough/status.json`. fsd keeps no catalogue: a
//! look-up reads the symlink in `segments/`.
//!
//! Invariant (S1): an open gives the version published at that moment, whole. The inode names one digest;
//! when the symlink names another one by now, the answer is ESTALE and the kernel looks the name up again
//! within the same open(2) (fuse.md 8). So an open never depends on an invalidation having arrived.
//!
//! No handler waits for the network, for the watch, or for a lock that is held across a call through the
//! mount. A panic ends the process (see [`crate::daemon`]): a lost worker thread would hang its readers.

mod answers;
pub mod backing;
pub mod errno;
mod handlers;
pub mod inodes;
pub mod listing;
mod loglimit;
pub mod xattrs;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use crate::layout::Layout;
use crate::mount::{Feature, MountSettings};
use crate::segment::{Digest, SegmentId};
use crate::status::{Figures, FsStatus, count};

use backing::Opened;
use errno::Failure;
use inodes::{INO_ROOT, INO_SERVICE, INO_STATUS, Inodes, Known};
use listing::Listing;
use loglimit::LogLimit;
use xattrs::FactsSource;

pub use handlers::Served;

/// The directory with fsd's own files.
pub const SERVICE_DIR: &str = ".trough";
/// fsd's figures, made at each open.
pub const STATUS_FILE: &str = "status.json";

/// How often a look-up that meets a change starts again.
const LOOKUP_ATTEMPTS: usize = 4;

/// How long the kernel may remember the attributes of a segment's inode: they never change, and with them
/// readers that hold it open need no fsd for fstat(2) either.
const ATTRIBUTES_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The block size that stat(2) names, bytes.
const BLOCK_BYTES: u32 = 4096;

/// What a name in the root is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Segment(Known),
    /// Not published: the kernel may remember that until it is told otherwise.
    Absent,
    /// Published, but its object is gone for the moment (being removed or healed): not to be remembered.
    Dangling,
}

#[derive(Debug, Clone)]
enum Handle {
    Segment(Arc<Opened>),
    Root(Arc<Listing>),
    Service,
    Status(Arc<Vec<u8>>),
}

/// The tree behind one mount.
pub struct Tree {
    layout: Layout,
    entry_ttl: Duration,
    negative_ttl: Duration,
    use_passthrough: AtomicBool,
    inodes: Inodes,
    handles: Mutex<HashMap<u64, Handle>>,
    next_handle: AtomicU64,
    figures: Arc<Figures>,
    log_limit: LogLimit,
    facts: Box<dyn FactsSource>,
    uid: u32,
    gid: u32,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl Tree {
    /// The tree that shows the cache at `layout`.
    pub fn new(layout: &Layout, settings: &MountSettings, facts: Box<dyn FactsSource>) -> Self {
        let figures = Figures::default();
        if settings.passthrough == Feature::Off {
            figures.no_passthrough("switched off by the setting `passthrough`".to_owned());
        }
        Self {
            layout: layout.clone(),
            entry_ttl: Duration::from_secs(settings.entry_ttl_s),
            negative_ttl: Duration::from_secs(settings.negative_ttl_s),
            use_passthrough: AtomicBool::new(settings.passthrough == Feature::Auto),
            inodes: Inodes::default(),
            handles: Mutex::default(),
            next_handle: AtomicU64::new(1),
            figures: Arc::new(figures),
            log_limit: LogLimit::default(),
            facts,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    /// The cache's paths.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The inodes the kernel remembers.
    pub fn inodes(&self) -> &Inodes {
        &self.inodes
    }

    /// The counters.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// The figures now.
    pub fn status(&self) -> FsStatus {
        let dir = self.layout.dir().display().to_string();
        self.figures.snapshot(&dir, self.inodes.len() as u64)
    }

    fn resolve(&self, name: &OsStr) -> Result<Name, Failure> {
        match SegmentId::from_file_name(name) {
            Some(Ok(id)) => self.resolve_id(&id),
            // side files (-wal, -journal) and whatever else is no segment
            Some(Err(_)) | None => Ok(Name::Absent),
        }
    }

    /// What `id` is published as now.
    fn resolve_id(&self, id: &SegmentId) -> Result<Name, Failure> {
        for _ in 0..LOOKUP_ATTEMPTS {
            let Some(digest) = self.layout.published(id)? else { return Ok(Name::Absent) };
            match std::fs::metadata(self.layout.object(&digest)) {
                Ok(meta) => {
                    let mtime = match self.facts.facts(id, &digest) {
                        Some(facts) => UNIX_EPOCH + Duration::from_millis(facts.stamp.mtime_ms),
                        None => meta.modified()?,
                    };
                    let (id, object, size) = (id.clone(), meta.ino(), meta.size());
                    return Ok(Name::Segment(Known { id, digest, object, size, mtime }));
                }
                // replaced or removed between the two calls: look again
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Name::Dangling)
    }

    /// Opens what `ino` is, if that is what its name is published as now.
    fn open_segment(&self, ino: u64, reply: &fuser::ReplyOpen) -> Result<Arc<Opened>, Failure> {
        let (known, slot) = self.inodes.open(ino).ok_or(Failure::Stale)?;
        if self.layout.published(&known.id)? != Some(known.digest) {
            return Err(Failure::Stale);
        }
        let passthrough = self.use_passthrough.load(Ordering::Relaxed);
        let path = self.layout.object(&known.digest);
        match std::fs::metadata(&path) {
            Ok(meta) if meta.ino() == known.object => {}
            // it was damaged and pulled again: what is open of the old one is not what opens now
            Ok(_) => return Err(Failure::Stale),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Failure::Stale),
            Err(error) => return Err(error.into()),
        }
        match slot.open(&path, passthrough, reply, &self.figures) {
            Ok(opened) => Ok(opened),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::Stale),
            Err(error) => Err(error.into()),
        }
    }

    fn attributes(&self, ino: u64) -> Result<FileAttr, Failure> {
        match ino {
            INO_ROOT => Ok(self.directory(INO_ROOT, self.root_mtime()?)),
            INO_SERVICE => Ok(self.directory(INO_SERVICE, SystemTime::now())),
            INO_STATUS => Ok(self.file(INO_STATUS, 0, SystemTime::now())),
            segment => {
                let known = self.inodes.get(segment).ok_or(Failure::Stale)?;
                Ok(self.file(segment, known.size, known.mtime))
            }
        }
    }

    /// How long the kernel may remember the attributes of `ino`.
    fn ttl(&self, ino: u64) -> Duration {
        match ino {
            INO_SERVICE | INO_STATUS => Duration::ZERO,
            INO_ROOT => self.entry_ttl,
            _segment => ATTRIBUTES_TTL,
        }
    }

    fn root_mtime(&self) -> io::Result<SystemTime> {
        std::fs::metadata(self.layout.segments())?.modified()
    }

    fn directory(&self, ino: u64, mtime: SystemTime) -> FileAttr {
        FileAttr { kind: FileType::Directory, perm: 0o555, nlink: 2, ..self.file(ino, 0, mtime) }
    }

    fn file(&self, ino: u64, size: u64, mtime: SystemTime) -> FileAttr {
        FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: mtime,
            mtime,
            ctime: mtime,
            crtime: mtime,
            kind: FileType::RegularFile,
            perm: 0o444,
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        }
    }

    fn add_handle(&self, handle: Handle) -> u64 {
        if let Handle::Segment(_) = handle {
            self.figures.open_handles.fetch_add(1, Ordering::Relaxed);
        }
        let number = self.next_handle.fetch_add(1, Ordering::Relaxed);
        self.lock_handles().insert(number, handle);
        number
    }

    fn handle(&self, number: u64) -> Result<Handle, Failure> {
        self.lock_handles().get(&number).cloned().ok_or(Failure::BadHandle)
    }

    fn drop_handle(&self, number: u64) {
        // the lock is given back before the object is closed
        let handle = self.lock_handles().remove(&number);
        if let Some(Handle::Segment(_)) = handle {
            self.figures.open_handles.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn lock_handles(&self) -> MutexGuard<'_, HashMap<u64, Handle>> {
        self.handles.lock().expect("a panic ends the process, so no lock is poisoned")
    }

    /// Says in the log, once a period, how many failed requests it does not show; call it every second or so.
    pub fn log_suppressed(&self) {
        if let Some(requests) = self.log_limit.suppressed(Instant::now()) {
            let cache = self.layout.dir().display();
            tracing::warn!(requests, %cache, "more requests failed than are logged; status.json counts them all");
        }
    }

    /// Counts a failure and says it in the log where a person must know: a few times a minute, for a failing disk
    /// fails each request.
    fn failed(&self, what: &'static str, failure: &Failure) -> fuser::Errno {
        self.figures.failed(failure);
        match failure {
            Failure::Io(error) => {
                if self.log_limit.admits(Instant::now()) {
                    tracing::warn!(what, %error, cache = %self.layout.dir().display(), "a request failed");
                }
            }
            Failure::Stale => count(&self.figures.stale_answers),
            Failure::ReadOnly
            | Failure::NotFound
            | Failure::NoAttribute
            | Failure::SmallBuffer
            | Failure::NotADirectory
            | Failure::BadHandle
            | Failure::NoSuchCall => {}
        }
        failure.errno()
    }

    fn digest_of(&self, ino: u64) -> Option<(SegmentId, Digest)> {
        self.inodes.get(ino).map(|known| (known.id, known.digest))
    }
}
