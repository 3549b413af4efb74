//! Row 10: cycles of a real `sync lead` over a large pool, as whoever orders one sees them: from `POST /sync?wait=1` to
//! its answer. In between lie the listing of HDFS, the plan, and what is written to Consul.
//!
//! The nodes are registered, hear what they are told and say that they hold it, as any node does, but they pull nothing:
//! a lead sees no difference. Beside each segment lies a seal, as `trough put` leaves one, so the listing has twice as
//! many files; no lead reads them, and they are empty. Each block is on one DataNode, so that they are made sooner.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use fsd::segment::SegmentId;
use futures::{StreamExt, TryStreamExt};
use hdfs_native::WriteOptions;
use sync::clock::since_boot;
use sync::cluster::HoldsRow;
use sync::kv::consul::{ConsulKv, ConsulSettings};
use sync::lead::{CycleReport, LeadStatus};
use sync::membership::{Identity, Membership, MembershipError, Told};
use sync::node::{Node, NodeName};
use sync::planner::CopyState;
use sync::seal;
use sync::store::StorePath;
use sync::table::Written;
use sync::tag::Tag;

use super::cluster::{COPIES, Cluster, MACHINES, Machine, POOL};
use crate::data::{Place, Small};
use crate::harness::{Spread, check_stopped};
use crate::report::{Limit, Outcome};
use crate::service::Service;

/// Files that are written at the same time: the close of each waits half a second.
const FILES_AT_ONCE: usize = 400;
/// Questions to the NameNode at the same time.
const CALLS_AT_ONCE: usize = 32;
/// What each node offers: more than all of it takes.
const QUOTA_BYTES: u64 = 100 << 30;
/// No listing but those that are ordered; a lead that has just found Consul empty waits for the nodes as long as it
/// must, and one follows the other at once.
const SETTINGS: [&str; 3] =
    ["lead.cycle.period_s=86400", "lead.cycle.settle_s=2", "lead.lock_delay_s=1"];
/// So long a node's session goes on, which is the default.
const SESSION_TTL: Duration = Duration::from_secs(10);
/// Between two tries to say something before there is a lead.
const PERIOD: Duration = Duration::from_millis(20);

/// Row 10.
pub fn cycles(place: &Place) -> anyhow::Result<Vec<Outcome>> {
    let small = place.small(place.size(100_000, 1_000))?;
    let cluster = Cluster::start(&SETTINGS)?;
    let begun = Instant::now();
    lay(&cluster, &small)?;
    eprintln!("  {} files in HDFS after {:.0} s", 2 * small.count, begun.elapsed().as_secs_f64());

    let (mut first, mut unchanged, mut changed) = <(Cycles, Cycles, Cycles)>::default();
    for _ in 1..place.size(5, 2) {
        let lead = Leading::begin(&cluster, small.count)?;
        first.add(lead.first()?);
        lead.end();
    }
    let mut lead = Leading::begin(&cluster, small.count)?;
    first.add(lead.first()?);
    lead.settle()?;
    for _ in 0..place.size(9, 3) {
        unchanged.add(lead.unchanged()?);
    }
    let some = small.count / 100;
    for round in 0..place.size(5, 2) {
        changed.add(lead.changed(some, round)?);
        lead.settle()?;
    }
    let cycle = format!("one lead cycle over {} segments in the rig, ", small.count);
    Ok(vec![
        first.outcome(cycle.clone() + "the first on an empty Consul"),
        unchanged.outcome(cycle.clone() + "nothing changed"),
        changed.outcome(cycle + &format!("{some} changed")),
    ])
}

/// Writes every segment and its seal.
fn lay(cluster: &Cluster, small: &Small) -> anyhow::Result<()> {
    let options = WriteOptions { replication: Some(1), ..WriteOptions::default() };
    let one = |number: usize| {
        let (client, options) = (cluster.deep.client.clone(), options.clone());
        let file = small.dir.join("store").join(format!("{}.sqlite", Small::id(number)));
        async move {
            check_stopped()?;
            let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
            let path = lies_at(number)?;
            let mut writer = client.create(&path, &options).await?;
            writer.write_bytes(bytes.into()).await?;
            writer.close().await?;
            client.create(&format!("{path}{}", seal::SUFFIX), &options).await?.close().await?;
            anyhow::Ok(())
        }
    };
    let all = futures::stream::iter((0..small.count).map(one));
    cluster.deep.runtime.block_on(all.buffer_unordered(FILES_AT_ONCE).try_collect())
}

