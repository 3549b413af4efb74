//! A segment is replaced, published, withdrawn under its readers.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use fsd::mount::Feature;
use rusqlite::{Connection, OpenFlags};

use super::support::{MODES, Node, all, database, eventually, id};

fn open(node: &Node, name: &str) -> Connection {
    Connection::open_with_flags(node.path(name), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

#[test]
fn old_connections_keep_the_old_content_and_new_opens_see_the_new_at_once() {
    for (passthrough, beneath) in MODES {
        let node = Node::started(passthrough, beneath);
        node.cache.publish("ohio", &database(1, 3000));
        let old = open(&node, "ohio");
        old.query_row("select version from t limit 1", [], |row| row.get::<_, i64>(0)).unwrap();
        let seen = node.view().stat(&id("ohio")).unwrap().unwrap();
        node.cache.publish("ohio", &database(2, 4000));
        assert_eq!(node.query("ohio").unwrap(), (2, 2, 4000));
        assert_eq!(all(&old).unwrap(), (1, 1, 3000));
        eventually("stat shows the new inode", || {
            node.view().stat(&id("ohio")).unwrap().unwrap().ino != seen.ino
        });
        // the object behind an open handle may go
        node.cache.withdraw("ohio");
        let digest = blake3::hash(&database(9, 1)).into();
        assert!(node.cache.layout.published(&id("ohio")).unwrap() != Some(digest));
        std::fs::remove_dir_all(node.cache.layout.objects()).unwrap();
        assert_eq!(all(&old).unwrap(), (1, 1, 3000));
        eventually("the name is gone", || node.view().stat(&id("ohio")).unwrap().is_none());
    }
}

/// Fails when `open` does not compare the inode's digest with the symlink.
#[test]
fn an_open_is_right_without_any_invalidation() {
    for (passthrough, beneath) in MODES {
        let mut node = Node::new(passthrough, beneath);
        node.settings.invalidation = Feature::Off;
        node.start();
        for version in 1..=20 {
            let digest = node.cache.publish("ohio", &database(version, 300));
            assert_eq!(node.query("ohio").unwrap(), (version, version, 300));
            assert_eq!(node.view().digest(&id("ohio")).unwrap(), Some(digest));
        }
        assert!(node.status().unwrap().stale_answers >= 19);
        node.cache.withdraw("ohio");
        let error = std::fs::File::open(node.path("ohio")).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }
}

/// Fails when the inode of a damaged object is that of the one which was pulled in its place.
#[test]
fn s2_what_was_healed_is_what_an_open_shows_while_the_damaged_one_is_still_open() {
    for (passthrough, beneath) in MODES {
        for invalidation in [Feature::Auto, Feature::Off] {
            let mut node = Node::new(passthrough, beneath);
            node.settings.invalidation = invalidation;
            node.start();
            let sound = database(1, 300);
            let digest = node.cache.publish("ohio", &sound);
            let object = node.cache.layout.object(&digest);
            let damage = std::fs::File::options().write(true).open(&object).unwrap();
            damage.write_all_at(b"damage", 100).unwrap();
            let open = std::fs::File::open(node.path("ohio")).unwrap();
            let seen = |file: &std::fs::File| {
                let mut bytes = vec![0; sound.len()];
                file.read_exact_at(&mut bytes, 0).unwrap();
                bytes
            };
            let damaged = seen(&open);
            assert_ne!(damaged, sound);
            // as the scrub sets it aside, and the next pull publishes it
            std::fs::rename(&object, node.dir().join("quarantined")).unwrap();
            node.cache.withdraw("ohio");
            assert_eq!(node.cache.publish("ohio", &sound), digest);
            assert_eq!(std::fs::read(node.path("ohio")).unwrap(), sound);
            assert_eq!(seen(&open), damaged, "who has it open keeps what it has");
            drop(open);
            assert_eq!(std::fs::read(node.path("ohio")).unwrap(), sound);
        }
    }
}

/// Fails when `inval_entry` is not sent.
#[test]
fn an_absent_name_shows_once_it_is_published_and_goes_when_withdrawn() {
    let node = Node::started(Feature::Auto, Feature::Auto);
    for round in 1..=20 {
        assert!(node.view().stat(&id("late")).unwrap().is_none());
        let content = database(round, 100);
        node.cache.publish("late", &content);
        eventually("stat shows the published name", || {
            node.view().stat(&id("late")).unwrap().is_some_and(|s| s.length == content.len() as u64)
        });
        assert_eq!(node.query("late").unwrap(), (round, round, 100));
        node.cache.withdraw("late");
        eventually("stat shows it gone", || node.view().stat(&id("late")).unwrap().is_none());
        assert!(std::fs::File::open(node.path("late")).is_err());
    }
    assert!(node.status().unwrap().invalidations >= 40);
}

#[test]
fn the_directorys_modification_time_follows() {
    let node = Node::started(Feature::Auto, Feature::Auto);
    let mtime = || node.settings.mountpoint.metadata().unwrap().modified().unwrap();
    let before = mtime();
    node.cache.publish("ohio", b"");
    eventually("the directory is newer", || mtime() > before);
}

#[test]
fn an_inode_number_is_one_content_across_restarts() {
    let mut node = Node::started(Feature::Auto, Feature::Auto);
    node.cache.publish("ohio", &database(1, 10));
    let ino = |node: &Node| {
        node.query("ohio").unwrap();
        node.view().stat(&id("ohio")).unwrap().unwrap().ino
    };
    let first = ino(&node);
    node.start();
    assert_eq!(ino(&node), first);
    node.cache.publish("ohio", &database(2, 10));
    assert_ne!(ino(&node), first);
}

/// Says that it is over when it goes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn s1d_a_reader_sees_one_whole_version_through_every_replacement() {
    for (passthrough, beneath) in MODES {
        let node = Node::started(passthrough, beneath);
        let versions: Vec<Vec<u8>> = (0..60).map(|version| database(version, 200)).collect();
        node.cache.publish("ohio", &versions[0]);
        let (published, done) = (AtomicI64::new(0), AtomicBool::new(false));
        let reads = [AtomicU64::new(0), AtomicU64::new(0)];
        let (published, done) = (&published, &done);
        std::thread::scope(|scope| {
            // also when this fails
            let _over = Over(done);
            for read in &reads {
                let node = &node;
                scope.spawn(move || {
                    while !done.load(Ordering::SeqCst) {
                        let before = published.load(Ordering::SeqCst);
                        let (low, high, rows) = node.query("ohio").unwrap();
                        let after = published.load(Ordering::SeqCst);
                        assert_eq!((low, rows), (high, 200), "a mix of versions");
                        assert!(
                            (before..=after + 1).contains(&low),
                            "{low} not in {before}..={after}+1"
                        );
                        read.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            for (version, content) in (0..).zip(&versions).skip(1) {
                node.cache.publish("ohio", content);
                published.store(version, Ordering::SeqCst);
                // each of them: the kernel looks a name up again for one replacement within an open, and for a second
                // none; the read that ends first may have begun before this one
                let read = || reads.each_ref().map(|reads| reads.load(Ordering::SeqCst));
                let before = read();
                eventually("readers go on", || (0..2).all(|one| read()[one] > before[one] + 1));
            }
        });
        assert_eq!(node.query("ohio").unwrap(), (59, 59, 200));
    }
}
