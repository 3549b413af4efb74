//! Schemas in the registry: what a new segment begins with, and what writers of such a segment may do beyond INSERT and
//! UPDATE. One document each, at `trough/schema/<label of its id>`.
//!
//! Invariants: a schema is replaced whole or not at all, and who replaces it is told whether it was there; a document
//! that is not understood is an error, never a schema that is absent, and is overwritten by nobody; two who register at
//! one moment are both heard, one after the other.
//!
//! Left out: whether the SQL is any good (whoever takes it from a person checks it), and taking a schema away.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fsd::segment::SegmentId;
use serde::{Deserialize, Serialize};

use crate::kv::{Consistency, Entry, Index, Key, Kv, KvError, Op, Txn};
use crate::table::document::{pack, unpack};
use crate::verb::Verb;

/// Below it is one key for each schema.
const SCHEMAS_KEY: &str = "trough/schema";
/// The format of [`Document`].
const FORMAT: u64 = 1;
/// How often others may register the same schema at the same moment before one gives up.
const ATTEMPTS: u32 = 16;

/// The longest SQL of a schema, in bytes: a thousand lines, and with its document far below what a key may hold.
pub const SQL_BYTES_MAX: usize = 64 << 10;

/// The schema of a segment that is provisioned without one. While none is registered under this id such a segment
/// begins as an empty database.
pub const DEFAULT_ID: &str = "default";

/// What a new segment begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// Its name: of the same form as a segment's.
    pub id: SegmentId,
    /// The script that makes the tables of an empty database.
    pub sql: String,
    /// What writers may do beyond INSERT and UPDATE.
    pub verbs: BTreeSet<Verb>,
}

/// What registering a schema did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// There was none of this id.
    Created,
    /// There was one, and this one is in its place.
    Updated,
}

/// Why schemas could not be read or registered.
#[derive(Debug, thiserror::Error)]
pub enum SchemasError {
    /// Over [`SQL_BYTES_MAX`]; nothing was changed.
    #[error(
        "register schema {id}: its SQL has {bytes} bytes, and at most {SQL_BYTES_MAX} are allowed; make it shorter"
    )]
    TooLong {
        /// Which.
        id: SegmentId,
        /// How long its SQL is.
        bytes: usize,
    },
    /// What is there is not what this trough writes; nothing was changed.
    #[error(
        "read schema {id} at {key} in {address}: {reason}; upgrade trough, or remove that key and register the schema again"
    )]
    NotUnderstood {
        /// Which.
        id: SegmentId,
        /// Where it lies.
        key: Key,
        /// In which registry.
        address: String,
        /// What is not understood.
        reason: String,
    },
    /// Others registered it at each attempt.
    #[error("register schema {0}: others did {ATTEMPTS} times at the same moment; try again")]
    Contended(SegmentId),
    /// The registry failed.
    #[error(transparent)]
    Kv(#[from] KvError),
}

/// The registered schemas.
#[derive(Clone)]
pub struct Schemas {
    kv: Arc<dyn Kv>,
    /// The documents that could not be read, as of when they were last told of.
    told: Arc<Mutex<BTreeMap<Key, Index>>>,
}

impl fmt::Debug for Schemas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schemas").field(&self.kv.address()).finish()
    }
}

impl Schemas {
    /// Those in `kv`.
    pub fn new(kv: Arc<dyn Kv>) -> Self {
        Self { kv, told: Arc::default() }
    }

    /// The ids of all, in order. A document that is not understood does not tell its id: it is left out, and told of
    /// in the log once for each time that it changed.
    pub async fn list(&self) -> Result<Vec<SegmentId>, SchemasError> {
        let entries = self.kv.list(&crate::kv::key(SCHEMAS_KEY)?, Consistency::Consistent).await?;
        let mut ids = Vec::new();
        let mut faulty = BTreeMap::new();
        for entry in entries {
            match understand(&entry.value).and_then(|schema| right_place(&entry.key, schema)) {
                Ok(schema) => ids.push(schema.id),
                Err(reason) => drop(faulty.insert(entry.key, (entry.modified, reason))),
            }
        }
        self.tell(faulty);
        ids.sort_unstable();
        Ok(ids)
    }

    /// The schema `id`; `None` when none is registered.
    pub async fn get(&self, id: &SegmentId) -> Result<Option<Schema>, SchemasError> {
        Ok(self.look(id, &key(id)?).await?.map(|(schema, _)| schema))
    }

    /// Registers `schema`, in the place of the one that had its id, verbs and all.
    pub async fn put(&self, schema: &Schema) -> Result<Put, SchemasError> {
        self.change(&schema.id, &schema.sql, Some(&schema.verbs)).await
    }

    /// Registers `sql` as schema `id`, with the verbs that it had before, if it was there.
    pub async fn put_sql(&self, id: &SegmentId, sql: &str) -> Result<Put, SchemasError> {
        self.change(id, sql, None).await
    }

    async fn change(
        &self,
        id: &SegmentId,
        sql: &str,
        verbs: Option<&BTreeSet<Verb>>,
    ) -> Result<Put, SchemasError> {
        let too_long = || SchemasError::TooLong { id: id.clone(), bytes: sql.len() };
        if sql.len() > SQL_BYTES_MAX {
            return Err(too_long());
        }
        let at = key(id)?;
        for _ in 0..ATTEMPTS {
            let before = self.look(id, &at).await?;
            let (put, index) = match &before {
                None => (Put::Created, Index::ABSENT),
                Some((_, index)) => (Put::Updated, *index),
            };
            let kept = before.map(|(schema, _)| schema.verbs).unwrap_or_default();
            let verbs = verbs.cloned().unwrap_or(kept);
            let schema = Schema { id: id.clone(), sql: sql.to_owned(), verbs };
            let value = write(schema).ok_or_else(too_long)?;
            let op = Op::Cas { key: at.clone(), value, index };
            if let Txn::Committed(_) = self.kv.txn(&[op]).await? {
                return Ok(put);
            }
        }
        Err(SchemasError::Contended(id.clone()))
    }

