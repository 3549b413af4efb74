//! The deep store: where published segments live for good.
//!
//! Invariants: every call ends, by its answer or by its time-out; a listing that could not see everything
//! says so; names that are not segments, temporary names and hidden directories are skipped and counted,
//! never an error. A store holds bytes: what they mean (seals, fences, admission) is said elsewhere.
//!
//! Two implementations pass one contract suite (`sync/tests/store_contract/`): [`hdfs`] and [`local`].

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fsd::segment::{SegmentId, Stamp};
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

mod channel;
pub mod hdfs;
pub mod local;

/// A path below the store's root: components joined by `/`, none of them empty, `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StorePath(String);

/// A string that is no path below a store's root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a path below the deep store's root")]
pub struct InvalidStorePath(String);

impl StorePath {
    /// The root itself.
    pub fn root() -> Self {
        Self(String::new())
    }

    /// Checks and takes `path`; the empty string is the root.
    pub fn new(path: &str) -> Result<Self, InvalidStorePath> {
        let component = |c: &str| !matches!(c, "" | "." | "..") && !c.contains('\0');
        if path.is_empty() || path.split('/').all(component) {
            return Ok(Self(path.to_owned()));
        }
        Err(InvalidStorePath(path.to_owned()))
    }

    /// This path and one component more.
    pub fn join(&self, component: &str) -> Result<Self, InvalidStorePath> {
        if component.is_empty() || component.contains('/') {
            return Err(InvalidStorePath(component.to_owned()));
        }
        match self.0.as_str() {
            "" => Self::new(component),
            parent => Self::new(&format!("{parent}/{component}")),
        }
    }

    /// Where a published segment lives: `<id minus its last 3 characters>/<id>.sqlite`, for an id of 3
    /// characters or fewer `<id>.sqlite`.
    pub fn published(id: &SegmentId) -> Self {
        let text = id.as_str();
        match text.len() {
            0..=3 => Self(id.file_name()),
            // ids are ASCII, so every byte is a character
            length => Self(format!("{}/{}", &text[..length - 3], id.file_name())),
        }
    }

    /// The directory that holds this path.
    pub fn parent(&self) -> Self {
        self.0.rsplit_once('/').map_or_else(Self::root, |(parent, _)| Self(parent.to_owned()))
    }

    /// The last component; empty for the root.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(self.0.as_str(), |(_, name)| name)
    }

    /// The path as text, without a leading `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<String> for StorePath {
    type Error = InvalidStorePath;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<StorePath> for String {
    fn from(path: StorePath) -> Self {
        path.0
    }
}

/// How long one call to the deep store may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreTimeouts {
    /// One question to the NameNode: stat, rename, delete, mkdir, one page of a listing.
    pub call_ms: u64,
    /// Between two pieces of a file that is read or written, including open and close.
    pub io_ms: u64,
}

impl Default for StoreTimeouts {
    fn default() -> Self {
        // hdfs-native has none of its own towards the NameNode; a NameNode's pause for garbage is seconds
        Self { call_ms: 15_000, io_ms: 30_000 }
    }
}

impl StoreTimeouts {
    /// [`Self::call_ms`] as a duration.
    pub fn call(&self) -> Duration {
        Duration::from_millis(self.call_ms)
    }

    /// [`Self::io_ms`] as a duration.
    pub fn io(&self) -> Duration {
        Duration::from_millis(self.io_ms)
    }
}

/// What failed, for code that decides what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The file or directory is not there.
    NotFound,
    /// A create without overwrite, or the one mkdir, found something there.
    AlreadyExists,
    /// The store's permissions refuse it.
    Denied,
    /// No answer within the time-out; the call may have happened all the same.
    TimedOut,
    /// The store is away, broken, or gave an error that trying again may cure; the call may have happened.
    Unavailable,
    /// What came is not what the store promises (a short read, a name it cannot say).
    Corrupt,
}

/// A call to the deep store that failed.
#[derive(Debug, thiserror::Error)]
#[error("{attempted} {target}: {reason}")]
pub struct StoreError {
    /// What kind of failure.
    pub kind: StoreErrorKind,
    /// What was attempted: "list", "read", "rename ..." .
    pub attempted: &'static str,
    /// On what: the full path or address, as an operator would write it.
    pub target: String,
    /// What came back, and where useful what to do.
    pub reason: String,
}

/// A segment file that a listing saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id, from its name.
    pub id: SegmentId,
    /// Where it lies.
    pub path: StorePath,
    /// Length and mtime then.
    pub stamp: Stamp,
}

