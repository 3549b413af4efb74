//! Row 11: from a new segment in HDFS to its nodes that answer for it.
//!
//! It begins at the rename that puts the file in its place, and it ends when as many nodes as there are copies have
//! answered right from their own mounts: a reader that is asked what another reader passed on asks nobody else.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fsd::segment::SegmentId;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hdfs_native::Client;
use rusqlite::{Connection, OpenFlags};
use sync::store::StorePath;
use tokio::task::JoinHandle;

use super::cluster::{COPIES, Cluster, MACHINES, PATIENCE, POOL};
use super::hdfs::{Deep, files};
use crate::data::Place;
use crate::harness::{Spread, check_stopped};
use crate::report::{Limit, Outcome};
use crate::service::succeed;

/// Segments that are there before.
const BEFORE: usize = 16;
/// Between two questions to a reader.
const ASK_PERIOD: Duration = Duration::from_millis(10);
/// Between two looks whether a file is in its place.
const LOOK_PERIOD: Duration = Duration::from_millis(2);
/// Says that another reader passed the question on.
const FORWARDED: &str = "trough-forwarded-by";
/// Where files lie that are about to be renamed: no listing looks there.
const ASIDE: &str = "/pool/.aside";
/// The question.
const SQL: &str = "SELECT name FROM t WHERE id = 1";

/// Row 11.
pub fn segments(place: &Place) -> anyhow::Result<Vec<Outcome>> {
    let runs = place.size(20, 3);
    let (sources, _) = files(&place.segments(place.size(256, 16))?, runs + BEFORE)?;
    let (fresh, before) = sources.split_at(runs);
    let scratch = place.scratch()?;
    let mut cluster = Cluster::start(&["lead.cycle.settle_s=3"])?;
    cluster.deep.publish(before, POOL, scratch.path())?;
    cluster.up()?;
    cluster.until_held(before.len())?;

    let (mut renamed, mut put) = <(Runs, Runs)>::default();
    for (run, source) in fresh.iter().enumerate() {
        check_stopped()?;
        renamed.add(rename(&cluster, &format!("renamed-{run}"), source)?);
        put.add(publish(&cluster, &format!("put-{run}"), source)?);
    }
    let mib = std::fs::metadata(&fresh[0])?.len() >> 20;
    Ok(vec![
        renamed.outcome(format!(
            "new segment of {mib} MiB in HDFS, by `dfs -mv` and `trough sync now`, to answerable on its nodes"
        )),
        put.outcome(format!(
            "new segment of {mib} MiB in HDFS, by `trough put`, to answerable on its nodes"
        )),
    ])
}

/// What some runs took.
#[derive(Default)]
struct Runs {
    nodes: Vec<Duration>,
    anywhere: Vec<Duration>,
}

impl Runs {
    fn add(&mut self, (nodes, anywhere): (Duration, Duration)) {
        self.nodes.push(nodes);
        self.anywhere.push(anywhere);
    }

    fn outcome(self, what: String) -> Outcome {
        let anywhere = Spread::of_times(&self.anywhere);
        Outcome {
            what,
            limit: Limit::SecondsAtMost(3.0),
            measured: Spread::of_times(&self.nodes),
            runs: self.nodes.len(),
            note: format!(
                "on {COPIES} of {MACHINES} nodes; from every reader after {:.2} s, at most {:.2} s",
                anywhere.median, anywhere.max
            ),
        }
    }
}

/// A file without a seal comes by other means, and somebody says so.
fn rename(cluster: &Cluster, id: &str, source: &Path) -> anyhow::Result<(Duration, Duration)> {
    let Deep { runtime, client, .. } = &cluster.deep;
    let (aside, target) = (format!("{ASIDE}/{id}"), lies_at(id)?);
    let directory = target.rsplit_once('/').context("a directory")?.0;
    let bytes = std::fs::read(source)?;
    runtime.block_on(async {
        client.mkdirs(directory, 0o755, true).await?;
        let mut writer = client.create(&aside, hdfs_native::WriteOptions::default()).await?;
        writer.write_bytes(bytes.into()).await?;
        writer.close().await
    })?;
    let asked = Asked::begin(cluster, id, &expected(source)?);
    let begun = Instant::now();
    runtime.block_on(client.rename(&aside, &target, false))?;
    succeed(&mut cluster.machines[0].command(&["sync", "now"])?)?;
    asked.end(cluster, begun)
}

