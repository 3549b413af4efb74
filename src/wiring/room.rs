//! Segments that are written here take of the quota of this machine's cache, for they lie on the same disk.

use std::sync::Arc;
use std::time::Duration;

use fsd::cache::Cache;
use proxy::writer::Files;
use sync::local::seat::member::Member;

use crate::config::Config;

/// Between two looks at what they take.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// What they take is counted in parts of the quota, to the nearest: with each change the cluster is planned anew.
const PARTS: u64 = 64;

/// Counts them, and tells the cluster what is left, for ever.
pub async fn follow(config: &Config, cache: Cache, member: Option<Arc<Member>>) {
    let files = Files::at(config.write.dir.clone());
    let quota_bytes = cache.quota_bytes();
    let mut told = quota_bytes;
    loop {
        let look = files.clone();
        let written = tokio::task::spawn_blocking(move || look.stored_bytes()).await;
        cache.take(counted(written.unwrap_or_default(), quota_bytes));
        let left = cache.quota_bytes();
        if left != told {
            let said = match &member {
                Some(member) => member.room(left).await,
                None => Ok(()),
            };
            match said {
                Ok(()) => told = left,
                // with the next look again
                Err(error) => {
                    tracing::debug!(%error, "the cluster does not hear what room there is");
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// `written` bytes as a part of the quota.
fn counted(written: u64, quota_bytes: u64) -> u64 {
    let part = (quota_bytes / PARTS).max(1);
    (written.saturating_add(part / 2) / part).saturating_mul(part).min(quota_bytes)
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn what_is_written_is_counted_in_parts_of_the_quota() {
        for (written, quota, expected) in [
            (0, 6400, 0),
            // the writer's lock and lease, and the like
            (49, 6400, 0),
            (50, 6400, 100),
            (149, 6400, 100),
            (6399, 6400, 6400),
            (u64::MAX, 6400, 6400),
            (5, 0, 0),
            (5, 10, 5),
        ] {
            assert_eq!(counted(written, quota), expected, "{written} of {quota}");
        }
    }
}
