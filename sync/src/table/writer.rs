//! Writes a table: only what changed, each step whole.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::ops::Add;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::document::pack;
use super::manifest::{
    BITS_MAX, Manifest, Part, ROWS_PER_PART, VALUES_BYTES_MAX, bits_for, meta_key, read_part,
};
use super::{Row, TableError};
use crate::kv::{Consistency, InvalidKey, Key, Kv, KvError, KvErrorKind, Op, TXN_OPS_MAX, Txn};
use crate::registry::Epoch;
use crate::tag::Tag;

/// Operations of a transaction besides parts: its fence, and the meta document.
const OTHER_OPS: usize = 2;

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Transactions.
    pub transactions: usize,
    /// Documents in them, removed ones included.
    pub documents: usize,
    /// Their bytes.
    pub bytes: usize,
}

impl Add for Written {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            transactions: self.transactions + other.transactions,
            documents: self.documents + other.documents,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// Writes one table. There is one at a time: whoever holds the lock that its transactions check for.
#[derive(Debug)]
pub struct TableWriter<R> {
    table: Key,
    rows_per_part: usize,
    /// What is there, when that is known.
    known: Option<Known>,
    rows: PhantomData<fn(R)>,
}

/// What is in the registry.
#[derive(Debug, Default)]
struct Known {
    /// `None` when there is no table, or none that can be read.
    manifest: Option<Manifest>,
    /// Parts that are not what the manifest names.
    damaged: BTreeSet<u16>,
    /// Keys below the table's that no meta document names.
    strays: BTreeSet<Key>,
}

impl<R: Row> TableWriter<R> {
    /// A writer of the table at `table`, which need not be there.
    pub fn new(table: Key) -> Self {
        Self { table, rows_per_part: ROWS_PER_PART, known: None, rows: PhantomData }
    }

    /// Cuts the table into parts of so many rows on average, at most, rather than 4096.
    #[must_use]
    pub fn with_rows_per_part(mut self, rows: usize) -> Self {
        self.rows_per_part = rows.max(1);
        self
    }

    /// What the table says now, and the epoch it was written in; `None` when there is none. A table that cannot be
    /// read is an error here, and is written anew by the next [`Self::write`].
    pub async fn load(&mut self, kv: &dyn Kv) -> Result<Option<(Epoch, Vec<R>)>, TableError> {
        let documents = self.documents(kv).await?;
        let meta = self.meta()?;
        let Some(packed) = documents.get(&meta) else { return Ok(None) };
        let manifest = Manifest::read(&meta, packed)?;
        let mut rows = Vec::new();
        for (part, tag) in manifest.parts() {
            let key = self.part(part)?;
            rows.extend(read_part::<R>(&key, documents.get(&key).map(|b| &**b), tag)?);
        }
        Ok(Some((manifest.epoch, rows)))
    }

    /// Believes nothing of what is there until it has looked: the next [`Self::write`] also mends what somebody
    /// else changed or removed.
    pub fn doubt(&mut self) {
        self.known = None;
    }

    /// Makes the table say `rows`, one for each segment, in transactions that begin with `fence`. When it fails,
    /// some of it may have been written; the next call finds out.
    pub async fn write(
        &mut self,
        kv: &dyn Kv,
        fence: &Op,
        epoch: Epoch,
        mut rows: Vec<R>,
    ) -> Result<Written, TableError> {
        // taken, so that after a failure, or this call dropped half way, nothing is believed
        let mut known = match self.known.take() {
            Some(known) => known,
            None => self.look(kv).await?,
        };
        rows.sort_unstable_by(|a, b| a.id().cmp(b.id()));
        let bits = known.manifest.as_ref().map_or(0, |manifest| manifest.bits);
        let (wanted, parts) = self.cut(epoch, bits, &rows)?;
        let mut writing = Writing { kv, fence, table: &self.table, done: Written::default() };
        let damaged = std::mem::take(&mut known.damaged);
        match known.manifest.take() {
            Some(old) if old.bits == wanted.bits => {
                writing.change(self.meta()?, old, &damaged, &wanted, parts).await?;
            }
            old => {
                let old_keys =
                    old.iter().flat_map(Manifest::parts).map(|(part, _)| self.part(part));
                known.strays.extend(old_keys.collect::<Result<Vec<_>, _>>()?);
                writing.begin_anew(self.meta()?, &wanted, parts).await?;
            }
        }
        for part in wanted.parts().map(|(part, _)| self.part(part)) {
            known.strays.remove(&part?);
        }
        writing.remove(std::mem::take(&mut known.strays)).await?;
        let done = writing.done;
        known.manifest = Some(wanted);
        self.known = Some(known);
        Ok(done)
    }

