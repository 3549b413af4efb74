//! Row 9: the pool table of a large cluster in a reader, and what each reader fetches when one segment is published.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use fsd::segment::{SegmentId, Stamp};
use sync::clock::since_boot;
use sync::cluster::{PoolRow, pool_table};
use sync::kv::sqlite::SqliteKv;
use sync::kv::{Key, Kv, KvTimeouts, Op};
use sync::node::NodeName;
use sync::pool::PoolEntry;
use sync::pool_view::{Found, PoolView, Rows};
use sync::registry::Epoch;
use sync::store::StorePath;
use sync::table::{TableReader, TableWriter};
use sync::tag::Tag;

use crate::alone::{self, Alone, Figures, memory_mib};
use crate::data::Place;
use crate::harness::{Spread, check_stopped};
use crate::report::{Limit, Outcome};

const RUNS: usize = 3;
const NODES: u64 = 100;
/// Long enough for a million rows in one transaction after the other.
const PATIENT: KvTimeouts = KvTimeouts { connect_ms: 60_000, call_ms: 60_000 };
/// Where the process that reads finds what the one before it wrote.
const FILE: &str = "TROUGH_BENCH_KV";

/// Row 9.
pub fn view(place: &Place) -> anyhow::Result<Vec<Outcome>> {
    let segments = place.size(1_000_000, 10_000) as u64;
    let dir = place.scratch()?;
    let file = dir.path().join("kv");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let kv = open(&file)?;
    let mut table = TableWriter::new(pool_table()?);
    let written = runtime.block_on(write(&*kv, &mut table, 1, segments, None))?;
    let (mut resident, mut fetched) = (Vec::new(), Vec::new());
    for run in 0..RUNS as u64 {
        check_stopped()?;
        let figures = alone::start(Alone::PoolTable, segments, Some((FILE, &file)))?;
        resident.push(*figures.get("peak_mib").context("no peak_mib")?);
        let one = runtime.block_on(write(&*kv, &mut table, 2 + run, segments, Some(run * 7)))?;
        // what was written is what each reader fetches: the part that changed, and the meta document
        fetched.push(one as f64 / f64::from(1 << 20));
    }
    let note = format!("{:.1} MiB in the registry", written as f64 / f64::from(1 << 20));
    Ok(vec![
        Outcome {
            what: format!(
                "pool table of {segments} segments in a reader, peak memory of the process"
            ),
            limit: Limit::MibAtMost(200.0),
            measured: Spread::of(resident),
            runs: RUNS,
            note,
        },
        Outcome {
            what: "bytes each reader fetches when one segment is published".to_owned(),
            limit: Limit::MibAtMost(1.0),
            measured: Spread::of(fetched),
            runs: RUNS,
            note: "the part that changed, and the document that names the parts".to_owned(),
        },
    ])
}

/// Reads the table once, and says what it takes.
pub fn measure(segments: u64) -> anyhow::Result<Figures> {
    let file = std::env::var_os(FILE).context("no file to read")?;
    let before = memory_mib("VmRSS")?;
    let kv = open(file.as_ref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let view = PoolView::default();
    let mut reader = TableReader::<PoolRow>::new(pool_table()?, Duration::ZERO)?;
    view.heard(runtime.block_on(reader.look_with(&*kv, &Rows::pack))?);
    ensure!(view.segments() == Some(segments as usize), "not all of them were read");
    let found = view.find(&id(segments / 2)?);
    ensure!(matches!(found, Found::Listed(at) if at.holders.len() == 2), "one is not found");
    let resident = memory_mib("VmRSS")?;
    Ok([("before_mib", before), ("resident_mib", resident)].map(|(n, f)| (n.to_owned(), f)).into())
}

fn open(file: &std::path::Path) -> anyhow::Result<Arc<dyn Kv>> {
    Ok(Arc::new(SqliteKv::open(file, since_boot, PATIENT)?))
}

fn id(n: u64) -> anyhow::Result<SegmentId> {
    Ok(SegmentId::new(&format!("segment-{n:012}"))?)
}

/// Writes the table, `changed` in another version; how many bytes that were.
async fn write(
    kv: &dyn Kv,
    table: &mut TableWriter<PoolRow>,
    index: u64,
    segments: u64,
    changed: Option<u64>,
) -> anyhow::Result<usize> {
    let row = |n: u64| -> anyhow::Result<PoolRow> {
        let id = id(n)?;
        let mtime_ms = 1_800_000_000_000 + n * 977 + u64::from(changed == Some(n)) * index;
        let stamp = Stamp { length: 4096 * (n % 5_000 + 2), mtime_ms };
        let path = StorePath::published(&id);
        let mut row = PoolRow::new(id, &PoolEntry { path, stamp });
        row.tag = Some(Tag::of(&mtime_ms.to_le_bytes()));
        let holders = [n % NODES, (n * 31 + 1) % NODES];
        let holder = |n: &u64| NodeName::new(&format!("node-{n:04}"));
        row.holders = holders.iter().map(holder).collect::<Result<_, _>>()?;
        Ok(row)
    };
    let rows = (0..segments).map(row).collect::<anyhow::Result<Vec<_>>>()?;
    let fence = Op::CheckNotExists { key: Key::new("trough/no-fence")? };
    let epoch = Epoch { incarnation: 1, index };
    Ok(table.write(kv, &fence, epoch, rows).await?.bytes)
}
