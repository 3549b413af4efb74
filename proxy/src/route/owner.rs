//! A question to the one node that may answer it: the one that writes the segment.

use std::sync::Arc;

use metrics::counter;
use sync::node::NodeName;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::exchange::{Miss, There, exchange};
use super::{Question, ROUND_PAUSE, Route};
use crate::error::QueryError;
use crate::metrics::FORWARDS;

/// It is asked again once: a connection that was kept may have been closed when the question was on its way.
const ATTEMPTS: u32 = 2;

/// Why the owner gave no answer.
#[derive(Debug)]
pub enum OwnerMiss {
    /// It was silent, or there is nothing at its address; for people.
    Silent(String),
    /// It does not write the segment (any more).
    NotThere,
    /// It was not asked.
    Failed(QueryError),
}

impl Route {
    /// Asks `owner`, who is to answer from the file that it writes, or not at all.
    pub async fn ask_owner(
        &self,
        question: &Question,
        owner: &NodeName,
    ) -> Result<(There, OwnedSemaphorePermit), OwnerMiss> {
        let place = self.place().map_err(OwnerMiss::Failed)?;
        let mut last = "its address is not known yet".to_owned();
        for attempt in 0..ATTEMPTS {
            let Some(at) = self.nodes.find(owner) else { break };
            let peer = self.peers.of(owner, &at.read_address);
            if attempt > 0 {
                if peer.is_silent() {
                    break;
                }
                tokio::time::sleep_until(question.deadline.min(Instant::now() + ROUND_PAUSE)).await;
            }
            let asked = exchange(&self.client, &peer, question, &self.own, &self.settings).await;
            let outcome = asked.as_ref().map_or_else(Miss::kind, |_| "answered");
            counter!(FORWARDS, "outcome" => outcome).increment(1);
            match asked {
                // one that does not know what it was asked took a copy
                Ok(there) if there.status().is_success() && !there.is_writable() => {
                    return Err(OwnerMiss::NotThere);
                }
                Ok(there) => return Ok((there, place)),
                // it is there, and says itself why it cannot
                Err(Miss::Refused(there)) => return Ok((*there, place)),
                Err(Miss::NotThere(_)) => return Err(OwnerMiss::NotThere),
                Err(Miss::Silent { reason, .. }) => last = reason,
                Err(Miss::Nobody) => {}
            }
        }
        Err(OwnerMiss::Silent(last))
    }

    /// A place among the questions that are with others.
    pub(super) fn place(&self) -> Result<OwnedSemaphorePermit, QueryError> {
        let busy = |_| QueryError::Busy { running: self.settings.queries_max, queued: 0 };
        Arc::clone(&self.places).try_acquire_owned().map_err(busy)
    }
}
