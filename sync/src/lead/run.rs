//! A candidate from its start to its stop: it waits to lead, leads, and waits again.
//!
//! Invariants: while it leads, there is a cycle after each period, when somebody asks, and when a node or the orders
//! changed or something was deleted; never more than half of the time is spent on cycles that nobody asked for (S12); a
//! lead that is told to stop resigns, so that another leads at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::cycle::{CycleError, CycleReport, CycleSettings, Lead, LeadOutside};
use super::election::{Candidate, Leader, Term};
use super::orders::ORDERS_KEY;
use crate::kv::{Kv, KvError, Watched, Watcher, notify_changes};
use crate::metrics;
use crate::node::{NODES_KEY, NodeName};
use crate::planner::Rules;
use crate::pool::ListingReport;
use crate::registry::Epoch;
use crate::table::TableError;
use crate::tomb::TOMBS_KEY;

/// Commands that wait for the lead; a caller beyond that waits itself.
const COMMANDS_MAX: usize = 64;
/// How long a watch of who leads waits for a change before it asks again: a registry that hangs is noticed then.
const WATCH_WAIT: Duration = Duration::from_secs(10);
/// The pause after a call to the registry that failed.
const FAILED_PAUSE: Duration = Duration::from_secs(1);
/// The least pause before a cycle that a change brings about: changes come in crowds.
const CHANGE_PAUSE: Duration = Duration::from_millis(200);

/// What a candidate does now, for people.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LeadStatus {
    /// Who leads, as the registry says, or said last; `None` when nobody does.
    pub leader: Option<Leader>,
    /// Why the registry cannot be asked who leads now.
    pub registry_problem: Option<String>,
    /// The epoch in which this one leads; `None` when it does not.
    pub epoch: Option<Epoch>,
    /// What its newest cycle did.
    pub cycle: Option<CycleReport>,
    /// The newest listing of the deep store, which not every cycle takes.
    pub listed: Option<Listed>,
    /// How many cycles there were in this term.
    pub cycles: u64,
    /// Why the newest try to lead, or cycle, came to nothing.
    pub problem: Option<String>,
}

/// A listing of the deep store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    /// When its cycle began, milliseconds since 1970.
    pub at_ms: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// What it passed over or could not see.
    pub report: ListingReport,
}

impl LeadStatus {
    /// What ails it, with what to do; `None` when it leads, or follows one who does.
    pub fn ailment(&self) -> Option<String> {
        match (self.epoch, &self.problem, &self.registry_problem, &self.leader) {
            (Some(_), problem, _, _) => {
                problem.as_ref().map(|problem| format!("the newest cycle failed: {problem}"))
            }
            (None, _, Some(problem), _) => {
                Some(format!("it does not lead, and cannot see who does: {problem}"))
            }
            (None, Some(problem), None, None) => Some(format!("nobody leads: {problem}")),
            (None, None, None, None) => Some("nobody leads".to_owned()),
            (None, _, None, Some(_)) => None,
        }
    }
}

/// What became of a cycle that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It is done: the deep store was listed, and what there was to plan was planned.
    Done,
    /// It is not done yet, and goes on.
    UnderWay,
    /// It came to nothing; [`LeadStatus::problem`] says why.
    Failed,
    /// There is none: this candidate does not lead.
    NotLeading,
}

/// One asks to be told when a cycle that lists the deep store is done; `false` comes back when it failed.
type Command = oneshot::Sender<bool>;

/// A running candidate, for those who look at it and ask it for things.
#[derive(Debug, Clone)]
pub struct LeadHandle {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Arc<LeadStatus>>,
}

impl LeadHandle {
    /// What it does now.
    pub fn status(&self) -> Arc<LeadStatus> {
        self.status.borrow().clone()
    }

