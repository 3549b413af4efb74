//! An HDFS that hangs, or is away, while a writer writes and publishes.

use std::time::Duration;

use rig::hdfs::Process;

use crate::faults::{needs_crash_points, started};
use crate::stage::*;
use crate::support::{Trough, until};
use crate::writes::{Client, judge};

/// What the log may say while HDFS is not there.
const HDFS_AWAY: [&str; 3] =
    ["listing of the deep store is incomplete", "read hdfs", "sync::local"];

fn on_one_that_goes(hdfs: &rig::hdfs::Hdfs, root: &str) -> Trough {
    HDFS_AWAY.into_iter().fold(on(hdfs, root), Trough::allow)
}

/// Fault: the NameNode hangs while a segment is being published (S3, S4): writing goes on, and it is published later.
#[test]
fn s3_s4_a_namenode_that_hangs_under_a_publication() {
    let hdfs = rig::hdfs::exclusive();
    let trough = started(on_one_that_goes(&hdfs, "/hangs"));
    provision(&trough, "ohio");
    let client = Client::start(write_url(&trough, "ohio"));
    until("something is written", || client.acknowledged() > 10);
    hdfs.pause(Process::NameNode);
    let failed = promote(&trough, "ohio");
    let had = client.acknowledged();
    until("writing goes on meanwhile", || client.acknowledged() > had + 20);
    hdfs.resume(Process::NameNode);
    failed.unwrap_err();
    promote_in_the_end(&trough, "ohio");
    std::thread::sleep(Duration::from_millis(100));
    let (acknowledged, sent, refused) = client.end();
    assert!(refused.is_empty(), "{refused:?}");
    judge("the reader", &rows(&trough, "ohio"), &acknowledged, sent);
    promote_in_the_end(&trough, "ohio");
    judge("HDFS", &published(&hdfs, &trough, "/hangs", "ohio"), &acknowledged, sent);
}

/// Fault: the NameNode dies in the middle of a publication, before it was read back and between its renames, and comes
/// back (S3, S4): writing goes on, and it is published later.
#[test]
fn s3_s4_a_namenode_that_dies_under_a_publication_and_comes_back() {
    needs_crash_points();
    let hdfs = rig::hdfs::exclusive();
    // the first publication stands at the one, the next at the other
    let steps = "promote.staged-data=1*sleep(4000);promote.seal-renamed=1*sleep(4000)";
    let trough = on_one_that_goes(&hdfs, "/dies").with_environment("FAILPOINTS", steps);
    let trough = started(trough);
    provision(&trough, "ohio");
    let client = Client::start(write_url(&trough, "ohio"));
    for step in ["staged", "between the renames"] {
        let had = client.acknowledged();
        until("something is written", || client.acknowledged() > had + 10);
        let failed = std::thread::scope(|scope| {
            let promoting = scope.spawn(|| promote(&trough, "ohio"));
            std::thread::sleep(Duration::from_secs(2));
            hdfs.kill(Process::NameNode);
            promoting.join().unwrap()
        });
        let error = failed.expect_err(step).to_string();
        println!("{step}: {error}");
        assert!(error.contains("hdfs://"), "{step}: it says what does not answer: {error}");
        let had = client.acknowledged();
        until("writing goes on meanwhile", || client.acknowledged() > had + 20);
        hdfs.restart(Process::NameNode);
    }
    promote_in_the_end(&trough, "ohio");
    let (acknowledged, sent, refused) = client.end();
    assert!(refused.is_empty(), "{refused:?}");
    judge("the reader", &rows(&trough, "ohio"), &acknowledged, sent);
    promote_in_the_end(&trough, "ohio");
    judge("HDFS", &published(&hdfs, &trough, "/dies", "ohio"), &acknowledged, sent);
    assert!(!trough.log().contains("are an orphan"), "nobody else wrote: {}", trough.log());
}
