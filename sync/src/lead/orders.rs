//! What people have told the cluster: one document in the registry, which whoever leads obeys.
//!
//! Invariants: an order given twice is given once; two people who give orders at one moment both get theirs; an
//! order that was carried out once and for all is taken back by the lead before it acts, so that it never meets
//! something that the person did not see.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::kv::{Index, Key, Kv, KvError, KvErrorKind, Op, Txn};
use crate::node::NodeName;

/// Where the document is.
pub(super) const ORDERS_KEY: &str = "trough/orders";
/// The format of [`Orders`].
const FORMAT: u32 = 1;
/// How often others may give orders at the same moment before one gives up.
const ATTEMPTS: u32 = 16;

/// What people want.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    format: u32,
    /// Leave the deep store alone: no listing, and nobody is told to pull. For the maintenance of a NameNode.
    #[serde(default)]
    pub paused: bool,
    /// Nodes that are to become empty, and then to be forgotten.
    #[serde(default)]
    pub decommission: BTreeSet<NodeName>,
    /// The cluster may be planned for down to so much registered quota, in bytes.
    #[serde(default)]
    pub accepted_quota_bytes: Option<u64>,
    /// What the deep store does not show any more is meant to go: counts for one listing.
    #[serde(default)]
    pub accept_removals: bool,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            format: FORMAT,
            paused: false,
            decommission: BTreeSet::new(),
            accepted_quota_bytes: None,
            accept_removals: false,
        }
    }
}

impl Orders {
    /// What is wanted, and when that was last said. A document that is not there is no orders; one that cannot be
    /// read is an error, which changes nothing of what was wanted before.
    pub async fn read(kv: &dyn Kv) -> Result<(Self, Index), KvError> {
        let Some(entry) = kv.get(&key()?).await? else {
            return Ok((Self::default(), Index::ABSENT));
        };
        let orders = serde_json::from_slice(&entry.value).map_err(|e| e.to_string());
        let orders = orders.and_then(|orders: Self| match orders.format {
            FORMAT => Ok(orders),
            other => Err(format!("its format is {other}, and this trough knows {FORMAT}")),
        });
        match orders {
            Ok(orders) => Ok((orders, entry.modified)),
            Err(reason) => Err(KvError {
                kind: KvErrorKind::Malformed,
                attempted: "read the orders",
                target: format!("{ORDERS_KEY} of {}", kv.address()),
                reason: format!("{reason}; delete the key and give the orders again"),
            }),
        }
    }

    /// Changes what is wanted, and says what it is then.
    pub async fn change(
        kv: &dyn Kv,
        mut change: impl FnMut(&mut Self) + Send,
    ) -> Result<Self, KvError> {
        for _ in 0..ATTEMPTS {
            let (mut orders, index) = Self::read(kv).await?;
            let before = orders.clone();
            change(&mut orders);
            if orders == before || orders.write(kv, index, None).await? {
                return Ok(orders);
            }
        }
        Err(KvError {
            kind: KvErrorKind::Unavailable,
            attempted: "give orders",
            target: format!("{ORDERS_KEY} of {}", kv.address()),
            reason: format!("others gave orders {ATTEMPTS} times at the same moment; try again"),
        })
    }

    /// Writes them, unless somebody said something since `index` or `fence` refuses.
    pub(super) async fn write(
        &self,
        kv: &dyn Kv,
        index: Index,
        fence: Option<&Op>,
    ) -> Result<bool, KvError> {
        // text and numbers: this cannot fail
        let value = serde_json::to_vec(self).unwrap_or_default().into();
        let mut ops: Vec<Op> = fence.cloned().into_iter().collect();
        ops.push(Op::Cas { key: key()?, value, index });
        Ok(matches!(kv.txn(&ops).await?, Txn::Committed(_)))
    }
}

fn key() -> Result<Key, KvError> {
    crate::kv::key(ORDERS_KEY)
}