    /// What it does, as it changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<LeadStatus>> {
        self.status.clone()
    }

    /// Has it list the deep store and plan at once, and waits at most `wait` for that. `false` when it does not lead,
    /// the cycle failed, or it was not done by then.
    pub async fn cycle_now(&self, wait: Duration) -> bool {
        self.ask(wait).await == Asked::Done
    }

    /// [`Self::cycle_now`], for who must know what became of it. Without a wait it is asked for all the same.
    pub async fn ask(&self, wait: Duration) -> Asked {
        let (done, finished) = oneshot::channel();
        let cycle = async {
            match self.commands.send(done).await {
                Err(_) => Asked::NotLeading,
                Ok(()) => match finished.await {
                    Ok(true) => Asked::Done,
                    Ok(false) => Asked::Failed,
                    // nobody took it, or its term is over
                    Err(_) => Asked::NotLeading,
                },
            }
        };
        match self.status().epoch {
            Some(_) => tokio::time::timeout(wait, cycle).await.unwrap_or(Asked::UnderWay),
            None => Asked::NotLeading,
        }
    }
}

/// A candidate that is ready to run.
#[derive(Debug)]
pub struct LeadService {
    candidate: Candidate,
    outside: LeadOutside,
    settings: CycleSettings,
    rules: Arc<Rules>,
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<Arc<LeadStatus>>,
    /// Nodes that were there in the newest cycle.
    nodes: BTreeSet<NodeName>,
}

impl LeadService {
    /// A service of `candidate`, and a handle on it.
    pub fn new(
        candidate: Candidate,
        outside: LeadOutside,
        settings: CycleSettings,
        rules: Rules,
    ) -> (Self, LeadHandle) {
        let (send, commands) = mpsc::channel(COMMANDS_MAX);
        let (status, seen) = watch::channel(Arc::default());
        let rules = Arc::new(rules);
        let nodes = BTreeSet::new();
        let service = Self { candidate, outside, settings, rules, commands, status, nodes };
        (service, LeadHandle { commands: send, status: seen })
    }

