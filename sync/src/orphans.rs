//! Which orphans there are: writes that a node acknowledged, and that another overtook before they were published. Each
//! node tells of its own at `trough/orphans/<node>`, so that everybody sees that there is something to be decided.
//!
//! Invariants: what is told outlives the node that told it, for nobody else has those rows; a registry that lost it is
//! told again; a document that is not understood is told as such, never as a node without orphans.
//!
//! Left out: the rows themselves, which lie on the node that wrote them, and what becomes of them (`trough orphans`).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fsd::segment::SegmentId;
use serde::{Deserialize, Serialize};

use crate::kv::{Consistency, Key, Kv, KvError, Op};
use crate::node::NodeName;
use crate::registry::Epoch;
use crate::table::document::{pack, unpack};

/// Below it is one key for each node that has orphans.
const ORPHANS_KEY: &str = "trough/orphans";
/// The format of [`NodeOrphans`].
const FORMAT: u64 = 1;
/// The most that one node names: a person decides about each, and with more of them about all at once.
pub const LISTED_MAX: usize = 1_000;
/// How often it is looked whether the registry still has what was told: one that came back empty hears it again soon, and
/// a hundred nodes ask for some documents a minute.
const DOUBT: Duration = Duration::from_secs(60);

/// An orphan, as its node tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orphan {
    /// The segment that it was written to.
    pub segment: SegmentId,
    /// Of the lock under which it was written last.
    pub epoch: Epoch,
    /// Since when it has what is not published; Unix time in milliseconds.
    pub unpublished_since_ms: Option<u64>,
    /// When it was found to be overtaken; Unix time in milliseconds.
    pub set_aside_ms: u64,
    /// The length of its file.
    pub bytes: u64,
    /// How many rows it had that were not published when its node counted them; `None`: they are not counted yet.
    pub rows: Option<u64>,
}

/// What a node says of its orphans. A field more is a later format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeOrphans {
    format: u64,
    /// Whose disk they lie on.
    pub node: NodeName,
    /// At most [`LISTED_MAX`] of them, the oldest first.
    pub orphans: Vec<Orphan>,
    /// How many there are besides.
    pub more: u64,
}

impl NodeOrphans {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.orphans.len() as u64 + self.more
    }

    /// The bytes of `orphans`, as many of them as go into one document.
    fn write(node: &NodeName, orphans: &[Orphan]) -> Option<Bytes> {
        let mut listed = orphans.len().min(LISTED_MAX);
        loop {
            let document = Self {
                format: FORMAT,
                node: node.clone(),
                orphans: orphans[..listed].to_vec(),
                more: (orphans.len() - listed) as u64,
            };
            match pack(&document) {
                None if listed > 0 => listed /= 2,
                packed => return packed,
            }
        }
    }
}

/// A document that is not what this trough writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotUnderstood {
    /// Where it lies.
    pub key: Key,
    /// Why, for people.
    pub reason: String,
}

/// What all nodes say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllOrphans {
    /// Nodes that have some, in order of name.
    pub nodes: Vec<NodeOrphans>,
    /// What cannot be said: upgrade this trough.
    pub not_understood: Vec<NotUnderstood>,
}

/// Reads what all nodes told last, those that are gone among them.
pub async fn read_all(kv: &dyn Kv) -> Result<AllOrphans, KvError> {
    let below = crate::kv::key(ORPHANS_KEY)?;
    let mut all = AllOrphans::default();
    for entry in kv.list(&below, Consistency::Default).await? {
        match understand(&entry.value, entry.key.below(&below)) {
            Ok(node) => all.nodes.push(node),
            Err(reason) => all.not_understood.push(NotUnderstood { key: entry.key, reason }),
        }
    }
    Ok(all)
}

/// What every format has.
#[derive(Deserialize)]
struct Any {
    format: u64,
}

fn understand(value: &[u8], name: Option<&str>) -> Result<NodeOrphans, String> {
    let Any { format } = unpack(value)?;
    if format != FORMAT {
        return Err(format!("its format is {format}, and this trough knows {FORMAT}"));
    }
    let told: NodeOrphans = unpack(value)?;
    match name == Some(told.node.as_str()) {
        true => Ok(told),
        false => Err(format!("it is that of node {}", told.node)),
    }
}

/// Tells of the orphans of one node. It alone writes that node's key, without a session.
pub struct Reporter {
    kv: Arc<dyn Kv>,
    node: NodeName,
    /// What the registry was told, or seen to have, last (nothing is `None`), and when.
    told: tokio::sync::Mutex<Option<(Option<Bytes>, Instant)>>,
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reporter").field(&self.node).finish()
    }
}

impl Reporter {
    /// One of `node`, whose name is also the key's.
    pub fn new(kv: Arc<dyn Kv>, node: NodeName) -> Self {
        Self { kv, node, told: tokio::sync::Mutex::default() }
    }

