//! The HTTP servers: the reader that answers SELECTs from the mount, and the synchronizer's pages.
//!
//! ```text
//! http        connections: bounded in number, each wait bounded in time
//! body        a request's body, bounded in length and time
//! host        which host a request is for; what may name a segment
//! reader      the reader's pages and one query's way through it
//! catalogue   what is known of the pool: whether a segment exists, and who has it
//! route       to the readers of other nodes
//! pool        open segments, by (id, device, inode)
//! connection  one hardened SQLite connection: limits, functions, statements
//! admission   what SQL may do there
//! query       one query on a thread that may wait; its limits
//! rows        from `sqlite3_step` to bytes
//! error       every failure and its HTTP status
//! causes      an error in one line
//! writable    a segment that is open for writing
//! writer      the segments that a node writes, from taking them to giving them back
//! lease       which writable segments the reader may read
//! guarded     pages that take orders: who may call them, where they may be bound
//! manager     the pages of a local synchronizer
//! lead        the pages of a lead
//! segments    orders about segments and schemas, as the original takes them
//! managing    who carries them out
//! schema      what a new segment begins with: hostile SQL, run in an empty database
//! tokens      who may read, write and give orders
//! health, metrics
//! ```

pub mod admission;
mod body;
pub mod catalogue;
mod causes;
pub mod connection;
pub mod error;
pub mod guarded;
pub mod health;
pub mod host;
pub mod http;
pub mod lead;
pub mod lease;
pub mod manager;
pub mod managing;
pub mod metrics;
pub mod mount;
pub mod pool;
pub mod query;
pub mod reader;
pub mod route;
pub mod rows;
pub mod schema;
pub mod segments;
pub mod tokens;
pub mod writable;
pub mod writer;
