//! Rows 13 and 14: single rows and bulk rows through a writer, over HTTP, against the same rows through SQLite alone.
//!
//! ```text
//!   server     a writer in a process of its own
//!   client     what sends to it
//!   promotion  row 15
//! ```
//!
//! What is written lies on the volume of the data sets, on all sides. The writer's side has the whole way: client,
//! loopback, parsing, the transaction, the sync, the answer; the native one has the transaction and the sync.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use fsd::segment::SegmentId;
use rusqlite::Connection;
use tokio::runtime::Runtime;

use crate::data::Place;
use crate::harness::{Spread, interleave, timed};
use crate::report::{Limit, Outcome};

mod client;
mod promotion;
pub mod server;

use client::{Client, JSON, SCRIPT, send_all};
pub use promotion::promotion;
use server::{LogSync, Server};

/// What the segments of rows 13 and 14 are made by, on all sides.
const SCHEMA: &str =
    "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT NOT NULL, value REAL NOT NULL)";
/// Who sends at the same time in row 13.
const CLIENTS: usize = 64;
/// Rows of one request of row 14.
const BATCH: u64 = 1_000;
/// The statement of row 14.
const BULK: &str = "INSERT INTO t (id, name, value) VALUES (?1, ?2, ?3)";
/// Pages of its log after which the writer's SQLite moves them into the file; the native side of row 14 has the same.
const CHECKPOINT_PAGES: u32 = 4_000;

/// Row 13.
pub fn single(place: &Place) -> anyhow::Result<Vec<Outcome>> {
    let (requests, alone) = place.size((20_000, 2_000), (500, 100));
    let scratch = place.scratch()?;
    let runtime = runtime()?;
    let writer = |name: &str, sync| Writer::start(&runtime, &scratch.path().join(name), sync);
    let (synced, unsynced) =
        (writer("synced", LogSync::Each)?, writer("unsynced", LogSync::Never)?);
    let (mut ours, mut off) =
        (synced.clients(CLIENTS, SCRIPT)?, unsynced.clients(CLIENTS, SCRIPT)?);
    let native = native(&scratch.path().join("native.sqlite"))?;
    native.pragma_update(None, "synchronous", "full")?;
    let mut written = 0;
    let mut ours = || runtime.block_on(send_all(&mut ours, &scripts(&mut written, requests)));
    let mut written = 0;
    let mut off = || runtime.block_on(send_all(&mut off, &scripts(&mut written, requests)));
    let mut written = 0;
    let mut one_by_one = || {
        let rows = rows(&mut written, alone);
        let mut insert = native.prepare_cached("INSERT INTO t (name, value) VALUES (?1, ?2)")?;
        let time = timed(|| {
            for (_, name, value) in &rows {
                insert.execute((name, value))?;
            }
            Ok(())
        })?;
        // as long as all requests would take it
        Ok(time.mul_f64(requests as f64 / alone as f64))
    };
    ours()?;
    off()?;
    one_by_one()?;
    let rounds = place.size(15, 3);
    let times = interleave(rounds, &mut [&mut ours, &mut off, &mut one_by_one])?;
    let rate = |times: &[Duration]| rate(requests, times);
    let note = format!(
        "trough {}, without a sync {}, SQLite with an fsync for each {}",
        rate(&times[0]),
        rate(&times[1]),
        rate(&times[2])
    );
    let outcome = |against: &str, least: f64, under: &[Duration]| Outcome {
        what: format!("single-row INSERT requests, {CLIENTS} clients, one segment, vs {against}"),
        limit: Limit::ThroughputAtLeast(least),
        measured: Spread::of_ratios(under, &times[0]),
        runs: rounds,
        note: note.clone(),
    };
    Ok(vec![
        outcome("the same with synchronous=OFF", 0.6, &times[1]),
        outcome("rusqlite with one fsync a request", 5.0, &times[2]),
    ])
}

