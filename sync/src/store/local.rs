//! A directory of this machine as the deep store.
//!
//! Invariants: no call leaves the root, also not through a symlink; what [`StoreWriter::close`], `rename` and
//! `delete` said is on the disk (file and directory are fsynced); the listing holds one directory's names at
//! a time and hands entries over a bounded channel, so its memory does not grow with the store.
//!
//! Left out: a time-out that ends a system call. One that hangs (a dead network file system) is given up on
//! after the time-out, but its thread stays until the kernel answers.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use fsd::segment::Stamp;
use futures::stream::BoxStream;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use tokio::sync::mpsc;

use super::channel::until_late;
use super::{
    ListItem, SkipReason, Store, StoreError, StoreErrorKind, StorePath, StoreTimeouts, StoreWriter,
};

mod list;

/// Listing entries that may wait for a slow caller.
const LIST_AHEAD: usize = 256;
/// Bytes of one piece of a file that is read.
const READ_BYTES: usize = 1 << 20;
/// Pieces that may wait for a slow caller.
const READ_AHEAD: usize = 2;

/// A directory as the deep store.
#[derive(Debug, Clone)]
pub struct LocalStore {
    root: Arc<Path>,
    timeouts: StoreTimeouts,
}

impl LocalStore {
    /// The store below `root`, which need not be there yet; symlinks in it are resolved now, once.
    pub fn new(root: &Path, timeouts: StoreTimeouts) -> Result<Self, StoreError> {
        let canonical = match root.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::path::absolute(root),
            other => other,
        };
        let root = canonical.map_err(|error| failed("open the deep store", root, &error))?;
        Ok(Self { root: root.into(), timeouts })
    }

    fn path(&self, path: &StorePath) -> PathBuf {
        match path.as_str() {
            "" => self.root.to_path_buf(),
            below => self.root.join(below),
        }
    }

    /// Runs `call` on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        limit: Duration,
        attempted: &'static str,
        path: &StorePath,
        call: impl FnOnce(&Path, &Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (root, full) = (self.root.clone(), self.path(path));
        let target = full.clone();
        let task = tokio::task::spawn_blocking(move || {
            stay_below(&root, &full)?;
            call(&root, &full)
        });
        timed(limit, attempted, &target, task).await
    }
}

/// Refuses a path whose directories lead out of the root through a symlink.
fn stay_below(root: &Path, full: &Path) -> io::Result<()> {
    let Some(parent) = full.strip_prefix(root).ok().and_then(Path::parent) else { return Ok(()) };
    if parent.as_os_str().is_empty() {
        return Ok(());
    }
    match open_beneath(root, parent, OFlags::PATH | OFlags::DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map(drop),
    }
}

/// Opens `path` below `root` without following any symlink on the way or at its end.
fn open_beneath(root: &Path, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let base = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(rustix::fs::openat2(base, path, flags | OFlags::CLOEXEC, Mode::empty(), how)?)
}

async fn timed<T>(
    limit: Duration,
    attempted: &'static str,
    target: &Path,
    task: tokio::task::JoinHandle<io::Result<T>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, task).await {
        Ok(Ok(result)) => result.map_err(|error| failed(attempted, target, &error)),
        Ok(Err(join)) => Err(failed(attempted, target, &io::Error::other(join))),
        Err(_) => Err(late(attempted, target, limit)),
    }
}

fn late(attempted: &'static str, target: &Path, limit: Duration) -> StoreError {
    StoreError {
        kind: StoreErrorKind::TimedOut,
        attempted,
        target: target.display().to_string(),
        reason: format!("no answer from the file system within {limit:?}"),
    }
}

fn failed(attempted: &'static str, target: &Path, error: &io::Error) -> StoreError {
    let (kind, remedy) = match error.kind() {
        io::ErrorKind::NotFound => (StoreErrorKind::NotFound, ""),
        io::ErrorKind::AlreadyExists => (StoreErrorKind::AlreadyExists, ""),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => (
            StoreErrorKind::Denied,
            "; this user needs read permission, and write permission to publish",
        ),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (StoreErrorKind::Unavailable, "; free space on that volume")
        }
        // what is left is a device or a file system in trouble; trying again may help
        _ => (StoreErrorKind::Unavailable, ""),
    };
    let target = target.display().to_string();
    StoreError { kind, attempted, target, reason: format!("{error}{remedy}") }
}

fn stamp(metadata: &std::fs::Metadata) -> Stamp {
    let mtime_ms = metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000;
    // a file dated before 1970 is as old as a version can be
    Stamp { length: metadata.len(), mtime_ms: u64::try_from(mtime_ms).unwrap_or(0) }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Makes `path` and what is missing above it, each made durable in its parent.
fn make_directories(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_directories(path.parent().ok_or(error)?)?;
            make_directories(path)
        }
        Err(error) => Err(error),
    }
}

