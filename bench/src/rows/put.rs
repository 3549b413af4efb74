//! Row 5: `trough put`, which copies, checks, seals, reads back and compares, against `dfs -put`, which writes.
//! Both are whole commands, from their start to their end.
//!
//! Beside them, without a limit, hdfs-native that writes the same bytes and reads them back, and nothing else: the most
//! that any put which reads back could reach with it. It syncs each block on every DataNode; `dfs -put` does not.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use hdfs_native::{Client, WriteOptions};
use sync::publish::PublishSettings;

use super::hdfs::{Deep, THREADS, files, speed};
use crate::data::Place;
use crate::harness::{Spread, interleave, timed};
use crate::report::{Limit, Outcome};
use crate::service::{Dir, free_port, succeed, trough};

/// Where the segments go in HDFS.
const TARGET: &str = "/put";

/// Row 5.
pub fn put(place: &Place) -> anyhow::Result<Vec<Outcome>> {
    let count = place.size(128, 16);
    let (sources, bytes) = files(&place.segments(place.size(256, 16))?, count)?;
    let scratch = place.scratch()?;
    let deep = Deep::start()?;
    let dir = Dir {
        dir: scratch.path().to_owned(),
        cache: scratch.path().join("cache"),
        set: vec![
            format!("store.url={:?}", deep.hdfs.url(TARGET)),
            // no synchronizer of this machine hears of it
            format!("node.manager_listen=\"127.0.0.1:{}\"", free_port()?),
        ],
    };
    let binary = trough()?;
    let mut ours = || {
        let time =
            timed(|| succeed(Command::new(&binary).arg("put").args(dir.options()).args(&sources)))?;
        deep.clear(TARGET)?;
        Ok(time)
    };
    let names: Vec<_> = sources.iter().map(|file| file.to_string_lossy()).collect();
    let mut hadoop = || {
        deep.runtime.block_on(deep.client.mkdirs(TARGET, 0o755, true))?;
        let threads = THREADS.to_string();
        let mut args = vec!["-put", "-t", &threads];
        args.extend(names.iter().map(|name| &**name));
        args.push(TARGET);
        let time = timed(|| {
            deep.hdfs.dfs(&args);
            Ok(())
        })?;
        deep.clear(TARGET)?;
        Ok(time)
    };
    let mut bare = || {
        deep.runtime.block_on(deep.client.mkdirs(TARGET, 0o755, true))?;
        let time = timed(|| deep.runtime.block_on(write(&deep.client, &sources)))?;
        deep.clear(TARGET)?;
        Ok(time)
    };
    // the JVMs compile what they run often
    for _ in 0..place.size(3, 1) {
        ours()?;
        hadoop()?;
    }
    let rounds = place.size(7, 2);
    let times = interleave(rounds, &mut [&mut ours, &mut hadoop, &mut bare])?;
    let side = |times: &[Duration]| speed(bytes, Spread::of_times(times).median);
    Ok(vec![Outcome {
        what: format!("trough put of {} MiB vs dfs -put -t 4", bytes >> 20),
        limit: Limit::ThroughputAtLeast(1.5),
        measured: Spread::of_ratios(&times[1], &times[0]),
        runs: rounds,
        note: format!(
            "trough {}, dfs -put {}; hdfs-native that writes and reads back {}",
            side(&times[0]),
            side(&times[1]),
            side(&times[2])
        ),
    }])
}

/// Writes every file and reads it back, as many at a time as `trough put` does, and looks at nothing.
async fn write(client: &Client, sources: &[PathBuf]) -> anyhow::Result<()> {
    let writes = sources.iter().map(|source| {
        let (client, source) = (client.clone(), source.clone());
        let one = async move {
            let name = source.file_name().context("a file name")?.to_string_lossy();
            let bytes = tokio::task::spawn_blocking({
                let source = source.clone();
                move || std::fs::read(source)
            });
            let bytes = bytes.await??;
            let options = WriteOptions::default();
            let path = format!("{TARGET}/{name}");
            let mut file = client.create(&path, &options).await?;
            file.write_bytes(bytes.into()).await?;
            file.close().await?;
            let file = client.read(&path).await?;
            let mut pieces = file.read_range_stream(0, file.file_length()).boxed();
            while let Some(piece) = pieces.next().await {
                std::hint::black_box(piece?);
            }
            anyhow::Ok(())
        };
        async move { tokio::spawn(one).await? }
    });
    let at_once = PublishSettings::default().concurrency;
    futures::stream::iter(writes).buffer_unordered(at_once).try_collect().await
}
