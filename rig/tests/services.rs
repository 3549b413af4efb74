//! What a cluster stands on, on hosts of its own: three Consul servers, an agent on each worker, HDFS.
//!
//! One net is shared by all tests; each puts right what it broke.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rig::consul::{Cluster, DNS_PORT, HTTP_PORT};
use rig::hdfs::{Hdfs, Process};
use rig::net::{Host, Net};

#[path = "support/until.rs"]
mod support;

use support::until;

/// A test asks again after that long without an answer.
const ANSWER_S: &str = "5";

struct Hosts {
    net: Net,
    consul: Cluster,
    hdfs: Hdfs,
    workers: [Host; 2],
    store: Host,
}

fn hosts() -> MutexGuard<'static, Hosts> {
    static HOSTS: OnceLock<Mutex<Hosts>> = OnceLock::new();
    let hosts = HOSTS.get_or_init(|| Mutex::new(Hosts::start()));
    hosts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hosts {
    fn start() -> Self {
        let net = Net::start();
        let [one, two, three, a, b, store] =
            net.hosts(["server-1", "server-2", "server-3", "worker-a", "worker-b", "store"]);
        let (consul, hdfs) = std::thread::scope(|scope| {
            let hdfs = scope.spawn(|| Hdfs::start_on(&net, &store));
            let consul = Cluster::start(&net, &[&one, &two, &three], &[&a]);
            consul.add_agent(&b);
            (consul, hdfs.join().unwrap())
        });
        Self { net, consul, hdfs, workers: [a, b], store }
    }

    fn servers(&self) -> Vec<&Host> {
        self.consul.servers().iter().collect()
    }

    /// Waits until both workers' agents take writes, and are in the catalogue: a session needs that.
    fn whole(&self) {
        for worker in &self.workers {
            until("an agent to take a write", || put(worker, "whole", "yes"));
            until("an agent to give a session", || {
                ask(worker, "session/create", Some("")).is_some()
            });
        }
    }
}