    /// What is at `at`, and when it was last changed.
    async fn look(
        &self,
        id: &SegmentId,
        at: &Key,
    ) -> Result<Option<(Schema, Index)>, SchemasError> {
        let Some(Entry { key, value, modified, .. }) = self.kv.get(at).await? else {
            return Ok(None);
        };
        match understand(&value).and_then(|schema| right_place(&key, schema)) {
            Ok(schema) => Ok(Some((schema, modified))),
            Err(reason) => {
                let (id, address) = (id.clone(), self.kv.address());
                Err(SchemasError::NotUnderstood { id, key, address, reason })
            }
        }
    }

    /// Logs what is new of `faulty`, and forgets what is not faulty any more.
    fn tell(&self, faulty: BTreeMap<Key, (Index, String)>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, (modified, reason)) in &faulty {
            if told.get(key) != Some(modified) {
                tracing::error!(%key, %reason, "a schema is not understood; upgrade trough, or remove the key");
            }
        }
        *told = faulty.into_iter().map(|(key, (modified, _))| (key, modified)).collect();
    }
}

fn key(id: &SegmentId) -> Result<Key, KvError> {
    crate::kv::key(&format!("{SCHEMAS_KEY}/{}", id.label()))
}

/// A schema as it is stored. A field more is a later format: what this trough does not know it must not lose.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u64,
    id: SegmentId,
    sql: String,
    #[serde(default)]
    verbs: BTreeSet<Verb>,
}

/// What every format has.
#[derive(Deserialize)]
struct Any {
    format: u64,
}

/// `None` when it does not fit.
fn write(schema: Schema) -> Option<Bytes> {
    let Schema { id, sql, verbs } = schema;
    pack(&Document { format: FORMAT, id, sql, verbs })
}

fn understand(value: &[u8]) -> Result<Schema, String> {
    let Any { format } = unpack(value)?;
    if format != FORMAT {
        return Err(format!("its format is {format}, and this trough knows {FORMAT}"));
    }
    let Document { id, sql, verbs, .. } = unpack(value)?;
    Ok(Schema { id, sql, verbs })
}

/// A document that lies where another's belongs was put there by a mistake.
fn right_place(at: &Key, schema: Schema) -> Result<Schema, String> {
    match key(&schema.id) {
        Ok(right) if right == *at => Ok(schema),
        _ => Err(format!("it is that of schema {}", schema.id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s11_a_document_of_format_1_is_what_it_always_was() {
        let json = r#"{"format":1,"id":"web","sql":"create table a (b);","verbs":["delete","create virtual table"]}"#;
        let value = zstd::bulk::compress(json.as_bytes(), 3).unwrap();
        let schema = Schema {
            id: SegmentId::new("web").unwrap(),
            sql: "create table a (b);".to_owned(),
            verbs: [Verb::Delete, Verb::CreateVirtualTable].into(),
        };
        assert_eq!(understand(&value), Ok(schema.clone()));
        assert_eq!(unpack::<serde_json::Value>(&write(schema).unwrap()).unwrap().to_string(), {
            serde_json::from_str::<serde_json::Value>(json).unwrap().to_string()
        });
        let all = [
            "delete",
            "create table",
            "drop table",
            "alter table",
            "create index",
            "drop index",
            "create view",
            "drop view",
            "create trigger",
            "create virtual table",
            "drop trigger",
        ];
        for name in all {
            let verb: Verb = serde_json::from_value(name.into()).unwrap();
            assert_eq!(serde_json::to_value(verb).unwrap(), name);
        }
    }

    #[test]
    fn the_longest_schema_fits_whatever_it_says() {
        // what JSON writes with six characters, in an order that zstd finds nothing in
        let mut bytes = vec![0; SQL_BYTES_MAX];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let sql: String = bytes.iter().map(|byte| char::from(byte % 32)).collect();
        let id = SegmentId::new(&"i".repeat(200)).unwrap();
        let schema = Schema { id, sql, verbs: BTreeSet::new() };
        let value = write(schema.clone()).unwrap();
        assert_eq!(understand(&value), Ok(schema));
    }

    #[test]
    fn what_is_not_understood_says_why() {
        let at = |text: &str| Key::new(text).unwrap();
        for (json, why) in [
            (r#"{"format":2,"id":"web","sql":[]}"#, "format is 2"),
            (r#"{"format":1,"id":"web"}"#, "missing field `sql`"),
            (r#"{"id":"web","sql":""}"#, "missing field `format`"),
            (r#"{"format":1,"id":"a/b","sql":""}"#, "segment id"),
            (r#"{"format":1,"id":"web","sql":"","verbs":["vacuum"]}"#, "no kind of statement"),
            (r#"{"format":1,"id":"web","sql":"","more":1}"#, "unknown field `more`"),
            (r#"{"format":1,"id":"net","sql":""}"#, "that of schema net"),
        ] {
            let value = zstd::bulk::compress(json.as_bytes(), 3).unwrap();
            let read =
                understand(&value).and_then(|schema| right_place(&at("trough/schema/web"), schema));
            let said = read.unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        assert!(understand(b"").is_err() && understand(b"{}").is_err());
    }
}
