//! Where the faults happen: nodes `a`, `b`, `c` and maybe more, candidates on `a` and `b`, and a host for each server.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fsd::segment::SegmentId;
use futures::{StreamExt, TryStreamExt, stream};
use rig::consul;
use rig::hdfs::Hdfs;
use rig::net::{Host, Net};
use sync::lead::Forecast;
use sync::store::{Store, StoreError, StorePath, StoreTimeouts};

use crate::clients::{Clients, id};
use crate::machines::{CONSUL_AWAY, COPIES, Machines, Place, Role};
use crate::segment;
use crate::written::{self, Written};

/// Three nodes: the fewest that leave a choice where the second copy goes.
pub const NODES: [&str; 3] = ["a", "b", "c"];
/// Five: some hold neither copy of a segment and know only from others who does.
pub const FIVE_NODES: [&str; 5] = ["a", "b", "c", "d", "e"];
pub const SERVERS: [&str; 3] = ["s1", "s2", "s3"];

/// Segments that stay as they are.
const LASTING: i64 = 20;
/// With each fault so many are added, changed and deleted: a hundred.
const ADDED: usize = 34;
const CHANGED: usize = 33;
const DELETED: usize = 33;
/// What is written to the deep store at the same time.
const WRITES: usize = 64;

/// What the logs may say when HDFS is away for somebody.
const HDFS_AWAY: [&str; 2] = ["the listing of the deep store is incomplete", "hdfs://"];
/// What they may say when a writer was away.
const WRITER_AWAY: [&str; 3] = [
    "its write lock was lost",
    "is not open yet; it is tried again",
    "not published; it is tried again",
];

/// All of it, in the order in which it goes.
pub struct Stage {
    pub clients: Clients,
    pub machines: Machines,
    pub consul: consul::Cluster,
    pub hdfs: Hdfs,
    pub store: Arc<dyn Store>,
    written: Written,
    nodes: &'static [&'static str],
    net: Net,
    hosts: Vec<Host>,
    runtime: tokio::runtime::Runtime,
    /// Those that come and go, in order of age.
    passing: VecDeque<i64>,
    next: i64,
}

fn write_all(files: Vec<(String, Vec<u8>)>, store: &dyn Store) -> impl Future<Output = ()> {
    let write = async |id: String, bytes: Vec<u8>| -> Result<(), StoreError> {
        let to = StorePath::published(&SegmentId::new(&id).unwrap());
        let aside = to.parent().join(&format!(".{id}.new")).unwrap();
        store.mkdir(&to.parent()).await?;
        let mut writer = store.create(&aside).await?;
        writer.write(Bytes::from(bytes)).await?;
        writer.close().await?;
        store.rename(&aside, &to).await
    };
    async move {
        let all = stream::iter(files).map(async |(id, bytes)| write(id, bytes).await);
        all.buffer_unordered(WRITES).try_collect::<()>().await.unwrap();
    }
}

impl Stage {
    /// Three nodes that are well, and everything has its copies.
    pub fn set() -> Self {
        Self::set_with(&NODES, None)
    }

    /// The same with five.
    pub fn set_of_five() -> Self {
        Self::set_with(&FIVE_NODES, None)
    }

    /// Three with `cache` as the cache of node `c`, where `trough up` starts again what ends by itself.
    pub fn set_on(cache: &Path) -> Self {
        Self::set_with(&NODES, Some(cache))
    }

