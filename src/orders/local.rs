//! Orders to a server of trough: one POST, and its answer as text.

use std::time::Duration;

use anyhow::Context;
use proxy::tokens::Right;
use reqwest::StatusCode;

use crate::config::Config;
use crate::http;

/// How long an order that only has to be heard may take.
pub(super) const HEARD_TIMEOUT: Duration = Duration::from_secs(10);

/// One order to the synchronizer of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalOrder {
    /// List the deep store now, and answer when what it shows is held.
    SyncNow,
    /// Read every object of the cache now.
    Scrub,
    /// Segments that vanished at once are meant to go.
    AcceptRemovals,
}

impl LocalOrder {
    fn path(self) -> &'static str {
        match self {
            Self::SyncNow => "/sync?wait=1",
            Self::Scrub => "/scrub",
            Self::AcceptRemovals => "/accept-removals",
        }
    }

    /// What an answer means, for people.
    fn outcome(self, status: StatusCode, text: &str) -> &str {
        match (self, status) {
            (Self::SyncNow, StatusCode::OK) => "the deep store was listed, and what it has is held",
            (Self::SyncNow, _) => "still at work; `trough status` shows how far it is",
            (Self::Scrub, _) => "a run of the scrub has begun; `trough status` shows how far it is",
            (Self::AcceptRemovals, _) => text,
        }
    }

    /// The synchronizer itself bounds how long it lets a caller wait (`manager.wait_ms`).
    fn timeout(self, config: &Config) -> Duration {
        match self {
            Self::SyncNow => HEARD_TIMEOUT + Duration::from_millis(config.manager.wait_ms),
            Self::Scrub | Self::AcceptRemovals => HEARD_TIMEOUT,
        }
    }
}

/// Gives the order, and says what came of it.
pub async fn give(config: &Config, order: LocalOrder) -> anyhow::Result<String> {
    let url = format!("{}{}", http::url_of(&config.node.manager_listen)?, order.path());
    let (status, text) = post(config, &url, order.timeout(config)).await?;
    Ok(order.outcome(status, &text).to_owned())
}

/// POSTs to `url`, as one who may give orders; the answer's status and text, or why it was refused.
pub async fn post(
    config: &Config,
    url: &str,
    timeout: Duration,
) -> anyhow::Result<(StatusCode, String)> {
    let request = http::client(Some(timeout))?.post(url);
    let answer = http::authorized(request, config, Right::Manage)?.send().await;
    let answer = answer.with_context(|| format!("ask {url}; is the synchronizer running?"))?;
    let status = answer.status();
    let text = answer.text().await.context("read the synchronizer's answer")?;
    anyhow::ensure!(status.is_success(), "the synchronizer refused: {}", text.trim_end());
    Ok((status, text.trim_end().to_owned()))
}
