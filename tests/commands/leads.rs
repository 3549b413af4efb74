//! Who leads, and what the nodes do for it.

use rustix::process::Signal;

use crate::cluster::{Cluster, Role, until};
use crate::steps::http;

fn other(name: &str) -> &'static str {
    if name == "a" { "b" } else { "a" }
}

#[test]
fn s9_s10_a_cluster_of_processes_holds_what_the_store_has_whoever_leads() {
    let mut cluster = Cluster::of_three();
    for n in 0..6 {
        cluster.put(n, n);
    }
    let (first, status) = cluster.until_held(6);
    let epoch = status.epoch;
    let held: Vec<_> = ["a", "b", "c"].map(|name| cluster.mounted(name)).into();
    assert_eq!(held.iter().map(Vec::len).sum::<usize>(), 12, "{held:?}");

    // told to stop: it says so, ends well, and the other leads at once
    let follower = other(first);
    assert!(cluster.end(first, Role::Lead, Signal::TERM).success());
    let (second, status) =
        cluster.until_the_lead("the other to lead", |status| status.epoch > epoch);
    assert_eq!(second, follower);
    let epoch = status.epoch;
    cluster.start(first, Role::Lead);
    let health = |name: &str| {
        let port = cluster[name].lead_port;
        http("GET", &format!("http://127.0.0.1:{port}/health"), "")
    };
    let well = || (health(first).0 == 200).then_some(());
    until("a candidate that follows to be well", well, || format!("{:?}", health(first)));

    // killed: the other leads when its session has ended
    cluster.end(second, Role::Lead, Signal::KILL);
    cluster.put(6, 6);
    let (third, _) = cluster.until_the_lead("the other to lead", |status| status.epoch > epoch);
    assert_eq!(third, first);
    cluster.until_held(7);
    let now: Vec<_> = ["a", "b", "c"].map(|name| cluster.mounted(name)).into();
    for (before, now) in held.iter().zip(&now) {
        assert!(before.iter().all(|id| now.contains(id)), "something moved: {held:?}, {now:?}");
    }

    // a synchronizer that stops and starts is the same node at once, with what it had
    cluster.end("c", Role::Local, Signal::KILL);
    cluster.start("c", Role::Local);
    cluster.put(7, 7);
    cluster.until_held(8);
}
