//! Row 15: a large segment that is published while it is written, against the steps that this needs, each done alone:
//! VACUUM INTO, quick_check, the upload to HDFS and the reading back.
//!
//! The time is compared while nobody writes; how long writes take meanwhile is a measurement of its own.

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::BytesMut;
use fsd::segment::SegmentId;
use futures::StreamExt;
use hdfs_native::{Client as Hdfs, WriteOptions};
use rusqlite::{Connection, OpenFlags};
use sync::store::StorePath;
use tokio::runtime::Runtime;

use super::client::{Client, SCRIPT, send_during};
use super::server::{LogSync, Server};
use super::{name, runtime};
use crate::data::Place;
use crate::harness::{Spread, check_stopped, interleave, timed};
use crate::report::{Limit, Outcome};
use crate::rows::hdfs::{BLOCKS_GO, Deep};

/// Where the writer publishes in HDFS.
const POOL: &str = "/pool";
/// Where the same bytes are put natively.
const ASIDE: &str = "/aside";
/// Who writes meanwhile.
const CLIENTS: usize = 4;
/// Bytes of one piece that is written.
const PIECE_BYTES: usize = 1 << 20;
/// What is done alone.
const STEPS: [&str; 4] = ["VACUUM INTO", "quick_check", "upload", "read-back"];

/// Row 15.
pub fn promotion(place: &Place) -> anyhow::Result<Vec<Outcome>> {
    let mib = place.size(1024, 256);
    let source = place.segment(mib)?;
    let scratch = place.scratch()?;
    let deep = Deep::start()?;
    let native = Native { deep: &deep, source, copy: scratch.path().join("copy.sqlite") };
    let id = SegmentId::new("segment")?;
    native.lay(&id)?;
    let runtime = runtime()?;
    let writer = Writer::start(&runtime, scratch.path(), &deep.hdfs.url(POOL), id)?;

    let steps = RefCell::new(Vec::new());
    let mut ours = || writer.promote();
    let mut alone = || {
        let times = native.steps()?;
        steps.borrow_mut().push(times);
        Ok(times.iter().sum())
    };
    // the JVMs compile what they run often
    ours()?;
    alone()?;
    steps.borrow_mut().clear();
    let rounds = place.size(5, 2);
    let times = interleave(rounds, &mut [&mut ours, &mut alone])?;
    let steps = steps.into_inner();
    let seconds = |times: &[Duration]| format!("{:.1} s", Spread::of_times(times).median);
    let step = |(at, name): (usize, &&str)| {
        let times: Vec<_> = steps.iter().map(|times: &[Duration; 4]| times[at]).collect();
        format!("{name} {}", seconds(&times))
    };
    let named: Vec<_> = STEPS.iter().enumerate().map(step).collect();
    let time = Outcome {
        what: format!("promotion of a {mib} MiB segment vs the sum of its steps alone"),
        limit: Limit::TimeAtMost(1.25),
        measured: Spread::of_ratios(&times[0], &times[1]),
        runs: rounds,
        note: format!("promotion {}; {}", seconds(&times[0]), named.join(", ")),
    };
    Ok(vec![time, writes(&writer, mib, place.size(3, 1), place.size(10, 2))?])
}

/// How long writes take while the segment is published, and before.
fn writes(writer: &Writer<'_>, mib: u64, rounds: usize, quiet_s: u64) -> anyhow::Result<Outcome> {
    let (mut before, mut during) = (Vec::new(), Vec::new());
    let (mut took, mut medians) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        check_stopped()?;
        let wait = async {
            tokio::time::sleep(Duration::from_secs(quiet_s)).await;
            Ok(Duration::from_secs(quiet_s))
        };
        let (_, quiet) = writer.write_during(wait)?;
        let (time, busy) = writer.write_during(writer.publish())?;
        settle();
        medians.push([(quiet[quiet.len() / 2], quiet.len()), (busy[busy.len() / 2], busy.len())]);
        before.push(p99(&quiet));
        during.push(p99(&busy));
        took.push(time);
    }
    let millis = |times: &[Duration]| format!("{:.1} ms", Spread::of_times(times).median * 1e3);
    let median = |at: usize| millis(&medians.iter().map(|one| one[at].0).collect::<Vec<_>>());
    let count = |at: usize| medians.iter().map(|one| one[at].1).sum::<usize>();
    Ok(Outcome {
        what: format!("p99 of single-row writes of {CLIENTS} clients during it vs before it"),
        limit: Limit::TimeAtMost(3.0),
        measured: Spread::of_ratios(&during, &before),
        runs: rounds,
        note: format!(
            "during {} (p50 {}, {} writes), before {} (p50 {}, {} writes); the promotion of {mib} MiB took {:.1} s",
            millis(&during),
            median(1),
            count(1),
            millis(&before),
            median(0),
            count(0),
            Spread::of_times(&took).median
        ),
    })
}

