//! The list of segments, of a cluster and of a machine on its own.

use crate::cluster::{BINARY, Cluster, Role, id};
use crate::steps::{run, text};

fn listed(cluster: &Cluster, condition: &str) -> Vec<String> {
    let said = cluster.say("c", &["segments", "--where", condition, "--format", "csv"]);
    let lines = said.lines().skip(1);
    lines.map(|line| line.split(',').next().unwrap().to_owned()).collect()
}

#[test]
fn segments_are_listed_as_a_condition_in_sql_says() {
    let mut cluster = Cluster::of_three();
    let output = cluster.command("c", &["segments"]);
    // a lead may have been quicker
    if output.status.code() != Some(0) {
        assert_eq!(output.status.code(), Some(3));
        assert!(text(&output.stderr).contains("no pool table was written yet"));
    }
    for n in 0..6 {
        cluster.put(n, n);
    }
    cluster.until_held(6);
    let all: Vec<String> = (0..6).map(id).collect();
    assert_eq!(listed(&cluster, "true"), all);
    assert_eq!(listed(&cluster, "id >= 's004'"), all[4..]);
    for name in ["a", "b", "c"] {
        assert_eq!(listed(&cluster, &format!("has(holders, '{name}')")), cluster.mounted(name));
    }
    assert_eq!(listed(&cluster, "copies < 2 -- too few"), [""; 0]);
    assert_eq!(listed(&cluster, "mtime_ms > 1000 * unixepoch('now', '-1 day')"), all);

    let said = cluster.say("c", &["segments", "--format", "json"]);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&said).unwrap();
    let bytes = cluster.file(0).metadata().unwrap().len();
    assert_eq!(rows.len(), 6, "{said}");
    for (n, row) in (0..).zip(&rows) {
        assert_eq!(row["id"], id(n));
        assert_eq!((&row["state"], &row["copies"]), (&"held".into(), &2.into()), "{row}");
        assert_eq!((&row["length"], &row["vanished"]), (&bytes.into(), &0.into()), "{row}");
        assert_eq!(row["tag"].as_str().unwrap().len(), 16);
    }
    let said = cluster.say("c", &["segments"]);
    for part in ["published (UTC)", " s000 ", "6 rows\n"] {
        assert!(said.contains(part), "{part} is missing in\n{said}");
    }
    assert_eq!(cluster.say("c", &["segments", "--where", "false", "--format", "json"]), "[]\n");

    // what is wrong with a condition is told with what there is
    for wrong in ["copys < 2", "copies <", "1) OR (", "id = 's000'; DELETE FROM segments"] {
        let output = cluster.command("c", &["segments", "--where", wrong]);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
        let said = text(&output.stderr);
        assert!(
            said.contains("id, state, length, mtime_ms") && said.contains("copies < 2"),
            "{said}"
        );
    }

    // one that fails half way never looks like a shorter list
    let fails = "CASE id WHEN 's003' THEN abs(-9223372036854775807 - 1) ELSE 1 END";
    let output = cluster.command("c", &["segments", "--where", fails, "--format", "json"]);
    let said = text(&output.stdout);
    assert!(said.contains("s002") && !said.contains(']'), "{said}");
    assert_eq!(output.status.code(), Some(1));

    // what has no place, and what vanished
    cluster.end("a", Role::Lead, rustix::process::Signal::TERM);
    cluster.end("b", Role::Lead, rustix::process::Signal::TERM);
    cluster.set("a", "plan.copies", "4");
    for n in 0..6 {
        std::fs::remove_file(cluster.file(n)).unwrap();
    }
    cluster.allow("removals wait");
    cluster.start("a", Role::Lead);
    cluster.until_the_lead("removals to wait", |status| {
        status.cycle.as_ref().unwrap().held_back.is_some()
    });
    assert_eq!(listed(&cluster, "vanished AND state = 'vanished'"), all);
    cluster.put(2, 2);
    cluster.until_the_lead("a segment to be back", |_| {
        listed(&cluster, "state = 'short'") == ["s002"]
    });
    assert_eq!(listed(&cluster, "unplaced LIKE '%add nodes%'"), all);
}

#[test]
fn a_machine_that_was_never_started_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().to_str().unwrap();
    let output = run(BINARY, ["--dir", dir, "segments"]);
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stderr);
    assert!(said.contains("is `trough sync local` running?"), "{said}");
    assert_eq!(directory.path().read_dir().unwrap().count(), 0, "who looks makes nothing");
}
