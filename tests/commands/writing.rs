//! Writing in a cluster of real processes: as the client of the original does it, and what every reader sees of it.

use std::process::Command;

use crate::cluster::{Cluster, Role, until};
use crate::steps::{http, text};

/// An order in JSON.
fn ordered(method: &str, url: &str, order: &serde_json::Value) -> (u16, String) {
    http(method, url, &order.to_string())
}

/// Two nodes that read and write, and candidates on both.
fn of_two() -> Cluster {
    let mut cluster = Cluster::new();
    for name in ["a", "b"] {
        cluster.add(name);
        cluster.set(name, "write.idle_s", "1");
        cluster.start_node(name);
        cluster.start(name, Role::Read);
        cluster.start(name, Role::Write);
        cluster.start(name, Role::Lead);
    }
    // leads come and go while they start
    cluster.allow("the registry has no incarnation");
    cluster.until_the_lead("two nodes are there", |lead| {
        lead.cycle.as_ref().is_some_and(|cycle| cycle.nodes.len() == 2)
    });
    cluster
}

/// What an application of the original does, by the package that it uses: its client and its shell, unchanged.
#[test]
fn the_client_of_the_original_provisions_writes_reads_promotes_and_deletes() {
    let cluster = of_two();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/compat/client.sh");
    let output = Command::new(script).arg(cluster.consul.address()).output().unwrap();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}\n{}", cluster.logs());
    for step in ["schemas", "writes_and_reads", "promotes", "shell", "deletes"] {
        assert!(said.contains(&format!("ok {step}")), "{said}");
    }
}

/// Every reader has what was acknowledged, before and after it is published and given back.
#[test]
fn s3_what_was_acknowledged_is_read_from_every_node() {
    let cluster = of_two();
    let (lead, _) = cluster.leading().unwrap();
    let manager = |path: &str| cluster[lead].lead_page(path);
    let schema = "CREATE TABLE t (n INTEGER PRIMARY KEY)";
    assert_eq!(http("PUT", &manager("schema/counts/sql"), schema).0, 201);
    let order = serde_json::json!({"segment": "ohio", "schema": "counts"});
    let (status, said) = ordered("POST", &manager("provision"), &order);
    assert_eq!(status, 200, "{said}\n{}", cluster.logs());
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let write_url = said["write_url"].as_str().unwrap().to_owned();
    // asked again, of whichever, it is the same
    let (_, again) = ordered("POST", &manager("provision"), &order);
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["write_url"], said["write_url"]);
    let count =
        |name: &str| http("POST", &cluster[name].reader("ohio"), "SELECT count(*) AS n FROM t");
    // by DNS, too; what is unpublished is not given back meanwhile
    let found = |told: bool| {
        let consul = cluster.consul.address();
        let url = format!("{consul}/v1/health/service/trough-write?passing&tag=ohio");
        let count = || {
            let (_, said) = http("GET", &url, "");
            let found: Vec<serde_json::Value> = serde_json::from_str(&said).unwrap();
            (found.len() == usize::from(told)).then_some(())
        };
        until("DNS knows who writes it", count, || cluster.logs());
    };
    for n in 1..=20 {
        let (status, said) = http("POST", &write_url, &format!("INSERT INTO t VALUES ({n})"));
        assert_eq!((status, &*said), (200, "OK\n"));
        // a reader that has not heard yet that somebody writes says 404 at the most for a new segment
        for name in ["a", "b"] {
            until(
                &format!("{name} has row {n}"),
                || (count(name) == (200, format!("[{{\"n\":{n}}}]\n"))).then_some(()),
                || format!("{:?}\n{}", count(name), cluster.logs()),
            );
        }
        if n == 3 {
            found(true);
        }
        if n % 5 == 0 {
            let order = serde_json::json!({"segment": "ohio"});
            let (status, said) = ordered("POST", &manager("promote"), &order);
            assert_eq!(status, 200, "{said}\n{}", cluster.logs());
        }
    }
    // nothing is written any more: copies take over, and no answer is another
    until(
        "it is given back",
        || {
            for name in ["a", "b"] {
                assert_eq!(
                    count(name),
                    (200, "[{\"n\":20}]\n".to_owned()),
                    "{name}\n{}",
                    cluster.logs()
                );
            }
            cluster.logs().contains("given back").then_some(())
        },
        || cluster.logs(),
    );
    found(false);
    for name in ["a", "b"] {
        assert_eq!(count(name).1, "[{\"n\":20}]\n");
    }
    let (status, said) = http("POST", &write_url, "INSERT INTO t VALUES (21)");
    assert_eq!(status, 421, "{said}");
}
