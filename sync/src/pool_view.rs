//! The pool table in a reader's memory: where every segment of the cluster is.
//!
//! Invariants: a pool that was never read is [`Found::Unknown`], never "not there"; what was read last holds until
//! something newer is read, whatever becomes of the registry (S9), and [`PoolView::heard_at`] says how old that may be.
//!
//! A part of the table is one piece of memory without an allocation for each row: a million segments with two holders
//! and ids of 20 characters take some 80 MB. Rows are found by the first bytes of the BLAKE3 of their ids, by which the
//! table is cut as well, and which a label that is not its id is made of ([`SegmentId::label`]).
//!
//! Left out: whether a holder answers.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use fsd::segment::{SegmentId, Stamp};
use tokio::time::Instant;

use crate::cluster::{PoolRow, pool_table};
use crate::kv::Kv;
use crate::node::NodeName;
use crate::planner::Why;
use crate::registry::Epoch;
use crate::table::{Change, Part, TableError, TableReader, hash_of};
use crate::tag::Tag;

/// How long a look at the table waits for a change. A registry that came back empty is noticed after it.
const WAIT: Duration = Duration::from_secs(10);
/// The pause after a look that failed.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// What the pool table says of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// No pool table was read yet: nothing can be said.
    Unknown,
    /// The pool does not have it.
    Absent,
    /// It is in the pool.
    Listed(Whereabouts),
}

/// Where a segment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// The version that the deep store has.
    pub version: Stamp,
    /// The beginning of the digest of what the holders serve; `None` when there are none.
    pub tag: Option<Tag>,
    /// Who answers for it, in order of name.
    pub holders: Vec<NodeName>,
    /// Who else has it, in an older version.
    pub older: Vec<NodeName>,
    /// Why a copy of it has no place.
    pub unplaced: Option<Why>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct PoolView {
    seen: RwLock<Option<Seen>>,
}

/// What was read.
#[derive(Debug)]
struct Seen {
    epoch: Epoch,
    heard_at: Instant,
    bits: u8,
    parts: HashMap<u16, Rows>,
}

/// The rows of one part of the table.
#[derive(Debug)]
pub struct Rows {
    /// In order of hash.
    rows: Box<[Packed]>,
    ids: Box<str>,
    /// Of each row the holders, and then those who have it in an older version.
    holders: Box<[u32]>,
    /// The nodes that a row's holders are numbers of.
    nodes: Box<[NodeName]>,
}

/// One row. Its id and its holders begin where those of the row before end.
#[derive(Debug)]
struct Packed {
    hash: u64,
    version: Stamp,
    tag: Option<Tag>,
    ids_end: u32,
    /// Where those of an older version begin.
    older_start: u32,
    holders_end: u32,
    unplaced: Option<Why>,
}

impl PoolView {
    /// What the pool table says of `id`.
    pub fn find(&self, id: &SegmentId) -> Found {
        let seen = self.read();
        let Some(seen) = &*seen else { return Found::Unknown };
        let hash = hash_of(id.as_str());
        let rows = seen.rows(hash);
        let found = rows.and_then(|rows| {
            let at = rows.with_hash(hash).find(|at| rows.id(*at) == id.as_str())?;
            Some(rows.whereabouts(at))
        });
        found.map_or(Found::Absent, Found::Listed)
    }

    /// The segment of the pool that `label` is for.
    pub fn find_label(&self, label: &str) -> Option<SegmentId> {
        let seen = self.read();
        let seen = seen.as_ref()?;
        // most labels are their ids
        let hash = match SegmentId::hash_of_label(label) {
            Some(hash) => u64::from_be_bytes(*hash.first_chunk()?),
            None => hash_of(label),
        };
        let rows = seen.rows(hash)?;
        let ids = rows.with_hash(hash).filter_map(|at| SegmentId::new(rows.id(at)).ok());
        ids.into_iter().find(|id| id.label().as_str() == label)
    }

    /// How many segments the pool has; `None` before it was read.
    pub fn segments(&self) -> Option<usize> {
        let seen = self.read();
        seen.as_ref().map(|seen| seen.parts.values().map(|rows| rows.rows.len()).sum())
    }

    /// Of which epoch it is; `None` before it was read.
    pub fn epoch(&self) -> Option<Epoch> {
        self.read().as_ref().map(|seen| seen.epoch)
    }

    /// When the registry was last seen to say nothing newer; `None` before it was read.
    pub fn heard_at(&self) -> Option<Instant> {
        self.read().as_ref().map(|seen| seen.heard_at)
    }

