//! What people tell a cluster, and what comes of it.

use rustix::process::Signal;
use sync::lead::LeadStatus;

use crate::cluster::{Cluster, Role, id, until};

fn unplanned(status: &LeadStatus) -> &str {
    let cycle = status.cycle.as_ref();
    cycle.and_then(|cycle| cycle.unplanned.as_deref()).unwrap_or_default()
}

#[test]
fn s9_pause_decommission_and_accepted_removals_are_obeyed_by_whoever_leads() {
    let mut cluster = Cluster::of_three();
    for n in 0..4 {
        cluster.put(n, n);
    }
    cluster.until_held(4);

    // nothing is given out while it is paused, whoever leads
    let said = cluster.say("c", &["sync", "pause"]);
    assert!(
        said.contains("paused: ") && said.contains("epoch") && said.contains(" leads"),
        "{said}"
    );
    cluster.put(4, 4);
    let (lead, _) =
        cluster.until_the_lead("the pause", |status| unplanned(status).contains("paused"));
    assert!(cluster.end(lead, Role::Lead, Signal::TERM).success());
    let (_, status) = cluster.until_the_lead("some cycles of another", |status| status.cycles > 3);
    assert!(unplanned(&status).contains("trough sync resume"), "{status:?}");
    for node in ["a", "b", "c"] {
        assert!(!cluster.mounted(node).contains(&id(4)), "{node} has it");
    }
    let said = cluster.refused("a", &["sync", "now"]);
    assert!(said.contains("`trough sync resume` goes on"), "{said}");
    let said = cluster.say("c", &["sync", "resume"]);
    assert!(said.contains("no orders hold"), "{said}");
    cluster.until_held(5);
    cluster.put(5, 5);
    let said = cluster.say("c", &["sync", "now"]);
    assert!(said.contains("listed the deep store and planned"), "{said}");
    cluster.until_held(6);
    cluster.start(lead, Role::Lead);

    // a node is emptied, and forgotten when it is stopped
    let said = cluster.refused("a", &["sync", "decommission", "d"]);
    assert!(said.contains("no node is called d; there are a, b, c"), "{said}");
    let said = cluster.say("a", &["sync", "decommission", "b"]);
    assert!(said.contains("b is to become empty"), "{said}");
    let said = cluster.say("a", &["sync", "decommission", "b", "--undo"]);
    assert!(said.contains("no orders hold"), "{said}");
    cluster.say("a", &["sync", "decommission", "c"]);
    let empty = || cluster.mounted("c").is_empty().then_some(());
    until("c to be empty", empty, || format!("{:#?}\n{}", cluster.leading(), cluster.logs()));
    cluster.until_held(6);
    assert_eq!(cluster.mounted("a").len() + cluster.mounted("b").len(), 12);
    assert!(cluster.end("c", Role::Local, Signal::TERM).success());
    cluster.until_the_lead("c to be forgotten", |status| {
        status.cycle.as_ref().unwrap().nodes.iter().all(|node| node.name.as_str() != "c")
    });
    assert!(cluster.say("a", &["sync", "resume"]).contains("no orders hold"));

    // what vanishes stays until somebody says so; what nobody could see cannot be accepted
    cluster.allow("removals wait");
    let said = cluster.refused("a", &["sync", "accept-removals"]);
    assert!(said.contains("no removals wait"), "{said}");
    for n in 0..6 {
        std::fs::remove_file(cluster.file(n)).unwrap();
    }
    cluster.until_the_lead("removals to wait", |status| {
        status.cycle.as_ref().unwrap().held_back.is_some()
    });
    assert_eq!(cluster.mounted("a").len(), 6);
    let said = cluster.say("a", &["sync", "accept-removals"]);
    assert!(said.contains("6 segments wait to be removed"), "{said}");
    let empty = || cluster.mounted("a").is_empty().then_some(());
    until("what vanished to go", empty, || format!("{:#?}\n{}", cluster.leading(), cluster.logs()));
}

#[test]
fn orders_are_taken_while_nobody_leads_and_a_smaller_cluster_is_accepted() {
    let mut cluster = Cluster::of_three();
    cluster.put(0, 0);
    cluster.until_held(1);
    for name in ["a", "b"] {
        assert!(cluster.end(name, Role::Lead, Signal::TERM).success());
    }
    let said = cluster.refused("a", &["sync", "now"]);
    assert!(said.contains("nobody leads, so nobody can be asked"), "{said}");
    let said = cluster.say("a", &["sync", "pause"]);
    assert!(said.contains("nobody leads now; whoever does next obeys"), "{said}");
    cluster.start("a", Role::Lead);
    cluster.until_the_lead("the pause", |status| unplanned(status).contains("paused"));
    cluster.say("a", &["sync", "resume"]);
    cluster.until_held(1);

    // two of three vanish at once: a person must say that it is meant
    for name in ["b", "c"] {
        cluster.end(name, Role::Local, Signal::KILL);
    }
    cluster.until_the_lead("it not to plan", |status| {
        unplanned(status).contains("accept the smaller cluster")
    });
    let said = cluster.say("a", &["sync", "accept-quota"]);
    assert!(said.contains("planned for down to 1.00 GiB of quota"), "{said}");
    cluster.until_the_lead("it to plan", |status| unplanned(status).is_empty());
    assert!(cluster.say("a", &["sync", "accept-quota", "--undo"]).contains("no orders hold"));
    cluster.until_the_lead("it not to plan", |status| !unplanned(status).is_empty());
}
