//! kill -9 of the writer at every step of writing, opening and publishing.

use std::fs::File;

use crate::faults::{needs_crash_points, started};
use crate::stage::*;
use crate::support::{Trough, until};
use crate::writes::{Client, judge};

/// Kills the writer once at each of `steps`, which `lead` leads it to.
fn killed_at(root: &str, steps: &[&str], lead: impl Fn(&Trough)) {
    needs_crash_points();
    let hdfs = rig::hdfs::shared();
    let armed = tempfile::tempdir().unwrap();
    let trough = on(&hdfs, root).with_environment("FAILPOINTS_DIR", armed.path().to_str().unwrap());
    let trough = started(trough);
    provision(&trough, "ohio");
    let client = Client::start(write_url(&trough, "ohio"));
    for step in steps {
        let (before, had) = (trough.child_pid("write"), client.acknowledged());
        let point = armed.path().join(step);
        File::create(&point).unwrap();
        until(&format!("{step}: it dies there and is started again"), || {
            lead(&trough);
            !point.try_exists().unwrap() && trough.child_pid("write") != before
        });
        // what was acknowledged is taken up again by itself
        until(&format!("{step}: it is written again"), || client.acknowledged() > had + 5);
    }
    let (acknowledged, sent, refused) = client.end();
    judge("the reader", &rows(&trough, "ohio"), &acknowledged, sent);
    promote_in_the_end(&trough, "ohio");
    judge("HDFS", &published(&hdfs, &trough, root, "ohio"), &acknowledged, sent);
    let strange = refused.iter().find(|refused| ![0, 421, 503].contains(&refused.status));
    assert!(strange.is_none(), "{strange:?}");
    let log = trough.log();
    assert!(!log.contains("are an orphan"), "nobody else wrote: {log}");
}

/// Fault: kill -9 of the writer while it writes (S3).
#[test]
fn s3_the_writer_killed_at_each_step_of_a_write() {
    let steps = ["write.committed", "write.before-sync", "write.synced", "write.acknowledged"];
    // the client leads it there
    killed_at("/killed-writing", &steps, |_| {});
}

/// Fault: kill -9 of the writer while it publishes (S3, S4).
#[test]
fn s3_s4_the_writer_killed_at_each_step_of_a_publication() {
    let steps = [
        "promote.copied",
        "promote.prepared",
        "promote.staged-data",
        "promote.read-back",
        "promote.staged-seal",
        "promote.before-rename",
        "promote.seal-renamed",
        "promote.data-renamed",
        "promote.published",
        "promote.noted",
    ];
    killed_at("/killed-publishing", &steps, |trough| drop(promote(trough, "ohio")));
}

/// Fault: kill -9 of the writer while it takes a segment over and opens it (S3, S4).
#[test]
fn s3_s4_the_writer_killed_at_each_step_of_opening() {
    let steps = [
        "promote.locked",
        "promote.lower-deleted",
        "promote.staging-made",
        "promote.confirmed",
        "write.owned",
        "write.noted",
    ];
    killed_at("/killed-opening", &steps, |trough| {
        // it opens what it had when it starts
        let _ =
            rustix::process::kill_process(trough.child_pid("write"), rustix::process::Signal::KILL);
        std::thread::sleep(std::time::Duration::from_millis(1_000));
    });
}