    /// The rows in parts, none of which is too long, and the meta document that names them.
    fn cut(
        &self,
        epoch: Epoch,
        bits: u8,
        rows: &[R],
    ) -> Result<(Manifest, BTreeMap<u16, Bytes>), TableError> {
        let too_large = || TableError::TooLarge { table: self.table.clone(), rows: rows.len() };
        let mut bits = bits_for(rows.len(), self.rows_per_part, bits).ok_or_else(too_large)?;
        while bits <= BITS_MAX {
            let mut lists: BTreeMap<u16, Vec<&R>> = BTreeMap::new();
            for row in rows {
                lists.entry(Part::of(row.id(), bits).index).or_default().push(row);
            }
            let packed: Option<BTreeMap<u16, Bytes>> =
                lists.iter().map(|(index, list)| Some((*index, pack(list)?))).collect();
            if let Some(parts) = packed {
                let mut manifest = Manifest::new(epoch, bits);
                manifest.parts = parts.iter().map(|(index, b)| (*index, Tag::of(b))).collect();
                return Ok((manifest, parts));
            }
            bits += 1;
        }
        Err(too_large())
    }

    async fn documents(&self, kv: &dyn Kv) -> Result<BTreeMap<Key, Bytes>, KvError> {
        let entries = kv.list(&self.table, Consistency::Consistent).await?;
        Ok(entries.into_iter().map(|entry| (entry.key, entry.value)).collect())
    }

    /// What is there.
    async fn look(&self, kv: &dyn Kv) -> Result<Known, TableError> {
        let mut documents = self.documents(kv).await?;
        let meta = self.meta()?;
        let mut damaged = BTreeSet::new();
        let manifest = match documents.remove(&meta).map(|packed| Manifest::read(&meta, &packed)) {
            None => None,
            Some(Ok(manifest)) => {
                for (part, tag) in manifest.parts() {
                    let key = self.part(part)?;
                    if documents.remove(&key).is_none_or(|packed| Tag::of(&packed) != tag) {
                        tracing::warn!(%key, "a document of the registry is not what was written; mending it");
                        damaged.insert(part.index);
                    }
                }
                Some(manifest)
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "writing the whole table again");
                None
            }
        };
        Ok(Known { manifest, damaged, strays: documents.into_keys().collect() })
    }

    fn meta(&self) -> Result<Key, KvError> {
        meta_key(&self.table).map_err(|error| self.no_key(&error))
    }

    fn part(&self, part: Part) -> Result<Key, KvError> {
        part.key(&self.table).map_err(|error| self.no_key(&error))
    }

    fn no_key(&self, error: &InvalidKey) -> KvError {
        no_key(&self.table, error)
    }
}

/// A table whose own name leaves no room for those of its documents.
pub(super) fn no_key(table: &Key, error: &InvalidKey) -> KvError {
    KvError {
        kind: KvErrorKind::TooLarge,
        attempted: "name a document of a table",
        target: table.to_string(),
        reason: error.to_string(),
    }
}

/// One write that goes on.
struct Writing<'a> {
    kv: &'a dyn Kv,
    fence: &'a Op,
    table: &'a Key,
    done: Written,
}

