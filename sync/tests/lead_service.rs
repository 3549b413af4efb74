//! Candidates that run: who leads, when there is a cycle, and what happens when the lead goes.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sync::lead::{CycleSettings, LeadHandle, LeadService, LeadStatus, Orders};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[path = "support/breaking.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod breaking;
#[path = "support/leading.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod leading;

use breaking::BreakingKv;
use leading::{Place, rules};

/// The bound of every wait for an event.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any test: what happens before it happens for another reason.
const PERIOD_S: u64 = 3_600;

struct Running {
    handle: LeadHandle,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(place: &Place, node: &str) -> Self {
        let settings =
            CycleSettings { period_s: PERIOD_S, settle_s: 0, ..CycleSettings::default() };
        let (candidate, outside) = (place.candidate(node), place.outside());
        let (service, handle) = LeadService::new(candidate, outside, settings, rules());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(service.run(shutdown.clone()));
        Self { handle, shutdown, task }
    }

    async fn until(&self, what: &str, is: impl Fn(&LeadStatus) -> bool) -> Arc<LeadStatus> {
        let wait = async {
            loop {
                let status = self.handle.status();
                if is(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.unwrap_or_else(|_| panic!("{what} did not come: {:?}", self.handle.status()))
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

fn leads(status: &LeadStatus) -> bool {
    status.epoch.is_some() && status.cycles > 0
}

fn cycle(status: &LeadStatus) -> &sync::lead::CycleReport {
    status.cycle.as_ref().unwrap()
}

#[tokio::test]
async fn one_leads_and_what_changes_brings_a_cycle_about() {
    let mut place = Place::new().await;
    place.put(0..10, 1);
    let one = Running::start(&place, "one");
    let first = one.until("a first cycle", leads).await;
    assert!(cycle(&first).unplanned.as_ref().unwrap().contains("none of 0"), "{first:?}");

    let two = Running::start(&place, "two");
    let leader = |status: &LeadStatus| status.leader.as_ref().is_some_and(|l| l.node == "one");
    assert_eq!(two.until("to know who leads", leader).await.epoch, None);
    assert!(!two.handle.cycle_now(PATIENCE).await, "it does not lead");

    // nodes, and what they come to hold
    for node in ["a", "b"] {
        place.join(node, 1 << 20).await;
    }
    one.until("nodes to be seen", |status| cycle(status).nodes.len() == 2).await;
    let all = |status: &LeadStatus| cycle(status).figures.is_some_and(|f| f.copies_wanted == 20);
    one.until("a plan", all).await;
    while place.follow().await {}
    let none_missing =
        |status: &LeadStatus| cycle(status).figures.is_some_and(|f| f.copies_missing == 0);
    one.until("copies to be seen", none_missing).await;

    // a segment that is new is seen when somebody asks
    place.put(10..11, 1);
    assert!(one.handle.cycle_now(PATIENCE).await);
    let status = one.handle.status();
    assert!(cycle(&status).list_ms.is_some());
    assert_eq!(place.pool().await.len(), 11);

    // a deletion
    place.delete(10).await;
    let ten = |status: &LeadStatus| cycle(status).figures.is_some_and(|f| f.segments == 10);
    one.until("a deletion to be seen", ten).await;
    assert_eq!(place.pool().await.len(), 10);

    // orders
    Orders::change(&*place.kv, |orders| orders.paused = true).await.unwrap();
    let paused = |status: &LeadStatus| {
        cycle(status).unplanned.as_ref().is_some_and(|why| why.contains("paused"))
    };
    one.until("the pause", paused).await;
    Orders::change(&*place.kv, |orders| orders.paused = false).await.unwrap();
    one.until("the end of the pause", |status| !paused(status)).await;

    // it hands over when it is told to stop
    let epoch = one.handle.status().epoch;
    one.stop().await;
    let status = two.until("the other to lead", leads).await;
    assert!(status.epoch > epoch);
    assert_eq!(cycle(&status).moves, 0);
    two.stop().await;
}

#[tokio::test]
async fn a_lead_that_is_cut_off_goes_on_when_it_can_and_one_that_was_overtaken_does_not() {
    let mut place = Place::new().await;
    place.put(0..10, 1);
    place.join("a", 1 << 20).await;
    let breaking = BreakingKv::new(place.kv.clone());
    place.leads_kv = Some(breaking.clone());
    let one = Running::start(&place, "one");
    let epoch = one.until("a first cycle", leads).await.epoch;
    breaking.cut_off();
    assert!(!one.handle.cycle_now(PATIENCE).await);
    one.until("a problem", |status| status.problem.is_some()).await;
    breaking.mend();
    assert!(one.handle.cycle_now(PATIENCE).await);
    let status = one.handle.status();
    assert_eq!((status.epoch, &status.problem), (epoch, &None));

    // behind its back another leads: the next thing that it writes is refused, and it stands again
    breaking.cut_off();
    let key = sync::kv::Key::new(sync::lead::LEAD_KEY).unwrap();
    let session = place.kv.get(&key).await.unwrap().unwrap().session.unwrap();
    place.kv.destroy_session(&session).await.unwrap();
    place.leads_kv = None;
    let two = Running::start(&place, "two");
    two.until("the other to lead", leads).await;
    breaking.mend();
    place.put(10..11, 1);
    assert!(!one.handle.cycle_now(PATIENCE).await, "it was overtaken");
    one.until("it to stand again", |status| status.epoch.is_none()).await;
    assert!(two.handle.cycle_now(PATIENCE).await);
    two.stop().await;
    one.until("it to lead again", leads).await;
    one.stop().await;
}

#[tokio::test]
async fn a_lead_that_nobody_can_ask_any_more_rests_between_its_cycles() {
    let mut place = Place::new().await;
    let counting = BreakingKv::new(place.kv.clone());
    place.leads_kv = Some(counting.clone());
    let Running { handle, shutdown, task } = Running::start(&place, "one");
    drop(handle);
    let rests = async {
        loop {
            let before = counting.reads.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(500)).await;
            if before > 0 && counting.reads.load(Ordering::SeqCst) == before {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, rests).await.expect("it rests");
    shutdown.cancel();
    tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
}
