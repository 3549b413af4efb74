//! Where the layers are joined: settings and the outside world go in, a running subsystem comes out.
//!
//! Everything of the root package that names a subsystem's entry point stands here, so that a change of one
//! is a change of this file. Left out: what the subsystems do.

use std::path::Path;

use fsd::daemon;
use fsd::filesystem::xattrs::Facts;
use fsd::layout::Layout;
use fsd::ledger::LedgerReader;
use fsd::segment::{Digest, SegmentId};
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// What came of publishing one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Where it lies in the deep store, for people.
    pub path: String,
    /// Its length there.
    pub bytes: u64,
}

/// Owns the mount until SIGTERM or SIGINT, or until a newer process took it over; blocking.
pub fn fsd(config: &Config) -> anyhow::Result<()> {
    let layout = Layout::new(&config.cache.dir);
    let ledger = LedgerReader::open(&layout);
    let facts = move |id: &SegmentId, digest: &Digest| match ledger.facts(id, digest) {
        Ok(facts) => facts.map(|facts| Facts {
            stamp: facts.stamp,
            source: facts.source,
            verified_at_ms: facts.verified_at_ms,
        }),
        Err(error) => {
            // only the attributes that come from the ledger are missing then
            tracing::debug!(segment = %id, %error, "no facts from the ledger");
            None
        }
    };
    let ready = || tracing::info!(mountpoint = %config.mount.mountpoint.display(), "mounted");
    daemon::run(&config.mount, &layout, Box::new(facts), daemon::Shutdown::default(), ready)?;
    Ok(())
}

/// Runs the local synchronizer and its HTTP side until `shutdown`.
pub async fn sync_local(_config: &Config, _shutdown: CancellationToken) -> anyhow::Result<()> {
    // AFTER THE MERGE: open the cache, the store and the registry; sync::local::Local; proxy::manager
    anyhow::bail!("the synchronizer is not in this build")
}

/// Runs the reader until `shutdown`.
pub async fn read(_config: &Config, _shutdown: CancellationToken) -> anyhow::Result<()> {
    // AFTER THE MERGE: proxy::reader::run(settings, listener, view, registry, shutdown)
    anyhow::bail!("the reader is not in this build")
}

/// The way into the deep store for `trough put`.
#[derive(Debug)]
pub struct Publisher {}

impl Publisher {
    /// Reaches the deep store and the registry.
    pub async fn open(_config: &Config) -> anyhow::Result<Self> {
        // AFTER THE MERGE: sync::publish
        anyhow::bail!("publishing is not in this build")
    }

    /// Publishes the SQLite database `file` as the segment `id`.
    pub async fn publish(&self, _id: &SegmentId, _file: &Path) -> anyhow::Result<Published> {
        anyhow::bail!("publishing is not in this build")
    }
}
