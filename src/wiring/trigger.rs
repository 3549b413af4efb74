//! Whom this machine's commands tell something; and who has published something has the deep store looked at, instead of waiting for the next period.

use std::time::Duration;

use anyhow::Context;
use proxy::tokens::Right;

use crate::config::Config;
use crate::http;

/// Where orders about segments are taken: the segment manager of this machine, in a cluster that of who leads.
pub async fn manager_url(config: &Config) -> anyhow::Result<String> {
    if !config.in_cluster() {
        return http::url_of(&config.node.manager_listen);
    }
    let leader = sync::lead::leader(&*super::kv(config)?).await?;
    Ok(format!("http://{}", leader.context("nobody leads")?.address))
}

/// How long the synchronizer may take to say that it heard of the new segments.
const TRIGGER_TIMEOUT: Duration = Duration::from_secs(2);

/// Tells who lists the deep store to look now. Without one, the next period does: no error.
pub async fn trigger(config: &Config) {
    let told = async {
        let url = manager_url(config).await?;
        let client = http::client(Some(TRIGGER_TIMEOUT))?;
        let request = http::authorized(client.post(format!("{url}/sync")), config, Right::Manage)?;
        request.send().await?.error_for_status()?;
        anyhow::Ok(())
    };
    if let Err(error) = told.await {
        tracing::debug!(error = format!("{error:#}"), "no synchronizer heard of the new segments");
    }
}
