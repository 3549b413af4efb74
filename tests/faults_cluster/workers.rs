//! What befalls a node that only holds and answers.

use rustix::process::Signal;

use crate::machines::Role;
use crate::stage::{FIVE_NODES, SERVERS, Stage};

/// What of trough runs on a node; the reader first, as it looks at the mount.
const ALL: [Role; 4] = [Role::Read, Role::Write, Role::Local, Role::Fsd];
const OTHERS: [&str; 4] = ["a", "b", "d", "e"];
/// Everybody that a node talks to.
const EVERYBODY: [&str; 8] = ["a", "b", "d", "e", "s1", "s2", "s3", "hdfs"];

#[test]
fn s9_s10_no_answer_fails_for_what_befalls_a_node() {
    let mut stage = Stage::set_of_five();

    stage.through(
        "a node is killed",
        &OTHERS,
        |stage| {
            for role in ALL {
                stage.machines.end("c", role, Signal::KILL);
            }
        },
        |stage| {
            stage.until_made_good("c");
            trough::up::leftover::detach(&stage.machines["c"].dir.join("mount")).unwrap();
            stage.machines.start_node("c");
            stage.machines.start("c", Role::Read);
            stage.machines.start("c", Role::Write);
        },
    );

    stage.through(
        "a node hangs",
        &OTHERS,
        |stage| ALL.iter().for_each(|role| stage.machines.signal("c", *role, Signal::STOP)),
        |stage| {
            stage.until_made_good("c");
            rig::soak::hold();
            ALL.iter().for_each(|role| stage.machines.signal("c", *role, Signal::CONT));
        },
    );

    // it goes by what it knew, and is asked as well
    stage.through(
        "a node is cut from Consul",
        &FIVE_NODES,
        |stage| stage.cut("c", &SERVERS),
        |stage| {
            stage.until_made_good("c");
            stage.mend("c", &SERVERS);
        },
    );

    stage.through(
        "a node is cut from HDFS",
        &FIVE_NODES,
        |stage| stage.cut("c", &["hdfs"]),
        |stage| stage.mend("c", &["hdfs"]),
    );

    stage.through(
        "a node is cut from the others",
        &OTHERS,
        |stage| stage.cut("c", &OTHERS),
        |stage| stage.mend("c", &OTHERS),
    );

    stage.through(
        "a node is cut from everything",
        &OTHERS,
        |stage| stage.cut("c", &EVERYBODY),
        |stage| {
            stage.until_made_good("c");
            rig::soak::hold();
            stage.mend("c", &EVERYBODY);
        },
    );
}
