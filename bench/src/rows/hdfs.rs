//! The HDFS of rows 4, 5, 10 to 12 and 15, and what they do with it.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use fsd::segment::SegmentId;
use futures::{StreamExt, TryStreamExt};
use hdfs_native::{Client, ClientBuilder};
use rig::hdfs::Hdfs;
use rig::net::{Host, Net};
use sync::clock::{SystemClock, since_boot};
use sync::kv::sqlite::{FILE_TIMEOUTS, SqliteKv};
use sync::publish::{Publication, PublishError, PublishSettings, Publisher};
use sync::store::{Store, StoreTimeouts};
use tokio::runtime::Runtime;

/// Threads of every side: Hadoop's `-t`, and `sync.pulls` of trough's defaults.
pub const THREADS: usize = 4;
/// DataNodes remove the blocks of deleted files some heartbeats later, and a heartbeat comes each second.
pub const BLOCKS_GO: Duration = Duration::from_secs(4);

/// A running HDFS, its client, and a runtime for both.
pub struct Deep {
    pub hdfs: Hdfs,
    pub runtime: Runtime,
    pub client: Client,
}

impl Deep {
    /// Starts it with compilers as in production: the tests' rig starts faster and runs slower.
    pub fn start() -> anyhow::Result<Self> {
        Self::of(Hdfs::start)
    }

    /// The same on a host of a net.
    pub fn start_on(net: &Net, host: &Host) -> anyhow::Result<Self> {
        Self::of(|| Hdfs::start_on(net, host))
    }

    fn of(start: impl FnOnce() -> Hdfs) -> anyhow::Result<Self> {
        let tier = std::env::var("HDFS_RIG_TIER").unwrap_or_default();
        ensure!(
            tier == "4",
            "HDFS_RIG_TIER=4 is not set, so Hadoop would run slower than it can: use `make bench`"
        );
        let hdfs = start();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let _in_it = runtime.enter();
        let client = ClientBuilder::new().with_url(hdfs.url("")).build()?;
        drop(_in_it);
        Ok(Self { hdfs, runtime, client })
    }

    /// The deep store at `path`.
    pub fn store(&self, path: &str) -> anyhow::Result<Arc<dyn Store>> {
        let _in_it = self.runtime.enter();
        Ok(sync::store::open(&self.hdfs.url(path), StoreTimeouts::default())?)
    }

    /// Publishes `files` below `path`, sealed; where they lie then.
    pub fn publish(
        &self,
        files: &[PathBuf],
        path: &str,
        scratch: &Path,
    ) -> anyhow::Result<Vec<String>> {
        let kv = SqliteKv::open(scratch.join("publisher.sqlite"), since_boot, FILE_TIMEOUTS)?;
        let (kv, clock, boot) = (Arc::new(kv), Arc::new(SystemClock), Arc::new(since_boot));
        let settings =
            PublishSettings { temp_dir: Some(scratch.to_owned()), ..PublishSettings::default() };
        let store = self.store(path)?;
        let quiet = Arc::new(|_: &SegmentId, _| ());
        let holder = "bench".to_owned();
        let publisher = Publisher::new(store, kv, clock, boot, settings, holder, quiet)?;
        let sources = files.iter().map(|file| anyhow::Ok((id_of(file)?, file.clone())));
        let sources = sources.collect::<anyhow::Result<Vec<_>>>()?;
        self.runtime.block_on(async {
            let results = publisher.put_all(futures::stream::iter(sources));
            let lies_at = |(_, result): (SegmentId, Result<Publication, PublishError>)| {
                anyhow::Ok(format!("{path}/{}", result?.path))
            };
            results.map(lies_at).try_collect().await
        })
    }

    /// Deletes what lies at `path`, and waits until the disks are quiet again.
    ///
    /// The files of its blocks are emptied rather than deleted, through links that are left aside: where an ext4
    /// has no journal it searches through all inodes that were deleted in the last minutes for each new file, and
    /// whoever makes more files would pay for what both deleted.
    pub fn clear(&self, path: &str) -> anyhow::Result<()> {
        let aside = tempfile::Builder::new().prefix("old-").tempdir_in(self.hdfs.dir())?.keep();
        let mut linked = Vec::new();
        for node in 1..=rig::hdfs::DATANODES {
            let data = self.hdfs.dir().join(format!("datanode-{node}/data"));
            link_blocks(&data, &aside, &mut linked)?;
        }
        self.runtime.block_on(self.client.delete(path, true)).context("delete in HDFS")?;
        std::thread::sleep(BLOCKS_GO);
        for file in linked {
            // one that still lies in HDFS has its other name
            if std::fs::metadata(&file)?.nlink() == 1 {
                File::options().write(true).truncate(true).open(file)?;
            }
        }
        rustix::fs::sync();
        Ok(())
    }
}

/// Links each block's files below `directory` to a name of its own in `aside`.
fn link_blocks(directory: &Path, aside: &Path, linked: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            link_blocks(&entry.path(), aside, linked)?;
        } else if entry.file_name().to_string_lossy().starts_with("blk_") {
            let link = aside.join(linked.len().to_string());
            std::fs::hard_link(entry.path(), &link)?;
            linked.push(link);
        }
    }
    Ok(())
}

/// The segment that a file is published as.
pub fn id_of(file: &Path) -> anyhow::Result<SegmentId> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).context("a file name")?;
    Ok(SegmentId::new(stem)?)
}

/// The first `count` files of a directory, and their bytes.
pub fn files(dir: &Path, count: usize) -> anyhow::Result<(Vec<PathBuf>, u64)> {
    let entries = std::fs::read_dir(dir)?.map(|entry| anyhow::Ok(entry?.path()));
    let mut files = entries.collect::<anyhow::Result<Vec<_>>>()?;
    files.sort();
    files.truncate(count);
    let lengths = files.iter().map(|file| anyhow::Ok(std::fs::metadata(file)?.len()));
    let bytes = lengths.sum::<anyhow::Result<u64>>()?;
    Ok((files, bytes))
}

/// A throughput in words.
pub fn speed(bytes: u64, seconds: f64) -> String {
    format!("{:.0} MiB/s", bytes as f64 / f64::from(1 << 20) / seconds)
}