fn lies_at(number: usize) -> anyhow::Result<String> {
    Ok(format!("{POOL}/{}", StorePath::published(&SegmentId::new(&Small::id(number))?)))
}

/// What several cycles of one kind took.
#[derive(Default)]
struct Cycles {
    walls: Vec<Duration>,
    reports: Vec<CycleReport>,
}

impl Cycles {
    fn add(&mut self, (wall, report): (Duration, CycleReport)) {
        self.walls.push(wall);
        self.reports.push(report);
    }

    fn outcome(self, what: String) -> Outcome {
        let median = |figure: fn(&CycleReport) -> u64| {
            Spread::of(self.reports.iter().map(|report| figure(report) as f64)).median
        };
        Outcome {
            what,
            limit: Limit::SecondsAtMost(5.0),
            measured: Spread::of_times(&self.walls),
            runs: self.walls.len(),
            note: format!(
                "look {:.0} ms, list {:.0} ms, plan {:.0} ms, write {:.0} ms ({:.0} KiB in {:.0} documents); {MACHINES} \
                 registered nodes that pull nothing, three servers of Consul",
                median(|report| report.look_ms),
                median(|report| report.list_ms.unwrap_or_default()),
                median(|report| report.plan_ms),
                median(|report| report.write_ms),
                median(|report| report.written.bytes as u64 >> 10),
                median(|report| report.written.documents as u64),
            ),
        }
    }
}

/// A lead in its term, and the nodes.
struct Leading<'a> {
    cluster: &'a Cluster,
    segments: usize,
    service: Service,
    nodes: Vec<Membership>,
}

impl<'a> Leading<'a> {
    /// Empties the registry, registers the nodes, and starts a lead that waits until it is told to list.
    fn begin(cluster: &'a Cluster, segments: usize) -> anyhow::Result<Self> {
        let machine = &cluster.machines[0];
        cluster.deep.runtime.block_on(async {
            let all = format!("{}/v1/kv/trough/?recurse=true", machine.consul_url());
            cluster.http.delete(all).send().await?.error_for_status()?;
            anyhow::Ok(())
        })?;
        let nodes = cluster.machines.iter().map(node).collect::<anyhow::Result<Vec<_>>>()?;
        let service = Service::start_on(&machine.host, &machine.dir, &["sync", "lead"])?;
        let mut leading = Self { cluster, segments, service, nodes };
        leading.join()?;
        leading.service.until("the lead has settled", || {
            let cycle = cluster.leading().and_then(|status: LeadStatus| status.cycle);
            let ready = |cycle: &CycleReport| {
                let said = cycle.nodes.iter().filter(|node| node.holds == Some(0)).count();
                cycle.unplanned.is_none() && said == MACHINES
            };
            Ok(cycle.is_some_and(|cycle| ready(&cycle)))
        })?;
        Ok(leading)
    }

    /// Registers the nodes, and has them say that they hold nothing; that they can once there is a lead.
    fn join(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        for node in &mut self.nodes {
            while let Err(error) = self.cluster.deep.runtime.block_on(node.tell([], true)) {
                let waits = matches!(error, MembershipError::NoIncarnation(_));
                if !waits || begun.elapsed() > super::cluster::PATIENCE {
                    return Err(error).context(self.service.log());
                }
                check_stopped()?;
                std::thread::sleep(PERIOD);
            }
        }
        Ok(())
    }

    /// Has the lead resign, and the nodes leave.
    fn end(self) {
        let Self { cluster, service, nodes, .. } = self;
        drop(service);
        let leaving = futures::future::join_all(nodes.into_iter().map(Membership::leave));
        cluster.deep.runtime.block_on(leaving);
    }

