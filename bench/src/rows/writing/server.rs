//! A writer in a process of its own, so that client and server do not share a runtime: this program again, with
//! `--alone writer`, which runs what `trough write` runs.
//!
//! Invariant: it ends when its [`Server`] is dropped, and when this process is killed: its standard input ends then.
//!
//! Left out: what the writer does by itself. It publishes and gives back when it is told to.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use async_trait::async_trait;
use fsd::segment::{SegmentId, Version};
use metrics_exporter_prometheus::PrometheusBuilder;
use proxy::tokens::Tokens;
use proxy::writable::SyncData;
use proxy::writer::control::Control;
use proxy::writer::{Files, Outside, Readers, WriterSettings};
use sync::clock::{SystemClock, since_boot};
use sync::kv::Kv;
use sync::kv::sqlite::{FILE_TIMEOUTS, SqliteKv};
use sync::node::NodeName;
use sync::orphans::Reporter;
use sync::publish::{PublishSettings, Publisher};
use sync::schemas::{Schema, Schemas};
use sync::store::StoreTimeouts;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::alone::Alone;

/// Where the process finds its directory, its deep store, and whether it syncs.
const DIR: &str = "TROUGH_BENCH_WRITER_DIR";
const STORE: &str = "TROUGH_BENCH_WRITER_STORE";
const SYNC: &str = "TROUGH_BENCH_WRITER_SYNC";
/// Longer than a writer takes to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether it has.
const PERIOD: Duration = Duration::from_millis(20);
/// Longer than any row takes: nothing happens by itself.
const NEVER_S: u64 = 86_400;

/// When the log is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSync {
    /// Before anything is acknowledged.
    Each,
    /// Not at all, as with SQLite's synchronous=OFF, but for when the log is moved into the file.
    Never,
}

impl LogSync {
    const fn name(self) -> &'static str {
        match self {
            Self::Each => "each",
            Self::Never => "never",
        }
    }

    fn data(self) -> SyncData {
        match self {
            Self::Each => Arc::new(File::sync_data),
            Self::Never => Arc::new(|_| Ok(())),
        }
    }
}

/// The id of the schema that it knows.
pub fn schema_id() -> anyhow::Result<SegmentId> {
    Ok(SegmentId::new("bench")?)
}

/// See the module.
pub struct Server {
    child: Child,
    /// Where it takes writes.
    pub address: String,
    /// Gives it orders.
    pub control: Control,
}

impl Server {
    /// Starts it on `dir`, with the deep store at `store`, and waits until it takes orders.
    pub async fn start(dir: &Path, store: &str, sync: LogSync) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--alone", &Alone::Writer.name()?]);
        command.env(DIR, dir).env(STORE, store).env(SYNC, sync.name());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start a writer")?;
        let said = child.stdout.take().context("what the writer says")?;
        let control = Control::new(&writable(dir));
        let mut server = Self { child, address: String::new(), control };
        BufReader::new(said).read_line(&mut server.address)?;
        server.address = server.address.trim().to_owned();
        let begun = Instant::now();
        while server.control.open().await.is_err() {
            if server.child.try_wait()?.is_some() || begun.elapsed() > PATIENCE {
                bail!("the writer ended, or takes no orders within {PATIENCE:?}");
            }
            tokio::time::sleep(PERIOD).await;
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // the end of its input
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn writable(dir: &Path) -> PathBuf {
    dir.join("writable")
}

/// What the process does.
pub fn serve() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run())
}

async fn run() -> anyhow::Result<()> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("look up {name}"));
    let dir = PathBuf::from(variable(DIR)?);
    let sync =
        if variable(SYNC)? == LogSync::Never.name() { LogSync::Never } else { LogSync::Each };
    let store = sync::store::open(&variable(STORE)?, StoreTimeouts::default())?;
    let kv = SqliteKv::open(dir.join("registry.keys.sqlite"), since_boot, FILE_TIMEOUTS)?;
    let kv: Arc<dyn Kv> = Arc::new(kv);
    let schemas = Schemas::new(kv.clone());
    let sql = super::SCHEMA.to_owned();
    schemas.put(&Schema { id: schema_id()?, sql, verbs: Default::default() }).await?;
    let (clock, since_boot) = (Arc::new(SystemClock), Arc::new(since_boot));
    let publisher = Publisher::new(
        store.clone(),
        kv.clone(),
        clock.clone(),
        since_boot.clone(),
        PublishSettings { temp_dir: Some(dir.clone()), ..PublishSettings::default() },
        "the writer of the benchmark".to_owned(),
        Arc::new(|_, _| {}),
    )?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    println!("{address}");
    let node = NodeName::new("bench")?;
    let outside = Outside {
        orphans: Arc::new(Reporter::new(kv, node.clone())),
        node,
        address,
        store,
        publisher,
        files: Files::open(writable(&dir))?,
        schemas,
        readers: Arc::new(Nobody),
        open: tokio::sync::watch::Sender::new(None),
        sync_data: sync.data(),
        clock,
        since_boot,
        settings: WriterSettings {
            promote_after_s: NEVER_S,
            promote_bytes: u64::MAX,
            idle_s: NEVER_S,
            view_max_age_ms: 0,
            ..WriterSettings::default()
        },
    };
    let metrics = PrometheusBuilder::new().install_recorder().context("set up the metrics")?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    std::thread::spawn(move || {
        // until the other process closes it, or has ended
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stopping.cancel();
    });
    proxy::writer::run(outside, listener, Arc::new(Tokens::default()), metrics, stop).await
}

/// Nobody reads what it publishes.
#[derive(Debug)]
struct Nobody;

#[async_trait]
impl Readers for Nobody {
    async fn have(&self, _: &SegmentId, _: &Version) -> bool {
        false
    }

    async fn tell(&self) {}
}
