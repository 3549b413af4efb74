//! Another user, another device node, a cache on overlayfs.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use fsd::mount::Feature;

use super::support::{Cache, MODES, Node, database, ok};

const USER: u32 = 65_534;

#[test]
fn a_plain_user_with_the_mount_right_runs_it() {
    for (passthrough, beneath) in MODES {
        let mut node = Node::new(passthrough, beneath);
        node.cache.publish("ohio", &database(1, 100));
        let dir = node.dir();
        let device = dir.join("fuse");
        ok(Command::new("mknod").args(["-m", "0666"]).arg(&device).args(["c", "10", "229"]));
        let program = dir.join("program");
        std::fs::copy(&node.program, &program).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        ok(Command::new("chown").arg("-R").arg(USER.to_string()).arg(&dir));
        std::fs::write(dir.join("log"), "").unwrap();
        chown(dir.join("log"), Some(USER), None).unwrap();
        node.settings.fuse_device = device;
        node.program = program;
        node.wrapper = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all,+sys_admin",
            "--ambient-caps=-all,+sys_admin",
            "--bounding-set=-all,+sys_admin",
        ]
        .map(String::from)
        .to_vec();
        let first = node.start();
        let meta = node.path("ohio").metadata().unwrap();
        assert_eq!(meta.uid(), USER);
        assert_eq!(node.query("ohio").unwrap(), (1, 1, 100));
        assert_eq!(node.status().unwrap().passthrough, passthrough == Feature::Auto);
        // take over, kill, repair, stop
        let second = node.start();
        assert_ne!(first, second);
        assert!(node.ended(0).success());
        node.signal(second, "KILL");
        node.ended(1);
        let third = node.start();
        assert_eq!(node.layers().len(), 1);
        assert_eq!(node.query("ohio").unwrap(), (1, 1, 100));
        node.signal(third, "TERM");
        assert!(node.ended(2).success());
        assert!(node.layers().is_empty());
        assert_eq!(node.settings.mountpoint.metadata().unwrap().mode() & 0o777, 0o755);
    }
}

#[test]
fn a_cache_on_overlayfs_has_passthrough() {
    let mut node = Node::new(Feature::Auto, Feature::Auto);
    // the lower parts on a tmpfs: the temporary directory may be an overlay itself
    let base = node.dir().join("base");
    std::fs::create_dir(&base).unwrap();
    ok(Command::new("mount").args(["-t", "tmpfs", "base"]).arg(&base));
    for name in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir(base.join(name)).unwrap();
    }
    let options = format!("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", base.display());
    ok(Command::new("mount")
        .args(["-t", "overlay", "over", "-o", &options])
        .arg(base.join("merged")));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        node.cache = Cache::new(&base.join("merged/cache"));
        node.start();
        node.cache.publish("ohio", &database(1, 1000));
        assert_eq!(node.query("ohio").unwrap(), (1, 1, 1000));
        let status = node.status().unwrap();
        assert!(status.passthrough && status.opens_passthrough > 0, "{status:?}");
    }));
    drop(node);
    let _ = Command::new("umount").arg("-l").arg(base.join("merged")).status();
    let _ = Command::new("umount").arg("-l").arg(&base).status();
    let _ = std::fs::remove_dir_all(base.parent().unwrap());
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}
