//! What the fault tests add to a running trough: settings made short, the reader's answers as they come, and a
//! watch that asks all the time and judges every answer.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{BINARY, PATIENCE, Trough, text, until};

/// Waits and periods so short that a fault and its repair fit into a test.
pub const SHORT: &str = "
[sync]
period_s = 1
drain_ms = 100
withdraw_grace_s = 0
retry_first_ms = 100
retry_longest_ms = 500

[publish]
lock_ttl_s = 10

[read]
query_ms = 2000

[read.http]
stop_ms = 1000

[manager.http]
stop_ms = 1000
";

/// What is said when a child ends, and what follows from it while it is away.
pub const CHILD_ENDED: [&str; 2] = ["the child ended", "starting it again"];

/// What follows from a mount that is away or was left dead.
pub const MOUNT_AWAY: [&str; 2] = ["detaching a dead mount", "ending and detaching a mount"];

/// A trough with short waits, which `settings` adds to, whose log may say that a child ended.
pub fn short(settings: &str) -> Trough {
    let trough = Trough::new().with_settings_file(&format!("{SHORT}{settings}"));
    CHILD_ENDED.into_iter().chain(MOUNT_AWAY).fold(trough, Trough::allow)
}

/// Starts it and waits until all of it answers.
pub fn started(mut trough: Trough) -> Trough {
    trough.start();
    trough.wait_ready();
    trough
}

/// Fails where the binary was built without its crash points.
#[track_caller]
pub fn needs_crash_points() {
    if !cfg!(feature = "failpoints") {
        panic!("this test needs the binary's crash points: run it with --features failpoints");
    }
}

