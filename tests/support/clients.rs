//! Clients that ask every segment in a loop at each of the readers that they are told, and judge every answer.
//!
//! Whoever changes a segment says so before the change, and from then on both versions are right, until it is said
//! that the change has arrived: then only the new one is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::machines::{Machines, PATIENCE, until};

/// How many ask at once.
const CLIENTS: usize = 2;
/// Between two questions of a client while nobody waits for its answers: the machine is there for others as well.
const PAUSE: Duration = Duration::from_millis(5);
/// Versions of a segment differ by so much: what is left of a division by it is the segment's number.
const VERSION: i64 = 1_000_000;
/// How many wrong answers are shown.
const SHOWN: usize = 10;

pub fn id(n: i64) -> String {
    format!("s{n:03}")
}

/// What is right to answer for a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Truth {
    oldest: i64,
    newest: i64,
    /// Whether it is right to say that there is no such segment, or that nobody has it.
    absent: bool,
    /// Whether it is there in the end.
    stays: bool,
}

impl Truth {
    fn settled(&self) -> bool {
        self.oldest == self.newest && !self.absent
    }
}

/// Asks a reader for a segment, by SQL: the status and what it says.
pub type Ask<'a> = &'a dyn Fn(&str, &str) -> (u16, String);
/// Asks something of its own, and finds what is wrong with the answer.
pub type Also = Box<dyn Fn(Ask<'_>) -> Option<String> + Send + Sync>;

/// Everything that clients ask, whom, and what they found.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Somebody waits for the answers.
    hurried: AtomicBool,
    readers: RwLock<Vec<&'static str>>,
    /// For each reader its address of a segment.
    addresses: RwLock<BTreeMap<&'static str, String>>,
    truths: RwLock<BTreeMap<i64, Truth>>,
    also: OnceLock<Also>,
    answers: AtomicU64,
    /// The answer that took longest since somebody asked for it, in milliseconds, and where and for what it was.
    slowest: Mutex<(u128, String)>,
    wrong: Mutex<Vec<String>>,
    rounds: Mutex<BTreeMap<&'static str, u64>>,
}

/// Clients that ask until this goes.
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

enum Answer {
    Value(i64),
    /// That there is no such segment, or that nobody has it now.
    Absent(String),
    Other(String),
}