fn gone_is_false(result: io::Result<()>, path: &Path) -> io::Result<bool> {
    match result {
        Ok(()) => sync_parent(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Store for LocalStore {
    fn address(&self) -> String {
        self.root.display().to_string()
    }

    fn list(&self) -> BoxStream<'_, ListItem> {
        let (sender, receiver) = mpsc::channel(LIST_AHEAD);
        let root = self.root.clone();
        // ends with its directory when the receiver is dropped
        tokio::task::spawn_blocking(move || list::walk(&root, &sender));
        let (limit, target) = (self.timeouts.io(), self.root.clone());
        until_late(receiver, limit, move || ListItem::Unseen(late("list", &target, limit)))
    }

    async fn stat(&self, path: &StorePath) -> Result<Option<Stamp>, StoreError> {
        self.blocking(
            self.timeouts.call(),
            "stat",
            path,
            |_, full| match std::fs::symlink_metadata(full) {
                Ok(metadata) if metadata.is_file() => Ok(Some(stamp(&metadata))),
                Ok(_) => Ok(None),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
                Err(error) => Err(error),
            },
        )
        .await
    }

    async fn read(
        &self,
        path: &StorePath,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let open = |root: &Path, full: &Path| {
            let below = full.strip_prefix(root).map_err(io::Error::other)?;
            let file = File::from(open_beneath(root, below, OFlags::RDONLY)?);
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        let (file, length) = self.blocking(self.timeouts.io(), "read", path, open).await?;
        let full = self.path(path);
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        tokio::task::spawn_blocking(move || read_all(file, length, &full, &sender));
        let (limit, target) = (self.timeouts.io(), self.path(path));
        Ok(until_late(receiver, limit, move || Err(late("read", &target, limit))))
    }

    async fn create(&self, path: &StorePath) -> Result<Box<dyn StoreWriter>, StoreError> {
        let file = self
            .blocking(self.timeouts.io(), "create", path, |_, full| {
                let file =
                    OpenOptions::new().write(true).create_new(true).mode(0o644).open(full)?;
                sync_parent(full)?;
                Ok(file)
            })
            .await?;
        let target = self.path(path);
        Ok(Box::new(LocalWriter { file: Arc::new(file), target, limit: self.timeouts.io() }))
    }

    async fn mkdir(&self, path: &StorePath) -> Result<(), StoreError> {
        let make = |_: &Path, full: &Path| make_directories(full);
        self.blocking(self.timeouts.call(), "mkdir", path, make).await
    }

    async fn rename(&self, from: &StorePath, to: &StorePath) -> Result<(), StoreError> {
        let source = self.path(from);
        self.blocking(self.timeouts.call(), "rename to", to, move |root, full| {
            stay_below(root, &source)?;
            std::fs::rename(&source, full)?;
            sync_parent(full)?;
            sync_parent(&source)
        })
        .await
    }

    async fn delete(&self, path: &StorePath) -> Result<bool, StoreError> {
        let delete = |_: &Path, full: &Path| gone_is_false(std::fs::remove_file(full), full);
        self.blocking(self.timeouts.call(), "delete", path, delete).await
    }

    async fn delete_tree(&self, path: &StorePath) -> Result<bool, StoreError> {
        let delete = |_: &Path, full: &Path| gone_is_false(std::fs::remove_dir_all(full), full);
        self.blocking(self.timeouts.io(), "delete", path, delete).await
    }

    async fn names(&self, path: &StorePath, limit: usize) -> Result<Vec<String>, StoreError> {
        self.blocking(self.timeouts.io(), "list", path, move |_, full| {
            let entries = match std::fs::read_dir(full) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                other => other?,
            };
            let mut names = Vec::new();
            for entry in entries {
                if names.len() == limit {
                    let text = format!("more than {limit} names, which is too many here");
                    return Err(io::Error::other(text));
                }
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            Ok(names)
        })
        .await
    }
}

fn read_all(
    mut file: File,
    length: u64,
    target: &Path,
    sender: &mpsc::Sender<Result<Bytes, StoreError>>,
) {
    let mut left = length;
    while left > 0 {
        let want = usize::try_from(left).map_or(READ_BYTES, |left| left.min(READ_BYTES));
        let mut piece = BytesMut::zeroed(want);
        let item = match file.read(&mut piece) {
            Ok(0) => {
                let text = format!("the file ended {left} bytes before its length of {length}");
                let (kind, target) = (StoreErrorKind::Corrupt, target.display().to_string());
                Err(StoreError { kind, attempted: "read", target, reason: text })
            }
            Ok(got) => {
                piece.truncate(got);
                left -= got as u64;
                Ok(piece.freeze())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(failed("read", target, &error)),
        };
        let last = item.is_err();
        if sender.blocking_send(item).is_err() || last {
            return;
        }
    }
}

struct LocalWriter {
    file: Arc<File>,
    target: PathBuf,
    limit: Duration,
}

#[async_trait]
impl StoreWriter for LocalWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let file = self.file.clone();
        let task = tokio::task::spawn_blocking(move || (&*file).write_all(&bytes));
        timed(self.limit, "write", &self.target, task).await
    }

    async fn close(self: Box<Self>) -> Result<(), StoreError> {
        let file = self.file.clone();
        let task = tokio::task::spawn_blocking(move || file.sync_all());
        timed(self.limit, "close", &self.target, task).await
    }
}

/// Whether a name is passed over in silence: hidden, or temporary by the rule that temporary names are hidden.
fn hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

/// The names in one directory, in byte order.
fn sorted_names(entries: std::fs::ReadDir) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        if !hidden(&name) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn skipped(path: &Path, reason: SkipReason) -> ListItem {
    ListItem::Skipped { path: path.display().to_string(), reason }
}
