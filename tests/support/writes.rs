//! A client that writes all the time, each row once, and keeps a list of what was acknowledged.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the client waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(40);

/// What the client knows.
#[derive(Default)]
pub struct List {
    sent: AtomicI64,
    acknowledged: Mutex<BTreeSet<i64>>,
    refused: Mutex<Vec<Refused>>,
    over: AtomicBool,
}

/// What was said in place of OK.
#[derive(Debug, Clone)]
pub struct Refused {
    /// To which row.
    pub row: i64,
    /// The HTTP status; 0 where no whole answer came.
    pub status: u16,
    /// The words, for who looks at a failure.
    #[allow(dead_code, reason = "it is printed with the rest")]
    pub said: String,
}

/// See the module.
pub struct Client {
    list: Arc<List>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Begins to write rows to the table `t` of a segment, at the writer's URL for it.
    pub fn start(url: String) -> Self {
        Self::start_with(url, Duration::ZERO, |n| format!("INSERT INTO t VALUES ({n})"))
    }

    /// The same with another script for each row, and a pause after each.
    pub fn start_with(
        url: String,
        pause: Duration,
        script: impl Fn(i64) -> String + Send + 'static,
    ) -> Self {
        let list = Arc::<List>::default();
        let writing = Arc::clone(&list);
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(write(&url, pause, script, &writing));
        });
        Self { list, thread: Some(thread) }
    }

    /// How many rows were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.list.acknowledged.lock().unwrap().len()
    }

    /// The last row that was acknowledged so far.
    pub fn last(&self) -> Option<i64> {
        self.list.acknowledged.lock().unwrap().last().copied()
    }

    /// Every refusal so far.
    pub fn refused(&self) -> Vec<Refused> {
        self.list.refused.lock().unwrap().clone()
    }

    /// Ends it; what was acknowledged, what was sent, and every refusal.
    pub fn end(mut self) -> (BTreeSet<i64>, i64, Vec<Refused>) {
        self.stop();
        let acknowledged = std::mem::take(&mut *self.list.acknowledged.lock().unwrap());
        let refused = std::mem::take(&mut *self.list.refused.lock().unwrap());
        (acknowledged, self.list.sent.load(Ordering::Relaxed), refused)
    }

    fn stop(&mut self) {
        self.list.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the client failed");
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn write(url: &str, pause: Duration, script: impl Fn(i64) -> String, list: &List) {
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_MAX).build().unwrap();
    while !list.over.load(Ordering::Relaxed) {
        let n = list.sent.fetch_add(1, Ordering::Relaxed) + 1;
        let sent = client.post(url).body(script(n)).send().await;
        let (status, said) = match sent {
            Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
            Err(error) => (0, error.to_string()),
        };
        if status == 200 {
            assert_eq!(said, "OK\n");
            list.acknowledged.lock().unwrap().insert(n);
        } else {
            list.refused.lock().unwrap().push(Refused { row: n, status, said });
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Holds what was found against the list: everything that was acknowledged, nothing twice, nothing that nobody sent.
#[track_caller]
pub fn judge(what: &str, found: &[i64], acknowledged: &BTreeSet<i64>, sent: i64) {
    let once: BTreeSet<i64> = found.iter().copied().collect();
    let lost: Vec<_> = acknowledged.difference(&once).collect();
    assert!(lost.is_empty(), "{what}: acknowledged and lost: {lost:?}");
    assert_eq!(once.len(), found.len(), "{what}: something is there twice");
    assert!(once.iter().all(|n| (1..=sent).contains(n)), "{what}: something nobody sent");
    assert!(!acknowledged.is_empty(), "{what}: nothing was acknowledged, so nothing was tried");
}
