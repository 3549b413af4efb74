//! A cluster by one command a machine.

use rustix::process::Signal;

use crate::cluster::{Cluster, Role, id, until};
use crate::steps::http;

/// All that a machine needs to be told; the rest is as usual, but quick.
fn told(cluster: &Cluster, name: &str) -> Vec<String> {
    let machine = &cluster[name];
    let store = cluster.dir.path().join("store").display().to_string();
    let mut all = vec!["--lead".to_owned(), "--store".to_owned(), store];
    let mut set = |setting: String| all.extend(["--set".to_owned(), setting]);
    set(format!("node.name={name}"));
    set("registry.kind=consul".to_owned());
    set(format!("registry.consul.address={}", cluster.consul.address()));
    for (server, port) in [
        ("read", machine.read_port),
        ("manager", machine.manager_port),
        ("lead", machine.lead_port),
    ] {
        set(format!("node.{server}_listen=127.0.0.1:{port}"));
        set(format!("node.{server}_address=127.0.0.1:{port}"));
    }
    // who publishes says so
    set("lead.cycle.period_s=3600".to_owned());
    set("lead.cycle.settle_s=3".to_owned());
    set("registry.consul.timeouts.call_ms=5000".to_owned());
    all
}

#[test]
fn one_command_a_machine_makes_a_cluster() {
    let mut cluster = Cluster::new();
    cluster.add_bare("a");
    let arguments = told(&cluster, "a");
    cluster.start_with("a", Role::Up, &arguments);
    // from a file, and without the lead, as most are
    cluster.add("b");
    cluster.start("b", Role::Up);
    let published = |cluster: &Cluster, n: i64| {
        let file = cluster.dir.path().join("published.db");
        let _ = std::fs::remove_file(&file);
        let sql = format!("CREATE TABLE t (n); INSERT INTO t VALUES ({n})");
        rusqlite::Connection::open(&file).unwrap().execute_batch(&sql).unwrap();
        cluster.say("a", &["put", "--id", &id(n), file.to_str().unwrap()]);
    };
    // the settings that the first start wrote are enough to ask it
    let file = cluster["a"].dir.join("trough.toml");
    until("the settings to be written", || file.try_exists().unwrap().then_some(()), String::new);
    let (lead, _) = cluster.until_the_lead("two nodes", |status| {
        let nodes = &status.cycle.as_ref().unwrap().nodes;
        nodes.len() == 2 && nodes.iter().all(|node| node.node.announced)
    });
    assert_eq!(lead, "a");
    for n in 0..4 {
        published(&cluster, n);
    }
    cluster.until_held(4);
    for name in ["a", "b"] {
        assert_eq!(cluster.mounted(name).len(), 4);
        let url = |id: &str| format!("http://127.0.0.1:{}/?segment={id}", cluster[name].read_port);
        assert_eq!(
            http("POST", &url("s002"), "SELECT n FROM t"),
            (200, "[{\"n\":2}]\n".to_owned())
        );
    }
    let said = cluster.refused("a", &["up"]);
    assert!(said.contains("is in use by process"), "{said}");

    // a candidate of `up` hands over like any other
    cluster.end("b", Role::Up, Signal::INT);
    cluster.set("b", "lead.candidate", "true");
    cluster.start("b", Role::Up);
    cluster.until_held(4);
    assert_eq!(cluster.end("a", Role::Up, Signal::INT).code(), Some(0));
    assert_eq!(cluster.mounted("a"), [""; 0]);
    let found = || {
        let said = cluster.command("b", &["status"]);
        crate::steps::text(&said.stdout).starts_with("lead        b at ").then_some(())
    };
    until("b to lead", found, || cluster.logs());
}
