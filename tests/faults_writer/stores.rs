//! An HDFS that is away, or hangs, while a writer writes and publishes.

use std::time::Duration;

use rig::hdfs::Process;

use crate::client::{Client, judge};
use crate::faults::started;
use crate::stage::*;
use crate::support::until;

/// Fault: the NameNode hangs while a segment is being published (S3, S4): writing goes on, and it is published later.
#[test]
fn s3_s4_a_namenode_that_hangs_under_a_publication() {
    let hdfs = rig::hdfs::exclusive();
    let trough =
        on(&hdfs, "/hangs").allow("listing of the deep store is incomplete").allow("read hdfs");
    let trough = started(trough.allow("sync::local"));
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