impl Shared {
    fn run(&self, client: usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        while !self.stop.load(Ordering::Relaxed) {
            let names = self.readers.read().unwrap().clone();
            for name in names {
                let mut numbers = self.asked_by(client).into_iter();
                let mut ask = |n| self.in_turn(name, || self.ask(&runtime, &http, name, n));
                if numbers.all(&mut ask)
                    && self.in_turn(name, || self.ask_also(&runtime, &http, name))
                {
                    *self.rounds.lock().unwrap().entry(name).or_default() += 1;
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Asks `name` a question; `false` when it is not to be asked any more.
    fn in_turn(&self, name: &'static str, question: impl FnOnce()) -> bool {
        // who takes a reader out waits until the question that it was asked is over
        let readers = self.readers.read().unwrap();
        if self.stop.load(Ordering::Relaxed) || !readers.contains(&name) {
            return false;
        }
        question();
        drop(readers);
        if !self.hurried.load(Ordering::Relaxed) {
            std::thread::sleep(PAUSE);
        }
        true
    }

    /// Everything that there is. What goes is asked by one client alone: a reader that is cut off looks for it at
    /// everybody's before it says that nobody has it.
    fn asked_by(&self, client: usize) -> Vec<i64> {
        let truths = self.truths.read().unwrap();
        let asked = truths.iter().filter(|(_, truth)| client == 0 || truth.stays);
        asked.map(|(n, _)| *n).collect()
    }

    fn truth(&self, n: i64) -> Option<Truth> {
        self.truths.read().unwrap().get(&n).copied()
    }

    fn ask(&self, on: &tokio::runtime::Runtime, client: &reqwest::Client, name: &str, n: i64) {
        let Some(before) = self.truth(n) else { return };
        let begun = Instant::now();
        let answer = self.answer(on, client, name, n);
        let took_ms = begun.elapsed().as_millis();
        let mut slowest = self.slowest.lock().unwrap();
        if took_ms > slowest.0 {
            *slowest = (took_ms, format!("{took_ms} ms, {name} for {}", id(n)));
        }
        drop(slowest);
        let after = self.truth(n).unwrap_or(Truth { absent: true, ..before });
        self.answers.fetch_add(1, Ordering::Relaxed);
        let right = match &answer {
            Answer::Value(value) => (before.oldest..=after.newest).contains(value),
            Answer::Absent(_) => before.absent || after.absent,
            Answer::Other(_) => false,
        };
        if !right {
            let what = match answer {
                Answer::Value(value) => format!("version {value}"),
                Answer::Absent(what) | Answer::Other(what) => what,
            };
            let mut wrong = self.wrong.lock().unwrap();
            wrong.push(format!("{name} for {}: {what} where {before:?} was right", id(n)));
        }
    }

    fn ask_also(&self, on: &tokio::runtime::Runtime, client: &reqwest::Client, name: &str) {
        let Some(also) = self.also.get() else { return };
        let ask = |segment: &str, sql: &str| match self.said(on, client, name, segment, sql) {
            Ok((status, _, text)) => (status, text),
            Err(error) => (0, format!("{error:?}")),
        };
        if let Some(wrong) = also(&ask) {
            self.wrong.lock().unwrap().push(format!("{name}: {wrong}"));
        }
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// What a reader says: the status, whether it says when to come again, and the body.
    fn said(
        &self,
        on: &tokio::runtime::Runtime,
        client: &reqwest::Client,
        name: &str,
        segment: &str,
        sql: &str,
    ) -> reqwest::Result<(u16, bool, String)> {
        let url = format!("{}{segment}", self.addresses.read().unwrap()[name]);
        on.block_on(async {
            let answer = client.post(&url).body(sql.to_owned()).send().await?;
            let later = answer.headers().contains_key("retry-after");
            Ok((answer.status().as_u16(), later, answer.text().await?))
        })
    }

    /// The version of a segment that a reader has.
    fn answer(
        &self,
        on: &tokio::runtime::Runtime,
        client: &reqwest::Client,
        name: &str,
        n: i64,
    ) -> Answer {
        match self.said(on, client, name, &id(n), "SELECT n FROM t") {
            Ok((200, _, text)) => {
                let value =
                    text.strip_prefix("[{\"n\":").and_then(|text| text.strip_suffix("}]\n"));
                match value.and_then(|value| value.parse::<i64>().ok()) {
                    Some(value) if value % VERSION == n => Answer::Value(value / VERSION),
                    _ => Answer::Other(text),
                }
            }
            Ok((status, later, text)) => {
                let said = format!("{status} {}", text.trim_end());
                if status == 404 || (status == 503 && later) {
                    Answer::Absent(said)
                } else {
                    Answer::Other(said)
                }
            }
            Err(error) => Answer::Other(format!("{error:?}")),
        }
    }
}

impl Clients {
    /// Begins; nobody is asked yet.
    pub fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let client = |number| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.run(number))
        };
        Self { threads: (0..CLIENTS).map(client).collect(), shared }
    }

    /// From now on this is asked, too, at the end of each round. Once.
    pub fn also(&self, also: Also) {
        assert!(self.shared.also.set(also).is_ok(), "one thing can be asked besides");
    }

    /// From now on these are asked, and nobody else is being asked any more.
    pub fn ask(&self, machines: &Machines, names: &[&'static str]) {
        let mut addresses = self.shared.addresses.write().unwrap();
        addresses.extend(names.iter().map(|name| (*name, machines[name].reader(""))));
        drop(addresses);
        *self.shared.readers.write().unwrap() = names.to_vec();
    }

    /// Segment `n` is about to be there; what is to be in it.
    pub fn adds(&self, n: i64) -> i64 {
        let truth = Truth { oldest: 0, newest: 0, absent: true, stays: true };
        let before = self.shared.truths.write().unwrap().insert(n, truth);
        assert_eq!(before, None, "{} is there already", id(n));
        n
    }

    /// Segment `n` is about to be changed; what is to be in it.
    pub fn changes(&self, n: i64) -> i64 {
        let mut truths = self.shared.truths.write().unwrap();
        let truth = truths.get_mut(&n).unwrap();
        truth.newest += 1;
        truth.newest * VERSION + n
    }

    /// Segment `n` is about to be removed.
    pub fn removes(&self, n: i64) {
        let mut truths = self.shared.truths.write().unwrap();
        let truth = truths.get_mut(&n).unwrap();
        (truth.absent, truth.stays) = (true, false);
    }

    /// How many segments there are in the end.
    pub fn segments(&self) -> u64 {
        self.shared.truths.read().unwrap().values().filter(|truth| truth.stays).count() as u64
    }

    /// How many answers there were.
    pub fn answers(&self) -> u64 {
        self.shared.answers.load(Ordering::Relaxed)
    }

    /// The answer that took longest since this was asked last.
    pub fn take_slowest(&self) -> String {
        std::mem::take(&mut *self.shared.slowest.lock().unwrap()).1
    }

    /// Waits until each of `names` answers with what is there in the end; from then on nothing else is right.
    #[track_caller]
    pub fn until_settled(&self, case: &str, machines: &Machines, names: &[&'static str]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        self.ask(machines, names);
        let changing: BTreeMap<i64, Truth> = {
            let truths = self.shared.truths.read().unwrap();
            truths.iter().filter(|(_, t)| !t.settled()).map(|(n, t)| (*n, *t)).collect()
        };
        let is_behind = |name: &str, n: i64, truth: &Truth| match self
            .shared
            .answer(&runtime, &client, name, n)
        {
            Answer::Value(value) => !truth.stays || value != truth.newest,
            Answer::Absent(_) => truth.stays,
            Answer::Other(_) => true,
        };
        let behind = || {
            for name in names {
                for (n, truth) in &changing {
                    if is_behind(name, *n, truth) {
                        return Some((*name, id(*n), *truth));
                    }
                }
            }
            None
        };
        until(
            &format!("{case}: each reader to have what changed"),
            || behind().is_none().then_some(()),
            || format!("behind: {:?}\n{}", behind(), machines.logs()),
        );
        let mut truths = self.shared.truths.write().unwrap();
        truths.retain(|_, truth| truth.stays);
        for truth in truths.values_mut() {
            (truth.oldest, truth.absent) = (truth.newest, false);
        }
    }

    /// Waits until each of those that are asked was asked for everything once more, and all was answered right.
    #[track_caller]
    pub fn all_right(&self, case: &str, machines: &Machines) {
        let before = self.shared.rounds.lock().unwrap().clone();
        let names = self.shared.readers.read().unwrap().clone();
        let rounds = || {
            let done = self.shared.rounds.lock().unwrap();
            let of = |all: &BTreeMap<_, u64>, name| all.get(name).copied().unwrap_or_default();
            // the first that ends began before it was asked for, with either client
            let wanted = 1 + CLIENTS as u64;
            names.iter().all(|name| of(&done, name) >= of(&before, name) + wanted).then_some(())
        };
        self.shared.hurried.store(true, Ordering::Relaxed);
        until(&format!("{case}: everything to be asked for"), rounds, || machines.logs());
        self.shared.hurried.store(false, Ordering::Relaxed);
        let wrong = std::mem::take(&mut *self.shared.wrong.lock().unwrap());
        let shown: Vec<&String> = wrong.iter().take(SHOWN).collect();
        assert!(
            wrong.is_empty(),
            "{case}: {} answers were wrong: {shown:#?}\n{}",
            wrong.len(),
            machines.logs()
        );
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a client failed");
        }
    }
}
