//! Rows 1 to 3: one file read through the mount and read natively. It is the same file both times, the cache's
//! object, so the page cache and the disk serve both alike.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fsd::layout::Layout;
use fsd::segment::SegmentId;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::Advice;

use crate::data::{Place, ROWS_PER_MIB};
use crate::harness::{Spread, interleave, timed};
use crate::report::{Limit, Outcome};
use crate::service::{Dir, Service, succeed};

/// The segment of the point SELECTs: far more than SQLite's own cache of 2 MB holds.
const POINT_MIB: u64 = 64;
/// Point SELECTs in one run.
const SELECTS: u64 = 20_000;
/// One read of a sequential reader.
const READ_BYTES: usize = 1 << 20;

/// A mounted segment and the object behind it.
struct Both {
    mounted: PathBuf,
    native: PathBuf,
    _service: Service,
    _scratch: tempfile::TempDir,
}

impl Both {
    fn new(place: &Place, mib: u64) -> anyhow::Result<Self> {
        let scratch = place.scratch()?;
        let cache = place.large(mib)?;
        let layout = Layout::new(&cache);
        let id = SegmentId::new("segment")?;
        let digest = layout.published(&id)?.context("the data set's segment")?;
        let dir = Dir { dir: scratch.path().to_owned(), cache, set: Vec::new() };
        let (service, view) = Service::mount(&dir)?;
        let (mounted, native) = (view.path(&id), layout.object(&digest));
        Ok(Self { mounted, native, _service: service, _scratch: scratch })
    }

    fn compare(
        &self,
        what: &str,
        most: f64,
        rounds: usize,
        run: impl Fn(&Path) -> anyhow::Result<Duration>,
        note: impl Fn(f64) -> String,
    ) -> anyhow::Result<Outcome> {
        // once, so that both find the same warm state
        run(&self.native)?;
        run(&self.mounted)?;
        self.compare_sides(what, most, rounds, (|| run(&self.mounted), || run(&self.native)), note)
    }

    fn compare_sides(
        &self,
        what: &str,
        most: f64,
        rounds: usize,
        (mut mounted, mut native): (
            impl FnMut() -> anyhow::Result<Duration>,
            impl FnMut() -> anyhow::Result<Duration>,
        ),
        note: impl Fn(f64) -> String,
    ) -> anyhow::Result<Outcome> {
        let times = interleave(rounds, &mut [&mut mounted, &mut native])?;
        let side = |times: &[Duration]| note(Spread::of_times(times).median);
        Ok(Outcome {
            what: what.to_owned(),
            limit: Limit::TimeAtMost(most),
            measured: Spread::of_ratios(&times[0], &times[1]),
            runs: rounds,
            note: format!("mount {}, native {}", side(&times[0]), side(&times[1])),
        })
    }
}

/// Row 1: a connection that stays open, `immutable=1` as the reader has it.
pub fn pooled(place: &Place) -> anyhow::Result<Vec<Outcome>> {
    let both = Both::new(place, POINT_MIB)?;
    let rounds = place.size(41, 5);
    let mut outcomes = Vec::new();
    for (how, mmap_bytes, most) in [("mmap", 1_i64 << 30, 1.05), ("pread", 0, 1.15)] {
        let (mounted, native) = (
            connect(&both.mounted, "immutable=1", mmap_bytes)?,
            connect(&both.native, "immutable=1", mmap_bytes)?,
        );
        selects(&mounted)?;
        selects(&native)?;
        let what = format!("point SELECT, pooled immutable connection, {how}");
        let sides = (|| selects(&mounted), || selects(&native));
        outcomes.push(both.compare_sides(&what, most, rounds, sides, each_select)?);
    }
    Ok(outcomes)
}

