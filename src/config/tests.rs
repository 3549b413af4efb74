//! Tests of the settings.

use std::collections::BTreeSet;

use super::*;

fn load(text: &str, overrides: &[&str]) -> Result<Config, String> {
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    Config::from_text(Path::new("trough.toml"), text, &overrides, Path::new("/base"))
        .map_err(|problems| problems.to_string())
}

/// All keys of a value, nested ones joined by dots; those without a value too.
fn keys(value: &serde_json::Value, prefix: &str, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                keys(value, &path, found);
            }
        }
        _ => {
            found.insert(prefix.to_owned());
        }
    }
}

/// The defaults' text with the settings that have no value by default switched on.
fn uncommented() -> String {
    let switched_on = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest.to_owned(),
        _ => line.to_owned(),
    };
    DEFAULTS.lines().map(switched_on).collect::<Vec<_>>().join("\n")
}

/// The `Default` of every section, by the code.
fn coded() -> Config {
    let mut coded = Config {
        node: NodeSettings::default(),
        store: StoreSettings::default(),
        cache: CacheSettings::default(),
        mount: MountSettings::default(),
        sync: LocalSettings::default(),
        publish: PublishSettings::default(),
        scrub: ScrubSettings::default(),
        read: ReaderSettings::default(),
        write: WriterSettings::default(),
        tokens: TokenSettings::default(),
        manager: ManagerSettings::default(),
        registry: RegistrySettings::default(),
        lead: LeadSection::default(),
        plan: PlanSection::default(),
        discovery: DiscoverySettings::default(),
        log: LogSettings::default(),
    };
    // where things lie is not for the subsystems to say
    coded.cache.dir = "cache".into();
    coded.mount.mountpoint = "mount".into();
    coded
}

#[test]
fn the_defaults_file_says_what_the_code_does() {
    let written: Config = default_table().try_into().unwrap();
    let json = |config: &Config| serde_json::to_value(config).unwrap();
    assert_eq!(json(&written), json(&coded()));
}

#[test]
fn the_defaults_file_has_every_setting_and_each_says_what_it_means() {
    let (mut written, mut known) = (BTreeSet::new(), BTreeSet::new());
    let all: Table = uncommented().parse().unwrap();
    keys(&serde_json::to_value(&all).unwrap(), "", &mut written);
    keys(&serde_json::to_value(coded()).unwrap(), "", &mut known);
    assert_eq!(written, known);
    all.try_into::<Config>().unwrap();
    let mut before = "";
    for line in DEFAULTS.lines() {
        if line.contains(" = ") && !line.starts_with("# ") {
            assert!(before.starts_with("# "), "no word says what this means: {line}");
        }
        before = line;
    }
}

#[test]
fn an_empty_file_gives_the_defaults_with_absolute_paths() {
    let config = load("", &[]).unwrap();
    assert_eq!(config.cache.dir, Path::new("/base/cache"));
    assert_eq!(config.mount.mountpoint, Path::new("/base/mount"));
    assert_eq!(config.store.url, "/base/store");
    assert_eq!(config.registry.path, Path::new("/base/registry.sqlite"));
}

#[test]
fn every_problem_is_told_with_its_line() {
    let text = "[sync]\nperiod_s = 0\nmax_removed_ratio = 3\n[store]\nurl = \"s3://x\"\n";
    let problems = load(text, &[]).unwrap_err();
    assert_eq!(
        problems,
        "trough.toml:2: sync.period_s: 0 is too small; allowed is 1 and above\n  \
           2 | period_s = 0\n    |            ^\n\
         trough.toml:3: sync.max_removed_ratio: 3 is out of range; allowed is 0 to 1\n  \
           3 | max_removed_ratio = 3\n    |                     ^\n\
         trough.toml:5: store.url: a deep store of kind \"s3\" is not known; allowed are a directory and \
         hdfs://HOST:PORT/PATH\n  \
           5 | url = \"s3://x\"\n    |       ^^^^^^^^"
    );
}

#[test]
fn wrong_types_and_unknown_names_are_told_together() {
    let text = "[sync]\nperiod_s = \"often\"\nperiodd_s = 3\n[stor]\n[read]\nconcurrency = -1\n";
    let problems = load(text, &[]).unwrap_err();
    for part in [
        "trough.toml:2:",
        "trough.toml:3:",
        "`periodd_s`",
        "trough.toml:4:",
        "`stor`",
        "trough.toml:6:",
    ] {
        assert!(problems.contains(part), "{part} is missing in\n{problems}");
    }
}

