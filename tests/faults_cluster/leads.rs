//! What befalls the lead: its process, and its host, which is a node as well.

use rustix::process::Signal;
use sync::lead::LeadStatus;

use crate::machines::{Role, until};
use crate::stage::{NODES, SERVERS, Stage};

#[test]
fn s9_s10_no_answer_fails_for_what_befalls_the_lead() {
    let mut stage = Stage::set();

    let (lead, before) = stage.machines.leading().unwrap();
    stage.through(
        "the lead is killed",
        &NODES,
        |stage| {
            stage.machines.end(lead, Role::Lead, Signal::KILL);
        },
        |stage| {
            let another = |status: &LeadStatus| status.epoch > before.epoch;
            stage.machines.until_the_lead("another to lead", another);
            stage.machines.start(lead, Role::Lead);
        },
    );

    // it wakes up after another was elected, and must not write
    let (lead, _) = stage.lead_and_others();
    stage.through(
        "the lead hangs",
        &NODES,
        |stage| {
            stage
                .until_another_leads(|stage| stage.machines.signal(lead, Role::Lead, Signal::STOP));
        },
        |stage| {
            rig::soak::hold();
            stage.machines.signal(lead, Role::Lead, Signal::CONT);
            until_it_follows(stage, lead);
        },
    );

    let (lead, _) = stage.lead_and_others();
    stage.through(
        "the lead's host is cut from Consul",
        &NODES,
        |stage| stage.until_another_leads(|stage| stage.cut(lead, &SERVERS)),
        |stage| {
            stage.mend(lead, &SERVERS);
            until_it_follows(stage, lead);
        },
    );

    // nothing is seen of the deep store, and so nothing is removed
    let (lead, _) = stage.lead_and_others();
    stage.through(
        "the lead's host is cut from HDFS",
        &NODES,
        |stage| {
            stage.cut(lead, &["hdfs"]);
            stage.machines.until_the_lead("it not to see HDFS", |status| {
                status.listed.as_ref().is_some_and(|listed| !listed.report.complete())
            });
        },
        |stage| stage.mend(lead, &["hdfs"]),
    );

    let (lead, others) = stage.lead_and_others();
    stage.through(
        "the lead's host is cut from the other nodes",
        &others,
        |stage| stage.cut(lead, &others),
        |stage| stage.mend(lead, &others),
    );
}

fn until_it_follows(stage: &Stage, name: &str) {
    let page = stage.machines[name].lead_page("status");
    let follows = || {
        let (status, said) = crate::steps::http("GET", &page, "");
        let said: LeadStatus = serde_json::from_str(&said).ok()?;
        (status == 200 && said.epoch.is_none() && said.leader.is_some()).then_some(())
    };
    until(&format!("{name} to follow"), follows, || stage.machines.logs());
}
