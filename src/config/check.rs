//! What settings must hold beyond their types.

use std::net::SocketAddr;

use sync::kv::{LOCK_DELAY_MAX, SESSION_TTL_MAX, SESSION_TTL_MIN};
use sync::node::NodeName;
use sync::planner::{PlanSettings, Rules, RulesError};

use super::identity::{Server, address_problem};
use super::{Config, Problem};

/// The most segments that may be pulled at a time: each has a file open and a stream from the store.
const PULLS_MAX: usize = 256;
/// The most queries at a time: each has a thread while it runs.
const QUERIES_MAX: usize = 4096;

/// The longest body of a write: it is in memory as a whole, and SQLite takes no longer statement.
const BODY_BYTES_MAX: u64 = 1_000_000_000;

/// Everything that is wrong with `config`, whose paths are absolute.
pub(super) fn check(config: &Config) -> Vec<Problem> {
    let mut found = Checks::default();
    listen(config, &mut found);
    store(config, &mut found);
    places(config, &mut found);
    numbers(config, &mut found);
    registry(config, &mut found);
    node(config, &mut found);
    plan(config, &mut found);
    discovery(config, &mut found);
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
    let mut parsed: Vec<(Server, SocketAddr)> = Vec::new();
    for server in Server::ALL {
        let (path, text) = (server.listen_setting(), config.listen(server));
        let Ok(address) = text.parse::<SocketAddr>() else {
            found.add(&path, format!(
                "{text:?} is not an address with a port; write it as \"127.0.0.1:6444\" or \"[::1]:6444\""
            ));
            continue;
        };
        let takes_orders = server != Server::Read;
        let (open, tokens_open) = match server {
            Server::Write => (config.write.insecure_open, config.tokens.write_file.is_none()),
            _ => (config.manager.insecure_open, config.tokens.manage_file.is_none()),
        };
        if takes_orders && !address.ip().is_loopback() && tokens_open && !open {
            found.add(&path, proxy::manager::OpenBind(address).to_string());
        }
        let other = parsed.iter().find(|(_, other)| *other == address && address.port() != 0);
        // a machine on its own has no lead
        let listens = server != Server::Lead || config.in_cluster();
        if let Some((other, _)) = other.filter(|_| listens) {
            let other = other.listen_setting();
            found.add(&path, format!("this is {other} too; give each its own port"));
        }
        parsed.push((server, address));
    }
}

fn discovery(config: &Config, found: &mut Checks) {
    let discovery = &config.discovery;
    found.within("discovery.tags_max", discovery.tags_max, 1, sync::services::TAGS_MAX);
    // what Consul takes
    found.at_least("discovery.check_interval_ms", discovery.check_interval_ms, 1_000);
    found.at_least("discovery.check_timeout_ms", discovery.check_timeout_ms, 1);
    found.at_least("discovery.deregister_after_s", discovery.deregister_after_s, 60);
    for (name, value) in [
        ("look_ms", discovery.look_ms),
        ("retry_first_ms", discovery.retry_first_ms),
        ("maintenance_ms", discovery.maintenance_ms),
    ] {
        // each is the pause of something that goes on for ever
        found.at_least(&format!("discovery.{name}"), value, 100);
    }
    found.at_least("read.forward.probe_ms", config.read.forward.probe_ms, 10);
    found.at_least("read.forward.silent_ms", config.read.forward.silent_ms, 100);
    found.at_least("read.forward.queries_max", config.read.forward.queries_max as u64, 1);
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
    places.push(("write.dir", config.write.dir.clone()));
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
    for (path, place) in &places[..3] {
        if config.registry.path.starts_with(place) {
            found.add("registry.path", format!("the registry must not lie below {path}"));
        }
    }
}

fn registry(config: &Config, found: &mut Checks) {
    let consul = &config.registry.consul;
    for (name, problem) in consul.problems() {
        found.add(&format!("registry.consul.{name}"), problem);
    }
    for (name, value) in
        [("connect_ms", consul.timeouts.connect_ms), ("call_ms", consul.timeouts.call_ms)]
    {
        found.within(&format!("registry.consul.timeouts.{name}"), value, 100, 60_000);
    }
    if config.lead.candidate && !config.in_cluster() {
        found.add(
            "lead.candidate",
            "a machine on its own has no lead; set registry.kind = \"consul\", or this to false",
        );
    }
}

