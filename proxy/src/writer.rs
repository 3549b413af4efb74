//! The writer of a node: the segments that it owns, from taking them to giving them back (DESIGN.md 7, 9).
//!
//! ```text
//!   settings   how
//!   files      where they lie, durably
//!   note       what is written down of each
//!   content    what a segment is when it is opened
//!   hold       the right to write one: lock and note
//!   segment    one of them: open, write, publish, leave
//!   desk       all of them, by id
//!   upkeep     what happens by itself: publishing by age, giving back what is idle, starting again
//!   orphans    what was overtaken elsewhere: what is missing of it, and putting that back
//!   error      every failure
//!   server     the HTTP side: POST of a script
//!   control    the same machine's segment manager, over a socket
//! ```
//!
//! Invariants (S3, S4): nothing that was acknowledged is lost or overwritten: it is published, or kept as an orphan; one
//! node at a time writes a segment, and only while its lock holds; a segment is given back when all of it is published
//! and served.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use fsd::segment::{SegmentId, Version};
use metrics_exporter_prometheus::PrometheusHandle;
use sync::clock::{Clock, SinceBoot};
use sync::local::seat::member::Served;
use sync::node::NodeName;
use sync::orphans::Reporter;
use sync::publish::Publisher;
use sync::schemas::{DEFAULT_ID, Schemas};
use sync::store::Store;
use sync::verb::Verb;
use sync::write_lock::Claimant;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod content;
pub mod control;
mod desk;
mod error;
mod files;
mod hold;
mod note;
pub mod orphans;
mod segment;
pub mod server;
mod settings;
mod upkeep;

pub use content::{OnFetched, fetch_published};
pub use desk::{Desk, Opened};
pub use error::{OpenError, PromoteError};
pub use files::{Files, FilesError};
pub use note::Note;
pub use settings::{DirtyTakeover, WriterSettings};
pub use upkeep::run as keep_up;

use crate::guarded::check_bind;
use crate::tokens::{Right, Tokens};
use crate::writable::{SyncData, Verbs};

/// Those who read what was published.
#[async_trait]
pub trait Readers: Send + Sync + fmt::Debug {
    /// Whether enough readers have `version` of `id` for the writer to stop answering for it.
    async fn have(&self, id: &SegmentId, version: &Version) -> bool;

    /// Something was published: who looks after the copies need not wait for its next period. Bounded, and no matter
    /// if nobody hears it.
    async fn tell(&self);
}

/// What a writer needs.
#[derive(Clone)]
pub struct Outside {
    /// Which node it is.
    pub node: NodeName,
    /// Where it answers, as `host:port`.
    pub address: String,
    /// The deep store.
    pub store: Arc<dyn Store>,
    /// Into it.
    pub publisher: Publisher,
    /// Where segments are written.
    pub files: Files,
    /// The schemas that new ones are made by.
    pub schemas: Schemas,
    /// Where it tells of its orphans.
    pub orphans: Arc<Reporter>,
    /// Whether what was published is read.
    pub readers: Arc<dyn Readers>,
    /// Is told which segments are open.
    pub open: watch::Sender<Served>,
    /// How what was written is made durable: [`std::fs::File::sync_data`].
    pub sync_data: SyncData,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// The clock of leases.
    pub since_boot: SinceBoot,
    /// How.
    pub settings: WriterSettings,
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outside").field(&self.node).finish()
    }
}

/// A schema as a segment needs it.
#[derive(Debug, Clone)]
struct SchemaOf {
    id: SegmentId,
    sql: String,
    verbs: Vec<Verb>,
}

impl Outside {
    async fn schema(&self, id: &SegmentId) -> Result<Option<SchemaOf>, OpenError> {
        let failed = |reason: String| OpenError::Schema { schema: id.clone(), reason };
        let found = self.schemas.get(id).await.map_err(|error| failed(error.to_string()))?;
        let Some(found) = found else {
            // what everybody gets who names none need not be registered
            return match id.as_str() == DEFAULT_ID {
                true => Ok(None),
                false => Err(OpenError::UnknownSchema(id.clone())),
            };
        };
        Ok(Some(SchemaOf {
            id: id.clone(),
            sql: found.sql,
            verbs: found.verbs.into_iter().collect(),
        }))
    }

    fn verbs(&self, more: &[Verb]) -> Verbs {
        let own: Verbs = self.settings.write.verbs.iter().copied().collect();
        own.with(more.iter().copied())
    }

    fn claimant(&self, schema: Option<&SegmentId>, unpublished_since_ms: Option<u64>) -> Claimant {
        Claimant {
            node: self.node.clone(),
            write_address: self.address.clone(),
            schema: schema.cloned(),
            takeover: self.settings.takeover_dirty_after_s.into(),
            unpublished_since_ms,
        }
    }
}

/// Runs the writer until `shutdown`: takes writes at `listener`, orders at its socket, and sees to what is open.
pub async fn run(
    outside: Outside,
    listener: TcpListener,
    tokens: Arc<Tokens>,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let settings = &outside.settings;
    check_bind(listener.local_addr()?, tokens.is_open(Right::Write), settings.insecure_open)?;
    let desk = Arc::new(Desk::start(outside).await?);
    let serving = server::Serving { desk: Arc::clone(&desk), tokens, metrics };
    let answered = CancellationToken::new();
    let upkeep = tokio::spawn(keep_up(Arc::clone(&desk), answered.clone()));
    let pages = async {
        server::serve(serving, listener, shutdown.clone()).await;
        Ok(())
    };
    let served = tokio::try_join!(pages, control::serve(desk, shutdown.clone()));
    // what was being answered is done: now everything can be left
    answered.cancel();
    upkeep.await?;
    served.map(drop)
}
