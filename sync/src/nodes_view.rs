//! The nodes of the cluster in a reader's memory: where the reader of each answers.
//!
//! Invariant: an address that was heard once stays known (S9): a registry that is away, or that came back empty, takes
//! no node away. The node is only not available any more, which puts it last.
//!
//! Left out: whether a node answers, which only asking it shows.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::kv::{self, Kv, KvError, Watched};
use crate::node::{Member, NODES_KEY, NodeName, members_of};

/// How long a look waits for a change. A registry that came back empty is noticed after it.
const WAIT: Duration = Duration::from_secs(10);
/// The least pause between two looks: each node's document changes with all that it holds, and each look brings all.
const PAUSE: Duration = Duration::from_millis(500);
/// The most nodes that are remembered though the registry does not name them any more.
const FORMER_MAX: usize = 10_000;

/// Where a node answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAt {
    /// Its reader, as `host:port`.
    pub read_address: Arc<str>,
    /// Whether its session holds and no person took it out, as far as this process heard.
    pub available: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct NodesView {
    seen: RwLock<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    nodes: HashMap<NodeName, NodeAt>,
    heard_at: Option<Instant>,
}

impl NodesView {
    /// Where `name` answers; `None` when nobody ever said.
    pub fn find(&self, name: &NodeName) -> Option<NodeAt> {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).nodes.get(name).cloned()
    }

    /// How many nodes are available.
    pub fn available(&self) -> usize {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        seen.nodes.values().filter(|node| node.available).count()
    }

    /// When the registry was heard last; `None` when it never was.
    pub fn heard_at(&self) -> Option<Instant> {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).heard_at
    }

    /// Follows the nodes in `kv` for ever. Drop it to stop.
    pub async fn follow(&self, kv: &dyn Kv) -> Result<(), KvError> {
        let nodes = Watched::Below(kv::key(NODES_KEY)?);
        kv::follow(kv, nodes, WAIT, PAUSE, |seen| {
            self.heard(members_of(seen.entries)?);
            Ok(())
        })
        .await
    }

    /// Takes what the registry says of all nodes.
    pub fn heard(&self, members: Vec<Member>) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        seen.heard_at = Some(Instant::now());
        let nodes = &mut seen.nodes;
        nodes.values_mut().for_each(|node| node.available = false);
        if nodes.len() > members.len() + FORMER_MAX {
            nodes.clear();
        }
        for Member { name, node, registered, .. } in members {
            let available = registered && node.as_ref().is_none_or(|node| !node.maintenance);
            match (nodes.get_mut(&name), node) {
                (Some(known), None) => known.available = available,
                (Some(known), Some(node)) if *known.read_address == *node.read_address => {
                    known.available = available;
                }
                (_, Some(node)) => {
                    let read_address = node.read_address.into();
                    nodes.insert(name, NodeAt { read_address, available });
                }
                // one that is not understood, and never was
                (None, None) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Index;
    use crate::node::Node;

    fn member(name: &str, address: Option<&str>, registered: bool) -> Member {
        let node = address.map(|address| Node::new(1, address, ""));
        Member { name: NodeName::new(name).unwrap(), node, registered, modified: Index(1) }
    }

    fn at(view: &NodesView, name: &str) -> Option<(String, bool)> {
        let node = view.find(&NodeName::new(name).unwrap())?;
        Some((node.read_address.to_string(), node.available))
    }

    #[test]
    fn an_address_outlives_what_the_registry_forgot_and_follows_what_it_says_anew() {
        let view = NodesView::default();
        assert_eq!((view.heard_at(), at(&view, "a")), (None, None));
        view.heard(vec![member("a", Some("a:1"), true), member("b", Some("b:1"), false)]);
        assert_eq!(at(&view, "a"), Some(("a:1".to_owned(), true)));
        assert_eq!(at(&view, "b"), Some(("b:1".to_owned(), false)));
        assert_eq!(view.available(), 1);

        view.heard(Vec::new());
        assert_eq!(at(&view, "a"), Some(("a:1".to_owned(), false)));
        // a document of another format, and a node that moved
        view.heard(vec![member("a", None, true), member("b", Some("b:2"), true)]);
        assert_eq!(at(&view, "a"), Some(("a:1".to_owned(), true)));
        assert_eq!(at(&view, "b"), Some(("b:2".to_owned(), true)));
        view.heard(vec![member("c", None, true)]);
        assert_eq!(at(&view, "c"), None);
        let mut taken_out = member("b", Some("b:2"), true);
        taken_out.node.as_mut().unwrap().maintenance = true;
        view.heard(vec![taken_out]);
        assert_eq!(at(&view, "b"), Some(("b:2".to_owned(), false)));
    }
}
