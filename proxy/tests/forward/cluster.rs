//! Readers that know of each other, by views that a test fills.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fsd::segment::{SegmentId, Stamp};
use proxy::catalogue::cluster::Cluster as Catalogue;
use proxy::reader::{Elsewhere, ReaderSettings};
use proxy::route::Route;
use sync::cluster::PoolRow;
use sync::kv::Index;
use sync::node::{Member, Node, NodeName};
use sync::nodes_view::NodesView;
use sync::pool::PoolEntry;
use sync::pool_view::{PoolView, Rows};
use sync::registry::Epoch;
use sync::store::StorePath;
use sync::table::{Change, Part};
use tokio::net::TcpListener;

use crate::rig::{Rig, Table, id};

pub fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// What all readers of a cluster know.
#[derive(Default)]
pub struct Cluster {
    pub pool: Arc<PoolView>,
    pub nodes: Arc<NodesView>,
    rows: Mutex<BTreeMap<SegmentId, PoolRow>>,
    members: Mutex<BTreeMap<NodeName, Member>>,
}

impl Cluster {
    /// A reader of the cluster, called `name`.
    pub async fn reader(&self, name: &str) -> Rig {
        self.reader_with(name, ReaderSettings::default()).await
    }

    pub async fn reader_with(&self, name: &str, settings: ReaderSettings) -> Rig {
        let elsewhere = self.elsewhere(name, &settings);
        self.reader_of(name, settings, elsewhere).await
    }

    /// What a reader called `name` knows of the cluster; of owners nothing.
    pub fn elsewhere(&self, name: &str, settings: &ReaderSettings) -> Elsewhere {
        let catalogue = Arc::new(Catalogue::new(Arc::clone(&self.pool), Arc::clone(&self.nodes)));
        let route = Route::new(node(name), Arc::clone(&self.nodes), settings.forward);
        Elsewhere {
            catalogue,
            route: Some(route),
            owners: None,
            leases: None,
            tokens: Arc::default(),
        }
    }

    /// A reader called `name` that knows `elsewhere`.
    pub async fn reader_of(
        &self,
        name: &str,
        settings: ReaderSettings,
        elsewhere: Elsewhere,
    ) -> Rig {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rig = Rig::start(settings, listener, elsewhere, Arc::new(Table::default()));
        self.member(name, &rig.address.to_string());
        rig
    }

    /// `name` answers at `address`.
    pub fn member(&self, name: &str, address: &str) {
        let node = Some(Node::new(1, address, ""));
        let name = NodeName::new(name).unwrap();
        let member = Member { name: name.clone(), node, registered: true, modified: Index(1) };
        let mut members = self.members.lock().unwrap();
        members.insert(name, member);
        self.nodes.heard(members.values().cloned().collect());
    }

    /// The pool table says that `holders` have `segment`.
    pub fn held(&self, segment: &str, holders: &[&str]) {
        self.held_by(segment, holders, &[]);
    }

    /// The pool table says that `holders` have `segment`, and `older` an older version of it.
    pub fn held_by(&self, segment: &str, holders: &[&str], older: &[&str]) {
        let (version, path) =
            (Stamp { length: 1, mtime_ms: 1 }, StorePath::published(&id(segment)));
        let mut row = PoolRow::new(id(segment), &PoolEntry { path, stamp: version });
        row.holders = holders.iter().map(|name| node(name)).collect();
        row.older = older.iter().map(|name| node(name)).collect();
        let mut rows = self.rows.lock().unwrap();
        rows.insert(row.id.clone(), row);
        let epoch = Epoch { incarnation: 1, index: 1 };
        let all = Rows::pack(rows.values().cloned().collect());
        let part = Part { bits: 0, index: 0 };
        self.pool.heard(Some(Change { epoch, whole: true, parts: vec![(part, all)] }));
    }
}

/// POSTs `sql` to `segment` at `reader`; the status and the text, or that it broke off.
pub async fn ask(reader: &Rig, segment: &str, sql: &str) -> (u16, String) {
    reader.ask_of(segment, sql.to_owned()).await
}
