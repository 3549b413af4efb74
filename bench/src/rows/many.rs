//! Rows 6 and 7: a cache of 100,000 segments.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fsd::cache::{Cache, CacheSettings};

use crate::data::{Place, Small};
use crate::harness::{Spread, check_stopped, interleave, timed};
use crate::report::{Limit, Outcome};
use crate::service::{Dir, Service, free_port};

/// Between two questions to a reader that does not answer yet.
const ASK_PERIOD: Duration = Duration::from_millis(2);

struct Trough {
    dir: Dir,
    read_port: u16,
    manager_port: u16,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Trough {
    fn new(small: &Small) -> anyhow::Result<Self> {
        let (read_port, manager_port) = (free_port()?, free_port()?);
        let set = vec![
            format!("node.read_listen=\"127.0.0.1:{read_port}\""),
            format!("node.manager_listen=\"127.0.0.1:{manager_port}\""),
            format!("store.url={:?}", small.dir.join("store").display().to_string()),
        ];
        let dir = Dir { dir: small.dir.clone(), cache: small.dir.join("cache"), set };
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { dir, read_port, manager_port, client, runtime })
    }

    /// Whether the reader says what is in the segment.
    fn answers(&self, id: &str) -> bool {
        let url = format!("http://127.0.0.1:{}/?segment={id}", self.read_port);
        let ask = async {
            let answer = self.client.post(url).body("SELECT name FROM t").send().await.ok()?;
            answer.error_for_status().ok()?.text().await.ok()
        };
        self.runtime.block_on(ask).is_some_and(|text| text.contains(id))
    }

    /// Whether the synchronizer answers and has nothing left to do.
    fn settled(&self, count: usize) -> bool {
        let url = format!("http://127.0.0.1:{}/status", self.manager_port);
        let ask = async { self.client.get(url).send().await.ok()?.text().await.ok() };
        let text: String = self.runtime.block_on(ask).unwrap_or_default();
        let status: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        status["segments"]["held"] == count && status["store"]["reachable"] == true
    }
}

/// Row 6: from the start of the process to the first row of a segment over HTTP.
pub fn start(place: &Place) -> anyhow::Result<Vec<Outcome>> {
    let small = place.small(place.size(100_000, 1_000))?;
    let trough = Trough::new(&small)?;
    // once without a look at the clock: the registry learns of the pool, an older ledger is brought up to date
    let mut service = Service::start(&trough.dir, &["up"])?;
    service.until("all is held", || Ok(trough.settled(small.count)))?;
    drop(service);

    let runs = place.size(9, 3);
    let (mut first, mut synchronizer) = (Vec::new(), Vec::new());
    for run in 0..runs {
        check_stopped()?;
        let id = Small::id(run * (small.count - 1) / runs);
        let begun = Instant::now();
        let mut service = Service::start(&trough.dir, &["up"])?;
        let mut took = None;
        while took.is_none() && begun.elapsed() < Duration::from_secs(60) {
            took = trough.answers(&id).then(|| begun.elapsed());
            std::thread::sleep(ASK_PERIOD);
        }
        first.push(took.with_context(|| format!("no answer; trough said:\n{}", service.log()))?);
        service.until("the synchronizer answers", || Ok(trough.settled(small.count)))?;
        synchronizer.push(begun.elapsed());
    }
    let settings = CacheSettings { dir: trough.dir.cache.clone(), ..CacheSettings::default() };
    let (cache, report) = Cache::open(&settings)?;
    drop(cache);
    ensure!(report.rehashed == 0, "{} objects were read at the start", report.rehashed);
    Ok(vec![Outcome {
        what: format!("start with {} segments to the first answer", small.count),
        limit: Limit::SecondsAtMost(1.0),
        measured: Spread::of_times(&first),
        runs,
        note: format!(
            "nothing re-hashed; synchronizer settled after {:.2} s, its cache open in {} ms",
            Spread::of_times(&synchronizer).median,
            report.took_ms
        ),
    }])
}

/// Row 7: `ls` of the mount, and what fsd takes of memory after it.
pub fn list(place: &Place) -> anyhow::Result<Vec<Outcome>> {
    let small = place.small(place.size(100_000, 1_000))?;
    let trough = Trough::new(&small)?;
    let (service, view) = Service::mount(&trough.dir)?;
    let (mut before, rounds) = (service.resident_mib()?, place.size(9, 3));
    let list = |path: &std::path::Path| {
        timed(|| {
            let mut ls = Command::new("ls");
            let output = ls.arg(path).stdin(Stdio::null()).output().context("run ls")?;
            let names = output.stdout.iter().filter(|&&byte| byte == b'\n').count();
            ensure!(names == small.count, "ls says {names} names");
            Ok(())
        })
    };
    let mut resident = Vec::new();
    let segments = fsd::layout::Layout::new(&trough.dir.cache).segments();
    let mut mounted = || {
        let time = list(view.root())?;
        resident.push(service.resident_mib()?);
        Ok(time)
    };
    let times = interleave(rounds, &mut [&mut mounted, &mut || list(&segments)])?;
    before = before.min(resident.first().copied().unwrap_or(before));
    let native = Spread::of_times(&times[1]).median;
    Ok(vec![
        Outcome {
            what: format!("ls of {} segments through the mount", small.count),
            limit: Limit::SecondsAtMost(1.0),
            measured: Spread::of_times(&times[0]),
            runs: rounds,
            note: format!("ls of the cache's own directory {native:.2} s"),
        },
        Outcome {
            what: "fsd's resident memory after it".to_owned(),
            limit: Limit::MibAtMost(64.0),
            measured: Spread::of(resident),
            runs: rounds,
            note: format!("before the first ls {before:.0} MiB"),
        },
    ])
}
