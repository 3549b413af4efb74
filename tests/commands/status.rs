//! What `trough status` says of a cluster, also while parts of it are away.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rig::consul::Server;
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{BINARY, Cluster, Role, until};
use crate::steps::{http, text};

/// What a person reads of it on machine `name`; it fits onto a page.
#[track_caller]
fn read(cluster: &Cluster, name: &str, arguments: &[&str]) -> String {
    let said = text(&cluster.command(name, &[&["status"], arguments].concat()).stdout);
    let node_table = said.lines().skip_while(|line| !line.trim_start().starts_with("node "));
    let wide = node_table.filter(|line| line.chars().count() > 100);
    assert_eq!(wide.collect::<Vec<_>>(), [""; 0], "{said}");
    said
}

#[track_caller]
fn has(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part} is missing in\n{said}");
    }
}

#[test]
fn the_status_says_who_leads_and_how_the_nodes_are_also_when_some_are_away() {
    let mut cluster = Cluster::of_three();
    for n in 0..4 {
        cluster.put(n, n);
    }
    let (lead, _) = cluster.until_held(4);
    let said = read(&cluster, "c", &[]);
    has(
        &said,
        &[
            &format!("lead        {lead} at 127.0.0.1:{}", cluster[lead].lead_port),
            "in epoch 1-",
            "8 wanted of 4 segments, 0 on their way, 0 without a place",
            "deep store  listed ",
            "registry    http://127.0.0.1:",
            &format!("127.0.0.1:{}", cluster["b"].read_port),
        ],
    );
    assert_eq!(said.matches(" live ").count(), 3, "{said}");
    for own in ["--node", "--local"] {
        let said = read(&cluster, "c", &[own]);
        has(&said, &["lead        epoch 1-", "; heard ", "mount       "]);
    }

    // orders that somebody garbled hide nothing else
    let orders = format!("{}/v1/kv/trough/orders", cluster.consul.address());
    assert_eq!(http("PUT", &orders, "garbage").0, 200);
    cluster.allow("going by the orders of before");
    has(
        &read(&cluster, "c", &[]),
        &["attention   read the orders", "give the orders again", " live "],
    );
    assert_eq!(http("DELETE", &orders, "").0, 200);

    // a node that is gone, and what is made good for it
    cluster.end("c", Role::Local, Signal::KILL);
    let gone = || read(&cluster, "a", &[]).contains(" GONE ").then_some(());
    until("c to be gone", gone, || read(&cluster, "a", &[]));
    cluster.until_held(4);
    assert!(!cluster.status().nodes[2].registered);

    // nobody leads, and then one that was killed is still taken for alive
    for name in ["a", "b"] {
        assert!(cluster.end(name, Role::Lead, Signal::TERM).success());
    }
    let pool = "4 segments, 0 held by nobody, 0 without a place for each copy, 0 vanished";
    has(&read(&cluster, "b", &[]), &["lead        NOBODY", pool, " GONE "]);
    cluster.start("a", Role::Lead);
    cluster.until_held(4);
    cluster.end("a", Role::Lead, Signal::KILL);
    has(&read(&cluster, "b", &[]), &["lead        a at ", "DOES NOT ANSWER", pool]);

    // without the registry: who led last, and what is here
    cluster.start("a", Role::Lead);
    cluster.until_held(4);
    cluster.allow(" WARN ");
    cluster.consul.kill(Server(1));
    let output = cluster.command("a", &["status"]);
    assert_eq!(output.status.code(), Some(3));
    has(
        &text(&output.stdout),
        &[
            "lead        a at ",
            "registry    DOES NOT ANSWER",
            "this machine\nlead        epoch ",
            " live ",
            "mount       ",
        ],
    );
    let status = cluster.status();
    assert!(status.here.is_some() && status.nodes.len() == 3, "{status:?}");
    has(&read(&cluster, "b", &[]), &["nobody can be asked who leads", "this machine\n"]);
}

#[test]
fn a_watch_shows_it_again_until_it_is_told_to_stop_or_nobody_reads() {
    let mut cluster = Cluster::new();
    cluster.add("a");
    let dir = cluster["a"].dir.clone();
    let watch = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(["status", "--watch", "--dir"]).arg(&dir).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut watching = watch(&[]);
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        lines
            .by_ref()
            .map(Result::unwrap)
            .find(|line| line.starts_with("lead        NOBODY"))
            .unwrap();
    }
    kill_process(Pid::from_child(&watching), Signal::INT).unwrap();
    assert!(lines.all(|line| line.is_ok()));
    assert!(watching.wait().unwrap().success());

    let mut watching = watch(&["--json"]);
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let status: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&status["lead"], &status["nodes"]),
        (&serde_json::Value::Null, &serde_json::json!([]))
    );
    drop(lines);
    let ended = until("it to end", || watching.try_wait().unwrap(), || "it goes on".to_owned());
    assert!(ended.success(), "{ended}");
}
