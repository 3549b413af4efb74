//! One fsd takes over from another.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fsd::mount::Feature;
use rusqlite::{Connection, OpenFlags};

use super::support::{Node, all, database, eventually};

/// Opens in two threads while `work` goes on; returns opens and failed opens.
fn under_openers(node: &mut Node, work: impl FnOnce(&mut Node)) -> (u64, u64) {
    let path = node.path("ohio");
    let (done, opens, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    opens.fetch_add(1, Ordering::SeqCst);
                    if std::fs::File::open(&path).is_err() {
                        failed.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(node)));
        done.store(true, Ordering::SeqCst);
        if let Err(panic) = worked {
            std::panic::resume_unwind(panic);
        }
    });
    (opens.into_inner(), failed.into_inner())
}

#[test]
fn a_second_fsd_takes_over_without_a_failed_open() {
    for passthrough in [Feature::Auto, Feature::Off] {
        let mut node = Node::started(passthrough, Feature::Auto);
        node.cache.publish("ohio", &database(1, 3000));
        let held = Connection::open_with_flags(node.path("ohio"), OpenFlags::SQLITE_OPEN_READ_ONLY)
            .unwrap();
        all(&held).unwrap();
        let (opens, failed) = under_openers(&mut node, |node| {
            for _ in 0..5 {
                node.start();
                assert_eq!(node.status().unwrap().placed, "beneath");
            }
        });
        assert!(opens > 100, "{opens} opens");
        assert_eq!(failed, 0, "of {opens} opens");
        assert_eq!(node.layers().len(), 1);
        assert_eq!(all(&held).unwrap(), (1, 1, 3000), "a held connection");
        drop(held);
        for index in 0..5 {
            assert!(node.ended(index).success(), "superseded fsd {index}");
        }
        assert_eq!(node.query("ohio").unwrap(), (1, 1, 3000));
    }
}

#[test]
fn without_beneath_opens_fail_for_a_moment_only() {
    for passthrough in [Feature::Auto, Feature::Off] {
        let mut node = Node::started(passthrough, Feature::Off);
        node.cache.publish("ohio", &database(1, 3000));
        let held = Connection::open_with_flags(node.path("ohio"), OpenFlags::SQLITE_OPEN_READ_ONLY)
            .unwrap();
        all(&held).unwrap();
        for round in 0..3 {
            node.start();
            assert_eq!(node.status().unwrap().placed, "replaced");
            eventually("opens work again", || node.query("ohio").is_ok());
            assert_eq!(all(&held).unwrap(), (1, 1, 3000), "round {round}");
        }
        assert_eq!(node.layers().len(), 1);
        drop(held);
        for index in 0..3 {
            assert!(node.ended(index).success(), "superseded fsd {index}");
        }
    }
}

#[test]
fn sighup_starts_the_program_again_and_hands_over() {
    for beneath in [Feature::Auto, Feature::Off] {
        let mut node = Node::started(Feature::Auto, beneath);
        node.cache.publish("ohio", &database(1, 3000));
        let old = node.children[0].id();
        let (opens, failed) = under_openers(&mut node, |node| {
            node.signal(old, "HUP");
            eventually("another process serves", || {
                node.status().is_some_and(|status| status.pid != old)
            });
            assert!(node.ended(0).success());
        });
        if beneath == Feature::Auto {
            assert_eq!(failed, 0, "of {opens} opens");
        }
        assert_eq!(node.layers().len(), 1);
        let new = node.status().unwrap().pid;
        node.signal(new, "TERM");
        eventually("the new one stops cleanly", || node.layers().is_empty());
    }
}

#[test]
fn an_upgrade_that_fails_changes_nothing() {
    let mut node = Node::new(Feature::Auto, Feature::Auto);
    let program = node.dir().join("fsd");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    node.program = program.clone();
    let pid = node.start();
    node.cache.publish("ohio", &database(1, 10));
    std::fs::remove_file(&program).unwrap();
    std::fs::write(&program, "#!/bin/sh\nexit 7\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    for _ in 0..2 {
        node.signal(pid, "HUP");
        eventually("the failure is told", || {
            node.status().unwrap().last_error.is_some_and(|text| text.contains("exit status: 7"))
        });
    }
    assert_eq!(node.status().unwrap().pid, pid);
    assert_eq!(node.query("ohio").unwrap(), (1, 1, 10));
}