    /// Follows the table in `kv` for ever. Drop it to stop.
    pub async fn follow(&self, kv: &dyn Kv) -> Result<(), TableError> {
        let mut reader = TableReader::new(pool_table()?, WAIT)?;
        let mut problem: Option<String> = None;
        loop {
            match reader.next_with(kv, &Rows::pack).await {
                Ok(change) => {
                    if problem.take().is_some() {
                        tracing::info!("the pool table can be read again");
                    }
                    self.heard(change);
                }
                Err(error) => {
                    let said = error.to_string();
                    // said once for each fault, not at every try
                    if problem.as_ref() != Some(&said) {
                        tracing::warn!(
                            problem = said,
                            "the pool table cannot be read; the last one holds"
                        );
                    }
                    problem = Some(said);
                    tokio::time::sleep(FAILED_PAUSE).await;
                }
            }
        }
    }

    /// Takes what a look at the table saw.
    pub fn heard(&self, change: Option<Change<Rows>>) {
        let now = Instant::now();
        let Some(change) = change else {
            // no table, or nothing new in it: a table that is gone changes nothing
            if let Some(seen) = &mut *self.write() {
                seen.heard_at = now;
            }
            return;
        };
        let mut seen = self.write();
        let fresh = || Seen { epoch: change.epoch, heard_at: now, bits: 0, parts: HashMap::new() };
        let seen = match &mut *seen {
            Some(seen) if !change.whole => seen,
            seen => seen.insert(fresh()),
        };
        (seen.epoch, seen.heard_at) = (change.epoch, now);
        for (part, rows) in change.parts {
            // the same for all of them, and for those of before, if this is not the whole
            seen.bits = part.bits;
            match rows.rows.is_empty() {
                true => drop(seen.parts.remove(&part.index)),
                false => drop(seen.parts.insert(part.index, rows)),
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Option<Seen>> {
        // who panics ends the process
        self.seen.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Option<Seen>> {
        self.seen.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn rows(&self, hash: u64) -> Option<&Rows> {
        self.parts.get(&Part::of_hash(hash, self.bits).index)
    }
}

impl Rows {
    /// Makes them small.
    pub fn pack(mut rows: Vec<PoolRow>) -> Self {
        rows.sort_by_cached_key(|row| hash_of(row.id.as_str()));
        let (mut ids, mut holders) = (String::new(), Vec::new());
        let (mut nodes, mut numbers) = (Vec::new(), HashMap::new());
        let mut number = |node: NodeName| {
            *numbers.entry(node).or_insert_with_key(|node| {
                nodes.push(node.clone());
                (nodes.len() - 1) as u32
            })
        };
        let mut packed = Vec::with_capacity(rows.len());
        for row in rows {
            ids.push_str(row.id.as_str());
            holders.extend(row.holders.into_iter().map(&mut number));
            let older_start = holders.len() as u32;
            holders.extend(row.older.into_iter().map(&mut number));
            packed.push(Packed {
                hash: hash_of(row.id.as_str()),
                version: row.version,
                tag: row.tag,
                // a document unpacks to 64 MiB at most
                ids_end: ids.len() as u32,
                older_start,
                holders_end: holders.len() as u32,
                unplaced: row.unplaced,
            });
        }
        Self { rows: packed.into(), ids: ids.into(), holders: holders.into(), nodes: nodes.into() }
    }

    fn whereabouts(&self, at: usize) -> Whereabouts {
        let Packed { version, tag, unplaced, older_start, holders_end, .. } = self.rows[at];
        let start = at.checked_sub(1).map_or(0, |before| self.rows[before].holders_end);
        let names = |from: u32, to: u32| {
            let numbers = self.holders[from as usize..to as usize].iter();
            numbers.map(|number| self.nodes[*number as usize].clone()).collect()
        };
        let (holders, older) = (names(start, older_start), names(older_start, holders_end));
        Whereabouts { version, tag, holders, older, unplaced }
    }

    /// The places of the rows whose hash begins so: one, but for an accident.
    fn with_hash(&self, hash: u64) -> impl Iterator<Item = usize> {
        let first = self.rows.partition_point(|row| row.hash < hash);
        let rows = self.rows[first..].iter();
        let count = rows.take_while(|row| row.hash == hash).count();
        first..first + count
    }

    fn id(&self, at: usize) -> &str {
        let start = at.checked_sub(1).map_or(0, |before| self.rows[before].ids_end);
        &self.ids[start as usize..self.rows[at].ids_end as usize]
    }
}
