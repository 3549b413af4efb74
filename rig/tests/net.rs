//! Hosts on one machine: what passes between them, what a cut stops, and that nothing of them stays.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rig::net::{Host, Net};

#[path = "support/until.rs"]
mod support;

use support::{PATIENCE, until};

/// So long a test listens for an answer that must not come: longer than a kernel asks for its neighbour's hardware
/// address, after which it would say that there is no route.
const SILENCE: Duration = Duration::from_secs(5);
/// Enough to connect.
const BRIEF: Duration = Duration::from_secs(1);
/// In the environment of a process that is to own a net until it is killed: the file for what it says.
const OWNER: &str = "TROUGH_RIG_OWNER";

fn listener(host: &Host) -> (TcpListener, SocketAddr) {
    let listener = host.run(|| TcpListener::bind((host.address(), 0))).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn connect(from: &Host, to: SocketAddr, patience: Duration) -> std::io::Result<TcpStream> {
    from.run(|| TcpStream::connect_timeout(&to, patience))
}

/// Both ends of a connection.
fn connected(from: &Host, to: &Host) -> (TcpStream, TcpStream) {
    let (listener, address) = listener(to);
    let near = connect(from, address, PATIENCE).unwrap();
    (near, listener.accept().unwrap().0)
}

fn reach(from: &Host, to: &Host) {
    let (mut near, mut far) = connected(from, to);
    near.write_all(b"x").unwrap();
    hear(&mut far, PATIENCE).unwrap();
}

fn hear(stream: &mut TcpStream, patience: Duration) -> std::io::Result<u8> {
    let mut byte = [0];
    stream.set_read_timeout(Some(patience))?;
    stream.read_exact(&mut byte)?;
    Ok(byte[0])
}

#[test]
fn hosts_reach_each_other_and_the_test_and_nothing_outside() {
    let net = Net::start();
    let [a, b] = net.hosts(["a", "b"]);
    for (from, to) in [(&a, &b), (&b, &a), (&a, net.here()), (net.here(), &a)] {
        reach(from, to);
    }
    let outside = connect(&a, "192.0.2.1:80".parse().unwrap(), PATIENCE).unwrap_err();
    assert_eq!(outside.kind(), ErrorKind::NetworkUnreachable, "{outside}");
    // each has a loopback of its own
    let on_loopback = |host: &Host| host.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 8500)));
    let _both = (on_loopback(&a).unwrap(), on_loopback(&b).unwrap());
}

#[test]
fn a_cut_is_silent_in_both_directions_and_a_heal_mends_it() {
    let net = Net::start();
    let [a, b, c, stranger] = net.hosts(["a", "b", "c", "stranger"]);
    let (mut at_a, mut at_b) = connected(&a, &b);
    let ((_a_listens, a_address), (_b_listens, b_address)) = (listener(&a), listener(&b));
    let (_stranger_listens, stranger_address) = listener(&stranger);
    net.cut(&a, &[&b, &stranger]);
    net.cut(&a, &[&b]);

    // what is established, and what is new; the sender hears nothing
    at_a.write_all(b"1").unwrap();
    at_b.write_all(b"2").unwrap();
    std::thread::scope(|scope| {
        for stream in [&mut at_a, &mut at_b] {
            scope.spawn(|| {
                let silent = hear(stream, SILENCE).unwrap_err();
                assert_eq!(silent.kind(), ErrorKind::WouldBlock, "{silent}");
            });
        }
        for (from, to) in [(&a, b_address), (&b, a_address), (&a, stranger_address)] {
            scope.spawn(move || {
                let silent = connect(from, to, SILENCE).unwrap_err();
                assert_eq!(silent.kind(), ErrorKind::TimedOut, "{silent}");
            });
        }
        // nobody else feels it
        for (from, to) in [(&a, &c), (&c, &b), (&b, net.here()), (&a, &a)] {
            scope.spawn(|| reach(from, to));
        }
    });

    net.heal(&b, &[&a]);
    net.heal(&a, &[&b]);
    assert_eq!(hear(&mut at_b, PATIENCE).unwrap(), b'1');
    assert_eq!(hear(&mut at_a, PATIENCE).unwrap(), b'2');
    reach(&a, &b);
    reach(&b, &a);
}

#[test]
fn a_host_is_cut_from_several_at_once_and_also_from_the_test() {
    let net = Net::start();
    let [a, b, c] = net.hosts(["a", "b", "c"]);
    let addresses: Vec<(TcpListener, SocketAddr)> =
        [&b, &c, net.here()].into_iter().map(listener).collect();
    let open = || -> Vec<bool> {
        std::thread::scope(|scope| {
            let tries: Vec<_> = addresses
                .iter()
                .map(|(_, to)| scope.spawn(|| connect(&a, *to, BRIEF).is_ok()))
                .collect();
            tries.into_iter().map(|open| open.join().unwrap()).collect()
        })
    };
    net.cut(&a, &[&b, &c, net.here()]);
    assert_eq!(open(), [false, false, false]);
    reach(&b, &c);
    net.heal(&a, &[&c]);
    assert_eq!(open(), [false, true, false]);
    net.heal_all();
    assert_eq!(open(), [true, true, true]);
}

