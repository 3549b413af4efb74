//! A segment that node `c` writes all the while, whatever befalls the cluster, for a client that keeps a list of what was
//! acknowledged.
//!
//! No reader ever answers without a row that was acknowledged before it was asked: it has it, or says that who has it is
//! away. When a fault is over the segment is written and published again by itself, and every reader has everything.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fsd::segment::SegmentId;
use proxy::writer::control::Control;

use crate::clients::{Also, Ask};
use crate::machines::{Machines, until};
use crate::steps::http;
use crate::writes::{Client, judge};

/// The segment.
pub const ID: &str = "written";
/// The row that is there at first: no other segment has the same bytes.
pub const FIRST: i64 = CASE - 1;
/// Who writes it: a node that is none of the candidates to lead.
const WRITER: &str = "c";
/// Between two writes of the client: the machine is there for others as well.
const PAUSE: Duration = Duration::from_millis(20);
/// The rows of the client of a case begin so far after those of the case before.
const CASE: i64 = 1_000_000;
/// So many more rows show that writing goes on.
const GOES_ON: usize = 5;

/// What those who ask know of it.
#[derive(Default)]
struct Shared {
    client: Mutex<Option<Client>>,
    /// The client's rows come after this; changed while there is none.
    first: AtomicI64,
    /// How often who writes it was said to be away.
    away: AtomicU64,
}

/// See the module.
pub struct Written {
    shared: Arc<Shared>,
    /// What is there since the case before.
    before: Vec<i64>,
}

impl Written {
    /// Opens the segment, which is there, for writing.
    pub fn open(machines: &Machines) -> Self {
        let order = || run(control(machines).provision(&id(), None));
        let state = || format!("{:?}\n{}", order(), machines.logs());
        until(&format!("{WRITER} writes"), || order().ok(), state);
        Self { shared: Arc::default(), before: vec![FIRST] }
    }

    /// Every answer to this is judged.
    pub fn asked(&self) -> Also {
        let shared = Arc::clone(&self.shared);
        Box::new(move |ask| shared.wrong(ask))
    }

    /// A case begins.
    pub fn write(&mut self, machines: &Machines) {
        let first = self.shared.first.fetch_add(CASE, Ordering::Relaxed) + CASE;
        let script = move |n| format!("INSERT INTO t VALUES ({})", first + n);
        let client = Client::start_with(machines[WRITER].writer(ID), PAUSE, script);
        *self.shared.client.lock().unwrap() = Some(client);
    }

    /// A fault is over: it is written, published, and read everywhere. What became of the writes.
    #[track_caller]
    pub fn settle(&mut self, case: &str, machines: &Machines, names: &[&str]) -> String {
        let acknowledged = || self.shared.client.lock().unwrap().as_ref().unwrap().acknowledged();
        let had = acknowledged();
        until(
            &format!("{case}: it is written again"),
            || (acknowledged() > had + GOES_ON).then_some(()),
            || format!("{:?}\n{}", self.refusals(), machines.logs()),
        );
        let client = self.shared.client.lock().unwrap().take().unwrap();
        let (acknowledged, sent, refused) = client.end();
        let order = || run(control(machines).promote(&id()));
        until(
            &format!("{case}: it is published again"),
            || order().ok(),
            || format!("{:?}\n{}", order(), machines.logs()),
        );
        let mut all = names.iter().map(|name| rows(machines, name));
        let found = all.next().unwrap();
        assert!(all.all(|other| other == found), "{case}: readers disagree");
        self.judge(case, found, &acknowledged, sent);
        let away = self.shared.away.swap(0, Ordering::Relaxed);
        let (rows, refused) = (acknowledged.len(), refused.len());
        format!("{rows} rows written, {refused} refused; {away} times said to be away")
    }

    fn judge(&mut self, case: &str, found: Vec<i64>, acknowledged: &BTreeSet<i64>, sent: i64) {
        let first = self.shared.first.load(Ordering::Relaxed);
        let (new, old): (Vec<i64>, Vec<i64>) = found.iter().partition(|n| **n > first);
        assert_eq!(old, self.before, "{case}: what was there before");
        let new: Vec<i64> = new.iter().map(|n| n - first).collect();
        judge(case, &new, acknowledged, sent);
        self.before = found;
    }

    fn refusals(&self) -> impl std::fmt::Debug {
        self.shared.client.lock().unwrap().as_ref().unwrap().refused()
    }
}

impl Shared {
    /// What is wrong with what a reader says of the last row that was acknowledged.
    fn wrong(&self, ask: Ask<'_>) -> Option<String> {
        let last = self.last()?;
        match ask(ID, &format!("SELECT count(*) AS n FROM t WHERE n = {last}")) {
            (200, said) if said == "[{\"n\":1}]\n" => None,
            (503, _) => {
                self.away.fetch_add(1, Ordering::Relaxed);
                None
            }
            (status, said) => Some(format!("row {last} of {ID}: {status} {said}")),
        }
    }

    fn last(&self) -> Option<i64> {
        let client = self.client.lock().unwrap();
        let last = client.as_ref()?.last()?;
        Some(self.first.load(Ordering::Relaxed) + last)
    }
}

fn id() -> SegmentId {
    SegmentId::new(ID).unwrap()
}

fn control(machines: &Machines) -> Control {
    Control::new(&machines[WRITER].dir.join("writable"))
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// What a reader has, as soon as it says that it has anything.
#[track_caller]
fn rows(machines: &Machines, name: &str) -> Vec<i64> {
    let ask = || http("POST", &machines[name].reader(ID), "SELECT n FROM t ORDER BY n");
    let said = until(
        &format!("{name} answers for {ID}"),
        || {
            let (status, said) = ask();
            assert!([200, 503].contains(&status), "{name} for {ID}: {status} {said}");
            (status == 200).then_some(said)
        },
        || format!("{:?}\n{}", ask(), machines.logs()),
    );
    let said: Vec<serde_json::Value> = serde_json::from_str(&said).unwrap();
    said.iter().map(|row| row["n"].as_i64().unwrap()).collect()
}
