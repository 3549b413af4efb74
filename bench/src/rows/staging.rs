//! Row 4: sealed segments from HDFS into the cache, against the same bytes copied to files.
//!
//! Our side is the local synchronizer itself, from its first listing until every segment was verified, made
//! durable, published and seen through the mount. The native side copies with the same library and the same
//! concurrency, one fsync for each file, and checks nothing; it is spared the listing. Hadoop's own side is
//! its command line, which syncs nothing.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fsd::cache::{Cache, CacheSettings};
use fsd::scrub::ScrubSettings;
use fsd::view::MountView;
use futures::{StreamExt, TryStreamExt};
use hdfs_native::Client;
use sync::clock::{SystemClock, since_boot};
use sync::kv::sqlite::{FILE_TIMEOUTS, SqliteKv};
use sync::local::seat::alone::Alone;
use sync::local::{Local, LocalSettings, Outside};
use sync::quota::WholePool;
use sync::registry::sqlite::SqliteRegistry;
use tokio_util::sync::CancellationToken;

use super::hdfs::{Deep, THREADS, files, speed};
use crate::data::Place;
use crate::harness::{Spread, interleave, timed};
use crate::report::{Limit, Outcome};
use crate::service::{Dir, Service};

/// Where the segments lie in HDFS.
const POOL: &str = "/pool";
/// How often each side's calls are made for each file before anything is measured: the JVMs compile what they run
/// often, and those of a real cluster did so long ago. The NameNode's processor time for a round is a quarter then.
const WARM_UPS: usize = 40;
/// Longer than any staging takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// Row 4.
pub fn staging(place: &Place) -> anyhow::Result<Vec<Outcome>> {
    let count = place.size(256, 16);
    let (sources, bytes) = files(&place.segments(count)?, count)?;
    let scratch = place.scratch()?;
    let deep = Deep::start()?;
    let paths = deep.publish(&sources, POOL, scratch.path())?;
    let target = scratch.path().join("out");
    let old = scratch.path().join("old");
    std::fs::create_dir(&old)?;
    let fresh = || -> anyhow::Result<()> {
        set_aside(&target, &old)?;
        std::fs::create_dir(&target)?;
        rustix::fs::sync();
        Ok(())
    };
    let mut trough = || {
        fresh()?;
        let time = stage(&deep, &target, count)?;
        Ok(time)
    };
    let mut native = || {
        fresh()?;
        let time = timed(|| deep.runtime.block_on(copy(&deep.client, &paths, &target)))?;
        ensure!(files(&target, usize::MAX)?.1 == bytes, "the native copy is not whole");
        Ok(time)
    };
    let glob = format!("{POOL}/*/*.sqlite");
    let mut hadoop = || {
        fresh()?;
        let time = timed(|| {
            deep.hdfs.dfs(&["-get", "-t", &THREADS.to_string(), &glob, &target.to_string_lossy()]);
            Ok(())
        })?;
        ensure!(files(&target, usize::MAX)?.1 == bytes, "Hadoop's copy is not whole");
        Ok(time)
    };
    deep.runtime.block_on(warm(&deep.client, &paths, place.size(WARM_UPS, 1)))?;
    trough()?;
    native()?;
    let rounds = place.size(7, 2);
    let times = interleave(rounds, &mut [&mut trough, &mut native, &mut hadoop])?;
    let side = |times: &[Duration]| speed(bytes, Spread::of_times(times).median);
    let against = |other: &str, times_of: usize, least: f64| Outcome {
        what: format!("verified, durable staging of {} MiB vs {other}", bytes >> 20),
        limit: Limit::ThroughputAtLeast(least),
        measured: Spread::of_ratios(&times[times_of], &times[0]),
        runs: rounds,
        note: format!("trough {}, {other} {}", side(&times[0]), side(&times[times_of])),
    };
    Ok(vec![against("hdfs-native with fsync", 1, 0.9), against("dfs -get -t 4", 2, 1.5)])
}

