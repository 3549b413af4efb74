//! What the service manager is told: a datagram socket of this test stands in for it.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use fsd::mount::Feature;

use super::support::{BOUND, Node, eventually};

/// The service manager's end of NOTIFY_SOCKET.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    /// A manager that the daemons of `node` report to.
    fn of(node: &mut Node) -> Self {
        let path = node.dir().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        node.environment.push(("NOTIFY_SOCKET", path.display().to_string()));
        Self { socket, heard: Vec::new() }
    }

    /// Takes the next message, waiting for it until `deadline`.
    fn listen(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(length) => {
                let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
                self.heard.extend(text.lines().map(str::to_owned));
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn heard(&self, line: &str) -> usize {
        self.heard.iter().filter(|heard| *heard == line).count()
    }

    /// Waits until `line` was heard `times`.
    fn wait(&mut self, line: &str, times: usize) {
        let deadline = Instant::now() + BOUND;
        while self.heard(line) < times {
            let heard = self.listen(deadline);
            assert!(heard, "{line} was not heard {times} times within {BOUND:?}: {:?}", self.heard);
        }
    }

    /// Takes what is there.
    fn drain(&mut self) {
        while self.listen(Instant::now()) {}
    }
}

/// The socket's queue is full, so a daemon that said anything before its mount stands would stop there.
#[test]
fn ready_is_said_only_after_the_mount_answers() {
    let mut node = Node::new(Feature::Auto, Feature::Auto);
    let mut manager = Manager::of(&mut node);
    let filler = UnixDatagram::unbound().unwrap();
    filler.connect(node.dir().join("notify")).unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send(b"FILLER=1").is_ok() {}
    node.start();
    manager.wait("READY=1", 1);
    assert!(manager.heard("FILLER=1") > 0);
    let status = format!("STATUS=mounted at {}", node.settings.mountpoint.display());
    assert_eq!(manager.heard(&status), 1, "{:?}", manager.heard);
    manager.drain();
    assert_eq!(manager.heard("WATCHDOG=1"), 0, "the unit has no watchdog");
}

#[test]
fn a_daemon_that_cannot_mount_is_never_ready() {
    let mut node = Node::new(Feature::Auto, Feature::Auto);
    let mut manager = Manager::of(&mut node);
    std::fs::create_dir(&node.settings.mountpoint).unwrap();
    std::fs::write(node.settings.mountpoint.join("mine"), "x").unwrap();
    node.spawn();
    assert_eq!(node.ended(0).code(), Some(3));
    manager.drain();
    assert_eq!(manager.heard, Vec::<String>::new());
}

#[test]
fn the_watchdog_is_fed_while_the_mount_answers_and_a_stop_is_said() {
    let mut node = Node::new(Feature::Auto, Feature::Auto);
    let mut manager = Manager::of(&mut node);
    node.environment.push(("WATCHDOG_USEC", "100000".to_owned()));
    let pid = node.start();
    manager.wait("WATCHDOG=1", 5);
    let first = manager.heard.iter().position(|line| line == "WATCHDOG=1").unwrap();
    let ready = manager.heard.iter().position(|line| line == "READY=1").unwrap();
    assert!(ready < first, "{:?}", manager.heard);
    assert_eq!(manager.heard("STOPPING=1"), 0);
    node.signal(pid, "TERM");
    manager.wait("STOPPING=1", 1);
    assert!(node.ended(0).success());
    manager.drain();
    // nothing feeds the watchdog of what is gone
    assert!(!manager.listen(Instant::now() + Duration::from_millis(300)), "{:?}", manager.heard);
}

#[test]
fn an_upgrade_names_the_new_main_process_which_serves_and_feeds_the_watchdog() {
    for beneath in [Feature::Auto, Feature::Off] {
        let mut node = Node::new(Feature::Auto, beneath);
        let mut manager = Manager::of(&mut node);
        node.environment.push(("WATCHDOG_USEC", "100000".to_owned()));
        let old = node.start();
        manager.wait("READY=1", 1);
        node.signal(old, "HUP");
        let deadline = Instant::now() + BOUND;
        let main = loop {
            let main = manager.heard.iter().find_map(|line| line.strip_prefix("MAINPID="));
            if let Some(pid) = main {
                break pid.parse::<u32>().unwrap();
            }
            assert!(
                manager.listen(deadline) && Instant::now() < deadline,
                "no MAINPID within {BOUND:?}"
            );
        };
        assert_ne!(main, old);
        assert_eq!(node.status().unwrap().pid, main, "the main process serves when it is named");
        assert!(node.ended(0).success());
        manager.wait("READY=1", 2);
        manager.drain();
        let fed = manager.heard("WATCHDOG=1");
        manager.wait("WATCHDOG=1", fed + 3);
        assert_eq!(manager.heard("STOPPING=1"), 0, "the service goes on: {:?}", manager.heard);
        node.signal(main, "TERM");
        manager.wait("STOPPING=1", 1);
        eventually("the new one stops cleanly", || node.layers().is_empty());
    }
}

/// A superseded daemon that is stopped while it serves its last open file is not the service.
#[test]
fn a_superseded_daemon_does_not_say_that_the_service_stops() {
    let mut node = Node::new(Feature::Auto, Feature::Auto);
    let mut manager = Manager::of(&mut node);
    let old = node.start();
    node.cache.publish("ohio", &super::support::database(1, 10));
    let held = std::fs::File::open(node.path("ohio")).unwrap();
    node.signal(old, "HUP");
    eventually("another process serves", || node.status().is_some_and(|status| status.pid != old));
    manager.wait(&format!("MAINPID={}", node.status().unwrap().pid), 1);
    node.signal(old, "TERM");
    assert!(node.ended(0).success());
    manager.drain();
    assert_eq!(manager.heard("STOPPING=1"), 0, "{:?}", manager.heard);
    drop(held);
}
