//! More changes than the kernel's event queue takes.

use fsd::mount::Feature;
use fsd::view::Seen;

use super::support::{Node, eventually, id};

/// Publishes: three events each, so well over the queue's usual 16,384.
const PUBLISHES: usize = 20_000;
const NAMES: usize = 2_000;

#[test]
fn after_an_overflow_every_name_shows_its_current_version() {
    let node = Node::started(Feature::Auto, Feature::Auto);
    let objects: Vec<_> = (1..=20).map(|n| (node.cache.object(&vec![b'x'; n]), n)).collect();
    let name = |n: usize| format!("s{n:05}");
    let view = node.view();
    // the kernel remembers: even names published, odd names absent, some that will go
    for n in (0..NAMES).step_by(2) {
        node.cache.link(&name(n), &objects[0].0);
    }
    for n in 0..100 {
        node.cache.link(&format!("gone{n}"), &objects[0].0);
    }
    for n in 0..NAMES {
        let _ = view.stat(&id(&name(n))).unwrap();
    }
    eventually("those that will go show", || {
        (0..100).all(|n| view.stat(&id(&format!("gone{n}"))).unwrap().is_some())
    });

    let pid = node.children[0].id();
    node.signal(pid, "STOP");
    for round in 0..PUBLISHES / NAMES {
        for n in 0..NAMES {
            node.cache.link(&name(n), &objects[(round + n) % objects.len()].0);
        }
    }
    for n in 0..100 {
        node.cache.withdraw(&format!("gone{n}"));
    }
    node.signal(pid, "CONT");

    let last = PUBLISHES / NAMES - 1;
    for n in 0..NAMES {
        let (digest, length) = &objects[(last + n) % objects.len()];
        assert_eq!(
            std::fs::read(node.path(&name(n))).ok().map(|b| b.len()).unwrap_or(*length),
            *length
        );
        eventually(
            "stat shows the current length",
            || matches!(view.stat(&id(&name(n))).unwrap(), Some(Seen { length: seen, .. }) if seen == *length as u64),
        );
        assert_eq!(view.digest(&id(&name(n))).unwrap(), Some(*digest));
    }
    for n in 0..100 {
        eventually("withdrawn", || view.stat(&id(&format!("gone{n}"))).unwrap().is_none());
    }
    let status = node.status().unwrap();
    assert!(status.watch_overflows > 0, "{status:?}");
}

#[test]
fn a_burst_under_a_running_fsd_settles() {
    let node = Node::started(Feature::Auto, Feature::Auto);
    let objects: Vec<_> = (1..=20).map(|n| node.cache.object(&vec![b'x'; n])).collect();
    for n in 0..PUBLISHES {
        if n % 7 == 0 {
            let _ = node.view().stat(&id(&format!("s{:05}", (n * 31) % NAMES))).unwrap();
        }
        node.cache.link(&format!("s{:05}", n % NAMES), &objects[n % 19]);
    }
    for n in 0..NAMES {
        let wanted = (PUBLISHES - NAMES + n) % 19 + 1;
        let segment = id(&format!("s{n:05}"));
        eventually("stat shows the current length", || {
            node.view().stat(&segment).unwrap().is_some_and(|seen| seen.length == wanted as u64)
        });
    }
}
