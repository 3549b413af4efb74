//! What the lead would do, told beforehand.

use sync::kv::consul::{ConsulKv, ConsulSettings};
use sync::kv::{Consistency, Entry, Key, Kv};
use sync::lead::{Forecast, MoveSum};

use crate::cluster::{Cluster, Role};

fn registry(cluster: &Cluster) -> Vec<Entry> {
    let address = cluster.consul.address().to_owned();
    let kv = ConsulKv::new(&ConsulSettings { address, ..ConsulSettings::default() }).unwrap();
    let trough = Key::new("trough").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(kv.list(&trough, Consistency::Consistent)).unwrap()
}

fn foretold(cluster: &Cluster, arguments: &[&str]) -> Forecast {
    let said = cluster.say("c", &[&["sync", "plan", "--json"], arguments].concat());
    serde_json::from_str(&said).unwrap()
}

#[test]
fn a_plan_says_what_would_move_and_changes_nothing() {
    let mut cluster = Cluster::of_three();
    for n in 0..6 {
        cluster.put(n, n);
    }
    cluster.until_held(6);
    let bytes = cluster.file(0).metadata().unwrap().len();
    let on_c = cluster.mounted("c").len() as u64;
    let sum = |segments: u64| MoveSum { segments, bytes: segments * bytes };

    // nobody leads: what is in the registry is what was said last
    for name in ["a", "b"] {
        let ended = cluster.end(name, Role::Lead, rustix::process::Signal::TERM);
        assert!(ended.success());
    }
    cluster.put(6, 6);
    let before = registry(&cluster);
    assert_eq!(foretold(&cluster, &[]).pulls, sum(2));
    for how in ["--decommission", "--without"] {
        let forecast = foretold(&cluster, &[how, "c"]);
        assert_eq!(forecast.pulls, sum(2 + on_c), "{forecast:?}");
        let c = forecast.nodes.iter().find(|node| node.name == "c").unwrap();
        assert_eq!((c.before, c.after), (sum(on_c), sum(0)), "{forecast:?}");
    }
    let three = foretold(&cluster, &["--set", "plan.copies=3"]);
    assert_eq!(three.pulls, sum(3 + 6), "{three:?}");
    let said = cluster
        .say("c", &["sync", "plan", "--decommission", "c", "--set", "plan.moved_bytes_max=1"]);
    for part in [
        " in all, in ",
        "no node has them yet",
        "from nodes that are to become empty",
        "to be emptied",
    ] {
        assert!(said.contains(part), "{part} is missing in\n{said}");
    }
    assert!(said.lines().all(|line| line.chars().count() <= 100), "{said}");
    assert!(
        cluster.refused("c", &["sync", "plan", "--without", "d"]).contains("there are a, b, c")
    );
    assert_eq!(registry(&cluster), before, "something was written");

    cluster.start("a", Role::Lead);
    cluster.until_held(7);
}
