//! What befalls HDFS.

use rig::hdfs::Process;

use crate::stage::Stage;

#[test]
fn s9_s10_no_answer_fails_for_what_befalls_hdfs() {
    let mut stage = Stage::set();
    stage.machines.allow("removals wait");

    // nothing can be changed while it is away
    stage.while_changeless(
        "the NameNode hangs",
        |stage| {
            stage.hdfs.pause(Process::NameNode);
            stage.machines.until_the_lead("it not to see HDFS", |status| {
                status.listed.as_ref().is_some_and(|listed| !listed.report.complete())
            });
        },
        |stage| {
            rig::soak::hold();
            stage.hdfs.resume(Process::NameNode);
        },
    );
    stage.while_changeless(
        "the NameNode is dead",
        |stage| stage.hdfs.kill(Process::NameNode),
        |stage| stage.hdfs.restart(Process::NameNode),
    );
    // each block wants all three of them, so nothing can be written
    stage.while_changeless(
        "a DataNode is dead",
        |stage| stage.hdfs.kill(Process::DataNode(1)),
        |stage| stage.hdfs.restart(Process::DataNode(1)),
    );

    stage.while_changeless(
        "the root of the deep store is emptied",
        |stage| {
            stage.hdfs.dfs(&["-mv", "/trough", "/away"]);
            stage.hdfs.dfs(&["-mkdir", "/trough"]);
            stage.machines.until_the_lead("removals to wait", |status| {
                status.cycle.as_ref().is_some_and(|cycle| cycle.held_back.is_some())
            });
        },
        |stage| {
            stage.hdfs.dfs(&["-rm", "-r", "-skipTrash", "/trough"]);
            stage.hdfs.dfs(&["-mv", "/away", "/trough"]);
            // what is not there when it is back goes on waiting for a person
            stage.machines.until_the_lead("nothing to wait", |status| {
                status.cycle.as_ref().is_some_and(|cycle| cycle.held_back.is_none())
            });
        },
    );
}
