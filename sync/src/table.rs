//! A table of segments in the registry: as many documents as its length asks for, and one that names them.
//!
//! Invariants: who reads sees a table as it was after one of its transactions, or nothing new; a document that is
//! absent, garbled or of another moment changes nothing for who reads; every transaction is fenced by its writer's
//! session, so who lost it writes nothing.
//!
//! ```text
//! <table>/meta      epoch, how many bits, and the tag of each part     --- watched by who reads
//! <table>/3-5       zstd of JSON: the rows whose hash begins with the 3 bits 101
//! ```
//!
//! A change of one row writes one part and the meta document, in one transaction; who reads fetches that part alone.
//! A table that outgrows its parts is written anew beside the old one, under names with one bit more, and the meta
//! document turns to it in the last transaction.
//!
//! Left out: what the rows mean.

use std::fmt;

use fsd::segment::SegmentId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::kv::{Key, KvError};
use crate::registry::Epoch;

pub(crate) mod document;
mod manifest;
mod reader;
mod writer;

pub use document::DOCUMENT_BYTES_MAX;
pub use manifest::Part;
pub(crate) use manifest::hash_of;
pub(crate) use reader::find;
pub use reader::{Change, TableReader};
pub use writer::{TableWriter, Written};

/// One line of a table.
pub trait Row: Serialize + DeserializeOwned + Send + Sync + fmt::Debug {
    /// The segment it is about: a table has one row for each.
    fn id(&self) -> &SegmentId;
}

/// A table that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The store failed; what was being written may have been.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The session of the writer is over, or another has its lock: nothing was written, and nothing more may be.
    #[error("write {table}: the lock that it is written under is lost ({reason})")]
    Fenced {
        /// Which table.
        table: Key,
        /// What refused.
        reason: String,
    },
    /// A document is not what a trough writes.
    #[error("read {key}: {reason}; what it said before still holds")]
    Undecodable {
        /// Which document.
        key: Key,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody who was overtaken wrote it.
    #[error(
        "read {table}: it is of epoch {found}, and {seen} was seen already; what that said still holds"
    )]
    Older {
        /// Which table.
        table: Key,
        /// What it says.
        found: Epoch,
        /// The highest that was seen.
        seen: Epoch,
    },
    /// It has more rows than fit into all the documents that a table may have.
    #[error("write {table}: {rows} rows are too many for one table; split the data set")]
    TooLarge {
        /// Which table.
        table: Key,
        /// How many.
        rows: usize,
    },
}