    /// Runs until `shutdown`, and resigns then.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let kv = self.outside.kv.clone();
        let status = self.status.clone();
        let mut following = JoinSet::new();
        following.spawn(follow_leader(kv, status));
        while !shutdown.is_cancelled() {
            let campaign = self.candidate.campaign(&shutdown);
            match refusing(&mut self.commands, campaign).await {
                Ok(None) => break,
                Ok(Some(term)) => {
                    info!(epoch = %term.epoch(), "leading");
                    metrics::leads(true);
                    self.tell(|status| {
                        (status.epoch, status.cycles) = (Some(term.epoch()), 0);
                        status.problem = None;
                    });
                    tokio::select! {
                        () = shutdown.cancelled() => info!("stopping; another may lead"),
                        () = term.over() => warn!("the session of the lead is over; another may lead"),
                        error = self.lead(&term) => self.failed(&error, "giving up the lead"),
                    }
                    metrics::leads(false);
                    self.tell(|status| status.epoch = None);
                    term.resign().await;
                }
                Err(error) => self.failed(&error, "not leading"),
            }
            // also after a term: what ended it may end the next at once
            shutdown.run_until_cancelled(tokio::time::sleep(FAILED_PAUSE)).await;
        }
    }

    /// Leads until that is not possible any more, and says why.
    async fn lead(&mut self, term: &Term) -> CycleError {
        let (settings, rules) = (self.settings.clone(), self.rules.clone());
        let (outside, nodes) = (self.outside.clone(), self.nodes.clone());
        let mut lead = match Lead::begin(outside, settings, rules, nodes, term).await {
            Ok(lead) => lead,
            Err(error) => return error,
        };
        let changed = Arc::new(Notify::new());
        let mut watching = JoinSet::new();
        for what in watched() {
            match what {
                Ok(what) => {
                    watching.spawn(notify_changes(self.outside.kv.clone(), what, changed.clone()));
                }
                Err(error) => return error.into(),
            }
        }
        let period = Duration::from_secs(self.settings.period_s);
        let mut next_list = Instant::now();
        let mut waiting: Option<Command> = None;
        loop {
            let begun = Instant::now();
            let list = waiting.is_some() || begun >= next_list;
            if list {
                next_list = begun + period;
            }
            let result = lead.cycle(list).await;
            let is_done = result.is_ok();
            match result {
                Ok(report) => self.done(report),
                Err(error @ CycleError::Table(TableError::Fenced { .. })) => return error,
                Err(error) => self.failed(&error, "a cycle of the lead came to nothing"),
            }
            if let Some(done) = waiting.take() {
                let _ = done.send(is_done);
            }
            if !is_done {
                tokio::time::sleep(FAILED_PAUSE).await;
            }
            let rest = begun.elapsed().max(CHANGE_PAUSE);
            let due = lead.settled_at().map_or(next_list, |at| at.min(next_list));
            let asked = tokio::select! {
                // when nobody can ask any more, this waits for the others
                Some(command) = self.commands.recv() => Some(command),
                () = tokio::time::sleep_until(due) => None,
                () = async { changed.notified().await; tokio::time::sleep(rest).await } => None,
            };
            waiting = asked;
        }
    }

    fn done(&mut self, report: CycleReport) {
        let at_ms = report.begun_at_ms;
        metrics::cycled(&report);
        if report.unplanned.is_none() {
            let there = report.nodes.iter().filter(|node| node.is_registered());
            self.nodes = there.map(|node| node.name.clone()).collect();
        }
        self.tell(|status| {
            if let (Some(took_ms), Some(report)) = (report.list_ms, &report.listing) {
                let report = report.clone();
                status.listed = Some(Listed { at_ms, took_ms, report });
            }
            status.cycle = Some(report);
            status.cycles += 1;
            status.problem = None;
        });
    }

    fn failed(&self, error: &dyn std::error::Error, what: &str) {
        let reason = causes(error);
        warn!(%reason, "{what}");
        metrics::cycle_failed();
        self.tell(|status| status.problem = Some(reason));
    }

    fn tell(&self, change: impl FnOnce(&mut LeadStatus)) {
        self.status.send_modify(|status| change(Arc::make_mut(status)));
    }
}

/// An error with all that it comes from.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Waits for `campaign`; who asks for a cycle meanwhile is told that there is none.
async fn refusing<T>(
    commands: &mut mpsc::Receiver<Command>,
    campaign: impl Future<Output = T>,
) -> T {
    tokio::pin!(campaign);
    loop {
        tokio::select! {
            done = &mut campaign => return done,
            Some(command) = commands.recv() => drop(command),
        }
    }
}

/// What a change of brings a cycle about.
fn watched() -> [Result<Watched, KvError>; 3] {
    [
        crate::kv::key(NODES_KEY).map(Watched::Below),
        crate::kv::key(ORDERS_KEY).map(Watched::Key),
        crate::kv::key(TOMBS_KEY).map(Watched::Below),
    ]
}

/// Keeps the status saying who leads, for ever.
async fn follow_leader(kv: Arc<dyn Kv>, status: watch::Sender<Arc<LeadStatus>>) {
    let Ok(key) = super::election::lead_key() else { return };
    let mut watcher = Watcher::new(Watched::Key(key), WATCH_WAIT);
    loop {
        match watcher.next(&*kv).await {
            Ok(seen) => {
                let leader = seen.entries.first().and_then(Leader::read);
                status.send_modify(|status| {
                    let status = Arc::make_mut(status);
                    (status.leader, status.registry_problem) = (leader, None);
                    if status.epoch.is_none() && status.leader.is_some() {
                        // why this one does not is over
                        status.problem = None;
                    }
                });
            }
            Err(error) => {
                let problem = Some(error.to_string());
                status.send_modify(|status| Arc::make_mut(status).registry_problem = problem);
                tokio::time::sleep(FAILED_PAUSE).await;
            }
        }
    }
}