#[test]
fn hosts_share_mounts_and_a_command_is_the_program_itself() {
    let net = Net::start();
    let [a, b] = net.hosts(["a", "b"]);
    let at = a.dir().join("mount");
    std::fs::create_dir(&at).unwrap();
    let mounted = a.command("mount").args(["-t", "tmpfs", "trough-test"]).arg(&at).status();
    assert!(mounted.unwrap().success());
    std::fs::write(at.join("file"), "seen").unwrap();
    let output = b.command("cat").arg(at.join("file")).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "seen");
    // the same by the shell's front
    let mut front = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/net.sh"));
    let output = front.arg("exec").arg(net.dir()).args(["b", "cat"]).arg(at.join("file")).output();
    assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), "seen");

    let mut child = b.command("sleep").arg("1000").spawn().unwrap();
    let of = |file: &str| PathBuf::from(format!("/proc/{}/{file}", child.id()));
    until("the program to run", || std::fs::read_to_string(of("comm")).unwrap() == "sleep\n");
    let namespace = |file: &Path| std::fs::read_link(file).unwrap();
    assert_ne!(namespace(&of("ns/net")), namespace(Path::new("/proc/self/ns/net")));
    assert_eq!(namespace(&of("ns/mnt")), namespace(Path::new("/proc/self/ns/mnt")));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn nets_that_start_at_once_never_meet() {
    let nets: Vec<Net> = std::thread::scope(|scope| {
        let starting: Vec<_> = (0..8).map(|_| scope.spawn(Net::start)).collect();
        starting.into_iter().map(|net| net.join().unwrap()).collect()
    });
    let numbers: BTreeSet<u8> = nets.iter().map(|net| net.here().address().octets()[2]).collect();
    assert_eq!(numbers.len(), nets.len());
    let (_listens, address) = listener(&nets[0].host("a"));
    let other = connect(&nets[1].host("a"), address, PATIENCE).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::NetworkUnreachable, "{other}");
}

/// A net with everything that could stay: a host, a Consul, a process that left its parent, a mount on a directory that
/// nobody may remove.
struct Full {
    net: Net,
    consul: rig::consul::Cluster,
}

impl Full {
    fn start() -> Self {
        let net = Net::start();
        let host = net.host("a");
        let consul = rig::consul::Cluster::start(&net, &[&host], &[]);
        let mut stray = host.command("setsid");
        stray.args(["-f", "sleep", "1000"]);
        // one that stays would hold the output of this test open
        stray.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(stray.status().unwrap().success());
        let at = host.dir().join("a mount");
        std::fs::create_dir(&at).unwrap();
        assert!(Command::new("chattr").arg("+i").arg(&at).status().unwrap().success());
        let mounted = host.command("mount").args(["-t", "tmpfs", "trough-test"]).arg(at).status();
        assert!(mounted.unwrap().success());
        Self { net, consul }
    }
}

/// Whether there are, of the net in `dir` with this number: its directory, mounts below it, namespaces, its link,
/// processes that name it, processes in its namespaces (`ids`).
fn traces(dir: &Path, number: &str, ids: &[String]) -> [bool; 6] {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut namespaces = std::fs::read_dir("/run/netns").unwrap().flatten();
    let mut processes = std::fs::read_dir("/proc").unwrap().flatten();
    let name = dir.to_str().unwrap();
    [
        dir.try_exists().unwrap(),
        mounts.contains(name),
        namespaces.any(|entry| {
            entry.file_name().to_string_lossy().starts_with(&format!("trough-{number}-"))
        }),
        Path::new(&format!("/sys/class/net/trough-{number}")).try_exists().unwrap(),
        processes.any(|entry| {
            let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&words).contains(name)
        }),
        ids.iter().any(|id| lives(id)),
    ]
}

/// A zombie is dead: it only waits for its parent, or for init, to look.
fn lives(id: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

fn number(net: &Path) -> String {
    let env = std::fs::read_to_string(net.join("env")).unwrap();
    env.trim().strip_prefix("number=").unwrap().to_owned()
}

fn ids(number: &str) -> Vec<String> {
    let output = Command::new("ip").args(["netns", "pids", &format!("trough-{number}-a")]).output();
    let ids = String::from_utf8(output.unwrap().stdout).unwrap();
    ids.lines().map(str::to_owned).collect()
}

#[test]
fn nothing_stays_of_a_net_that_is_dropped() {
    let Full { net, consul } = Full::start();
    let (dir, number) = (net.dir().to_owned(), number(net.dir()));
    let ids = ids(&number);
    assert_eq!(traces(&dir, &number, &ids), [true; 6]);
    // what runs on it may be dropped later
    drop(net);
    drop(consul);
    until("all of the net to be gone", || traces(&dir, &number, &ids) == [false; 6]);
}

#[test]
fn nothing_stays_of_a_net_whose_owner_is_killed() {
    const NAME: &str = "nothing_stays_of_a_net_whose_owner_is_killed";
    if let Some(file) = std::env::var_os(OWNER) {
        let full = Full::start();
        std::fs::write(file, full.net.dir().to_str().unwrap()).unwrap();
        std::thread::sleep(Duration::MAX);
    }
    let told = tempfile::NamedTempFile::new().unwrap();
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME])
        .env(OWNER, told.path())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let dir = loop {
        let dir = std::fs::read_to_string(told.path()).unwrap();
        if !dir.is_empty() {
            break PathBuf::from(dir);
        }
        assert_eq!(owner.try_wait().unwrap(), None, "the owner ended by itself");
        assert!(begun.elapsed() < PATIENCE, "the owner has no net");
        std::thread::sleep(Duration::from_millis(50));
    };
    let number = number(&dir);
    let ids = ids(&number);
    assert_eq!(traces(&dir, &number, &ids), [true; 6]);
    // as a time limit ends it: with all that it started
    let group = rustix::process::Pid::from_child(&owner);
    rustix::process::kill_process_group(group, rustix::process::Signal::TERM).unwrap();
    owner.wait().unwrap();
    until("all of the net to be gone", || traces(&dir, &number, &ids) == [false; 6]);
}