/// What a host is answered by its own agent or server; nothing where it fails or does not answer in time.
fn ask(host: &Host, path: &str, body: Option<&str>) -> Option<String> {
    let mut curl = host.command("curl");
    curl.args(["--silent", "--fail", "--noproxy", "*", "--max-time", ANSWER_S]);
    if let Some(body) = body {
        curl.args(["--request", "PUT", "--data-binary", body]);
    }
    let output = curl.arg(format!("http://127.0.0.1:{HTTP_PORT}/v1/{path}")).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// Whether a write was acknowledged. One that was not may still be done, seconds later and after others that were: a
/// server holds it until it knows a leader. So no test writes two values to a key unless all is well.
fn put(host: &Host, key: &str, value: &str) -> bool {
    ask(host, &format!("kv/{key}"), Some(value)).is_some_and(|said| said.trim() == "true")
}

fn get(host: &Host, key: &str) -> Option<String> {
    ask(host, &format!("kv/{key}?raw&consistent"), None)
}

#[test]
fn three_servers_have_a_leader_and_an_agent_reads_what_another_wrote() {
    let hosts = hosts();
    let [a, b] = &hosts.workers;
    until("a leader", || hosts.consul.leader().is_some());
    until("an agent to take a write", || put(a, "from-a", "1"));
    until("the other to take a write", || put(b, "from-b", "2"));
    until("one to read what the other wrote", || get(b, "from-a").as_deref() == Some("1"));
    for server in hosts.consul.servers() {
        until("a server to read it", || get(server, "from-b").as_deref() == Some("2"));
        // the test asks it too, at the host's address
        let url = format!("http://{}:{HTTP_PORT}/v1/kv/from-b?raw", server.address());
        let here =
            hosts.net.here().command("curl").args(["-sS", "--noproxy", "*"]).arg(url).output();
        assert_eq!(here.unwrap().stdout, b"2");
    }
}

#[test]
fn an_agent_answers_dns_on_its_host() {
    let hosts = hosts();
    // consul.service.consul, type A, class IN
    let query = b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06consul\x07service\x06consul\x00\x00\x01\x00\x01";
    let socket = hosts.workers[0].run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    until("DNS to name the servers", || {
        let mut answer = [0; 512];
        socket.send_to(query, (Ipv4Addr::LOCALHOST, DNS_PORT)).unwrap();
        let length = socket.recv(&mut answer).unwrap_or(0);
        hosts.consul.servers().iter().all(|server| {
            let address = server.address().octets();
            answer[..length].windows(4).any(|bytes| bytes == address)
        })
    });
}

#[test]
fn another_server_leads_when_the_leader_is_killed_hangs_or_is_cut_off() {
    let Hosts { net, consul, workers: [worker, _], .. } = &*hosts();
    for fault in ["killed", "hung", "cut"] {
        until("a leader", || consul.leader().is_some());
        let old = consul.leader().unwrap().clone();
        let others: Vec<&Host> = consul.servers().iter().filter(|host| **host != old).collect();
        match fault {
            "killed" => consul.kill(&old),
            "hung" => consul.pause(&old),
            _ => net.cut(&old, &others),
        }
        until(&format!("another leader when the old one is {fault}"), || {
            consul.leader().is_some_and(|now| *now != old)
        });
        until("an agent to take a write", || put(worker, fault, "led"));
        match fault {
            "killed" => consul.restart(&[&old]),
            "hung" => consul.resume(&old),
            _ => net.heal(&old, &others),
        }
        until("the old one to follow", || get(&old, fault).as_deref() == Some("led"));
    }
}

#[test]
fn an_agent_that_is_cut_from_all_servers_fails_to_write_until_it_is_healed() {
    let hosts = hosts();
    let [a, b] = &hosts.workers;
    hosts.net.cut(a, &hosts.servers());
    assert!(!put(a, "alone", "a"));
    until("the other agent to take a write", || put(b, "others", "b"));
    hosts.net.heal(a, &hosts.servers());
    until("the agent to take a write", || put(a, "alone", "a"));
    assert_eq!(get(b, "alone").as_deref(), Some("a"));
    assert_eq!(get(a, "others").as_deref(), Some("b"));
}

#[test]
fn an_agent_that_is_killed_works_again_when_it_is_restarted() {
    let hosts = hosts();
    let [a, b] = &hosts.workers;
    hosts.consul.kill(a);
    assert!(!put(a, "killed", "1"));
    until("the others to know", || {
        ask(b, "health/node/worker-a", None).is_some_and(|checks| checks.contains("critical"))
    });
    hosts.consul.restart(&[a]);
    hosts.whole();
}

#[test]
fn agents_work_again_when_all_servers_restart_with_their_data_or_empty() {
    let hosts = hosts();
    let [a, b] = &hosts.workers;
    until("an agent to take a write", || put(a, "before", "1"));
    for server in hosts.consul.servers() {
        hosts.consul.kill(server);
    }
    assert!(!put(a, "meanwhile", "2"));
    hosts.consul.restart(&hosts.servers());
    hosts.whole();
    assert_eq!(get(b, "before").as_deref(), Some("1"));

    hosts.consul.restart_empty();
    hosts.whole();
    assert_eq!(get(b, "before"), None);
}

/// Takes or gives the file at `local` over WebHDFS, from a host.
fn transfer(hosts: &Hosts, host: &Host, args: &[&str], local: &Path, operation: &str) -> bool {
    let mut curl = host.command("curl");
    curl.args(["--silent", "--fail", "--location", "--noproxy", "*", "--max-time", ANSWER_S]);
    let url = hosts.hdfs.web(&format!("/given?{operation}&user.name=hdfs"));
    curl.args(args).arg(local).arg(url).status().unwrap().success()
}

#[test]
fn hdfs_takes_a_file_from_one_host_and_gives_it_to_another() {
    let hosts = hosts();
    let [a, b] = &hosts.workers;
    let content: Vec<u8> = (0..3 << 20).map(|n: u32| (n % 251) as u8).collect();
    std::fs::write(a.dir().join("given"), &content).unwrap();
    let create = "op=CREATE&overwrite=true";
    until("HDFS to take the file", || {
        transfer(&hosts, a, &["--upload-file"], &a.dir().join("given"), create)
    });
    let taken = b.dir().join("taken");
    let take = || {
        let _ = std::fs::remove_file(&taken);
        transfer(&hosts, b, &["--output"], &taken, "op=OPEN")
    };
    until("HDFS to give the file", take);
    assert!(std::fs::read(&taken).unwrap() == content, "another file came back");

    hosts.net.cut(b, &[&hosts.store]);
    assert!(!take());
    hosts.net.heal_all();
    until("HDFS to give the file to the host that is healed", take);

    hosts.hdfs.pause(Process::NameNode);
    assert!(!take());
    hosts.hdfs.resume(Process::NameNode);
    hosts.hdfs.kill(Process::NameNode);
    assert!(!take());
    hosts.hdfs.restart(Process::NameNode);
    until("HDFS to give the file after a restart", take);
    assert!(std::fs::read(&taken).unwrap() == content, "another file came back");
}
