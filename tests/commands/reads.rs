//! Queries that go on through what goes wrong: whoever is asked answers for every segment.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::Duration;

use rustix::process::Signal;
use sync::node::NodeName;

use crate::machines::{COPIES, Cluster, PATIENCE, Role, id, until};
use crate::steps::{Stop, http};

/// Segments that are asked for all the time.
const SEGMENTS: i64 = 9;
/// Versions of a segment differ by so much: an answer is right when the rest is the segment's number.
const VERSION: i64 = 1_000;

/// Clients that ask every segment in a loop, at each of the readers that are to be asked.
#[derive(Default)]
struct Clients {
    stop: AtomicBool,
    asked: RwLock<Vec<(&'static str, u16)>>,
    answers: AtomicU64,
    wrong: Mutex<Vec<String>>,
    done: Mutex<BTreeMap<&'static str, u64>>,
}

impl Clients {
    /// Asks until it is told to stop.
    fn run(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        while !self.stop.load(Ordering::Relaxed) {
            // who takes a reader out waits until the round that began with it is over
            let asked = self.asked.read().unwrap();
            for (name, port) in asked.iter() {
                for n in 0..SEGMENTS {
                    let url = format!("http://127.0.0.1:{port}/?segment={}", id(n));
                    let answer = async {
                        let answer = client.post(&url).body("SELECT n FROM t").send().await?;
                        Ok((answer.status().as_u16(), answer.text().await?))
                    };
                    let answer = runtime.block_on(answer);
                    self.look(
                        name,
                        n,
                        answer.map_err(|error: reqwest::Error| format!("{error:?}")),
                    );
                }
                *self.done.lock().unwrap().entry(name).or_default() += 1;
            }
            drop(asked);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn look(&self, name: &str, n: i64, answer: Result<(u16, String), String>) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        if let Ok((200, text)) = &answer
            && let Some(value) =
                text.strip_prefix("[{\"n\":").and_then(|rest| rest.strip_suffix("}]\n"))
            && value.parse::<i64>().is_ok_and(|value| value % VERSION == n)
        {
            return;
        }
        self.wrong.lock().unwrap().push(format!("{name} for {}: {answer:?}", id(n)));
    }

    /// From now on these are asked, and nobody else is being asked any more.
    fn ask(&self, cluster: &Cluster, names: &[&'static str]) {
        let port = |name: &&'static str| (*name, cluster.machines[name].read_port);
        *self.asked.write().unwrap() = names.iter().map(port).collect();
    }

    /// Waits until each of those that are asked was asked for everything twice more, and all was answered right.
    #[track_caller]
    fn all_right(&self, case: &str, cluster: &Cluster) {
        let before = self.done.lock().unwrap().clone();
        let names: Vec<_> = self.asked.read().unwrap().iter().map(|(name, _)| *name).collect();
        let rounds = || {
            let done = self.done.lock().unwrap();
            let of = |all: &BTreeMap<_, u64>, name| all.get(name).copied().unwrap_or_default();
            names.iter().all(|name| of(&done, name) >= of(&before, name) + 2).then_some(())
        };
        until(&format!("{case}: everything to be asked for"), rounds, || cluster.logs());
        let wrong = std::mem::take(&mut *self.wrong.lock().unwrap());
        assert!(
            wrong.is_empty(),
            "{case}: {} answers were none: {wrong:#?}\n{}",
            wrong.len(),
            cluster.logs()
        );
    }
}

fn is_well(cluster: &Cluster, name: &str) -> bool {
    let port = cluster.machines[name].read_port;
    http("GET", &format!("http://127.0.0.1:{port}/health"), "").0 == 200
}

fn until_read(cluster: &Cluster, name: &str, case: &str) {
    let port = cluster.machines[name].read_port;
    let answers = || {
        let ask = |n| {
            let url = format!("http://127.0.0.1:{port}/?segment={}", id(n));
            http("POST", &url, "SELECT n FROM t").0 == 200
        };
        (0..SEGMENTS).all(ask).then_some(())
    };
    until(&format!("{case}: {name} to answer for all"), answers, || cluster.logs());
}

#[test]
fn s9_s10_any_reader_answers_for_any_segment_through_what_goes_wrong() {
    let mut cluster = Cluster::of_three();
    for part in [
        // what this test does to them
        "the pool table cannot be read",
        "the session of the lead is over",
        "this node is not heard",
        "the registry",
        "not leading",
        "a cycle of the lead came to nothing",
        "giving up the lead",
        "tell others what is here",
        "find out whether this node is under maintenance",
        "session",
        "the lead cannot be heard",
    ] {
        cluster.allow(part);
    }
    for n in 0..SEGMENTS {
        cluster.put(n, n);
    }
    let all = ["a", "b", "c"];
    for name in all {
        cluster.start(name, Role::Read);
    }
    cluster.until_held(SEGMENTS as u64);
    for name in all {
        until_read(&cluster, name, "at first");
    }
    let held: Vec<usize> = all.iter().map(|name| cluster.mounted(name).len()).collect();
    assert!(held.iter().all(|held| *held < SEGMENTS as usize), "nothing is forwarded: {held:?}");

    let clients = Clients::default();
    std::thread::scope(|scope| {
        let _stop = Stop(&clients.stop);
        for _ in 0..2 {
            scope.spawn(|| clients.run());
        }
        clients.ask(&cluster, &all);
        clients.all_right("all are well", &cluster);

        // new versions, a new segment, one that goes
        for n in 0..SEGMENTS {
            cluster.put(n, n + VERSION);
        }
        cluster.put(SEGMENTS, SEGMENTS);
        cluster.until_held(SEGMENTS as u64 + 1);
        std::fs::remove_file(cluster.file(SEGMENTS)).unwrap();
        cluster.until_held(SEGMENTS as u64);
        clients.all_right("new versions", &cluster);

        // a reader that is silent
        clients.ask(&cluster, &["a", "b"]);
        cluster.signal("c", Role::Read, Signal::STOP);
        clients.all_right("a reader is silent", &cluster);
        cluster.signal("c", Role::Read, Signal::CONT);
        clients.ask(&cluster, &all);
        clients.all_right("it is back", &cluster);

        // a mount that hangs, also for the reader of its own node
        cluster.signal("c", Role::Fsd, Signal::STOP);
        clients.all_right("a mount hangs", &cluster);
        cluster.signal("c", Role::Fsd, Signal::CONT);
        until("c to be well", || is_well(&cluster, "c").then_some(()), || cluster.logs());

        // a node dies, and is made good
        clients.ask(&cluster, &["a", "b"]);
        for role in [Role::Read, Role::Local, Role::Fsd] {
            cluster.end("c", role, Signal::KILL);
        }
        clients.all_right("a node is dead", &cluster);
        cluster.until_the_lead("the dead node's copies to be made good", |status| {
            let cycle = status.cycle.as_ref().unwrap();
            let dead = NodeName::new("c").unwrap();
            let held: u64 = cycle
                .nodes
                .iter()
                .filter(|node| node.name != dead)
                .filter_map(|node| node.holds)
                .sum();
            held == SEGMENTS as u64 * COPIES
        });
        clients.all_right("its copies are made good", &cluster);
        trough::up::leftover::detach(&cluster.machines["c"].dir.join("mount")).unwrap();
        cluster.start_node("c");
        cluster.start("c", Role::Read);
        until_read(&cluster, "c", "it is back");
        clients.ask(&cluster, &all);
        cluster.until_held(SEGMENTS as u64);
        clients.all_right("a node is back", &cluster);

        // a node is emptied
        cluster.say("a", &["sync", "decommission", "b"]);
        let empty = || cluster.mounted("b").is_empty().then_some(());
        until("b to be empty", empty, || format!("{:#?}\n{}", cluster.leading(), cluster.logs()));
        clients.all_right("a node is emptied", &cluster);
        cluster.say("a", &["sync", "decommission", "b", "--undo"]);
        cluster.until_held(SEGMENTS as u64);
        clients.all_right("it has its share again", &cluster);

        // the lead dies
        let (lead, status) = cluster.leading().unwrap();
        cluster.end(lead, Role::Lead, Signal::KILL);
        clients.all_right("the lead is dead", &cluster);
        cluster.until_the_lead("another to lead", |now| now.epoch > status.epoch);
        cluster.start(lead, Role::Lead);
        clients.all_right("another leads", &cluster);

        // Consul hangs, and comes back empty
        let consul = rig::consul::Server(1);
        cluster.consul.pause(consul);
        clients.all_right("Consul is silent", &cluster);
        cluster.consul.resume(consul);
        cluster.until_held(SEGMENTS as u64);
        cluster.consul.kill(consul);
        clients.all_right("Consul is dead", &cluster);
        cluster.consul.restart_empty();
        clients.all_right("Consul is empty", &cluster);
        cluster.until_held(SEGMENTS as u64);
        clients.all_right("Consul knows again", &cluster);
    });
    let answers = clients.answers.load(Ordering::Relaxed);
    assert!(answers > 0);
    eprintln!("{answers} answers, all of them right");
}