/// Row 14.
pub fn bulk(place: &Place) -> anyhow::Result<Vec<Outcome>> {
    let batches = place.size(100, 5);
    let scratch = place.scratch()?;
    let runtime = runtime()?;
    let writer = |name: &str| Writer::start(&runtime, &scratch.path().join(name), LogSync::Each);
    let (writer_of_one, writer_of_four) = (writer("one")?, writer("four")?);
    let (mut one, mut four) = (writer_of_one.clients(1, JSON)?, writer_of_four.clients(4, JSON)?);
    let file = scratch.path().join("native.sqlite");
    let native = native(&file)?;
    native.pragma_update(None, "synchronous", "normal")?;
    native.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    let log = File::open(file.with_extension("sqlite-wal")).context("open the log")?;
    let mut written = 0;
    let mut one = || runtime.block_on(send_all(&mut one, &documents(&mut written, batches)));
    let mut written = 0;
    let mut four = || runtime.block_on(send_all(&mut four, &documents(&mut written, batches)));
    let mut written = 0;
    let mut in_process = || {
        let batches: Vec<_> = (0..batches).map(|_| rows(&mut written, BATCH)).collect();
        let mut insert = native.prepare_cached(BULK)?;
        timed(|| {
            for batch in &batches {
                native.execute_batch("BEGIN IMMEDIATE")?;
                for row in batch {
                    insert.execute((row.0, &row.1, row.2))?;
                }
                native.execute_batch("COMMIT")?;
                log.sync_data()?;
            }
            Ok(())
        })
    };
    one()?;
    four()?;
    in_process()?;
    let rounds = place.size(15, 3);
    let times = interleave(rounds, &mut [&mut one, &mut four, &mut in_process])?;
    let rate = |times: &[Duration]| rate(batches * BATCH, times);
    let note =
        format!("rows: rusqlite with an fdatasync for each batch {}, trough", rate(&times[2]));
    let outcome = |who: &str, ours: &[Duration]| Outcome {
        what: format!("bulk rows, batches of {BATCH} as JSON, {who}, vs rusqlite in process"),
        limit: Limit::ThroughputAtLeast(0.7),
        measured: Spread::of_ratios(&times[2], ours),
        runs: rounds,
        note: format!("{note} {}", rate(ours)),
    };
    Ok(vec![
        outcome("four clients", &times[1]),
        // one waits for each answer, while in process nobody waits for anybody
        outcome("one client", &times[0]),
    ])
}

/// A writer with one empty segment, and its clients.
struct Writer<'a> {
    server: Server,
    id: SegmentId,
    runtime: &'a Runtime,
}

impl<'a> Writer<'a> {
    fn start(runtime: &'a Runtime, dir: &Path, sync: LogSync) -> anyhow::Result<Self> {
        let store = dir.join("store");
        std::fs::create_dir_all(&store).context("make the store")?;
        let server = runtime.block_on(Server::start(dir, &store.to_string_lossy(), sync))?;
        let id = SegmentId::new("segment")?;
        runtime.block_on(server.control.provision(&id, Some(&server::schema_id()?)))?;
        Ok(Self { server, id, runtime })
    }

    fn clients(&self, count: usize, kind: &'static str) -> anyhow::Result<Vec<Client>> {
        let address = &self.server.address;
        self.runtime.block_on(Client::connect_all(count, address, &self.id, kind))
    }
}

/// The clients' side: as little of the machine as they can take, so one thread for all of them.
fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// A database of rusqlite with its log.
fn native(file: &Path) -> anyhow::Result<Connection> {
    let native = Connection::open(file).context("make a database")?;
    native.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    native.execute_batch(SCHEMA)?;
    Ok(native)
}

/// The next `count` rows.
fn rows(written: &mut u64, count: u64) -> Vec<(u64, String, f64)> {
    let row = |id: u64| (id, name(id), id as f64 + 0.5);
    let rows = (*written..*written + count).map(row).collect();
    *written += count;
    rows
}

/// 32 letters and digits, all different.
fn name(id: u64) -> String {
    blake3::hash(&id.to_le_bytes()).to_hex()[..32].to_owned()
}

/// The same, each as the script that inserts it.
fn scripts(written: &mut u64, count: u64) -> Vec<String> {
    let rows = rows(written, count).into_iter();
    rows.map(|(_, name, value)| format!("INSERT INTO t (name, value) VALUES ('{name}', {value:?})"))
        .collect()
}

/// The same in batches, each as the document that inserts it.
fn documents(written: &mut u64, batches: u64) -> Vec<String> {
    let batch = |written: &mut u64| serde_json::json!({"sql": BULK, "rows": rows(written, BATCH)});
    (0..batches).map(|_| batch(written).to_string()).collect()
}

/// How many each second, in words.
fn rate(count: u64, times: &[Duration]) -> String {
    format!("{:.0}/s", count as f64 / Spread::of_times(times).median)
}