/// Row 2: `mode=ro`, where SQLite locks and looks for a journal in each statement, and a process for each.
pub fn plain(place: &Place) -> anyhow::Result<Vec<Outcome>> {
    let both = Both::new(place, POINT_MIB)?;
    let (mounted, native) =
        (connect(&both.mounted, "mode=ro", 0)?, connect(&both.native, "mode=ro", 0)?);
    selects(&mounted)?;
    selects(&native)?;
    let sides = (|| selects(&mounted), || selects(&native));
    let what = "point SELECT, pooled connection, plain mode=ro";
    let pooled = both.compare_sides(what, 1.6, place.size(41, 5), sides, each_select)?;
    let ask = |path: &Path| {
        timed(|| {
            let sql = format!("SELECT name FROM t WHERE id = {}", POINT_MIB * ROWS_PER_MIB / 2);
            succeed(Command::new("sqlite3").arg(path).arg(sql))
        })
    };
    let process = |seconds: f64| format!("{:.2} ms", seconds * 1e3);
    let what = "a fresh sqlite3 process with one query";
    let fresh = both.compare(what, 1.5, place.size(401, 21), ask, process)?;
    Ok(vec![pooled, fresh])
}

/// Row 3: the whole file from start to end.
pub fn sequential(place: &Place) -> anyhow::Result<Vec<Outcome>> {
    let mib = place.size(1024, 64);
    let both = Both::new(place, mib)?;
    let speed = |seconds: f64| format!("{:.0} MiB/s", mib as f64 / seconds);
    let read = |path: &Path| timed(|| read_all(path));
    let what = format!("sequential read of {mib} MiB, warm");
    let warm = both.compare(&what, 1.05, place.size(41, 5), read, speed)?;
    let cold = |path: &Path| {
        let object = File::open(&both.native).context("open the object")?;
        rustix::fs::fadvise(&object, 0, None, Advice::DontNeed).context("drop it from memory")?;
        drop(object);
        let before = read_from_disk()?;
        let time = timed(|| read_all(path))?;
        let mib_from_disk = (read_from_disk()? - before) >> 20;
        ensure!(
            mib_from_disk >= mib * 9 / 10,
            "only {mib_from_disk} of {mib} MiB came from the disk"
        );
        Ok(time)
    };
    let what = format!("sequential read of {mib} MiB, dropped from the page cache");
    let cold = both.compare(&what, 1.1, place.size(25, 3), cold, speed)?;
    Ok(vec![warm, cold])
}

fn connect(path: &Path, how: &str, mmap_bytes: i64) -> anyhow::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let uri = format!("file:{}?{how}", path.display());
    let connection = Connection::open_with_flags(uri, flags).context("open the segment")?;
    connection.pragma_update(None, "mmap_size", mmap_bytes)?;
    Ok(connection)
}

/// [`SELECTS`] rows by key, the same each time, all over the file.
fn selects(connection: &Connection) -> anyhow::Result<Duration> {
    let mut statement =
        connection.prepare_cached("SELECT name, length(body) FROM t WHERE id = ?1")?;
    let rows = POINT_MIB * ROWS_PER_MIB;
    let begun = Instant::now();
    for number in 0..SELECTS {
        // a multiplier without a common factor: every step lands far from the last
        let id = 1 + number * 7_919 % rows;
        let length: i64 = statement.query_row([id], |row| {
            std::hint::black_box(row.get_ref(0)?);
            row.get(1)
        })?;
        ensure!(length == 940, "row {id} has a body of {length} bytes");
    }
    Ok(begun.elapsed())
}

fn each_select(seconds: f64) -> String {
    format!("{:.2} µs", seconds * 1e6 / SELECTS as f64)
}

fn read_all(path: &Path) -> anyhow::Result<()> {
    let mut file = File::open(path).context("open the segment")?;
    let mut buffer = vec![0; READ_BYTES];
    while file.read(&mut buffer).context("read the segment")? > 0 {}
    Ok(())
}

/// Bytes that this process had the disk read so far.
fn read_from_disk() -> anyhow::Result<u64> {
    let io = std::fs::read_to_string("/proc/self/io").context("read /proc/self/io")?;
    let bytes = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    Ok(bytes.context("read_bytes in /proc/self/io")?.parse()?)
}
