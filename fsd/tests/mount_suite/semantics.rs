//! What a person and their tools see.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use fsd::mount::Feature;
use rustix::fs::{Mode, OFlags};

use super::support::{MODES, MTIME_MS, Node, all, database, eventually, id, ok, run};

const EROFS: i32 = 30;

#[test]
fn peoples_tools_do_what_is_expected() {
    for (passthrough, beneath) in MODES {
        let node = Node::started(passthrough, beneath);
        let content = database(1, 500);
        let digest = node.cache.publish("ohio", &content);
        node.cache.publish("zero", b"");
        let mount = &node.settings.mountpoint;
        eventually("both show", || {
            ok(Command::new("ls").arg(mount)) == "ohio.sqlite\nzero.sqlite\n"
        });

        let path = node.path("ohio");
        let meta = path.metadata().unwrap();
        assert_eq!((meta.len(), meta.mode(), meta.nlink()), (content.len() as u64, 0o100_444, 1));
        assert_eq!(meta.mtime(), i64::try_from(MTIME_MS / 1000).unwrap());
        assert_eq!(std::fs::read(node.path("zero")).unwrap(), b"");

        let copy = node.dir().join("copy");
        ok(Command::new("cp").arg(&path).arg(&copy));
        assert_eq!(std::fs::read(&copy).unwrap(), content);
        let sum = |path| ok(Command::new("sha256sum").arg(path))[..64].to_owned();
        assert_eq!(sum(&path), sum(&copy));
        let select = "select count(*), max(version) from t";
        assert_eq!(ok(Command::new("sqlite3").arg(&path).arg(select)), "500|1\n");
        assert_eq!(ok(Command::new("sqlite3").arg(&path).arg("pragma integrity_check")), "ok\n");
        ok(Command::new("df").arg(mount));
        ok(Command::new("find").arg(mount));

        let shown = ok(Command::new("getfattr").args(["-d", "--absolute-names"]).arg(&path));
        for line in [
            format!("user.trough.blake3=\"{digest}\""),
            "user.trough.source=\"/store/ohio.sqlite\"".to_owned(),
            format!("{{\\\"length\\\":8192,\\\"mtime_ms\\\":{MTIME_MS}}}"),
            "user.trough.verified_at=\"1700000000000\"".to_owned(),
        ] {
            assert!(shown.contains(&line), "{line} is not in {shown}");
        }
        let mut value = [0_u8; 8];
        let other = rustix::fs::getxattr(&path, "user.other", &mut value[..]);
        assert_eq!(other, Err(rustix::io::Errno::NODATA));
        let small = rustix::fs::getxattr(&path, "user.trough.blake3", &mut value[..]);
        assert_eq!(small, Err(rustix::io::Errno::RANGE));

        let status = node.status().unwrap();
        assert_eq!(status.passthrough, passthrough == Feature::Auto, "{status:?}");
        assert_eq!(status.passthrough_off_reason.is_some(), passthrough == Feature::Off);
        assert_eq!(status.opens_passthrough > 0, passthrough == Feature::Auto);
        assert_eq!(status.opens_mapped > 0, passthrough == Feature::Off);
        eventually("handles and objects go back to none", || {
            let status = node.status().unwrap();
            (status.open_handles, status.backing_ids, status.mapped_objects) == (0, 0, 0)
        });
        assert_eq!(node.view().digest(&id("ohio")).unwrap(), Some(digest));
    }
}

