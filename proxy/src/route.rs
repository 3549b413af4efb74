//! From a segment that is not here to a reader that has it: one hop, to one holder after the other, until one answers.
//!
//! ```text
//!   order     who is asked first: those that answer, by load, from a short list that is the same for each segment
//!   peer      what is known of a reader: probed while it is used, and how much it has to do
//!   exchange  one question to one reader
//!   owner     who writes the segment, and only that one
//! ```
//!
//! Invariants: a question that came from another reader goes no further; nothing of an answer is passed on before it
//! is certain that it need not be asked for again: all of it up to [`HELD_BACK_BYTES`], and a longer one that breaks
//! is broken off, so that it never looks whole; a reader that is silent is left, and its unanswered questions go to the
//! next; the time of the query bounds all of it.
//!
//! Left out: which segment has which holders ([`crate::catalogue`]).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fsd::segment::SegmentId;
use http_body_util::Full;
use hyper::HeaderMap;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use metrics::counter;
use serde::{Deserialize, Serialize};
use sync::node::NodeName;
use sync::nodes_view::NodesView;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::catalogue::{Catalogue, Holders, holders};
use crate::error::QueryError;
use crate::metrics::FORWARDS;

mod exchange;
mod order;
mod owner;
mod peer;

pub use exchange::{
    DEADLINE_HEADER, FORWARDED_HEADER, HELD_BACK_BYTES, OF_OWNER, ONLY_HEADER, There,
};
use exchange::{Miss, exchange};
use order::Candidate;
pub use owner::OwnerMiss;
pub use peer::LOAD_HEADER;
pub(crate) use peer::health;
use peer::{Peer, Peers};

/// Rounds over all holders: what moves is found at its new place by then.
const ROUNDS: u32 = 4;
/// The pause after the first round; twice as long after each further one.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// A connection that nobody used for so long is closed: before the other side does it.
const IDLE: Duration = Duration::from_secs(15);
/// Connections to one reader that are kept for the next question.
const IDLE_CONNECTIONS_MAX: usize = 64;

pub(crate) type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// How other readers are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ForwardSettings {
    /// Time between two looks whether a reader that is used answers, in milliseconds.
    pub probe_ms: u64,
    /// A reader that is silent for so long is left, in milliseconds.
    pub silent_ms: u64,
    /// Queries that may be with other readers at the same time; one more is answered with 429.
    pub queries_max: usize,
}

impl Default for ForwardSettings {
    fn default() -> Self {
        // each holds back some 64 KiB
        Self { probe_ms: 250, silent_ms: 1000, queries_max: 1024 }
    }
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// One who has a copy.
    Holder,
    /// Who writes the segment: its copy, if it has one, is not what is asked for.
    Owner,
}

/// A query, as another reader is asked it.
#[derive(Debug, Clone)]
pub struct Question {
    /// Of whom it is.
    pub whom: Whom,
    /// Which segment.
    pub id: SegmentId,
    /// The statement.
    pub sql: Bytes,
    /// What is passed on of the caller's headers.
    pub headers: HeaderMap,
    /// When its time is up.
    pub deadline: Instant,
    /// How long nothing may come of an answer that began.
    pub stall: Duration,
}

/// Why no other reader answered.
#[derive(Debug)]
pub enum Unreached {
    /// Nobody did.
    Failed(QueryError),
    /// One said why it cannot.
    Refused(Box<There>),
}

/// See the module.
#[derive(Debug)]
pub struct Route {
    own: NodeName,
    nodes: Arc<NodesView>,
    peers: Peers,
    client: HttpClient,
    places: Arc<Semaphore>,
    settings: ForwardSettings,
}

impl Route {
    /// From the reader of `own` to those of the nodes that `nodes` knows.
    pub fn new(own: NodeName, nodes: Arc<NodesView>, settings: ForwardSettings) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_millis(settings.silent_ms)));
        let client: HttpClient = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector);
        let peers = Peers::new(client.clone(), settings);
        let places = Arc::new(Semaphore::new(settings.queries_max));
        Self { own, nodes, peers, client, places, settings }
    }

    /// Whether this reader is the one of `node`.
    pub fn is_own(&self, node: &NodeName) -> bool {
        *node == self.own
    }

    /// Asks the others that have the segment as `catalogue` says, until one answers.
    pub async fn ask(
        &self,
        question: &Question,
        catalogue: &dyn Catalogue,
    ) -> Result<(There, OwnedSemaphorePermit), Unreached> {
        let place = self.place().map_err(Unreached::Failed)?;
        let mut last = Miss::Nobody;
        let mut pause = ROUND_PAUSE;
        for round in 0..ROUNDS {
            if round > 0 {
                tokio::time::sleep_until(question.deadline.min(Instant::now() + pause)).await;
                pause *= 2;
            }
            for peer in self.order(&question.id, &holders(catalogue, &question.id).await) {
                if Instant::now() >= question.deadline {
                    return Err(last.into_unreached(&question.id));
                }
                match exchange(&self.client, &peer, question, &self.own, &self.settings).await {
                    Ok(there) => {
                        counter!(FORWARDS, "outcome" => "answered").increment(1);
                        return Ok((there, place));
                    }
                    Err(miss) => {
                        counter!(FORWARDS, "outcome" => miss.kind()).increment(1);
                        tracing::debug!(peer = %peer.name(), segment = %question.id, ?miss, "asking another");
                        last = last.or(miss);
                    }
                }
            }
            if last.is_final() {
                break;
            }
        }
        Err(last.into_unreached(&question.id))
    }

    fn order(&self, id: &SegmentId, holders: &Holders) -> Vec<Arc<Peer>> {
        let newest = holders.newest.iter().map(|name| (name, true));
        let older = holders.older.iter().map(|name| (name, false));
        let others = newest.chain(older).filter(|(name, _)| !self.is_own(name));
        let asked = others.filter_map(|(name, newest)| {
            let at = self.nodes.find(name)?;
            let peer = self.peers.of(name, &at.read_address);
            Some(Candidate { peer, newest, available: at.available })
        });
        order::order(id, asked.collect())
    }
}
