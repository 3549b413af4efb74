//! Who has published something has the deep store looked at, instead of waiting for the next period.

use std::time::Duration;

use anyhow::Context;

use crate::config::Config;
use crate::http;

/// How long the synchronizer may take to say that it heard of the new segments.
const TRIGGER_TIMEOUT: Duration = Duration::from_secs(2);

/// Tells who lists the deep store to look now. Without one, the next period does: no error.
pub async fn trigger(config: &Config) {
    let told = async {
        let url = match config.in_cluster() {
            false => http::url_of(&config.node.manager_listen)?,
            true => {
                let leader = sync::lead::leader(&*super::kv(config)?).await?;
                format!("http://{}", leader.context("nobody leads")?.address)
            }
        };
        let client = http::client(Some(TRIGGER_TIMEOUT))?;
        client.post(format!("{url}/sync")).send().await?.error_for_status()?;
        anyhow::Ok(())
    };
    if let Err(error) = told.await {
        tracing::debug!(error = format!("{error:#}"), "no synchronizer heard of the new segments");
    }
}
