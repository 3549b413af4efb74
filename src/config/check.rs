//! What settings must hold beyond their types.

use std::net::SocketAddr;

use super::{Config, Problem};

/// The most segments that may be pulled at a time: each has a file open and a stream from the store.
const PULLS_MAX: usize = 256;
/// The most queries at a time: each has a thread while it runs.
const QUERIES_MAX: usize = 4096;

/// Everything that is wrong with `config`, whose paths are absolute.
pub(super) fn check(config: &Config) -> Vec<Problem> {
    let mut found = Checks::default();
    listen(config, &mut found);
    store(config, &mut found);
    places(config, &mut found);
    numbers(config, &mut found);
    if let Some(problem) = config.log.filter_problem() {
        found.add("log.filter", problem);
    }
    found.problems
}

#[derive(Default)]
struct Checks {
    problems: Vec<Problem>,
}

impl Checks {
    fn add(&mut self, path: &str, message: impl Into<String>) {
        let path = path.split('.').map(str::to_owned).collect();
        self.problems.push(Problem { path, message: message.into() });
    }

    fn within<T: PartialOrd + std::fmt::Display>(
        &mut self,
        path: &str,
        value: T,
        least: T,
        most: T,
    ) {
        if value < least || value > most {
            self.add(path, format!("{value} is out of range; allowed is {least} to {most}"));
        }
    }

    fn at_least(&mut self, path: &str, value: u64, least: u64) {
        if value < least {
            self.add(path, format!("{value} is too small; allowed is {least} and above"));
        }
    }
}

fn listen(config: &Config, found: &mut Checks) {
    let mut parsed = Vec::new();
    for (path, text) in [
        ("node.read_listen", &config.node.read_listen),
        ("node.manager_listen", &config.node.manager_listen),
    ] {
        match text.parse::<SocketAddr>() {
            Ok(address) => parsed.push(address),
            Err(_) => found.add(path, format!(
                "{text:?} is not an address with a port; write it as \"127.0.0.1:6444\" or \"[::1]:6444\""
            )),
        }
    }
    if let Ok(manager) = config.node.manager_listen.parse::<SocketAddr>()
        && !manager.ip().is_loopback()
        && !config.manager.insecure_open
    {
        found.add("node.manager_listen", proxy::manager::OpenBind(manager).to_string());
    }
    if let [read, manager] = parsed.as_slice()
        && read == manager
        && read.port() != 0
    {
        found
            .add("node.manager_listen", "this is the reader's address too; give each its own port");
    }
}

fn store(config: &Config, found: &mut Checks) {
    let url = &config.store.url;
    if let Some((scheme, rest)) = url.split_once("://") {
        let host = rest.split('/').next().unwrap_or("");
        if scheme != "hdfs" {
            found.add("store.url", format!(
                "a deep store of kind {scheme:?} is not known; allowed are a directory and hdfs://HOST:PORT/PATH"
            ));
        } else if host.is_empty() {
            found.add("store.url", "the host is missing; write it as hdfs://HOST:PORT/PATH");
        }
    }
    for (path, value) in [
        ("store.timeouts.call_ms", config.store.timeouts.call_ms),
        ("store.timeouts.io_ms", config.store.timeouts.io_ms),
    ] {
        found.within(path, value, 100, 3_600_000);
    }
}

/// The places must not lie in each other: each is swept, listed or mounted over as a whole.
fn places(config: &Config, found: &mut Checks) {
    let mut places = vec![
        ("cache.dir", config.cache.dir.clone()),
        ("mount.mountpoint", config.mount.mountpoint.clone()),
    ];
    if !config.store.url.contains("://") {
        places.push(("store.url", config.store.url.clone().into()));
    }
    for (at, (path, place)) in places.iter().enumerate() {
        for (other_path, other) in &places[..at] {
            if place.starts_with(other) || other.starts_with(place) {
                found.add(path, format!(
                    "{} and {other_path} ({}) lie in each other; give each a directory of its own",
                    place.display(),
                    other.display()
                ));
            }
        }
    }
    for (path, place) in &places[..2] {
        if config.registry.path.starts_with(place) {
            found.add("registry.path", format!("the registry must not lie below {path}"));
        }
    }
}

fn numbers(config: &Config, found: &mut Checks) {
    if config.cache.quota_bytes == Some(0) {
        found.add("cache.quota_bytes", "0 bytes hold nothing; leave it out for 80 % of the volume");
    }
    found.within("mount.threads", config.mount.threads, 1, fsd::mount::THREADS_MAX);
    found.at_least("sync.period_s", config.sync.period_s, 1);
    found.within("sync.pulls", config.sync.pulls, 1, PULLS_MAX);
    found.within("sync.max_removed_ratio", config.sync.max_removed_ratio, 0.0, 1.0);
    found.at_least("scrub.period_s", config.scrub.period_s, 1);
    if !(config.scrub.disk_share > 0.0 && config.scrub.disk_share <= 0.5) {
        let share = config.scrub.disk_share;
        found.add(
            "scrub.disk_share",
            format!("{share} is out of range; allowed is above 0, at most 0.5"),
        );
    }
    found.within("read.concurrency", config.read.concurrency, 1, QUERIES_MAX);
    found.at_least("read.query_ms", config.read.query_ms, 1);
    found.at_least("read.open_connections_max", config.read.open_connections_max as u64, 1);
}