/// `trough put` does it, and says so itself.
fn publish(cluster: &Cluster, id: &str, source: &Path) -> anyhow::Result<(Duration, Duration)> {
    let asked = Asked::begin(cluster, id, &expected(source)?);
    let Deep { runtime, client, .. } = &cluster.deep;
    let there = runtime.spawn(until_there(client.clone(), lies_at(id)?));
    let mut put = cluster.machines[0].command(&["put", "--id", id])?;
    succeed(put.arg(source))?;
    let begun = runtime.block_on(there)??;
    asked.end(cluster, begun)
}

/// The last moment at which the file was not there yet.
async fn until_there(client: Client, path: String) -> anyhow::Result<Instant> {
    let begun = Instant::now();
    loop {
        let asked = Instant::now();
        if client.get_file_info(&path).await.is_ok() {
            return Ok(asked);
        }
        ensure!(begun.elapsed() < PATIENCE, "{path} does not come");
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}

/// Every reader is asked about a segment all the time: what it has itself, and what it or another has.
struct Asked {
    id: String,
    own: Vec<JoinHandle<usize>>,
    any: Vec<JoinHandle<usize>>,
}

impl Asked {
    fn begin(cluster: &Cluster, id: &str, expected: &str) -> Self {
        let ask = |own: bool| {
            let each = cluster.machines.iter().enumerate().map(|(number, machine)| {
                let mut question = cluster.http.post(machine.read_url(id)).body(SQL);
                if own {
                    question = question.header(FORWARDED, "bench");
                }
                let expected = expected.to_owned();
                cluster.deep.runtime.spawn(async move {
                    until_right(question, &expected).await;
                    number
                })
            });
            each.collect()
        };
        Self { id: id.to_owned(), own: ask(true), any: ask(false) }
    }

    /// So long after `begun` all copies answered, and so long all readers.
    fn end(self, cluster: &Cluster, begun: Instant) -> anyhow::Result<(Duration, Duration)> {
        let Self { id, own, any } = self;
        let waiting: Vec<_> = own.iter().map(JoinHandle::abort_handle).collect();
        let times = cluster.deep.runtime.block_on(async {
            let all = async {
                let mut own: FuturesUnordered<_> = own.into_iter().collect();
                let mut holders = Vec::new();
                while holders.len() < COPIES {
                    holders.push(own.next().await.context("a node that answers")??);
                }
                let nodes = begun.elapsed();
                for any in any {
                    any.await?;
                }
                anyhow::Ok((holders, nodes, begun.elapsed()))
            };
            tokio::time::timeout(PATIENCE, all).await
        });
        waiting.iter().for_each(tokio::task::AbortHandle::abort);
        let (holders, nodes, anywhere) =
            times.with_context(|| format!("{id} is not answered for within {PATIENCE:?}"))??;
        for (number, machine) in cluster.machines.iter().enumerate() {
            let (shown, answered) = (machine.shows(&id)?, holders.contains(&number));
            ensure!(shown == answered, "{id} on {}: {shown}, {answered}", machine.host.name());
        }
        Ok((nodes, anywhere))
    }
}

async fn until_right(question: reqwest::RequestBuilder, expected: &str) {
    loop {
        let asked = async {
            let answer = question.try_clone()?.send().await.ok()?;
            answer.error_for_status().ok()?.text().await.ok()
        };
        if asked.await.is_some_and(|answer| answer == expected) {
            return;
        }
        tokio::time::sleep(ASK_PERIOD).await;
    }
}

/// What a reader says to [`SQL`].
pub fn expected(source: &Path) -> anyhow::Result<String> {
    let file = Connection::open_with_flags(source, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let name: String = file.query_row(SQL, [], |row| row.get(0))?;
    Ok(format!("[{{\"name\":\"{name}\"}}]\n"))
}

fn lies_at(id: &str) -> anyhow::Result<String> {
    Ok(format!("{POOL}/{}", StorePath::published(&SegmentId::new(id)?)))
}
