//! A disk that is full under a writer: what does not fit is refused, and nothing else comes of it.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use crate::faults::{short, started};
use crate::stage::*;
use crate::support::{Trough, http, until};
use crate::volume::Volume;
use crate::writes::{Client, judge};

const VOLUME_MIB: u64 = 64;
/// So much is left for what is written at first.
const ROOM: u64 = 6 << 20;

/// A trough whose writer has its files on `volume`, and nothing else.
fn on_volume(volume: &Volume) -> Trough {
    let trough = COMES_BACK.into_iter().fold(short(WRITING), Trough::allow);
    std::os::unix::fs::symlink(volume.path(), trough.dir().join("writable")).unwrap();
    trough
}

/// A file that leaves `room` bytes of `volume` to others.
fn fill(volume: &Volume, room: u64) -> PathBuf {
    let stat = statvfs(volume.path()).unwrap();
    let filler = volume.path().join("filler");
    let file = File::create(&filler).unwrap();
    // what is kept back for root is room, too
    fallocate(file, FallocateFlags::empty(), 0, stat.f_bfree * stat.f_frsize - room).unwrap();
    filler
}

/// Takes what is left of `volume`, to the last block.
fn fill_up(volume: &Volume) -> PathBuf {
    use std::io::Write;
    let rest = volume.path().join("rest");
    let mut file = File::create(&rest).unwrap();
    let mut blocks = 1;
    while blocks > 0 {
        blocks = 0;
        while file.write_all(&[7; 512]).is_ok() {
            blocks += 1;
        }
        // what was kept back for where they might have come to lie is free again
        file.sync_all().unwrap();
    }
    rest
}

fn large(n: i64) -> String {
    format!("INSERT INTO t VALUES ({n}); INSERT INTO large VALUES ({n}, zeroblob(100000))")
}

/// Fault: the disk under the writable segments is full (S3).
#[test]
fn s3_a_full_disk_refuses_what_does_not_fit_and_loses_nothing() {
    let volume = Volume::new(VOLUME_MIB);
    let trough = started(on_volume(&volume));
    provision(&trough, "ohio");
    let writer = trough.child_pid("write");
    let filler = fill(&volume, ROOM);
    let client = Client::start_with(write_url(&trough, "ohio"), Duration::ZERO, large);
    until("it is full", || client.refused().len() > 5);
    let rest = fill_up(&volume);
    let had = client.refused().len();
    until("nothing fits", || client.refused().len() > had + 20);
    // what is there is read: the log would say that the reader is not told that it may
    let readable = rows(&trough, "ohio");
    assert_eq!(readable.len(), client.acknowledged());
    let error = promote(&trough, "ohio").expect_err("there is no room for a copy").to_string();
    assert!(error.contains("no room"), "{error}");
    assert_eq!(rows(&trough, "ohio").len(), client.acknowledged());

    std::fs::remove_file(rest).unwrap();
    std::fs::remove_file(filler).unwrap();
    let had = client.acknowledged();
    until("it is written again", || client.acknowledged() > had + 20);
    let (acknowledged, sent, refused) = client.end();
    promote_in_the_end(&trough, "ohio");
    assert_eq!(trough.child_pid("write"), writer, "the writer lives");
    for (what, found) in
        [("the reader", rows(&trough, "ohio")), ("the store", in_store(&trough, "ohio"))]
    {
        judge(what, &found, &acknowledged, sent);
        let there = refused.iter().find(|refused| found.contains(&refused.row));
        assert!(there.is_none(), "{what}: refused and there: {there:?}");
    }
    let half = "SELECT n FROM t FULL JOIN large USING (n) WHERE t.n IS NULL OR large.n IS NULL";
    assert_eq!(trough.ask("ohio", half), (200, "[]\n".to_owned()));
    let strange = refused.iter().find(|refused| refused.status != 507);
    assert!(strange.is_none(), "{strange:?}");

    // nor can it be written down that something is unpublished
    let rest = fill_up(&volume);
    let said = http("POST", &write_url(&trough, "ohio"), "INSERT INTO t VALUES (0)");
    assert_eq!(said.0, 507, "{said:?}");
    std::fs::remove_file(rest).unwrap();
    let said = http("POST", &write_url(&trough, "ohio"), "INSERT INTO t VALUES (0)");
    assert_eq!(said, (200, "OK\n".to_owned()));
}

/// Fault: one request is larger than the disk; those of others beside it stand (S3).
#[test]
fn s3_a_request_that_is_larger_than_the_disk_does_nothing_to_those_beside_it() {
    let volume = Volume::new(VOLUME_MIB);
    let trough = started(on_volume(&volume));
    provision(&trough, "ohio");
    let filler = fill(&volume, ROOM);
    let client = Client::start(write_url(&trough, "ohio"));
    until("something is written", || client.acknowledged() > 10);
    let large = "INSERT INTO large VALUES (1, zeroblob(1000000));".repeat(10);
    let post = || http("POST", &write_url(&trough, "ohio"), &large);
    for _ in 0..5 {
        let (status, said) = post();
        assert_eq!(status, 507, "{said}");
        let had = client.acknowledged();
        until("others go on", || client.acknowledged() > had + 10);
    }
    assert_eq!(trough.ask("ohio", "SELECT n FROM large"), (200, "[]\n".to_owned()));
    std::fs::remove_file(filler).unwrap();
    assert_eq!(post(), (200, "OK\n".to_owned()));
    let (acknowledged, sent, refused) = client.end();
    assert!(refused.is_empty(), "{refused:?}");
    promote_in_the_end(&trough, "ohio");
    judge("the reader", &rows(&trough, "ohio"), &acknowledged, sent);
    judge("the store", &in_store(&trough, "ohio"), &acknowledged, sent);
}
