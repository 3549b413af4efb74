//! A node of the cluster in the registry: that it is there, what it may take, and where its servers are.
//!
//! Invariants: one process at a time is a node of one name; what it says is believed only while its session holds the
//! node's lock; a node that comes back is there at once, for it ends the session that it had before, which it wrote
//! down, and its lock has no delay.
//!
//! Left out: what it holds, which is a table of its own.

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::clock::SinceBoot;
use crate::kv::{
    Consistency, Entry, Index, InvalidSession, KeptSession, Key, Kv, KvError, Op, SessionId,
    SessionOptions, Txn,
};
use crate::services::is_hyphenated;

/// Below it is one key for each node.
pub(crate) const NODES_KEY: &str = "trough/node";
/// The longest name: it is also a label of DNS.
const NAME_BYTES_MAX: usize = 63;
/// The format of [`Node`]. A trough passes over one that it does not know.
const FORMAT: u32 = 1;

/// What a node is called: a label of DNS, `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

/// A text that names no node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no node: it needs 1 to {NAME_BYTES_MAX} characters of a-z, 0-9 and -, and - neither first nor last"
)]
pub struct InvalidNodeName(String);

impl NodeName {
    /// Checks and takes `text`.
    pub fn new(text: &str) -> Result<Self, InvalidNodeName> {
        let right = is_hyphenated(text, NAME_BYTES_MAX);
        right.then(|| Self(text.into())).ok_or_else(|| InvalidNodeName(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn key(&self) -> Result<Key, KvError> {
        crate::kv::key(&format!("{NODES_KEY}/{}", self.0))
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<String> for NodeName {
    type Error = InvalidNodeName;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0.as_ref().to_owned()
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    format: u32,
    /// What its cache may take, in bytes.
    pub quota_bytes: u64,
    /// What its cache takes, in bytes.
    pub stored_bytes: u64,
    /// What fails together with it.
    pub rack: Option<String>,
    /// Where its reader answers, as `host:port`.
    pub read_address: String,
    /// Where its segment manager and its status are, as `host:port`.
    pub manager_address: String,
    /// Whether its table of holdings says all that it has: not yet, just after its start.
    pub announced: bool,
    /// Grows with every change of that table, so that who watches the nodes sees which table to look at.
    pub revision: u64,
    /// Whether a person took it out: others are to be asked where there are any.
    #[serde(default)]
    pub maintenance: bool,
    /// Of its trough.
    pub version: String,
}

impl Node {
    /// A node that has nothing and has said nothing yet.
    pub fn new(quota_bytes: u64, read_address: &str, manager_address: &str) -> Self {
        Self {
            format: FORMAT,
            quota_bytes,
            stored_bytes: 0,
            rack: None,
            read_address: read_address.to_owned(),
            manager_address: manager_address.to_owned(),
            announced: false,
            revision: 0,
            maintenance: false,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn read(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok().filter(|node: &Self| node.format == FORMAT)
    }

    fn write(&self) -> Vec<u8> {
        // text and numbers: this cannot fail
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Why a node is not registered.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The registry failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The time to live is no session's.
    #[error("take the settings of the node: {0}")]
    Settings(#[from] InvalidSession),
    /// Another process is this node.
    #[error(
        "register node {name}: a process that answers at {address} is it already; give every node a name of its own, \
         or wait until that one's session has ended"
    )]
    Taken {
        /// The name.
        name: NodeName,
        /// Its segment manager's address.
        address: String,
    },
    /// The session is over, or another process became this node: register again.
    #[error("speak for node {0}: its session is over; registering again")]
    Over(NodeName),
    /// The session could not be written down, so the next start would have to wait for its end.
    #[error("write the node's session to {path}: {error}")]
    SessionFile {
        /// Where.
        path: PathBuf,
        /// What came back.
        error: std::io::Error,
    },
}

/// Being a node, until this is dropped and its session's time is over.
#[derive(Debug)]
pub struct Registration {
    kv: Arc<dyn Kv>,
    name: NodeName,
    session: KeptSession,
    since: Index,
}

impl Registration {
    /// Registers `name` as `node` with a session of `ttl`, which is written to `session_file`: the next start on the
    /// same file takes the place of this one at once.
    pub async fn register(
        kv: Arc<dyn Kv>,
        name: NodeName,
        node: &Node,
        ttl: Duration,
        session_file: &Path,
        since_boot: SinceBoot,
    ) -> Result<Self, NodeError> {
        // without a delay: nobody but the node itself takes the lock, and what it says is fenced
        let options = SessionOptions::new(format!("trough node {name}"), ttl, Duration::ZERO)?;
        if let Some(before) = read_session(session_file) {
            kv.destroy_session(&before).await?;
        }
        let session = KeptSession::create(kv.clone(), &options, since_boot).await?;
        let registered = async {
            write_session(session_file, session.id())?;
            let key = name.key()?;
            let acquired = kv.acquire(&key, node.write().into(), session.id()).await?;
            let there = kv.get(&key).await?;
            match &there {
                Some(entry) if acquired && entry.session.as_ref() == Some(session.id()) => {
                    return Ok(entry.modified);
                }
                _ if acquired => return Err(NodeError::Over(name.clone())),
                _ => {}
            }
            let there = there.and_then(|entry| Node::read(&entry.value));
            let address = there.map_or_else(|| "?".to_owned(), |node| node.manager_address);
            Err(NodeError::Taken { name: name.clone(), address })
        };
        match registered.await {
            Ok(since) => Ok(Self { kv, name, session, since }),
            Err(error) => {
                session.destroy().await;
                Err(error)
            }
        }
    }

    /// What everything that it says begins with.
    pub fn fence(&self) -> Result<Op, KvError> {
        Ok(Op::CheckSession { key: self.name.key()?, session: self.session.id().clone() })
    }

    /// When it began: greater than that of every registration of this name before, within one life of the registry.
    pub fn since(&self) -> Index {
        self.since
    }

    /// Whether it goes on, by this machine's clock.
    pub fn holds(&self) -> bool {
        self.session.holds()
    }

    /// Returns when it is over.
    pub async fn over(&self) {
        self.session.ended().await;
    }

    /// Is cancelled when it is over.
    pub fn ending(&self) -> CancellationToken {
        self.session.ending()
    }

    /// Says something else of itself.
    pub async fn update(&self, node: &Node) -> Result<(), NodeError> {
        let set = Op::Set { key: self.name.key()?, value: node.write().into() };
        self.commit(&[self.fence()?, set]).await
    }

    /// Makes sure that it is not over, and changes nothing.
    pub async fn confirm(&self) -> Result<(), NodeError> {
        self.commit(&[self.fence()?]).await
    }

    async fn commit(&self, ops: &[Op]) -> Result<(), NodeError> {
        match self.kv.txn(ops).await? {
            Txn::Committed(_) => Ok(()),
            Txn::Refused(_) => Err(NodeError::Over(self.name.clone())),
        }
    }

    /// Leaves: who looks sees at once that it is not there any more.
    pub async fn leave(self) {
        self.session.destroy().await;
    }
}

/// A node that was there at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: NodeName,
    /// What it said last; `None` when that cannot be read.
    pub node: Option<Node>,
    /// Whether its session holds.
    pub registered: bool,
    /// When it said it.
    pub modified: Index,
}

/// Every node that ever was, in order of name. Keys that name none are passed over.
pub async fn members(kv: &dyn Kv) -> Result<Vec<Member>, KvError> {
    members_of(kv.list(&crate::kv::key(NODES_KEY)?, Consistency::Consistent).await?)
}

/// The nodes that `entries` speak of, which lie below [`NODES_KEY`].
pub(crate) fn members_of(entries: Vec<Entry>) -> Result<Vec<Member>, KvError> {
    let below = crate::kv::key(NODES_KEY)?;
    let member = |entry: Entry| {
        let name = NodeName::new(entry.key.below(&below)?).ok()?;
        let (node, registered) = (Node::read(&entry.value), entry.session.is_some());
        Some(Member { name, node, registered, modified: entry.modified })
    };
    Ok(entries.into_iter().filter_map(member).collect())
}

fn read_session(file: &Path) -> Option<SessionId> {
    SessionId::new(std::fs::read_to_string(file).ok()?.trim())
}

fn write_session(file: &Path, session: &SessionId) -> Result<(), NodeError> {
    let write = || {
        let directory = file.parent().unwrap_or(Path::new("."));
        let mut aside = tempfile::NamedTempFile::new_in(directory)?;
        writeln!(aside, "{session}")?;
        aside.as_file().sync_all()?;
        aside.persist(file)?;
        std::fs::File::open(directory)?.sync_all()
    };
    write().map_err(|error| NodeError::SessionFile { path: file.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_label_of_dns() {
        for right in ["a", "node-1", "0", &"x".repeat(63)] {
            assert_eq!(NodeName::new(right).unwrap().as_str(), right);
        }
        for wrong in ["", "-a", "a-", "a.b", "A", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert!(NodeName::new(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_document_that_is_garbled_or_newer_is_none() {
        let node = Node::new(7, "a:1", "a:2");
        assert_eq!(Node::read(&node.write()), Some(node.clone()));
        assert_eq!(Node::read(b""), None);
        let mut older = serde_json::to_value(&node).unwrap();
        older.as_object_mut().unwrap().remove("maintenance").unwrap();
        let older = serde_json::to_vec(&older).unwrap();
        assert_eq!(Node::read(&older), Some(node.clone()), "of a trough that knows no maintenance");
        assert_eq!(Node::read(&Node { format: 2, ..node }.write()), None);
    }
}
