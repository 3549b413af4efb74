//! Row 15: a large segment that is published while it is written, against the steps that this needs, each done alone:
//! VACUUM INTO, quick_check, the upload to HDFS and the reading back.
//!
//! The time is compared while nobody writes; how long writes take meanwhile is a measurement of its own. Beside that,
//! without a limit, writes during the steps that are done natively: three DataNodes write to the disk that the writer
//! syncs its log to, and hdfs-native has each of them sync each block.

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
use tokio::sync::oneshot;

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
        let times = native.run()?;
        native.clear()?;
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
    Ok(vec![time, writes(&writer, &native, place.size(5, 1), place.size(10, 2))?])
}

/// How long writes take while the segment is published, and before; and while its steps are done natively.
fn writes(
    writer: &Writer<'_>,
    native: &Native<'_>,
    rounds: usize,
    quiet_s: u64,
) -> anyhow::Result<Outcome> {
    let [mut before, mut during, mut beside] = <[Vec<Writes>; 3]>::default();
    let mut took = Vec::new();
    for _ in 0..rounds {
        check_stopped()?;
        before.push(writer.write_during(quiet(quiet_s))?.1);
        let (time, writes) = writer.write_during(writer.publish())?;
        settle();
        during.push(writes);
        took.push(time);
        check_stopped()?;
        let (done, ended) = oneshot::channel();
        let (_, writes) = std::thread::scope(|scope| {
            // that nobody waits for it any more is an error of theirs
            scope.spawn(|| drop(done.send(native.run())));
            writer.write_during(async { Ok(ended.await.context("do the steps")??.iter().sum()) })
        })?;
        native.clear()?;
        beside.push(writes);
    }
    let p99 = |all: &[Writes]| all.iter().map(|one| one.p99).collect::<Vec<_>>();
    let say = |all: &[Writes]| {
        let millis = |of: fn(&Writes) -> Duration| {
            Spread::of_times(&all.iter().map(of).collect::<Vec<_>>()).median * 1e3
        };
        let count: usize = all.iter().map(|one| one.count).sum();
        format!(
            "{:.1} ms (p50 {:.1} ms, {count} writes)",
            millis(|one| one.p99),
            millis(|one| one.p50)
        )
    };
    Ok(Outcome {
        what: format!("p99 of single-row writes of {CLIENTS} clients during it vs before it"),
        limit: Limit::TimeAtMost(3.0),
        measured: Spread::of_ratios(&p99(&during), &p99(&before)),
        runs: rounds,
        note: format!(
            "during {}, before {}, during the same steps done natively {}; the promotion took {:.1} s",
            say(&during),
            say(&before),
            say(&beside),
            Spread::of_times(&took).median
        ),
    })
}

async fn quiet(seconds: u64) -> anyhow::Result<Duration> {
    let time = Duration::from_secs(seconds);
    tokio::time::sleep(time).await;
    Ok(time)
}

/// How long some writes took.
struct Writes {
    p50: Duration,
    p99: Duration,
    count: usize,
}

impl Writes {
    fn of(mut times: Vec<Duration>) -> anyhow::Result<Self> {
        times.sort();
        ensure!(!times.is_empty(), "nothing was written");
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        Ok(Self { p50: at(50), p99: at(99), count: times.len() })
    }
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

    /// All clients write until `during` is done; how long that took, and the writes.
    fn write_during(
        &self,
        during: impl Future<Output = anyhow::Result<Duration>>,
    ) -> anyhow::Result<(Duration, Writes)> {
        let (time, times) = self.runtime.block_on(async {
            let mut clients = self.clients(CLIENTS).await?;
            send_during(&mut clients, || self.script(), during).await
        })?;
        Ok((time, Writes::of(times)?))
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

    /// Does one step after the other.
    fn run(&self) -> anyhow::Result<[Duration; 4]> {
        let (client, runtime) = (&self.deep.client, &self.deep.runtime);
        let path = format!("{ASIDE}/copy.sqlite");
        Ok([
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
        ])
    }

    /// Deletes what came of it.
    fn clear(&self) -> anyhow::Result<()> {
        std::fs::remove_file(&self.copy)?;
        let delete = self.deep.client.delete(ASIDE, true);
        self.deep.runtime.block_on(delete).context("delete in HDFS")?;
        settle();
        Ok(())
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