    /// One cycle that lists the deep store: what it took, and what it says of itself.
    fn cycle(&self) -> anyhow::Result<(Duration, CycleReport)> {
        let url = format!("{}/sync?wait=1", self.cluster.machines[0].lead_url());
        let order = async {
            let answer = self.cluster.http.post(url).send().await?;
            anyhow::Ok((answer.status(), answer.text().await?))
        };
        let begun = Instant::now();
        let (status, said) = self.cluster.deep.runtime.block_on(order)?;
        let took = begun.elapsed();
        ensure!(
            status == 200,
            "the cycle: {status}, {said}; the lead said:\n{}",
            self.service.log()
        );
        let cycle = self.cluster.leading().and_then(|status| status.cycle);
        let report = cycle.context("the report of the cycle")?;
        let list_ms = report.list_ms.context("the cycle listed nothing")?;
        let parts_ms = report.look_ms + list_ms + report.plan_ms + report.write_ms;
        ensure!(u128::from(parts_ms) <= took.as_millis() + 1, "{parts_ms} ms in {took:?}");
        if let Some(why) = &report.unplanned {
            bail!("nothing was planned: {why}");
        }
        let figures = report.figures.unwrap_or_default();
        ensure!(figures.segments == self.segments as u64, "it found {} segments", figures.segments);
        ensure!(figures.copies_unplaced == 0, "{} copies have no place", figures.copies_unplaced);
        Ok((took, report))
    }

    /// Finds everything, places all copies, and tells everybody.
    fn first(&self) -> anyhow::Result<(Duration, CycleReport)> {
        let (took, report) = self.cycle()?;
        let told: u64 = report.nodes.iter().map(|node| node.told).sum();
        ensure!(told == (self.segments * COPIES) as u64, "the nodes were told to hold {told}");
        Ok((took, report))
    }

    fn unchanged(&self) -> anyhow::Result<(Duration, CycleReport)> {
        let (took, report) = self.cycle()?;
        ensure!(report.written == Written::default(), "something changed: {:?}", report.written);
        Ok((took, report))
    }

    /// `some` segments get a new version, all over the pool.
    fn changed(&self, some: usize, round: usize) -> anyhow::Result<(Duration, CycleReport)> {
        let now_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        let step = self.segments / some;
        let touch = |number: usize| {
            let client = self.cluster.deep.client.clone();
            async move { anyhow::Ok(client.set_times(&lies_at(number)?, now_ms, now_ms).await?) }
        };
        let all = futures::stream::iter((0..some).map(|n| touch(n * step + round % step)));
        let all = all.buffer_unordered(CALLS_AT_ONCE).try_collect::<Vec<_>>();
        self.cluster.deep.runtime.block_on(all)?;
        let (took, report) = self.cycle()?;
        let begun = report.moves;
        ensure!(begun == (some * COPIES) as u64, "{begun} pulls for {some} changed segments");
        Ok((took, report))
    }

    /// The nodes say that they hold what they were told, and the lead takes note until there is nothing left to do.
    fn settle(&mut self) -> anyhow::Result<()> {
        loop {
            check_stopped()?;
            self.cluster.deep.runtime.block_on(async {
                for node in &mut self.nodes {
                    if let Some(told) = node.look().await? {
                        node.tell(held(told), true).await?;
                    }
                }
                anyhow::Ok(())
            })?;
            let (_, report) = self.cycle()?;
            let missing = report.figures.unwrap_or_default().copies_missing;
            if (report.written, report.moves, missing) == (Written::default(), 0, 0) {
                return Ok(());
            }
        }
    }
}

/// A node of the cluster that is registered by its first word.
fn node(machine: &Machine) -> anyhow::Result<Membership> {
    let settings = ConsulSettings { address: machine.consul_url(), ..ConsulSettings::default() };
    let who = Identity {
        name: NodeName::new(machine.host.name())?,
        session_file: machine.host.dir().join("session"),
        session_ttl: SESSION_TTL,
        since_boot: Arc::new(since_boot),
    };
    let node = Node::new(QUOTA_BYTES, &machine.read_address(), &machine.manager_address());
    Ok(Membership::new(Arc::new(ConsulKv::new(&settings)?), who, node)?)
}

/// What a node that was told so says to hold, once it has pulled it.
fn held(told: Told) -> impl Iterator<Item = (SegmentId, Option<HoldsRow>)> {
    told.lines.into_iter().map(|line| {
        let tag = Tag::of(&line.version.mtime_ms.to_le_bytes());
        let holds = !matches!(line.state, CopyState::Drain { .. });
        let row = HoldsRow { id: line.id.clone(), version: line.version, tag };
        (line.id, holds.then_some(row))
    })
}