/// What the others of a cluster are told of this machine.
fn node(config: &Config, found: &mut Checks) {
    for server in Server::ALL {
        let needed = match server {
            Server::Lead => config.lead.candidate,
            // a node need not write
            Server::Write => false,
            Server::Read | Server::Manager => true,
        };
        let problem = match config.written_address(server) {
            Some(address) => address_problem(address),
            None if config.in_cluster() && needed => config.address(server).err(),
            None => None,
        };
        if let Some(problem) = problem {
            found.add(&server.address_setting(), problem);
        }
    }
    if config.in_cluster()
        && let Err(problem) = config.node_name()
    {
        found.add("node.name", problem);
    }
    if config.node.rack.as_ref().is_some_and(|rack| rack.trim().is_empty()) {
        found.add("node.rack", "this names no rack; leave it out");
    }
    let (least, most) = (SESSION_TTL_MIN.as_secs(), SESSION_TTL_MAX.as_secs());
    found.within("node.session_ttl_s", config.node.session_ttl_s, least, most);
    found.within("lead.session_ttl_s", config.lead.election.session_ttl_s, least, most);
    let delay_s = config.lead.election.lock_delay_s;
    found.within("lead.lock_delay_s", delay_s, 0, LOCK_DELAY_MAX.as_secs());
    let cycle = &config.lead.cycle;
    found.at_least("lead.cycle.period_s", cycle.period_s, 1);
    found.at_least("lead.cycle.doubt_s", cycle.doubt_s, 1);
    found.within("lead.cycle.max_removed_ratio", cycle.max_removed_ratio, 0.0, 1.0);
}

/// Each setting and each rule for itself, so that all problems are told; [`Rules`] stops at the first.
fn plan(config: &Config, found: &mut Checks) {
    let (set, usual) = (&config.plan.settings, PlanSettings::default);
    for (path, settings) in [
        ("plan.copies", PlanSettings { copies: set.copies, ..usual() }),
        ("plan.dead_band", PlanSettings { dead_band: set.dead_band, ..usual() }),
        (
            "plan.capacity_drop_ratio_max",
            PlanSettings { capacity_drop_ratio_max: set.capacity_drop_ratio_max, ..usual() },
        ),
    ] {
        if let Err(error) = Rules::new(settings, Vec::new()) {
            found.add(path, error.to_string());
        }
    }
    let before = found.problems.len();
    for (at, rule) in config.plan.rules.iter().enumerate() {
        match Rules::new(usual(), vec![rule.clone()]) {
            Ok(_) => {}
            Err(error @ RulesError::Copies { .. }) => {
                found.add(&format!("plan.rules.{at}.copies"), error.to_string());
            }
            Err(error) => found.add(&format!("plan.rules.{at}.glob"), error.to_string()),
        }
        for (place, node) in rule.nodes.iter().enumerate() {
            if let Err(error) = NodeName::new(node) {
                found.add(&format!("plan.rules.{at}.nodes.{place}"), error.to_string());
            }
        }
    }
    if found.problems.len() == before
        && let Err(error) = Rules::new(usual(), config.plan.rules.clone())
    {
        found.add("plan.rules", error.to_string());
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
    let (ttl_min, ttl_max) = (SESSION_TTL_MIN.as_secs(), SESSION_TTL_MAX.as_secs());
    found.within("publish.lock_ttl_s", config.publish.lock_ttl_s, ttl_min, ttl_max);
    found.at_least("scrub.period_s", config.scrub.period_s, 1);
    if !(config.scrub.disk_share > 0.0 && config.scrub.disk_share <= 0.5) {
        let share = config.scrub.disk_share;
        found.add(
            "scrub.disk_share",
            format!("{share} is out of range; allowed is above 0, at most 0.5"),
        );
    }
    found.at_least("write.open_max", config.write.open_max as u64, 1);
    found.at_least("write.promote_after_s", config.write.promote_after_s, 1);
    found.at_least("write.promote_bytes", config.write.promote_bytes, 1);
    found.at_least("write.promote_concurrency", config.write.promote_concurrency as u64, 1);
    found.at_least("write.write_ms", config.write.write.write_ms, 1);
    found.at_least("write.queue_max", config.write.write.queue_max as u64, 1);
    found.within("write.body_bytes_max", config.write.write.body_bytes_max, 1, BODY_BYTES_MAX);
    found.within("read.concurrency", config.read.concurrency, 1, QUERIES_MAX);
    found.at_least("read.query_ms", config.read.query_ms, 1);
    found.at_least("read.writable_read_ms", config.read.writable_read_ms, 1);
    found.at_least("read.open_connections_max", config.read.open_connections_max as u64, 1);
}
