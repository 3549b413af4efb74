//! Start, stop, kill, and everything that may stand at the mount point.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use fsd::mount::Feature;
use fsd::view::MountState;
use rusqlite::{Connection, OpenFlags};

use super::support::{MODES, Node, all, database, eventually, ok};

#[test]
fn s5_kill_under_readers_leaves_them_reading_and_a_restart_repairs_the_mount() {
    let mut node = Node::started(Feature::Auto, Feature::Auto);
    node.cache.publish("ohio", &database(1, 5000));
    let held =
        Connection::open_with_flags(node.path("ohio"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    held.query_row("select version from t limit 1", [], |row| row.get::<_, i64>(0)).unwrap();
    let pid = node.children[0].id();
    node.signal(pid, "KILL");
    node.ended(0);
    assert_eq!(node.view().state(), MountState::Dead);
    node.start();
    assert_eq!(node.query("ohio").unwrap(), (1, 1, 5000));
    assert_eq!(all(&held).unwrap(), (1, 1, 5000));
    assert_eq!(node.layers().len(), 1);
}

#[test]
fn s5_connections_opened_immutable_read_on_while_no_fsd_lives() {
    let mut node = Node::started(Feature::Auto, Feature::Auto);
    node.cache.publish("ohio", &database(1, 5000));
    let uri = format!("file:{}?immutable=1", node.path("ohio").display());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let held = Connection::open_with_flags(uri, flags).unwrap();
    held.query_row("select version from t limit 1", [], |row| row.get::<_, i64>(0)).unwrap();
    let pid = node.children[0].id();
    node.signal(pid, "KILL");
    node.ended(0);
    assert_eq!(all(&held).unwrap(), (1, 1, 5000));
    assert!(node.query("ohio").is_err());
}

/// Fails when a dead mount is not detached at start.
#[test]
fn s5_twenty_kills_leave_one_line_in_the_mount_table() {
    for (passthrough, beneath) in MODES {
        let mut node = Node::new(passthrough, beneath);
        node.cache.publish("ohio", &database(1, 10));
        for round in 0..20 {
            let pid = node.start();
            assert_eq!(node.query("ohio").unwrap(), (1, 1, 10));
            node.signal(pid, "KILL");
            node.ended(round);
        }
        node.start();
        assert_eq!(node.layers().len(), 1);
        assert_eq!(node.query("ohio").unwrap(), (1, 1, 10));
    }
}

#[test]
fn s5_a_stuck_fsd_is_ended_and_replaced() {
    let mut node = Node::started(Feature::Auto, Feature::Auto);
    node.cache.publish("ohio", &database(1, 10));
    let stuck = node.children[0].id();
    node.signal(stuck, "STOP");
    node.start();
    assert_eq!(node.query("ohio").unwrap(), (1, 1, 10));
    assert_eq!(node.layers().len(), 1);
    node.signal(stuck, "CONT");
    // it finds a successor at its place
    assert!(node.ended(0).success());
    assert_eq!(node.query("ohio").unwrap(), (1, 1, 10));
}

#[test]
fn a_mount_unmounted_by_hand_ends_fsd_with_an_error() {
    let mut node = Node::started(Feature::Auto, Feature::Auto);
    ok(Command::new("umount").arg("-l").arg(&node.settings.mountpoint));
    assert_eq!(node.ended(0).code(), Some(3));
    assert!(node.log().contains("was unmounted by somebody else"), "{}", node.log());
    node.start();
    assert_eq!(node.layers().len(), 1);
}

#[test]
fn an_aborted_connection_ends_fsd_with_an_error() {
    let mut node = Node::started(Feature::Auto, Feature::Auto);
    let control = node.dir().join("control");
    std::fs::create_dir(&control).unwrap();
    ok(Command::new("mount").args(["-t", "fusectl", "none"]).arg(&control));
    let minor = node.layers()[0].device.1;
    let written = std::fs::write(control.join(minor.to_string()).join("abort"), "1");
    ok(Command::new("umount").arg(&control));
    written.unwrap();
    assert_eq!(node.ended(0).code(), Some(3));
    node.start();
    assert_eq!(node.layers().len(), 1);
}

#[test]
fn s6_the_bare_directory_is_closed_while_fsd_runs_and_given_back_at_a_stop() {
    let mut node = Node::started(Feature::Auto, Feature::Auto);
    let mount = node.settings.mountpoint.clone();
    let pid = node.children[0].id();
    node.signal(pid, "KILL");
    node.ended(0);
    ok(Command::new("umount").arg("-l").arg(&mount));
    assert_eq!(mount.metadata().unwrap().mode() & 0o7777, 0);
    let created = File::create(mount.join("ohio.sqlite")).unwrap_err();
    assert_eq!(created.raw_os_error(), Some(1), "even root must not create a file there");
    let pid = node.start();
    node.signal(pid, "TERM");
    assert!(node.ended(1).success());
    assert!(node.layers().is_empty());
    std::fs::write(mount.join("x"), "").unwrap();
    std::fs::remove_dir_all(&mount).unwrap();
}

#[test]
fn a_stop_does_not_wait_for_open_files() {
    for (passthrough, beneath) in MODES {
        let mut node = Node::started(passthrough, beneath);
        let content = database(1, 5000);
        node.cache.publish("ohio", &content);
        let mut file = File::open(node.path("ohio")).unwrap();
        let pid = node.children[0].id();
        node.signal(pid, "TERM");
        assert!(node.ended(0).success());
        assert!(node.layers().is_empty());
        assert_eq!(node.view().state(), MountState::Absent);
        if passthrough == Feature::Auto {
            let mut read = Vec::new();
            file.read_to_end(&mut read).unwrap();
            assert_eq!(read, content);
        }
    }
}

#[test]
fn a_mount_point_with_files_is_refused() {
    let mut node = Node::new(Feature::Auto, Feature::Auto);
    std::fs::create_dir(&node.settings.mountpoint).unwrap();
    std::fs::write(node.settings.mountpoint.join("mine"), "x").unwrap();
    node.spawn();
    assert_eq!(node.ended(0).code(), Some(3));
    assert!(node.log().contains("is not empty (\"mine\" is in it)"), "{}", node.log());
    assert_eq!(std::fs::read(node.settings.mountpoint.join("mine")).unwrap(), b"x");
}

#[test]
fn a_foreign_mount_is_refused_and_untouched() {
    let mut node = Node::new(Feature::Auto, Feature::Auto);
    let mount = node.settings.mountpoint.clone();
    std::fs::create_dir(&mount).unwrap();
    ok(Command::new("mount").args(["-t", "tmpfs", "mine"]).arg(&mount));
    std::fs::write(mount.join("file"), "x").unwrap();
    node.spawn();
    let status = node.ended(0);
    let kept = std::fs::read(mount.join("file"));
    ok(Command::new("umount").arg(&mount));
    assert_eq!(status.code(), Some(3));
    assert_eq!(kept.unwrap(), b"x");
    assert!(node.log().contains("already has a mount of tmpfs from \"mine\""), "{}", node.log());
}

#[test]
fn a_foreign_mount_over_ours_is_not_unmounted_at_a_stop() {
    let mut node = Node::started(Feature::Auto, Feature::Auto);
    let mount = node.settings.mountpoint.clone();
    ok(Command::new("mount").args(["-t", "tmpfs", "mine"]).arg(&mount));
    let pid = node.children[0].id();
    node.signal(pid, "TERM");
    assert!(node.ended(0).success());
    assert!(node.layers().iter().any(|layer| layer.source == "mine"));
}

#[test]
fn the_mount_of_another_cache_is_refused_and_goes_on() {
    let mut node = Node::started(Feature::Auto, Feature::Auto);
    node.cache.publish("ohio", &database(1, 10));
    let first = super::support::Cache { layout: node.cache.layout.clone() };
    node.cache = super::support::Cache::new(&node.dir().join("other"));
    node.spawn();
    assert_eq!(node.ended(1).code(), Some(3));
    assert!(node.log().contains("shows another cache"), "{}", node.log());
    node.cache = first;
    assert_eq!(node.query("ohio").unwrap(), (1, 1, 10));
}

#[test]
fn a_cache_that_is_taken_away_ends_fsd() {
    let mut node = Node::started(Feature::Auto, Feature::Auto);
    std::fs::remove_dir_all(node.cache.layout.segments()).unwrap();
    assert_eq!(node.ended(0).code(), Some(3));
    assert!(node.log().contains("watching"), "{}", node.log());
    eventually("the mount is dead, not empty", || node.view().state() == MountState::Dead);
}
