//! Row 5: `trough put`, which copies, checks, seals, reads back and compares, against `dfs -put`, which writes.
//! Both are whole commands, from their start to their end.

use std::process::Command;
use std::time::Duration;

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
    // the JVMs compile what they run often
    for _ in 0..place.size(3, 1) {
        ours()?;
        hadoop()?;
    }
    let rounds = place.size(7, 2);
    let times = interleave(rounds, &mut [&mut ours, &mut hadoop])?;
    let side = |times: &[Duration]| speed(bytes, Spread::of_times(times).median);
    Ok(vec![Outcome {
        what: format!("trough put of {} MiB vs dfs -put -t 4", bytes >> 20),
        limit: Limit::ThroughputAtLeast(1.5),
        measured: Spread::of_ratios(&times[1], &times[0]),
        runs: rounds,
        note: format!("trough {}, dfs -put {}", side(&times[0]), side(&times[1])),
    }])
}
