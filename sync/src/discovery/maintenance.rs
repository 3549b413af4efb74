//! Whether a person took this node out, told to those who do not ask DNS.
//!
//! DNS leaves an instance under maintenance out by itself. trough's own readers and the lead learn it from what the node
//! says of itself.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::info;

use super::trouble::Trouble;
use super::{DiscoverySettings, millis};
use crate::local::seat::member::Member;
use crate::metrics;
use crate::services::{Name, Services};

/// Has `member` say whether the instance `id`, or this machine, is under maintenance, until `shutdown`. As long as that
/// cannot be found out, what was said last holds.
pub async fn follow_maintenance(
    services: Arc<dyn Services>,
    settings: DiscoverySettings,
    id: Name,
    member: Arc<Member>,
    shutdown: CancellationToken,
) {
    let first = millis(settings.maintenance_ms);
    let longest = first.max(millis(settings.retry_longest_ms));
    let what = "find out whether this node is under maintenance";
    let mut asking = Trouble::new(id.clone(), what, first, longest);
    let what = "say whether this node is under maintenance";
    let mut telling = Trouble::new(id.clone(), what, first, longest);
    // what a node says of itself at first
    let mut said = false;
    loop {
        let wait = match services.maintenance(&id).await.map(|now| now.is_on()) {
            Ok(now) if now != said => {
                asking.over();
                match member.maintain(now).await {
                    Ok(()) => {
                        info!(service = %id, on = now, "maintenance changed");
                        said = now;
                        telling.over();
                        first
                    }
                    Err(error) => telling.failed(&error),
                }
            }
            Ok(_) => {
                asking.over();
                first
            }
            Err(error) => asking.failed(&error),
        };
        metrics::maintenance(said);
        if shutdown.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}