#[test]
fn a_file_that_is_no_toml_says_where() {
    let problems = load("[sync]\nperiod_s == 3\n", &[]).unwrap_err();
    assert!(problems.starts_with("trough.toml:2: "), "{problems}");
}

#[test]
fn an_override_wins_and_its_problem_names_it() {
    let config =
        load("[sync]\nperiod_s = 7\n", &["sync.period_s=5", "store.url=hdfs://h:1/p"]).unwrap();
    assert_eq!(config.sync.period_s, 5);
    assert_eq!(config.store.url, "hdfs://h:1/p");
    let problems = load("", &["sync.period_s=0"]).unwrap_err();
    assert!(problems.starts_with("--set sync.period_s=0: 0 is too small"), "{problems}");
    assert!(load("", &["period_s=0"]).unwrap_err().contains("SECTION.KEY=VALUE"));
    assert!(load("", &["sync.periodd_s=0"]).unwrap_err().contains("periodd_s"));
}

#[test]
fn places_that_lie_in_each_other_are_refused() {
    for text in
        ["[store]\nurl = \"cache/x\"", "[mount]\nmountpoint = \"cache\"", "[cache]\ndir = \".\""]
    {
        assert!(load(text, &[]).unwrap_err().contains("lie in each other"), "{text}");
    }
}

/// The least that a node of a cluster says.
const CLUSTER: &str = r#"
[node]
name = "a"
read_address = "127.0.0.1:6444"
manager_address = "a.example:6112"
[registry]
kind = "consul"
"#;

#[test]
fn a_node_of_a_cluster_says_where_the_others_reach_it() {
    let config = load(CLUSTER, &[]).unwrap();
    assert_eq!(config.node_name().unwrap().as_str(), "a");
    assert_eq!(config.address(Server::Read).unwrap(), "127.0.0.1:6444");
    assert_eq!(config.address(Server::Manager).unwrap(), "a.example:6112");
    // what is missing is told where it is needed
    let problem = config.address(Server::Lead).unwrap_err();
    assert!(problem.contains("cannot use 127.0.0.1:6111"), "{problem}");
    let problem = load(CLUSTER, &["lead.candidate=true"]).unwrap_err();
    assert!(problem.starts_with("node.lead_address: "), "{problem}");

    // where the servers listen is where they are, unless only this machine could use that
    let own = "manager.insecure_open=true";
    let text = "[node]\nname = \"a\"\n[registry]\nkind = \"consul\"\n";
    let listening = |host: &str| {
        [("read", 1), ("manager", 2), ("lead", 3)]
            .map(|(name, port)| format!("node.{name}_listen={host}:{port}"))
    };
    let load_at = |host: &str| {
        let all = listening(host);
        load(text, &[own, "lead.candidate=true", &all[0], &all[1], &all[2]])
    };
    let config = load_at("10.0.0.7").unwrap();
    assert_eq!(config.address(Server::Lead).unwrap(), "10.0.0.7:3");
    for host in ["127.0.0.1", "0.0.0.0", "[::1]", "[::]"] {
        let problems = load_at(host).unwrap_err();
        for part in ["node.read_address: ", "node.manager_address: ", "node.lead_address: "] {
            assert!(problems.contains(part), "{host}: {part} is missing in\n{problems}");
        }
        assert!(
            problems.contains("or node.lead_listen to an address of this machine"),
            "{problems}"
        );
    }
    let alone = load("[node]\nname = \"My Mac\"\nread_listen = \"127.0.0.1:6111\"", &[]).unwrap();
    assert_eq!(alone.display_name(), "My Mac", "on its own it may be called anything");
}