impl Writing<'_> {
    /// From `old` to `wanted` of the same bits: what the table says after each transaction is whole.
    async fn change(
        &mut self,
        meta: Key,
        mut old: Manifest,
        damaged: &BTreeSet<u16>,
        wanted: &Manifest,
        mut parts: BTreeMap<u16, Bytes>,
    ) -> Result<(), TableError> {
        let bits = wanted.bits;
        let of_both = old.parts.keys().chain(wanted.parts.keys()).copied().collect::<BTreeSet<_>>();
        let mut changed: Vec<u16> = of_both
            .into_iter()
            .filter(|index| {
                damaged.contains(index) || old.parts.get(index) != wanted.parts.get(index)
            })
            .collect();
        changed.reverse();
        if changed.is_empty() && old.epoch == wanted.epoch {
            return Ok(());
        }
        old.epoch = wanted.epoch;
        loop {
            // both sides' parts, so that it bounds every meta document on the way
            let room = VALUES_BYTES_MAX - old.bytes_bound().max(wanted.bytes_bound());
            let (mut ops, mut bytes) = (Vec::new(), 0);
            while let Some(index) = changed.last().copied() {
                let length = parts.get(&index).map_or(0, Bytes::len);
                if ops.len() + OTHER_OPS == TXN_OPS_MAX || bytes + length > room {
                    break;
                }
                changed.pop();
                bytes += length;
                let key = Part { bits, index }.key(self.table);
                let key = key.map_err(|error| no_key(self.table, &error))?;
                match (parts.remove(&index), wanted.parts.get(&index)) {
                    (Some(value), Some(tag)) => {
                        old.parts.insert(index, *tag);
                        ops.push(Op::Set { key, value });
                    }
                    _ => {
                        old.parts.remove(&index);
                        ops.push(Op::Delete { key });
                    }
                }
            }
            let value = self.packed(&old)?;
            ops.push(Op::Set { key: meta.clone(), value });
            self.commit(ops).await?;
            if changed.is_empty() {
                return Ok(());
            }
        }
    }

    /// All of `wanted` under names that nobody reads yet, and then the meta document.
    async fn begin_anew(
        &mut self,
        meta: Key,
        wanted: &Manifest,
        parts: BTreeMap<u16, Bytes>,
    ) -> Result<(), TableError> {
        let (mut ops, mut bytes) = (Vec::new(), 0);
        for (index, value) in parts {
            if ops.len() + OTHER_OPS == TXN_OPS_MAX || bytes + value.len() > VALUES_BYTES_MAX {
                self.commit(std::mem::take(&mut ops)).await?;
                bytes = 0;
            }
            bytes += value.len();
            let key = Part { bits: wanted.bits, index }.key(self.table);
            let key = key.map_err(|error| no_key(self.table, &error))?;
            ops.push(Op::Set { key, value });
        }
        if !ops.is_empty() {
            self.commit(ops).await?;
        }
        let value = self.packed(wanted)?;
        self.commit(vec![Op::Set { key: meta, value }]).await
    }

    async fn remove(&mut self, keys: BTreeSet<Key>) -> Result<(), TableError> {
        let keys: Vec<Key> = keys.into_iter().collect();
        for some in keys.chunks(TXN_OPS_MAX - OTHER_OPS) {
            self.commit(some.iter().map(|key| Op::Delete { key: key.clone() }).collect()).await?;
        }
        Ok(())
    }

    fn packed(&self, manifest: &Manifest) -> Result<Bytes, TableError> {
        let too_large =
            || TableError::TooLarge { table: self.table.clone(), rows: manifest.parts.len() };
        pack(manifest).ok_or_else(too_large)
    }

    async fn commit(&mut self, mut ops: Vec<Op>) -> Result<(), TableError> {
        ops.insert(0, self.fence.clone());
        match self.kv.txn(&ops).await? {
            Txn::Committed(_) => {
                self.done.transactions += 1;
                self.done.documents += ops.len() - 1;
                self.done.bytes += ops.iter().filter_map(Op::value).map(Bytes::len).sum::<usize>();
                Ok(())
            }
            // nothing else in it depends on what is there
            Txn::Refused(refusals) => Err(TableError::Fenced {
                table: self.table.clone(),
                reason: refusals.into_iter().map(|r| r.reason).collect::<Vec<_>>().join("; "),
            }),
        }
    }
}