/// Empties every file below `target` and moves it into `old`, to be removed when nothing is measured any more: an
/// ext4 without a journal looks at every inode that was lately deleted when it makes a new one.
fn set_aside(target: &Path, old: &Path) -> anyhow::Result<()> {
    if !target.is_dir() {
        return Ok(());
    }
    let aside = old.join(std::fs::read_dir(old)?.count().to_string());
    std::fs::rename(target, &aside)?;
    let mut directories = vec![aside];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                // root may write to what nobody may write to; the benchmark runs as root, for the mount
                File::options().write(true).truncate(true).open(entry.path())?;
            }
        }
    }
    Ok(())
}

/// One synchronizer from its start until all is seen through the mount.
fn stage(deep: &Deep, target: &Path, count: usize) -> anyhow::Result<Duration> {
    let dir = Dir { dir: target.to_owned(), cache: target.join("cache"), set: Vec::new() };
    let settings = CacheSettings { dir: dir.cache.clone(), ..CacheSettings::default() };
    let (cache, _) = Cache::open(&settings)?;
    let (service, view) = Service::mount(&dir)?;
    let store = deep.store(POOL)?;
    let registry = Arc::new(SqliteRegistry::open(target.join("registry.sqlite"))?);
    let kv = Arc::new(SqliteKv::open(target.join("keys.sqlite"), since_boot, FILE_TIMEOUTS)?);
    let time = deep.runtime.block_on(async {
        let outside = Outside {
            node: "bench".to_owned(),
            cache: cache.clone(),
            seat: Arc::new(Alone::new(store.clone(), registry, kv)),
            store,
            view: MountView::new(view.root()),
            clock: Arc::new(SystemClock),
        };
        let shutdown = CancellationToken::new();
        let begun = Instant::now();
        let settings = LocalSettings { pulls: THREADS, ..LocalSettings::default() };
        let scrub = ScrubSettings::default();
        let local = Local::start(settings, scrub, outside, Box::new(WholePool::default())).await?;
        let handle = local.handle();
        let running = tokio::spawn(local.run(shutdown.clone()));
        let done = handle.sync_now(PATIENCE).await;
        let time = begun.elapsed();
        shutdown.cancel();
        running.await.context("the synchronizer")??;
        ensure!(done, "not all was staged within {PATIENCE:?}");
        Ok(time)
    })?;
    let held = cache.usage().segments;
    ensure!(held == count as u64, "{held} of {count} segments were staged");
    drop(service);
    Ok(time)
}

/// Asks for every file and reads its seal, `times` over.
async fn warm(client: &Client, paths: &[String], times: usize) -> anyhow::Result<()> {
    let all = std::iter::repeat_n(paths, times).flatten();
    let calls = all.map(|path| async move {
        client.get_file_info(path).await?;
        let seal = client.read(&format!("{path}{}", sync::seal::SUFFIX)).await?;
        seal.read_range(0, seal.file_length()).await?;
        anyhow::Ok(())
    });
    futures::stream::iter(calls).buffer_unordered(THREADS).try_collect().await
}

/// What somebody would write who needs the files and trusts everything.
async fn copy(client: &Client, paths: &[String], target: &Path) -> anyhow::Result<()> {
    let copies = paths.iter().map(|path| {
        let (client, path) = (client.clone(), path.clone());
        let name = path.rsplit('/').next().unwrap_or_default();
        let to = target.join(name);
        let one = async move {
            let reader = client.read(&path).await?;
            let mut pieces = reader.read_range_stream(0, reader.file_length()).boxed();
            let mut file = File::create(&to)?;
            while let Some(piece) = pieces.next().await {
                file.write_all(&piece?)?;
            }
            tokio::task::spawn_blocking(move || file.sync_all()).await??;
            anyhow::Ok(())
        };
        async move { tokio::spawn(one).await? }
    });
    futures::stream::iter(copies).buffer_unordered(THREADS).try_collect().await
}
