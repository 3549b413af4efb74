//! What the commands about orphans work on: this machine's files, the deep store, and who writes what.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use proxy::writer::Files;
use sync::clock::{SystemClock, since_boot};
use sync::store::Store;
use sync::write_lock::WriteLocks;

use super::keys;
use crate::config::Config;

/// The files of this machine's writer; `None` where none ever ran. Nothing is made.
pub fn files(config: &Config) -> anyhow::Result<Option<Files>> {
    let dir = &config.write.dir;
    // a writer makes it with its first start
    let orphans = dir.join("orphans");
    match orphans.try_exists().with_context(|| format!("look at {}", orphans.display()))? {
        true => Ok(Some(Files::at(dir.clone()))),
        false => Ok(None),
    }
}

/// The deep store.
pub fn store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    Ok(sync::store::open(&config.store.url, config.store.timeouts)?)
}

/// Who writes what. No session is made for who only asks.
pub fn locks(config: &Config) -> anyhow::Result<WriteLocks> {
    let (kv, clock, since_boot) = (keys(config)?, Arc::new(SystemClock), Arc::new(since_boot));
    let ttl = Duration::from_secs(config.publish.lock_ttl_s);
    let holder = format!("`trough orphans` on {}", config.display_name());
    Ok(WriteLocks::new(kv, store(config)?, clock, since_boot, ttl, holder)?)
}