#[test]
fn what_is_wrong_with_a_cluster_is_told_with_its_line() {
    let text = r#"[node]
name = "Worker 1"
read_address = "here"
manager_address = "a:6112"
rack = " "
session_ttl_s = 9
lead_listen = "127.0.0.1:6112"
[registry]
kind = "consul"
[registry.consul]
address = "consul:8500/x"
tls_server_name = "a b"
cert_file = "c.pem"
[registry.consul.timeouts]
call_ms = 1
[lead]
session_ttl_s = 9
lock_delay_s = 61
candidates = true
[lead.cycle]
period_s = 0
max_removed_ratio = 2
[plan]
copies = 0
dead_band = 0.0
capacity_drop_ratio_max = 1.5
[[plan.rules]]
glob = "web-*"
copies = 2
[[plan.rules]]
glob = "web-["
copies = 2
[[plan.rules]]
glob = "x*"
copies = 99
nodes = ["a", "B"]
"#;
    let told = load(text, &[]).unwrap_err();
    assert!(
        told.starts_with("trough.toml:19: lead.candidates: unknown field `candidates`"),
        "{told}"
    );
    let told = load(&text.replace("candidates = true", ""), &[]).unwrap_err();
    let lines: Vec<(u32, &str)> = told
        .lines()
        .filter_map(|line| {
            let (line, rest) = line.strip_prefix("trough.toml:")?.split_once(": ")?;
            Some((line.parse().unwrap(), rest.split(": ").next().unwrap()))
        })
        .collect();
    let expected = [
        (2, "node.name"),
        (3, "node.read_address"),
        (5, "node.rack"),
        (6, "node.session_ttl_s"),
        (7, "node.lead_listen"),
        (11, "registry.consul.address"),
        (12, "registry.consul.tls_server_name"),
        (15, "registry.consul.timeouts.call_ms"),
        (17, "lead.session_ttl_s"),
        (18, "lead.lock_delay_s"),
        (21, "lead.cycle.period_s"),
        (22, "lead.cycle.max_removed_ratio"),
        (24, "plan.copies"),
        (25, "plan.dead_band"),
        (26, "plan.capacity_drop_ratio_max"),
        (31, "plan.rules.1.glob"),
        (35, "plan.rules.2.copies"),
        (36, "plan.rules.2.nodes.1"),
    ];
    assert_eq!(lines, expected, "{told}");
    assert!(told.contains("  31 | glob = \"web-[\"\n     |        ^^^^^^^"), "{told}");
    assert!(told.contains("cert_file and key_file go together"), "{told}");
}

#[test]
fn what_only_a_cluster_uses_is_checked_everywhere() {
    for wrong in [
        "registry.consul.address=x",
        "registry.kind=etcd",
        "plan.copies=0",
        "plan.accepted_quota_bytes=1",
        "lead.candidate=true",
        "node.lead_address=x",
        "registry.consul.address=https://h:1",
    ] {
        assert!(load("", &[wrong]).is_err(), "{wrong}");
    }
    let wrong = r#"plan.rules=[{ glob = "*", copies = 1 }, { glob = "*", copies = 0 }]"#;
    let told = load("", &[wrong]).unwrap_err();
    assert!(told.starts_with("--set plan.rules=") && told.contains("0 copies"), "{told}");
    let many = format!("plan.rules=[{}]", "{ glob = \"*\", copies = 1 },".repeat(300));
    assert!(load("", &[&many]).unwrap_err().contains("300 replication rules are too many"));
}

#[test]
fn files_of_the_way_to_consul_lie_beside_the_settings() {
    let consul = |name: &str| format!("registry.consul.{name}=secret/{name}");
    let all = ["token_file", "ca_file", "cert_file", "key_file"].map(consul);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let consul = load("", &all).unwrap().registry.consul;
    let files = [consul.token_file, consul.ca_file, consul.cert_file, consul.key_file];
    for (file, name) in files.into_iter().zip(["token_file", "ca_file", "cert_file", "key_file"]) {
        assert_eq!(file.unwrap(), Path::new("/base/secret").join(name));
    }
}

#[test]
fn a_lock_s_time_that_no_registry_takes_is_refused() {
    for (seconds, right) in [(9, false), (10, true), (86_400, true), (86_401, false)] {
        let loaded = load(&format!("[publish]\nlock_ttl_s = {seconds}"), &[]);
        assert_eq!(loaded.is_ok(), right, "{seconds}: {loaded:?}");
    }
}

#[test]
fn the_first_file_is_complete_and_has_the_given_values() {
    let text = first_file(&["store.url=hdfs://h:1/p".into(), "node.name=a".into()]).unwrap();
    assert!(text.contains("url = \"hdfs://h:1/p\"\n"), "{text}");
    let config = load(&text, &[]).unwrap();
    assert_eq!(config.store.url, "hdfs://h:1/p");
    assert_eq!(config.node.name.as_deref(), Some("a"));
    assert_eq!(text.lines().count(), DEFAULTS.lines().count() + 1);

    let deep = ["registry.consul.address=http://h:1".into(), "registry.kind=consul".into()];
    let text = first_file(&deep).unwrap();
    assert!(text.contains("address = \"http://h:1\"\n"), "{text}");
    assert_eq!(text.lines().count(), DEFAULTS.lines().count());
    assert!(first_file(&["log.format.x=1".into()]).unwrap_err().contains("format is no section"));
}