/// Waits until `holds` with a bound of its own: five times what is promised.
#[track_caller]
pub fn within(bound: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + bound;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {bound:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Five times the two seconds within which new opens work again (S5).
pub const AGAIN: Duration = Duration::from_secs(10);

/// Sends a signal.
#[track_caller]
pub fn send(pid: Pid, signal: Signal) {
    kill_process(pid, signal).unwrap_or_else(|error| panic!("signal {pid:?}: {error}"));
}

/// A process that is stopped until this goes.
pub struct Stopped(Pid);

impl Stopped {
    /// Stops it, and waits until each of its threads stands still: one that runs may still answer a question.
    #[track_caller]
    pub fn new(pid: Pid) -> Self {
        send(pid, Signal::STOP);
        let stopped = Self(pid);
        until("every thread stands still", || {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            tasks.map(|task| task.unwrap().path().join("stat")).all(|stat| {
                // the state follows the name, which stands in brackets; a thread that is gone stands still too
                std::fs::read_to_string(stat).map_or(true, |text| {
                    text.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
                })
            })
        });
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // it may have been killed meanwhile, which is then the test's purpose
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// An answer of one of the servers.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// When to ask again, as it says.
    pub retry_after: Option<String>,
    /// The body.
    pub body: String,
}

/// Asks over HTTP.
pub struct Asker {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
}

impl Asker {
    /// Gives up after `timeout`.
    pub fn new(timeout: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = reqwest::Client::builder().no_proxy().timeout(timeout).build().unwrap();
        Self { runtime, client }
    }

    /// POSTs a statement.
    pub fn ask(&self, url: &str, sql: &str) -> Result<Answer, String> {
        self.answer(self.client.post(url).body(sql.to_owned()))
    }

    /// GETs a page.
    pub fn get(&self, url: &str) -> Result<Answer, String> {
        self.answer(self.client.get(url))
    }

    fn answer(&self, request: reqwest::RequestBuilder) -> Result<Answer, String> {
        let answered = self.runtime.block_on(async {
            let answer = request.send().await?;
            let retry_after = answer.headers().get("retry-after");
            let retry_after = retry_after.map(|value| value.to_str().unwrap().to_owned());
            let status = answer.status().as_u16();
            Ok::<_, reqwest::Error>(Answer { status, retry_after, body: answer.text().await? })
        });
        answered.map_err(|error| format!("{error:?}"))
    }
}

/// One question with a generous time-out.
#[track_caller]
pub fn ask(trough: &Trough, id: &str, sql: &str) -> Answer {
    Asker::new(Duration::from_secs(30)).ask(&trough.url(id), sql).unwrap()
}

/// A page of the reader.
#[track_caller]
pub fn page(trough: &Trough, path: &str) -> Answer {
    let url = format!("http://127.0.0.1:{}/{path}", trough.read_port());
    Asker::new(Duration::from_secs(30)).get(&url).unwrap()
}

/// What the synchronizer says of itself; `None` while it does not answer.
pub fn status(trough: &Trough) -> Option<Value> {
    let url = format!("http://127.0.0.1:{}/status", trough.manager_port());
    let answer = Asker::new(Duration::from_secs(2)).get(&url).ok()?;
    serde_json::from_str(&answer.body).ok()
}

/// Waits until everything of the pool is held, and checks that nothing half is left.
#[track_caller]
pub fn wait_all_held(trough: &Trough, segments: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = status(trough);
        let count = |name: &str| status.as_ref().and_then(|it| it["segments"][name].as_u64());
        if count("pool") == Some(segments) && count("held") == Some(segments) {
            return;
        }
        assert!(Instant::now() < deadline, "{segments} segments are not all held: {status:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How many files lie in `incoming/` of the cache at `cache`.
pub fn incoming(cache: &Path) -> usize {
    std::fs::read_dir(cache.join("incoming")).unwrap().count()
}

/// Makes a database of `rows` rows of 4 KB in table `t (n, filler)`.
pub fn database(path: &Path, rows: u32) -> PathBuf {
    let connection = rusqlite::Connection::open(path).unwrap();
    let sql = format!(
        "CREATE TABLE t (n INTEGER PRIMARY KEY, filler);
         WITH RECURSIVE c(n) AS (VALUES(1) UNION ALL SELECT n + 1 FROM c WHERE n < {rows})
         INSERT INTO t SELECT n, randomblob(4000) FROM c"
    );
    connection.execute_batch(&sql).unwrap();
    path.to_owned()
}

/// Publishes a file, with variables for the process that does it.
pub fn put_with(trough: &Trough, id: &str, file: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(["put", "--id", id]).arg(file).arg("--dir").arg(trough.dir());
    command.envs(variables.iter().copied()).stdin(Stdio::null()).output().unwrap()
}

/// Publishes a file.
#[track_caller]
pub fn put_file(trough: &Trough, id: &str, file: &Path) {
    let output = put_with(trough, id, file, &[]);
    assert!(output.status.success(), "put {id}: {}", text(&output.stderr));
}

/// What a watch saw.
#[derive(Debug, Default)]
pub struct Tally {
    /// Right answers.
    pub right: u64,
    /// 503 with the time to ask again.
    pub later: u64,
    /// 408: over the time limit.
    pub late: u64,
    /// No connection, or one that broke.
    pub away: u64,
    /// Everything else.
    pub wrong: Vec<String>,
}

struct Bounds {
    least: AtomicI64,
    most: AtomicI64,
    stop: AtomicBool,
}

/// Asks for one segment all the time, and opens its file through the mount.
///
/// Right is a number of a version that was published, and never one older than a version that was answered
/// before the question.
pub struct Watch {
    id: String,
    bounds: Arc<Bounds>,
    asking: JoinHandle<Tally>,
    opening: JoinHandle<Vec<String>>,
}

/// Between two questions of a watch: the machine is there for the test as well.
const WATCH_PAUSE: Duration = Duration::from_millis(5);

impl Watch {
    /// Begins; `id` answers `n` now.
    pub fn start(trough: &Trough, id: &str, n: i64) -> Self {
        let bounds = Arc::new(Bounds {
            least: AtomicI64::new(n),
            most: AtomicI64::new(n),
            stop: AtomicBool::new(false),
        });
        let (url, asked) = (trough.url(id), bounds.clone());
        let asking = std::thread::spawn(move || {
            let (asker, mut tally) = (Asker::new(Duration::from_secs(30)), Tally::default());
            while !asked.stop.load(Ordering::SeqCst) {
                let least = asked.least.load(Ordering::SeqCst);
                let answer = asker.ask(&url, "SELECT n FROM t");
                judge(&mut tally, &answer, least, asked.most.load(Ordering::SeqCst));
                std::thread::sleep(WATCH_PAUSE);
            }
            tally
        });
        let (file, opened) = (trough.mounted(id), bounds.clone());
        let opening = std::thread::spawn(move || {
            let mut failed = Vec::new();
            while !opened.stop.load(Ordering::SeqCst) {
                if let Err(error) = std::fs::File::open(&file) {
                    failed.push(error.to_string());
                }
                std::thread::sleep(WATCH_PAUSE / 5);
            }
            failed
        });
        Self { id: id.to_owned(), bounds, asking, opening }
    }

    /// From here on `n` may be answered.
    pub fn allow(&self, n: i64) {
        self.bounds.most.store(n, Ordering::SeqCst);
    }

    /// Waits until `n` is answered; from here on nothing older may be.
    #[track_caller]
    pub fn wait(&self, trough: &Trough, n: i64) {
        trough.wait_answers(&self.id, n);
        self.bounds.least.store(n, Ordering::SeqCst);
    }

    /// Publishes `n` and waits until it is answered.
    #[track_caller]
    pub fn put(&self, trough: &Trough, n: i64) {
        self.allow(n);
        trough.put(&self.id, n);
        self.wait(trough, n);
    }

    /// Ends, and fails on a wrong answer; also tells of each open that failed.
    #[track_caller]
    pub fn end(self) -> (Tally, Vec<String>) {
        self.bounds.stop.store(true, Ordering::SeqCst);
        let (tally, failed_opens) = (self.asking.join().unwrap(), self.opening.join().unwrap());
        assert!(tally.wrong.is_empty(), "wrong answers: {:#?}", tally.wrong);
        assert!(tally.right > 0, "no answer at all: {tally:?}");
        println!("{}: {tally:?}, {} opens failed", self.id, failed_opens.len());
        (tally, failed_opens)
    }
}

fn judge(tally: &mut Tally, answer: &Result<Answer, String>, least: i64, most: i64) {
    let answer = match answer {
        Ok(answer) => answer,
        Err(_) => return tally.away += 1,
    };
    let number = || -> Option<i64> {
        let rows: Value = serde_json::from_str(&answer.body).ok()?;
        rows[0]["n"].as_i64()
    };
    match (answer.status, number()) {
        (200, Some(n)) if (least..=most).contains(&n) => tally.right += 1,
        (503, _) if answer.retry_after.is_some() => tally.later += 1,
        (408, _) => tally.late += 1,
        _ => tally.wrong.push(format!("{answer:?}, allowed {least} to {most}")),
    }
}
