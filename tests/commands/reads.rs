//! Queries that go on through what goes wrong: whoever is asked answers for every segment.

use rustix::process::Signal;
use sync::node::NodeName;

use crate::clients::Clients;
use crate::cluster::{CONSUL_AWAY, COPIES, Cluster, Role, until};

/// Segments that are asked for all the time.
const SEGMENTS: i64 = 9;

#[test]
fn s9_s10_any_reader_answers_for_any_segment_through_what_goes_wrong() {
    let mut cluster = Cluster::of_three();
    CONSUL_AWAY.into_iter().for_each(|part| cluster.allow(part));
    let clients = Clients::start();
    for n in 0..SEGMENTS {
        cluster.put(n, clients.adds(n));
    }
    let all = ["a", "b", "c"];
    for name in all {
        cluster.start(name, Role::Read);
    }
    cluster.until_held(SEGMENTS as u64);
    clients.until_settled("at first", &cluster, &all);
    let held: Vec<usize> = all.iter().map(|name| cluster.mounted(name).len()).collect();
    assert!(held.iter().all(|held| *held < SEGMENTS as usize), "nothing is forwarded: {held:?}");

    clients.all_right("all are well", &cluster);

    // new versions, a new segment, one that goes
    for n in 0..SEGMENTS {
        cluster.put(n, clients.changes(n));
    }
    cluster.put(SEGMENTS, clients.adds(SEGMENTS));
    cluster.until_held(SEGMENTS as u64 + 1);
    clients.until_settled("what is new", &cluster, &all);
    clients.removes(SEGMENTS);
    std::fs::remove_file(cluster.file(SEGMENTS)).unwrap();
    cluster.until_held(SEGMENTS as u64);
    clients.until_settled("what is gone", &cluster, &all);
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
    let well = || cluster["c"].reader_is_well().then_some(());
    until("c to be well", well, || cluster.logs());

    // a node dies, and is made good
    clients.ask(&cluster, &["a", "b"]);
    for role in [Role::Read, Role::Local, Role::Fsd] {
        cluster.end("c", role, Signal::KILL);
    }
    clients.all_right("a node is dead", &cluster);
    cluster.until_the_lead("the dead node's copies to be made good", |status| {
        let cycle = status.cycle.as_ref().unwrap();
        let dead = NodeName::new("c").unwrap();
        let held: u64 =
            cycle.nodes.iter().filter(|node| node.name != dead).filter_map(|node| node.holds).sum();
        held == SEGMENTS as u64 * COPIES
    });
    clients.all_right("its copies are made good", &cluster);
    trough::up::leftover::detach(&cluster["c"].dir.join("mount")).unwrap();
    cluster.start_node("c");
    cluster.start("c", Role::Read);
    let well = || cluster["c"].reader_is_well().then_some(());
    until("c to be well", well, || cluster.logs());
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
    eprintln!("{} answers, all of them right", clients.answers());
}
