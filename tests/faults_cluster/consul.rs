//! What befalls Consul: one of its servers, the one that leads, and all of them.

use rig::net::Host;

use crate::machines::until;
use crate::stage::{NODES, SERVERS, Stage};

/// What runs or talks on the hosts but for one.
fn others(host: &Host) -> Vec<&'static str> {
    NODES.into_iter().chain(SERVERS).filter(|name| *name != host.name()).collect()
}

fn leader(stage: &Stage) -> Host {
    until("Consul to have a leader", || stage.consul.leader().cloned(), String::new)
}

fn follower(stage: &Stage) -> Host {
    let leader = leader(stage);
    let mut followers = SERVERS.iter().filter(|name| **name != leader.name());
    stage.host(followers.next().unwrap()).clone()
}

#[test]
fn s9_s10_no_answer_fails_for_what_befalls_consul() {
    let mut stage = Stage::set();
    type Choose = fn(&Stage) -> Host;
    for (who, choose) in
        [("a Consul server", follower as Choose), ("the leader of Consul", leader as Choose)]
    {
        let host = choose(&stage);
        stage.through(
            &format!("{who} is killed"),
            &NODES,
            |stage| stage.consul.kill(&host),
            |stage| stage.consul.restart(&[&host]),
        );
        let host = choose(&stage);
        stage.through(
            &format!("{who} hangs"),
            &NODES,
            |stage| stage.consul.pause(&host),
            |stage| stage.consul.resume(&host),
        );
        let host = choose(&stage);
        stage.through(
            &format!("{who} is cut off"),
            &NODES,
            |stage| stage.cut(host.name(), &others(&host)),
            |stage| stage.mend(host.name(), &others(&host)),
        );
    }

    stage.through(
        "all of Consul hangs",
        &NODES,
        |stage| SERVERS.iter().for_each(|name| stage.consul.pause(stage.host(name))),
        |stage| {
            rig::soak::hold();
            SERVERS.iter().for_each(|name| stage.consul.resume(stage.host(name)));
        },
    );
    stage.through(
        "all of Consul is dead",
        &NODES,
        |stage| SERVERS.iter().for_each(|name| stage.consul.kill(stage.host(name))),
        |stage| stage.consul.restart(&SERVERS.map(|name| stage.host(name))),
    );
    stage.through("Consul comes back empty", &NODES, |stage| stage.consul.restart_empty(), |_| ());
}