/// Of times in order.
fn p99(sorted: &[Duration]) -> Duration {
    sorted[(sorted.len() - 1) * 99 / 100]
}

/// Waits until the disks are quiet again: the blocks of a version that was replaced go a while after it.
fn settle() {
    std::thread::sleep(BLOCKS_GO);
    rustix::fs::sync();
}

/// A writer that has the segment open.
struct Writer<'a> {
    runtime: &'a Runtime,
    server: Server,
    id: SegmentId,
    written: Cell<u64>,
}

impl<'a> Writer<'a> {
    fn start(runtime: &'a Runtime, dir: &Path, store: &str, id: SegmentId) -> anyhow::Result<Self> {
        runtime.block_on(async {
            let server = Server::start(dir, store, LogSync::Each).await?;
            server.control.provision(&id, None).await?;
            Ok(Self { runtime, server, id, written: Cell::new(0) })
        })
    }

    /// New ones each time: a writer closes connections that lie idle for minutes.
    async fn clients(&self, count: usize) -> anyhow::Result<Vec<Client>> {
        Client::connect_all(count, &self.server.address, &self.id, SCRIPT).await
    }

    /// The next row's script.
    fn script(&self) -> String {
        let row = self.written.replace(self.written.get() + 1);
        format!("INSERT INTO t (name, body) VALUES ('{}', 'written')", name(row))
    }

    /// Orders a publication; how long it takes.
    async fn publish(&self) -> anyhow::Result<Duration> {
        let begun = std::time::Instant::now();
        self.server.control.promote(&self.id).await?;
        Ok(begun.elapsed())
    }

    /// The same of a segment that has something new, while nobody writes.
    fn promote(&self) -> anyhow::Result<Duration> {
        let time = self.runtime.block_on(async {
            for mut client in self.clients(1).await? {
                client.post(&self.script()).await?;
            }
            self.publish().await
        })?;
        settle();
        Ok(time)
    }

    /// All clients write until `during` is done; how long each write took, in order.
    fn write_during(
        &self,
        during: impl Future<Output = anyhow::Result<Duration>>,
    ) -> anyhow::Result<(Duration, Vec<Duration>)> {
        let (time, mut times) = self.runtime.block_on(async {
            let mut clients = self.clients(CLIENTS).await?;
            send_during(&mut clients, || self.script(), during).await
        })?;
        times.sort();
        ensure!(!times.is_empty(), "nothing was written");
        Ok((time, times))
    }
}

/// What is done alone.
struct Native<'a> {
    deep: &'a Deep,
    source: PathBuf,
    copy: PathBuf,
}

impl Native<'_> {
    /// Lays the segment where the writer finds it.
    fn lay(&self, id: &SegmentId) -> anyhow::Result<()> {
        let path = format!("{POOL}/{}", StorePath::published(id));
        self.deep.runtime.block_on(upload(&self.deep.client, &self.source, &path))?;
        settle();
        Ok(())
    }

    /// One after the other.
    fn steps(&self) -> anyhow::Result<[Duration; 4]> {
        let (client, runtime) = (&self.deep.client, &self.deep.runtime);
        let path = format!("{ASIDE}/copy.sqlite");
        let times = [
            timed(|| {
                let source = Connection::open(&self.source)?;
                source.execute("VACUUM INTO ?1", [&*self.copy.to_string_lossy()])?;
                Ok(())
            })?,
            timed(|| {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
                let copy = Connection::open_with_flags(&self.copy, flags)?;
                let said: String =
                    copy.pragma_query_value(None, "quick_check", |row| row.get(0))?;
                ensure!(said == "ok", "quick_check says {said}");
                Ok(())
            })?,
            timed(|| runtime.block_on(upload(client, &self.copy, &path)))?,
            timed(|| runtime.block_on(read_back(client, &path)))?,
        ];
        std::fs::remove_file(&self.copy)?;
        runtime.block_on(client.delete(ASIDE, true)).context("delete in HDFS")?;
        settle();
        Ok(times)
    }
}

async fn upload(client: &Hdfs, source: &Path, path: &str) -> anyhow::Result<()> {
    let mut from = std::fs::File::open(source)?;
    let mut left = usize::try_from(from.metadata()?.len())?;
    let mut file = client.create(path, &WriteOptions::default()).await?;
    while left > 0 {
        let mut piece = BytesMut::zeroed(left.min(PIECE_BYTES));
        from.read_exact(&mut piece)?;
        left -= piece.len();
        file.write_bytes(piece.freeze()).await?;
    }
    Ok(file.close().await?)
}

async fn read_back(client: &Hdfs, path: &str) -> anyhow::Result<()> {
    let file = client.read(path).await?;
    let mut pieces = file.read_range_stream(0, file.file_length()).boxed();
    while let Some(piece) = pieces.next().await {
        std::hint::black_box(piece?);
    }
    Ok(())
}