#[test]
fn every_change_is_refused_with_erofs() {
    let node = Node::started(Feature::Auto, Feature::Auto);
    node.cache.publish("ohio", &database(1, 10));
    let (mount, path) = (&node.settings.mountpoint, node.path("ohio"));
    let (new, other) = (mount.join("new"), mount.join("other"));
    let errno = |result: io::Result<()>| result.unwrap_err().raw_os_error();
    let raw = |result: rustix::io::Result<()>| errno(result.map_err(io::Error::from));
    let refused = [
        ("write", errno(OpenOptions::new().write(true).open(&path).map(drop))),
        ("append", errno(OpenOptions::new().append(true).open(&path).map(drop))),
        (
            "truncate",
            raw(rustix::fs::open(&path, OFlags::TRUNC | OFlags::WRONLY, Mode::empty()).map(drop)),
        ),
        ("create", errno(File::create(&new).map(drop))),
        ("create in .trough", errno(File::create(mount.join(".trough/new")).map(drop))),
        (
            "write status",
            errno(OpenOptions::new().write(true).open(mount.join(".trough/status.json")).map(drop)),
        ),
        ("mkdir", errno(std::fs::create_dir(&new))),
        ("rmdir", errno(std::fs::remove_dir(mount.join(".trough")))),
        ("unlink", errno(std::fs::remove_file(&path))),
        ("rename", errno(std::fs::rename(&path, &other))),
        ("link", errno(std::fs::hard_link(&path, &other))),
        ("symlink", errno(std::os::unix::fs::symlink("x", &new))),
        (
            "mknod",
            raw(rustix::fs::mknodat(
                rustix::fs::CWD,
                &new,
                rustix::fs::FileType::Fifo,
                Mode::RUSR,
                0,
            )),
        ),
        ("chmod", raw(rustix::fs::chmod(&path, Mode::RWXU))),
        ("chown", errno(std::os::unix::fs::chown(&path, Some(1), None))),
        (
            "setxattr",
            raw(rustix::fs::setxattr(&path, "user.x", b"1", rustix::fs::XattrFlags::empty())),
        ),
        ("removexattr", raw(rustix::fs::removexattr(&path, "user.trough.blake3"))),
    ];
    for (what, errno) in refused {
        assert_eq!(errno, Some(EROFS), "{what}");
    }
    // another user is refused the same way, not for missing rights
    for words in [vec!["touch"], vec!["rm", "-f"], vec!["chmod", "600"], vec!["truncate", "-s0"]] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).args(words).arg(&path);
        let said = String::from_utf8_lossy(&run(&mut command).stderr).into_owned();
        assert!(said.contains("Read-only file system"), "{command:?}: {said}");
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sqlite3"]).arg(&path);
    assert_eq!(ok(command.arg("select count(*) from t")), "10\n");
    let insert = run(Command::new("sqlite3").arg(&path).arg("insert into t values(1, 2)"));
    assert!(String::from_utf8_lossy(&insert.stderr).contains("readonly database"), "{insert:?}");
}

#[test]
fn names_that_are_no_segment_never_show() {
    let node = Node::started(Feature::Auto, Feature::Auto);
    let digest = node.cache.publish("ohio", &database(1, 10));
    let segments = node.cache.layout.segments();
    let target = fsd::layout::Layout::link_target(&digest);
    for name in ["ohio.sqlite-wal", "ohio.sqlite-journal", ".hidden.sqlite", "a b.sqlite", "plain"]
    {
        std::os::unix::fs::symlink(&target, segments.join(name)).unwrap();
        let error = node.settings.mountpoint.join(name).metadata().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{name}");
    }
    std::fs::write(segments.join("file.sqlite"), "x").unwrap();
    assert_eq!(ok(Command::new("ls").arg(&node.settings.mountpoint)), "ohio.sqlite\n");
    // a link that leads out of the cache is an error, never what it points to
    std::os::unix::fs::symlink("/etc/passwd", segments.join("evil.sqlite")).unwrap();
    assert_eq!(File::open(node.path("evil")).unwrap_err().raw_os_error(), Some(5));
}

#[test]
fn sqlites_side_files_are_asked_for_once() {
    let node = Node::started(Feature::Auto, Feature::Auto);
    node.cache.publish("ohio", &database(1, 10));
    let query = || {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        all(&rusqlite::Connection::open_with_flags(node.path("ohio"), flags).unwrap()).unwrap();
    };
    query();
    let before = node.status().unwrap().negative_lookups;
    assert!(before > 0);
    for _ in 0..20 {
        query();
    }
    assert_eq!(node.status().unwrap().negative_lookups, before);
}
