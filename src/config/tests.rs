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
        manager: ManagerSettings::default(),
        registry: RegistrySettings::default(),
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

#[test]
fn the_first_file_is_complete_and_has_the_given_values() {
    let text = first_file(&["store.url=hdfs://h:1/p".into(), "node.name=a".into()]).unwrap();
    assert!(text.contains("url = \"hdfs://h:1/p\"\n"), "{text}");
    let config = load(&text, &[]).unwrap();
    assert_eq!(config.store.url, "hdfs://h:1/p");
    assert_eq!(config.node.name.as_deref(), Some("a"));
    assert_eq!(text.lines().count(), DEFAULTS.lines().count() + 1);
}
