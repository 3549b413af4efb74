//! What only a directory can be asked: names and links that HDFS does not have.

use super::*;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn a_name_that_is_not_utf8_and_links_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("store"), dir.path().join("outside"));
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("x.sqlite"), "secret").unwrap();
    std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"bad\xff.sqlite")), "x").unwrap();
    std::fs::write(root.join("good.sqlite"), "x").unwrap();
    std::os::unix::fs::symlink(&outside, root.join("way-out")).unwrap();
    std::os::unix::fs::symlink(outside.join("x.sqlite"), root.join("link.sqlite")).unwrap();
    let store = open(root.to_str().unwrap(), SHORT).unwrap();
    let listing = list(&*store).await;
    assert!(listing.unseen.is_empty());
    assert_eq!(listing.segments.keys().collect::<Vec<_>>(), ["good.sqlite"]);
    let reasons: Vec<_> = listing.skipped.into_values().collect();
    assert_eq!(reasons, [SkipReason::UnreadableName, SkipReason::NotAFile, SkipReason::NotAFile]);
    for out in ["way-out/x.sqlite", "link.sqlite"] {
        assert!(read(&*store, out).await.is_err(), "{out} was read");
    }
    assert!(store.create(&path("way-out/new")).await.is_err());
    assert!(store.delete(&path("way-out/x.sqlite")).await.is_err());
    assert!(outside.join("x.sqlite").try_exists().unwrap());
}

#[test]
fn an_unreadable_directory_is_unseen_and_the_rest_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    for sub in ["a", "closed", "z"] {
        std::fs::create_dir(dir.path().join(sub)).unwrap();
        std::fs::write(dir.path().join(sub).join(format!("{sub}.sqlite")), "x").unwrap();
    }
    let closed = dir.path().join("closed");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
    // also root must be refused: threads inherit what their maker gave up
    let listing = std::thread::spawn({
        let root = dir.path().to_str().unwrap().to_owned();
        move || {
            let mut sets = rustix::thread::capabilities(None).unwrap();
            sets.effective = rustix::thread::CapabilitySet::empty();
            rustix::thread::set_capabilities(None, sets).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async { list(&*open(&root, SHORT).unwrap()).await })
        }
    });
    let listing = listing.join().unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(listing.segments.keys().collect::<Vec<_>>(), ["a/a.sqlite", "z/z.sqlite"]);
    assert_eq!(listing.unseen.len(), 1);
    assert_eq!(listing.unseen[0].kind, StoreErrorKind::Denied);
}
