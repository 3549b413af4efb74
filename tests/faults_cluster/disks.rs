//! What befalls the disk of a node: it is full, its cache is wiped, a segment on it is damaged.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::clients::id;
use crate::machines::until;
use crate::segment;
use crate::stage::{NODES, Stage};
use crate::volume::Volume;

const VOLUME_MIB: u64 = 64;

#[test]
fn s1_s9_s10_no_answer_fails_for_what_befalls_the_disk_of_a_node() {
    let volume = Volume::new(VOLUME_MIB);
    let cache = volume.path().join("cache");
    let mut stage = Stage::set_on(&cache);
    for part in [
        "the volume is full",
        "No space left",
        "damaged",
        "quarantine",
        "disk",
        // when it is wiped
        "a request failed",
        "was moved, replaced or deleted",
        "No such file",
        "ended",
        "dead mount",
        "starting it again",
    ] {
        stage.machines.allow(part);
    }

    let filler = volume.path().join("filler");
    stage.through(
        "the disk of a node is full",
        &NODES,
        |_| {
            let stat = statvfs(volume.path()).unwrap();
            let file = File::create(&filler).unwrap();
            fallocate(file, FallocateFlags::empty(), 0, stat.f_bavail * stat.f_frsize).unwrap();
        },
        |stage| {
            // it answers, so nobody takes it out of service
            let says = || {
                let (status, said) = stage.machines["c"].synchronizer("health");
                (status == 429 && said.contains("the volume is full")).then_some(())
            };
            until("c to say so", says, || stage.machines.logs());
            std::fs::remove_file(&filler).unwrap();
        },
    );

    let here = stage.machines.mounted("c");
    let lasting = (0..).map(id).find(|id| here.contains(id)).unwrap();
    let file = stage.machines["c"].dir.join("mount").join(format!("{lasting}.sqlite"));
    let sound = std::fs::read(&file).unwrap();
    stage.through(
        "a segment on a node is damaged",
        &NODES,
        |_| damage(&cache, &sound),
        |stage| {
            assert_ne!(std::fs::read(&file).unwrap(), sound);
            stage.machines.say("c", &["sync", "scrub"]);
            // a hundred changes may have moved it elsewhere
            let is_sound = || match std::fs::read(&file) {
                Ok(now) => now == sound,
                Err(error) => error.kind() == ErrorKind::NotFound,
            };
            let is_found =
                || stage.machines["c"].synchronizer("status").1.contains("\"damaged_total\":1");
            let healed = || (is_found() && is_sound()).then_some(());
            let state = || {
                let is_sound = std::fs::read(&file).map(|now| now == sound);
                format!("{is_sound:?}, {}", stage.machines["c"].synchronizer("status").1)
            };
            until("it to be sound again", healed, state);
        },
    );

    stage.through(
        "the cache of a node is wiped",
        &NODES,
        |_| {
            for entry in std::fs::read_dir(&cache).unwrap() {
                let path = entry.unwrap().path();
                let wiped = match path.is_dir() {
                    true => std::fs::remove_dir_all(&path),
                    false => std::fs::remove_file(&path),
                };
                // the ledger's own files go with its last connection
                wiped.unwrap_or_else(|error| assert_eq!(error.kind(), ErrorKind::NotFound));
            }
        },
        |_| (),
    );
    let held = || (!stage.machines.mounted("c").is_empty()).then_some(());
    until("c to hold something", held, || stage.machines.logs());
}

/// Overwrites a page of the file in the cache that has these bytes.
fn damage(cache: &Path, bytes: &[u8]) {
    let directories = std::fs::read_dir(cache.join("objects")).unwrap();
    let mut files = directories.flat_map(|entry| std::fs::read_dir(entry.unwrap().path()).unwrap());
    let file = files.find_map(|file| {
        let path = file.unwrap().path();
        (std::fs::read(&path).unwrap() == bytes).then_some(path)
    });
    let file = File::options().write(true).open(file.unwrap()).unwrap();
    file.write_all_at(&[0xff; segment::PAGE], segment::PAGE as u64).unwrap();
}
