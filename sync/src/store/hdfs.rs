//! HDFS as the deep store, through `hdfs-native`.
//!
//! Invariants: every call ends within its time-out, because the crate itself never gives a NameNode up; after
//! a time-out the client is thrown away and a new one made, so that a connection to a NameNode that hangs is
//! not used again. Calls that change something are never repeated: one whose answer was lost is followed by
//! a look at what is there, and only what can be seen to have happened is reported as done. Only a whole new
//! read is tried again ("All DataNodes failed" says both corruption and outage, and the crate does not ask for
//! the places of the blocks a second time).
//!
//! Left out: Kerberos, high availability and viewfs are whatever `hdfs-native` makes of the configuration in
//! `HADOOP_CONF_DIR`. The crate's task that renews leases never ends, so each client that wrote and was thrown
//! away leaves one idle task and one connection behind; one for each outage, not for each call.

use std::future::Future;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use fsd::segment::Stamp;
use futures::stream::BoxStream;
use hdfs_native::client::FileStatus;
use hdfs_native::file::FileWriter;
use hdfs_native::{Client, ClientBuilder, HdfsError, WriteOptions};
use tokio::sync::mpsc;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::channel::until_late;
use super::{ListItem, Store, StoreError, StoreErrorKind, StorePath, StoreTimeouts, StoreWriter};

mod error;
mod list;
mod read;

pub use list::panic_is_contained;

use error::{failed, late};

/// Listing entries that may wait for a slow caller.
const LIST_AHEAD: usize = 1024;
/// Permissions of the directories made here; files are 0644.
const DIRECTORY_MODE: u32 = 0o755;
/// How many DataNodes that hang one read can outlast.
const DATANODES_TRIED: u64 = 3;
/// How often a connection to a single NameNode is tried within one call; a name service keeps the crate's 15,
/// because it tries its NameNodes in turn.
const CONNECT_ATTEMPTS: &str = "3";
/// The first pause between two such tries; the crate doubles it each time.
const CONNECT_PAUSE_MS: &str = "100";

/// A directory of HDFS as the deep store. Cloning is cheap and shares the connection.
#[derive(Debug, Clone)]
pub struct HdfsStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// As an operator writes it, without a `/` at the end.
    address: String,
    /// Scheme and authority.
    name_node: String,
    /// The root's absolute path, empty for `/`.
    root: String,
    timeouts: StoreTimeouts,
    current: Mutex<Current>,
}

/// The client in use, and how many came before it.
#[derive(Debug, Clone)]
struct Current {
    client: Client,
    generation: u64,
}

