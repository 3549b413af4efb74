//! How a node is: its mount, its disk, its ledger, and how far it is behind.
//!
//! Invariant: only a node that cannot answer is ill. One that answers and cannot do all of its work is strained: nobody
//! takes it out of service for that, and somebody looks at it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::status::LocalStatus;

/// From well to worse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It does its work.
    #[default]
    Well,
    /// It answers, and something keeps it from its other work.
    Strained,
    /// It cannot answer.
    Ill,
}

/// One part of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How it is.
    pub health: Health,
    /// What there is to say of it, and what to do.
    pub says: String,
}

/// A node and its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHealth {
    /// That of the worst part.
    pub health: Health,
    /// Whether what is held can be seen.
    pub mount: Finding,
    /// Whether the cache's volume takes what is written.
    pub disk: Finding,
    /// Whether the ledger does.
    pub ledger: Finding,
    /// Whether it has what it is to have, and knows of late what that is.
    pub lag: Finding,
}

impl NodeHealth {
    /// From what the synchronizer says of itself. It is behind when it had something to pull, or heard nothing new of
    /// what it is to hold, for longer than `lag_max`.
    pub fn of(status: &LocalStatus, now_ms: u64, lag_max: Duration) -> Self {
        let (mount, disk, ledger) = (mount(status), disk(status), ledger(status));
        let lag = lag(status, now_ms, lag_max);
        let worst = [&mount, &disk, &ledger, &lag].map(|finding| finding.health);
        let health = worst.into_iter().max().unwrap_or_default();
        Self { health, mount, disk, ledger, lag }
    }

    /// The parts by name, in the order in which a person wants them.
    pub fn parts(&self) -> [(&'static str, &Finding); 4] {
        [("mount", &self.mount), ("disk", &self.disk), ("ledger", &self.ledger), ("lag", &self.lag)]
    }
}

fn well(says: impl Into<String>) -> Finding {
    Finding { health: Health::Well, says: says.into() }
}

fn strained(says: impl Into<String>) -> Finding {
    Finding { health: Health::Strained, says: says.into() }
}

fn mount(status: &LocalStatus) -> Finding {
    match status.mount.live {
        true => well("live"),
        false => Finding {
            health: Health::Ill,
            says: "the mount does not answer; is `trough fsd` running?".to_owned(),
        },
    }
}

fn disk(status: &LocalStatus) -> Finding {
    match (&status.disk.problem, status.disk.free_bytes) {
        (Some(problem), _) => strained(problem),
        (None, Some(free)) => well(format!("{free} bytes free")),
        (None, None) => well("not looked at yet"),
    }
}

fn ledger(status: &LocalStatus) -> Finding {
    status.disk.ledger_problem.as_ref().map_or_else(|| well("takes what is told"), strained)
}

fn lag(status: &LocalStatus, now_ms: u64, lag_max: Duration) -> Finding {
    let is_late = |since_ms: u64| now_ms.saturating_sub(since_ms) > lag_max.as_millis() as u64;
    let seconds = |since_ms: u64| now_ms.saturating_sub(since_ms) / 1_000;
    // in a cluster the lead looks at the deep store for all
    let (whom, heard_at_ms) = match &status.lead {
        Some(lead) => ("the lead", lead.heard_at_ms),
        None => ("the deep store", status.store.complete_listing_at_ms),
    };
    let heard_at_ms = heard_at_ms.unwrap_or(status.begun_at_ms);
    if is_late(heard_at_ms) {
        return strained(format!(
            "nothing was heard of {whom} for {} s; what is held stays served",
            seconds(heard_at_ms)
        ));
    }
    let pending = status.segments.pending;
    match status.behind_since_ms {
        Some(since) if is_late(since) => {
            strained(format!("{pending} segments to pull, some for {} s now", seconds(since)))
        }
        _ => well(format!("{pending} segments to pull")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::{LeadView, MountStatus};
    use super::*;

    const MAX: Duration = Duration::from_secs(10);
    const NOW_MS: u64 = 1_000_000;

    fn status() -> LocalStatus {
        let mut status = LocalStatus { begun_at_ms: NOW_MS, ..LocalStatus::default() };
        status.mount = MountStatus { live: true, ..MountStatus::default() };
        status
    }

    fn of(status: &LocalStatus) -> NodeHealth {
        NodeHealth::of(status, NOW_MS, MAX)
    }

    #[test]
    fn only_who_cannot_answer_is_ill() {
        assert_eq!(of(&status()).health, Health::Well);
        let mut dead = status();
        dead.mount.live = false;
        dead.disk.problem = Some("full".to_owned());
        let health = of(&dead);
        assert_eq!((health.health, health.disk.health), (Health::Ill, Health::Strained));
        for strain in [
            |status: &mut LocalStatus| status.disk.problem = Some("full".to_owned()),
            |status: &mut LocalStatus| status.disk.ledger_problem = Some("locked".to_owned()),
            |status: &mut LocalStatus| status.behind_since_ms = Some(NOW_MS - 11_000),
            |status: &mut LocalStatus| status.store.complete_listing_at_ms = Some(NOW_MS - 11_000),
            |status: &mut LocalStatus| status.begun_at_ms = NOW_MS - 11_000,
        ] {
            let mut strained = status();
            strain(&mut strained);
            assert_eq!(of(&strained).health, Health::Strained, "{strained:?}");
        }
    }

    #[test]
    fn a_node_of_a_cluster_goes_by_its_lead_and_a_short_lag_is_none() {
        let mut node = status();
        node.store.complete_listing_at_ms = Some(0);
        node.lead = Some(LeadView { heard_at_ms: Some(NOW_MS - 9_000), ..LeadView::default() });
        node.behind_since_ms = Some(NOW_MS - 9_000);
        assert_eq!(of(&node).health, Health::Well);
        node.lead = Some(LeadView { heard_at_ms: Some(NOW_MS - 11_000), ..LeadView::default() });
        let lag = of(&node).lag;
        assert_eq!(lag.health, Health::Strained);
        assert!(lag.says.contains("nothing was heard of the lead for 11 s"), "{lag:?}");
    }
}