/// Why a listing passed a file over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// It ends in `.sqlite`, but the rest is no segment id.
    InvalidId,
    /// The name is not UTF-8.
    UnreadableName,
    /// It has length 0: empty, or still being written.
    Empty,
    /// A `-wal` or `-journal` lies beside it: its last transactions are not in the file.
    SideFile,
    /// It is not a regular file (a directory that ends in `.sqlite`, a symlink out of the store).
    NotAFile,
}

/// One thing that a listing has to say.
#[derive(Debug)]
pub enum ListItem {
    /// A segment file.
    Segment(Listed),
    /// A file that was passed over. Files that do not end in `.sqlite` and anything below a component that
    /// starts with `.` are passed over in silence.
    Skipped {
        /// Its path, lossily decoded: for people.
        path: String,
        /// Why.
        reason: SkipReason,
    },
    /// A part of the store could not be seen (a directory refused, gone in between, a time-out). The stream
    /// goes on with what can be seen; whoever reads it must treat the whole listing as incomplete.
    Unseen(StoreError),
}

/// A file that is being written; nothing can be relied on before [`StoreWriter::close`] came back.
/// Dropping it without closing leaves an unfinished file under its (temporary) name.
#[async_trait]
pub trait StoreWriter: Send {
    /// Appends `bytes`.
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError>;
    /// Finishes the file: durable, with its final length and mtime.
    async fn close(self: Box<Self>) -> Result<(), StoreError>;
}

/// The deep store. All paths are below its root.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// The root as an operator would write it: `hdfs://host:port/path`, or a directory.
    fn address(&self) -> String;

    /// Every segment file at any depth, in no order, as a stream: memory does not grow with the listing.
    /// The stream ends by itself; a root that is not there is one [`ListItem::Unseen`] and nothing else.
    fn list(&self) -> BoxStream<'_, ListItem>;

    /// Length and mtime of one file, `None` when there is no such file.
    async fn stat(&self, path: &StorePath) -> Result<Option<Stamp>, StoreError>;

    /// The file's bytes in order. Ends with an error when fewer come than `stat` said.
    async fn read(
        &self,
        path: &StorePath,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError>;

    /// Creates a file in a directory that is there; never makes the directory, never overwrites.
    async fn create(&self, path: &StorePath) -> Result<Box<dyn StoreWriter>, StoreError>;

    /// Makes a directory and those above it. One that is there already is no error.
    async fn mkdir(&self, path: &StorePath) -> Result<(), StoreError>;

    /// Moves a file over whatever is at `to`, in one step; the file keeps its mtime.
    async fn rename(&self, from: &StorePath, to: &StorePath) -> Result<(), StoreError>;

    /// Deletes a file. `false` when it was not there.
    async fn delete(&self, path: &StorePath) -> Result<bool, StoreError>;

    /// Deletes a directory with all that is in it. `false` when it was not there.
    async fn delete_tree(&self, path: &StorePath) -> Result<bool, StoreError>;

    /// The names directly in a directory, empty when it is not there; refused above `limit` names.
    async fn names(&self, path: &StorePath, limit: usize) -> Result<Vec<String>, StoreError>;
}

/// The deep store at `url`: `hdfs://HOST:PORT/PATH` (or `hdfs://NAMESERVICE/PATH` with `HADOOP_CONF_DIR` set),
/// a directory, or `file://` and an absolute directory. Nothing is asked of it yet.
pub fn open(url: &str, timeouts: StoreTimeouts) -> Result<Arc<dyn Store>, StoreError> {
    let refused = |reason: &str| StoreError {
        kind: StoreErrorKind::NotFound,
        attempted: "open the deep store",
        target: url.to_owned(),
        reason: reason.to_owned(),
    };
    match url.split_once("://") {
        Some(("hdfs", _)) => Ok(Arc::new(hdfs::HdfsStore::new(url, timeouts)?)),
        Some(("file", path)) if path.starts_with('/') => {
            Ok(Arc::new(local::LocalStore::new(Path::new(path), timeouts)?))
        }
        Some(("file", _)) => Err(refused("`file://` needs an absolute path: file:///DIRECTORY")),
        Some(_) => Err(refused("not a kind of store; use hdfs://HOST:PORT/PATH or a directory")),
        None if url.is_empty() => Err(refused("no address given")),
        None => Ok(Arc::new(local::LocalStore::new(Path::new(url), timeouts)?)),
    }
}