impl HdfsStore {
    /// The store at `url`: `hdfs://HOST:PORT/PATH`, or `hdfs://NAMESERVICE/PATH` with a configuration in
    /// `HADOOP_CONF_DIR`. Connects when first used.
    pub fn new(url: &str, timeouts: StoreTimeouts) -> Result<Self, StoreError> {
        let refused = |reason: &str| StoreError {
            kind: StoreErrorKind::NotFound,
            attempted: "open the deep store",
            target: url.to_owned(),
            reason: format!("{reason}; use hdfs://HOST:PORT/PATH"),
        };
        let rest = url.strip_prefix("hdfs://").ok_or_else(|| refused("not an HDFS address"))?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.is_empty() {
            return Err(refused("the address names no host"));
        }
        let path = path.trim_end_matches('/');
        StorePath::new(path)
            .map_err(|_| refused("the path has an empty, `.` or `..` component"))?;
        let root = if path.is_empty() { String::new() } else { format!("/{path}") };
        let name_node = format!("hdfs://{authority}");
        let client = connect(&name_node, timeouts)
            .map_err(|error| failed("open the deep store", url.to_owned(), error))?;
        let shared = Shared {
            address: format!("{name_node}{root}"),
            name_node,
            root,
            timeouts,
            current: Mutex::new(Current { client, generation: 0 }),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    fn path(&self, path: &StorePath) -> String {
        match (self.shared.root.as_str(), path.as_str()) {
            ("", "") => "/".to_owned(),
            (root, "") => root.to_owned(),
            (root, below) => format!("{root}/{below}"),
        }
    }

    fn target(&self, full: &str) -> String {
        format!("{}{full}", self.shared.name_node)
    }

    fn current(&self) -> Current {
        self.shared.current.lock().expect("no code panics while it holds the client").clone()
    }

    /// Throws the client of `generation` away, unless another call already did.
    fn renew(&self, generation: u64) {
        let mut current =
            self.shared.current.lock().expect("no code panics while it holds the client");
        if current.generation != generation {
            return;
        }
        match connect(&self.shared.name_node, self.shared.timeouts) {
            Ok(client) => *current = Current { client, generation: generation + 1 },
            Err(error) => tracing::warn!(%error, "the HDFS configuration cannot be read any more"),
        }
    }

    /// One question to the NameNode, within the time-out for calls.
    async fn call<T, F: Future<Output = Result<T, HdfsError>>>(
        &self,
        attempted: &'static str,
        full: &str,
        call: impl FnOnce(Client) -> F,
    ) -> Result<T, StoreError> {
        let Current { client, generation } = self.current();
        let limit = self.shared.timeouts.call();
        match timeout(limit, call(client)).await {
            Ok(result) => result.map_err(|error| failed(attempted, self.target(full), error)),
            Err(_) => {
                self.renew(generation);
                Err(late(attempted, self.target(full), limit))
            }
        }
    }

    async fn status(&self, full: &str) -> Result<Option<FileStatus>, StoreError> {
        let path = full.to_owned();
        let ask = |client: Client| async move { client.get_file_info(&path).await };
        absent_is_none(self.call("stat", full, ask).await)
    }

    async fn remove(&self, path: &StorePath, recursive: bool) -> Result<bool, StoreError> {
        let full = self.path(path);
        let ask_path = full.clone();
        let ask = |client: Client| async move { client.delete(&ask_path, recursive).await };
        match self.call("delete", &full, ask).await {
            Err(error) if ambiguous(&error) => match self.status(&full).await {
                // whoever did it, it is gone, which is what was asked for
                Ok(None) => Ok(true),
                Ok(Some(_)) | Err(_) => Err(error),
            },
            other => absent_is_none(other.map(Some)).map(|done| done.flatten().unwrap_or(false)),
        }
    }
}

/// Whether the call may have happened although it failed.
fn ambiguous(error: &StoreError) -> bool {
    matches!(error.kind, StoreErrorKind::TimedOut | StoreErrorKind::Unavailable)
}

fn absent_is_none<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn connect(name_node: &str, timeouts: StoreTimeouts) -> Result<Client, HdfsError> {
    // a third, so that a DataNode that hangs is given up while there is time left for the other replicas
    let socket_ms = (timeouts.io_ms / DATANODES_TRIED).max(1);
    let mut settings = vec![("dfs.client.socket-timeout", socket_ms.to_string())];
    let single = name_node.trim_start_matches("hdfs://").contains(':');
    if single {
        settings.push(("dfs.client.failover.max.attempts", CONNECT_ATTEMPTS.to_owned()));
        settings.push(("dfs.client.failover.sleep.base.millis", CONNECT_PAUSE_MS.to_owned()));
    }
    ClientBuilder::new().with_url(name_node).with_config(settings).build()
}

fn stamp(status: &FileStatus) -> Stamp {
    Stamp { length: status.length as u64, mtime_ms: status.modification_time }
}

#[async_trait]
impl Store for HdfsStore {
    fn address(&self) -> String {
        self.shared.address.clone()
    }

    fn list(&self) -> BoxStream<'_, ListItem> {
        let (sender, receiver) = mpsc::channel(LIST_AHEAD);
        tokio::spawn(list::walk(self.clone(), sender));
        // the walk times its own calls; this is for a walk that died
        let limit = self.shared.timeouts.call() * 2;
        let target = self.shared.address.clone();
        until_late(receiver, limit, move || ListItem::Unseen(late("list", target.clone(), limit)))
    }

    async fn stat(&self, path: &StorePath) -> Result<Option<Stamp>, StoreError> {
        let status = self.status(&self.path(path)).await?;
        Ok(status.filter(|status| !status.isdir).map(|status| stamp(&status)))
    }

    async fn read(
        &self,
        path: &StorePath,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        read::stream(self.clone(), self.path(path)).await
    }

    async fn create(&self, path: &StorePath) -> Result<Box<dyn StoreWriter>, StoreError> {
        let full = self.path(path);
        let ask_path = full.clone();
        let options = WriteOptions::default().create_parent(false).overwrite(false);
        let ask = |client: Client| async move { client.create(&ask_path, &options).await };
        // one whose answer was lost cannot be told from somebody else's file, so it stays an error
        let writer = self.call("create", &full, ask).await?;
        Ok(Box::new(HdfsWriter { store: self.clone(), full, writer }))
    }

    async fn mkdir(&self, path: &StorePath) -> Result<(), StoreError> {
        let full = self.path(path);
        let ask_path = full.clone();
        let ask =
            |client: Client| async move { client.mkdirs(&ask_path, DIRECTORY_MODE, true).await };
        match self.call("mkdir", &full, ask).await {
            Err(error) if ambiguous(&error) => match self.status(&full).await {
                Ok(Some(status)) if status.isdir => Ok(()),
                Ok(_) | Err(_) => Err(error),
            },
            other => other,
        }
    }

    async fn rename(&self, from: &StorePath, to: &StorePath) -> Result<(), StoreError> {
        let (from, to) = (self.path(from), self.path(to));
        let before = self.status(&from).await?.ok_or_else(|| {
            failed("rename", self.target(&from), HdfsError::FileNotFound(from.clone()))
        })?;
        let (ask_from, ask_to) = (from.clone(), to.clone());
        let ask = |client: Client| async move { client.rename(&ask_from, &ask_to, true).await };
        match self.call("rename to", &to, ask).await {
            Err(error) if ambiguous(&error) => {
                let source = self.status(&from).await;
                let arrived = self.status(&to).await;
                match (source, arrived) {
                    (Ok(None), Ok(Some(there))) if stamp(&there) == stamp(&before) => Ok(()),
                    _ => Err(error),
                }
            }
            other => other,
        }
    }

    async fn delete(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.remove(path, false).await
    }

    async fn delete_tree(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.remove(path, true).await
    }

    async fn names(&self, path: &StorePath, limit: usize) -> Result<Vec<String>, StoreError> {
        list::names(self, &self.path(path), limit).await
    }
}

struct HdfsWriter {
    store: HdfsStore,
    full: String,
    writer: FileWriter,
}

impl HdfsWriter {
    fn said<T>(
        &self,
        attempted: &'static str,
        answer: Result<Result<T, HdfsError>, Elapsed>,
    ) -> Result<(), StoreError> {
        let target = self.store.target(&self.full);
        match answer {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(failed(attempted, target, error)),
            Err(_) => Err(late(attempted, target, self.store.shared.timeouts.io())),
        }
    }
}

#[async_trait]
impl StoreWriter for HdfsWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let limit = self.store.shared.timeouts.io();
        let answer = timeout(limit, self.writer.write_bytes(bytes)).await;
        self.said("write", answer)
    }

    async fn close(mut self: Box<Self>) -> Result<(), StoreError> {
        // The store does not say whether a file is closed, so a lost answer stays an error: the caller wrote
        // under a temporary name and begins anew.
        let limit = self.store.shared.timeouts.io();
        let answer = timeout(limit, self.writer.close()).await;
        self.said("close", answer)
    }
}