    /// Tells that the node has `orphans`, the oldest first, if that is news to the registry.
    pub async fn tell(&self, orphans: &[Orphan]) -> Result<(), KvError> {
        let key = crate::kv::key(&format!("{ORPHANS_KEY}/{}", self.node))?;
        let document = match orphans.is_empty() {
            true => None,
            // that a few numbers do not fit cannot be; then nothing is told, which is less than wrong
            false => NodeOrphans::write(&self.node, orphans),
        };
        let mut told = self.told.lock().await;
        if let Some((last, at)) = &*told
            && *last == document
            // a registry that came back empty has nothing to say of a node that has none
            && (document.is_none() || at.elapsed() < DOUBT)
        {
            return Ok(());
        }
        let there = self.kv.get(&key).await?.map(|entry| entry.value);
        if there != document {
            let op = match &document {
                Some(value) => Op::Set { key, value: value.clone() },
                None => Op::Delete { key },
            };
            // neither is refused
            self.kv.txn(&[op]).await?;
        }
        *told = Some((document, Instant::now()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::since_boot;
    use crate::kv::sqlite::{FILE_TIMEOUTS, SqliteKv};

    fn orphan(segment: &str, index: u64) -> Orphan {
        Orphan {
            segment: SegmentId::new(segment).unwrap(),
            epoch: Epoch { incarnation: 1, index },
            unpublished_since_ms: Some(1_795_364_008_524),
            set_aside_ms: 1_795_364_009_000,
            bytes: 8192,
            rows: None,
        }
    }

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    #[test]
    fn s11_a_document_of_format_1_is_what_it_always_was() {
        let json = r#"{"format":1,"node":"a","orphans":[{"segment":"ohio","epoch":{"incarnation":1,"index":7},"unpublished_since_ms":1795364008524,"set_aside_ms":1795364009000,"bytes":8192,"rows":3},{"segment":"texas","epoch":{"incarnation":1,"index":8},"unpublished_since_ms":null,"set_aside_ms":1795364009000,"bytes":8192,"rows":null}],"more":2}"#;
        let value = zstd::bulk::compress(json.as_bytes(), 3).unwrap();
        let told = NodeOrphans {
            format: 1,
            node: node("a"),
            orphans: vec![
                Orphan { rows: Some(3), ..orphan("ohio", 7) },
                Orphan { unpublished_since_ms: None, ..orphan("texas", 8) },
            ],
            more: 2,
        };
        assert_eq!(understand(&value, Some("a")), Ok(told.clone()));
        assert_eq!(serde_json::to_string(&told).unwrap(), json);
        assert_eq!(told.count(), 4);
    }

    #[test]
    fn what_is_not_understood_says_why() {
        for (json, why) in [
            (r#"{"format":2,"node":["a"]}"#, "format is 2"),
            (r#"{"format":1,"node":"a","orphans":[]}"#, "missing field `more`"),
            (r#"{"format":1,"node":"b","orphans":[],"more":0}"#, "that of node b"),
            (r#"{"format":1,"node":"a","orphans":[],"more":0,"x":1}"#, "unknown field `x`"),
        ] {
            let value = zstd::bulk::compress(json.as_bytes(), 3).unwrap();
            let said = understand(&value, Some("a")).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        assert!(understand(b"", Some("a")).is_err());
    }

    #[test]
    fn many_are_counted_where_they_are_not_listed() {
        let many: Vec<_> =
            (0..LISTED_MAX as u64 + 5).map(|n| orphan(&format!("s{n}"), n)).collect();
        let read = |orphans: &[Orphan]| {
            let value = NodeOrphans::write(&node("a"), orphans).unwrap();
            understand(&value, Some("a")).unwrap()
        };
        let told = read(&many);
        assert_eq!((told.orphans.len(), told.more), (LISTED_MAX, 5));
        assert_eq!(told.orphans[..], many[..LISTED_MAX]);
        // the longest names, in which zstd finds nothing
        let long = |n: u64| {
            let mut bytes = [0; 100];
            blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
            orphan(&data_encoding::HEXLOWER.encode(&bytes), n)
        };
        let many: Vec<_> = (0..LISTED_MAX as u64).map(long).collect();
        assert_eq!(read(&many).count(), LISTED_MAX as u64);
    }

    #[tokio::test]
    async fn what_a_node_tells_is_there_until_it_has_none_and_is_told_again_when_it_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let kv = SqliteKv::open(dir.path().join("kv"), since_boot, FILE_TIMEOUTS).unwrap();
        let kv: Arc<dyn Kv> = Arc::new(kv);
        let (a, b) = (Reporter::new(kv.clone(), node("a")), Reporter::new(kv.clone(), node("b")));
        let (one, two) = (vec![orphan("ohio", 7)], vec![orphan("ohio", 7), orphan("texas", 8)]);
        a.tell(&two).await.unwrap();
        b.tell(&one).await.unwrap();
        b.tell(&[]).await.unwrap();
        b.tell(&one).await.unwrap();
        let all = read_all(&*kv).await.unwrap();
        let seen: Vec<_> =
            all.nodes.iter().map(|node| (node.node.as_str(), node.count())).collect();
        assert_eq!(seen, [("a", 2), ("b", 1)]);
        assert_eq!(all.nodes[0].orphans, two);

        // a process that begins does not know what the one before told
        Reporter::new(kv.clone(), node("a")).tell(&[]).await.unwrap();
        assert_eq!(read_all(&*kv).await.unwrap().nodes.len(), 1);
        // nor does the one before know of that, until it is in doubt
        a.tell(&two).await.unwrap();
        assert_eq!(read_all(&*kv).await.unwrap().nodes.len(), 1);
        if let Some((_, at)) = &mut *a.told.lock().await {
            *at = Instant::now().checked_sub(DOUBT).unwrap();
        }
        a.tell(&two).await.unwrap();
        assert_eq!(read_all(&*kv).await.unwrap().nodes.len(), 2);

        let key = Key::new("trough/orphans/c").unwrap();
        kv.txn(&[Op::Set { key: key.clone(), value: Bytes::from_static(b"x") }]).await.unwrap();
        let all = read_all(&*kv).await.unwrap();
        assert_eq!((all.nodes.len(), &all.not_understood[0].key), (2, &key));
    }
}