    fn set_with(names: &'static [&'static str], cache: Option<&Path>) -> Self {
        let net = Net::start();
        let servers = net.hosts(SERVERS);
        let nodes: Vec<Host> = names.iter().map(|name| net.host(name)).collect();
        let name_node = net.host("hdfs");
        let agents: Vec<&Host> = nodes.iter().collect();
        let (consul, hdfs) = std::thread::scope(|scope| {
            let start = || consul::Cluster::start(&net, &servers.each_ref(), &agents);
            let consul = scope.spawn(start);
            let hdfs = Hdfs::start_on(&net, &name_node);
            (consul.join().unwrap(), hdfs)
        });
        let store = sync::store::open(&hdfs.url("/trough"), StoreTimeouts::default()).unwrap();
        let consul_address = format!("http://127.0.0.1:{}", consul::HTTP_PORT);
        let mut machines = Machines::new(hdfs.url("/trough"), consul_address);
        let allowed = CONSUL_AWAY.into_iter().chain(HDFS_AWAY).chain(WRITER_AWAY);
        allowed.for_each(|part| machines.allow(part));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(store.mkdir(&StorePath::root())).unwrap();
        for (&name, host) in names.iter().zip(&nodes) {
            machines.add(name, host.dir(), Place::On(host.clone()));
            machines.set(name, "lead.cycle.max_removed_ratio", "0.6");
            machines.set(name, "write.takeover_dirty_after_s", "\"never\"");
            machines.set_more(name, "[publish]\nlock_ttl_s = 10\n");
            if let Some(cache) = cache.filter(|_| name == "c") {
                machines.set(name, "cache.dir", &format!("{cache:?}"));
                machines.start(name, Role::Up);
                continue;
            }
            machines.start_node(name);
            machines.start(name, Role::Read);
            machines.start(name, Role::Write);
        }
        for name in ["a", "b"] {
            machines.start(name, Role::Lead);
        }
        let first = (written::ID.to_owned(), segment::sound(written::FIRST, 0));
        runtime.block_on(write_all(vec![first], &*store));
        let written = Written::open(&machines);
        let clients = Clients::start();
        clients.also(written.asked());
        let passing = VecDeque::new();
        let next = LASTING;
        let hosts = servers.into_iter().chain(nodes).chain([name_node]).collect();
        let mut stage = Self {
            clients,
            machines,
            consul,
            hdfs,
            store,
            written,
            nodes: names,
            net,
            hosts,
            runtime,
            passing,
            next,
        };
        stage.add(0..LASTING);
        stage.add_passing(CHANGED + DELETED);
        stage.converged("at first");
        stage
    }

    fn add(&self, numbers: Range<i64>) {
        let all = numbers.map(|n| (id(n), segment::sound(self.clients.adds(n), 0))).collect();
        self.runtime.block_on(write_all(all, &*self.store));
    }

    fn add_passing(&mut self, count: usize) {
        let numbers = self.next..self.next + i64::try_from(count).unwrap();
        self.next = numbers.end;
        self.passing.extend(numbers.clone());
        self.add(numbers);
    }

    /// Adds, changes and deletes a hundred segments.
    pub fn change_a_hundred(&mut self) {
        let deleted: Vec<i64> = self.passing.drain(..DELETED).collect();
        deleted.iter().for_each(|n| self.clients.removes(*n));
        let changed: Vec<i64> = self.passing.iter().take(CHANGED).copied().collect();
        self.runtime.block_on(async {
            for n in deleted {
                let path = StorePath::published(&SegmentId::new(&id(n)).unwrap());
                assert!(self.store.delete(&path).await.unwrap(), "{} was not there", id(n));
            }
            let bytes = |n| segment::sound(self.clients.changes(n), 0);
            let changed = changed.into_iter().map(|n| (id(n), bytes(n))).collect();
            write_all(changed, &*self.store).await;
        });
        self.add_passing(ADDED);
    }

    /// One fault: everything is answered by `alive` while it lasts, and a hundred segments change; `heal` ends it, and
    /// the cluster comes to rest as if it had not been.
    pub fn through(
        &mut self,
        case: &str,
        alive: &[&'static str],
        strike: impl FnOnce(&mut Self),
        heal: impl FnOnce(&mut Self),
    ) {
        let change = |stage: &mut Self| {
            stage.change_a_hundred();
            let case = format!("{case}, and a hundred segments change");
            stage.clients.all_right(&case, &stage.machines);
        };
        self.befall(case, alive, strike, change, heal);
    }

    /// The same where nothing can be changed while it lasts; then a hundred segments change right before and after.
    pub fn while_changeless(
        &mut self,
        case: &str,
        strike: impl FnOnce(&mut Self),
        heal: impl FnOnce(&mut Self),
    ) {
        self.change_a_hundred();
        let heal = |stage: &mut Self| {
            heal(stage);
            stage.change_a_hundred();
        };
        self.befall(case, self.nodes, strike, |_| (), heal);
    }

    fn befall(
        &mut self,
        case: &str,
        alive: &[&'static str],
        strike: impl FnOnce(&mut Self),
        change: impl FnOnce(&mut Self),
        heal: impl FnOnce(&mut Self),
    ) {
        let begun = Instant::now();
        let s = || begun.elapsed().as_secs_f64();
        self.written.write(&self.machines);
        self.clients.ask(&self.machines, alive);
        strike(self);
        let struck = s();
        self.clients.all_right(case, &self.machines);
        let right = s();
        change(self);
        let changed = s();
        heal(self);
        let healed = s();
        self.clients.until_settled(case, &self.machines, self.nodes);
        let written = self.written.settle(case, &self.machines, self.nodes);
        let settled = s();
        self.converged(case);
        println!(
            "{:4.0} s  {case} (struck {struck:.1}, right {right:.1}, changed {changed:.1}, healed {healed:.1}, \
             settled {settled:.1}; slowest answer {}; {written})",
            s(),
            self.clients.take_slowest(),
        );
    }

    /// Waits until the cluster is what it is to be: each reader answers with what is there, everything has its copies,
    /// and there is nothing to be planned.
    pub fn converged(&self, case: &str) {
        self.clients.until_settled(case, &self.machines, self.nodes);
        self.machines.until_held(self.segments());
        self.clients.all_right(&format!("{case}, and all is over"), &self.machines);
        let said = self.machines.say_in_the_end("c", &["sync", "plan", "--json"]);
        let forecast: Forecast = serde_json::from_str(&said).unwrap();
        let rest = (forecast.refused, forecast.pulls.segments, forecast.unplaced_segments);
        assert_eq!(rest, (None, 0, 0), "{case}: a second plan has something to do: {said}");
        assert_eq!(forecast.figures.segments, self.segments(), "{case}: {said}");
    }

    /// How many segments there are, with the one that is written.
    fn segments(&self) -> u64 {
        self.clients.segments() + 1
    }

    /// A host of the net.
    pub fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name() == name).unwrap()
    }

    /// Cuts a host from others.
    pub fn cut(&self, name: &str, from: &[&str]) {
        self.net.cut(self.host(name), &self.hosts(from));
    }

    /// Heals what was cut.
    pub fn mend(&self, name: &str, from: &[&str]) {
        self.net.heal(self.host(name), &self.hosts(from));
    }

    fn hosts(&self, names: &[&str]) -> Vec<&Host> {
        names.iter().map(|name| self.host(name)).collect()
    }

    /// Who leads, and the others of the nodes.
    pub fn lead_and_others(&self) -> (&'static str, [&'static str; 2]) {
        let (lead, _) = self.machines.leading().unwrap();
        let others: Vec<_> = NODES.into_iter().filter(|name| *name != lead).collect();
        (lead, others.try_into().unwrap())
    }

    /// Does `strike`, and waits until a candidate leads that did not before.
    pub fn until_another_leads(&mut self, strike: impl FnOnce(&mut Self)) {
        let (_, before) = self.machines.leading().unwrap();
        strike(self);
        self.machines.until_the_lead("another to lead", |status| status.epoch > before.epoch);
    }

    /// Waits until the lead misses a node, and others hold what was there.
    pub fn until_made_good(&self, gone: &str) {
        let segments = self.segments();
        self.machines.until_the_lead(&format!("{gone} to be made good"), |status| {
            let nodes = &status.cycle.as_ref().unwrap().nodes;
            let (there, away): (Vec<_>, Vec<_>) =
                nodes.iter().partition(|node| node.is_registered());
            away.iter().any(|node| node.name.as_str() == gone)
                && there.iter().filter_map(|node| node.holds).sum::<u64>() == segments * COPIES
        });
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        println!("{} answers", self.clients.answers());
    }
}
