//! Writers of a cluster that are cut from Consul: for longer than their locks last, and for less.

use std::path::PathBuf;
use std::time::Duration;

use proxy::writer::control::Control;
use rig::consul::{self, HTTP_PORT};
use rig::net::{Host, Net};
use sync::store::StorePath;

use crate::machines::{CONSUL_AWAY, Machines, Place, Role};
use crate::stage::*;
use crate::support::until;
use crate::writes::{Client, judge};

/// The second writer's rows begin after this: the first does not come so far.
const OTHERS: i64 = 1_000_000;

/// Two nodes that only write, on hosts with a Consul agent each; a server on a third.
struct Stage {
    // those who use the rest go first
    machines: Machines,
    _consul: consul::Cluster,
    net: Net,
    hosts: [Host; 3],
    /// The deep store: it is not cut from anybody.
    store: tempfile::TempDir,
}

impl Stage {
    fn set() -> Self {
        let net = Net::start();
        let hosts = net.hosts(["a", "b", "s"]);
        let [a, b, server] = &hosts;
        let consul = consul::Cluster::start(&net, &[server], &[a, b]);
        let store = tempfile::tempdir().unwrap();
        let (url, agent) =
            (store.path().display().to_string(), format!("http://127.0.0.1:{HTTP_PORT}"));
        let mut machines = Machines::new(url, agent);
        CONSUL_AWAY.into_iter().chain(COMES_BACK).for_each(|part| machines.allow(part));
        for (name, host) in [("a", a), ("b", b)] {
            machines.add(name, host.dir(), Place::On(host.clone()));
            machines.set(name, "write.takeover_dirty_after_s", "0");
            machines.set_more(name, "[publish]\nlock_ttl_s = 10\n");
            machines.start(name, Role::Write);
        }
        let stage = Self { machines, _consul: consul, net, hosts, store };
        let first = first(stage.store.path());
        stage.machines.say("a", &["put", "--id", "ohio", first.to_str().unwrap()]);
        std::fs::remove_file(first).unwrap();
        stage
    }

    fn writable(&self, name: &str) -> PathBuf {
        self.machines[name].dir.join("writable")
    }

    fn control(&self, name: &str) -> Control {
        Control::new(&self.writable(name))
    }

    /// Opens it on a node as soon as that can be done.
    #[track_caller]
    fn provision(&self, name: &str) {
        let order = || run(self.control(name).provision(&id("ohio"), None));
        let state = || format!("{:?}\n{}", order(), self.machines.logs());
        crate::machines::until(&format!("{name} writes"), || order().ok(), state);
    }

    #[track_caller]
    fn promote(&self, name: &str) {
        run(self.control(name).promote(&id("ohio"))).unwrap();
    }

    fn published(&self) -> Vec<i64> {
        rows_of(&self.store.path().join(StorePath::published(&id("ohio")).as_str()))
    }

    fn cut(&self) {
        self.net.cut(&self.hosts[0], &[&self.hosts[2]]);
    }

    fn heal(&self) {
        self.net.heal(&self.hosts[0], &[&self.hosts[2]]);
    }
}

/// Fault: a writer cannot reach Consul for longer than its lock lasts, and another takes over (S3, S4).
#[test]
fn s3_s4_a_writer_cut_from_consul_stops_and_what_only_it_has_is_an_orphan() {
    let mut stage = Stage::set();
    stage.machines.allow("are an orphan");
    stage.provision("a");
    let first = Client::start(stage.machines["a"].writer("ohio"));
    until("a is written", || first.acknowledged() > 10);
    stage.promote("a");
    let had = first.acknowledged();
    until("a has what is not published", || first.acknowledged() > had + 10);

    stage.cut();
    // whoever wants to write: it is the lock that decides when
    stage.provision("b");
    let had = first.acknowledged();
    let script = |n| format!("INSERT INTO t VALUES ({})", OTHERS + n);
    let second = Client::start_with(stage.machines["b"].writer("ohio"), Duration::ZERO, script);
    until("b is written", || second.acknowledged() > 10);
    stage.promote("b");
    let refused = first.refused().len();
    until("clients of a are told", || first.refused().len() > refused);

    stage.heal();
    let told = |client: &Client| client.refused().pop().is_some_and(|last| last.status == 421);
    until("a knows who writes it", || told(&first));
    assert_eq!(first.acknowledged(), had, "a acknowledged what it wrote beside b");
    let (theirs, their_sent, refused) = second.end();
    assert!(refused.is_empty(), "{refused:?}");
    stage.promote("b");
    let published = stage.published();
    assert!(run(stage.control("b").hand_back(&id("ohio"))).unwrap());

    let orphan = rows_of(&an_orphan_in(&stage.writable("a")));
    let (ours, sent, refused) = first.end();
    assert_eq!(ours.len(), had);
    judge("the orphan", &orphan, &ours, sent);
    let strange = refused.iter().find(|refused| ![421, 503].contains(&refused.status));
    assert!(strange.is_none(), "{strange:?}");
    assert_eq!(stage.published(), published, "an orphan is not published");
    let (of_b, of_a): (Vec<i64>, Vec<i64>) = published.iter().partition(|n| **n > OTHERS);
    let of_b: Vec<i64> = of_b.iter().map(|n| n - OTHERS).collect();
    judge("what b published", &of_b, &theirs, their_sent);
    assert!(!of_a.is_empty() && of_a.iter().all(|n| orphan.contains(n)), "{of_a:?}");
}

/// Fault: a writer cannot reach Consul for less time than its lock lasts. Nothing comes of it (S3, S4).
#[test]
fn s3_a_cut_from_consul_that_is_shorter_than_the_lock_loses_nothing() {
    let stage = Stage::set();
    stage.provision("a");
    let client = Client::start(stage.machines["a"].writer("ohio"));
    for _ in 0..2 {
        let had = client.acknowledged();
        until("it is written", || client.acknowledged() > had + 10);
        stage.cut();
        let had = client.acknowledged();
        until("writing goes on", || client.acknowledged() > had + 10);
        std::thread::sleep(Duration::from_secs(2));
        stage.heal();
        stage.promote("a");
    }
    let (acknowledged, sent, refused) = client.end();
    let strange = refused.iter().find(|refused| ![421, 503].contains(&refused.status));
    assert!(strange.is_none(), "{strange:?}");
    stage.promote("a");
    judge("the store", &stage.published(), &acknowledged, sent);
    assert!(!stage.machines.logs().contains("are an orphan"));
}
