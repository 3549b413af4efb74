//! A node's side of the cluster: what it is told to hold, and how it tells what it holds.
//!
//! Invariants: an absent, garbled or overtaken document changes nothing of what was told before; what may be dropped is
//! only what this process saw told to drain, in that version, before its line went away; what the lead is told is
//! always all that there is; a node that lost its session says everything again.
//!
//! Left out: doing what is told, and looking whether it is there ([`crate::local`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fsd::segment::{SegmentId, Stamp};
use tokio_util::sync::CancellationToken;

use crate::clock::SinceBoot;
use crate::cluster::{AssignRow, HoldsRow, assign_table, holds_table};
use crate::incarnation;
use crate::kv::{Kv, KvError, Watched};
use crate::node::{Node, NodeError, NodeName, Registration};
use crate::planner::CopyState;
use crate::registry::Epoch;
use crate::table::{Change, Part, TableError, TableReader, TableWriter, Written};

/// Who a node is.
#[derive(Clone)]
pub struct Identity {
    /// Its name.
    pub name: NodeName,
    /// Where its session is written, so that the next start takes its place at once.
    pub session_file: PathBuf,
    /// How long it counts as there when nobody hears of it; the registry may take twice as long.
    pub session_ttl: Duration,
    /// The clock that its session is counted on.
    pub since_boot: SinceBoot,
}

/// Why a node does not hear or is not heard.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// It could not register, or is not it any more.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The registry failed.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// A table could not be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Nobody leads yet: what would be said now would count as older than what was said before.
    #[error("tell what node {0} holds: the registry has no incarnation yet; waiting for a lead")]
    NoIncarnation(NodeName),
}

/// What is new of what a node is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// By whom: never of an epoch before one that was heard of.
    pub epoch: Option<Epoch>,
    /// Lines that are new, or say something else now.
    pub lines: Vec<AssignRow>,
    /// What may be dropped, in this version: it was told to drain, and now its line is gone.
    pub dropped: Vec<(SegmentId, Stamp)>,
    /// What is to be kept though no line speaks of it: nobody told to drain it.
    pub kept: Vec<SegmentId>,
}

/// A node among others.
pub struct Membership {
    kv: Arc<dyn Kv>,
    who: Identity,
    /// What it says of itself.
    node: Node,
    registration: Option<Registration>,
    /// Whether all that it holds was said under this registration.
    said: bool,
    told: TableReader<AssignRow>,
    lines: BTreeMap<Part, Vec<AssignRow>>,
    holds: TableWriter<HoldsRow>,
    held: BTreeMap<SegmentId, HoldsRow>,
    /// Of that, what may be dropped, until it is.
    leaving: BTreeSet<SegmentId>,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Membership").field(&self.who.name).finish()
    }
}

impl Membership {
    /// Of a node that says `node` of itself, and that is not registered before its first word.
    pub fn new(kv: Arc<dyn Kv>, who: Identity, node: Node) -> Result<Self, MembershipError> {
        Ok(Self {
            // it only looks
            told: TableReader::new(assign_table(&who.name)?, Duration::ZERO)?,
            lines: BTreeMap::new(),
            holds: TableWriter::new(holds_table(&who.name)?),
            held: BTreeMap::new(),
            leaving: BTreeSet::new(),
            registration: None,
            said: false,
            kv,
            who,
            node,
        })
    }

    /// What it says of itself.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Whether it is there for the others, by this machine's clock.
    pub fn holds(&self) -> bool {
        self.registration.as_ref().is_some_and(Registration::holds)
    }

    /// Whether it is there, and the others know all that it has to say; else say something, be it nothing new.
    pub fn is_heard(&self) -> bool {
        self.holds() && (self.said || !self.node.announced)
    }

    /// What is new since the last look; `None` when nothing is.
    pub async fn look(&mut self) -> Result<Option<Told>, MembershipError> {
        let change = self.told.look(&*self.kv).await?;
        Ok(change.map(|change| self.take(change)))
    }

    fn take(&mut self, change: Change<Vec<AssignRow>>) -> Told {
        let before: Vec<AssignRow> = match change.whole {
            true => std::mem::take(&mut self.lines).into_values().flatten().collect(),
            false => {
                let parts = change.parts.iter();
                parts.filter_map(|(part, _)| self.lines.remove(part)).flatten().collect()
            }
        };
        let mut before: HashMap<SegmentId, AssignRow> =
            before.into_iter().map(|row| (row.id.clone(), row)).collect();
        let mut told = Told { epoch: Some(change.epoch), ..Told::default() };
        for (part, rows) in change.parts {
            for row in &rows {
                if before.remove(&row.id).as_ref() != Some(row) {
                    self.leaving.remove(&row.id);
                    told.lines.push(row.clone());
                }
            }
            if !rows.is_empty() {
                self.lines.insert(part, rows);
            }
        }
        for (id, row) in before {
            match row.state {
                CopyState::Drain { .. } => {
                    if self.held.get(&id).is_some_and(|held| held.version == row.version) {
                        self.leaving.insert(id.clone());
                    }
                    told.dropped.push((id, row.version));
                }
                CopyState::Hold | CopyState::Leave => told.kept.push(id),
            }
        }
        told
    }

    /// What to watch for something new to look at, and for a lead to tell something.
    pub fn watched(&self) -> Result<[Watched; 2], MembershipError> {
        Ok([self.told.watched(), Watched::Key(incarnation::key()?)])
    }

    /// Says what it holds: each segment of `changes` as it is now, or not at all any more. `all` says that with this
    /// everything was said that there is; before that nothing is said but that this node is there, and what it said in
    /// an earlier life goes on counting. After an error the next call says it, too.
    pub async fn tell(
        &mut self,
        changes: impl IntoIterator<Item = (SegmentId, Option<HoldsRow>)>,
        all: bool,
    ) -> Result<(), MembershipError> {
        for (id, row) in changes {
            match row {
                Some(row) => drop(self.held.insert(id, row)),
                None => {
                    self.held.remove(&id);
                    self.leaving.remove(&id);
                }
            }
        }
        self.node.announced |= all;
        self.say().await
    }

    /// What others may be sent here for: all that it holds, but for what it was told to drain, which the lead names nobody
    /// for any more. `None` unless it has said all that it holds, and was heard.
    pub fn serves(&self) -> Option<BTreeSet<SegmentId>> {
        let drains = |row: &&AssignRow| matches!(row.state, CopyState::Drain { .. });
        let draining: HashSet<&SegmentId> =
            self.lines.values().flatten().filter(drains).map(|row| &row.id).collect();
        let stays = |id: &&SegmentId| !draining.contains(id) && !self.leaving.contains(*id);
        self.said.then(|| self.held.keys().filter(stays).cloned().collect())
    }

    /// Says whether a person took this node out. After an error say it again.
    pub async fn maintain(&mut self, on: bool) -> Result<(), MembershipError> {
        self.change(|node| node.maintenance = on).await
    }

    /// Says what its cache may take, in bytes. After an error say it again.
    pub async fn room(&mut self, quota_bytes: u64) -> Result<(), MembershipError> {
        self.change(|node| node.quota_bytes = quota_bytes).await
    }

    async fn change(&mut self, change: impl FnOnce(&mut Node)) -> Result<(), MembershipError> {
        change(&mut self.node);
        self.said = false;
        match &self.registration {
            // it says so when it registers
            None => Ok(()),
            Some(registration) if !self.node.announced => {
                Ok(registration.update(&self.node).await?)
            }
            Some(_) => self.say().await,
        }
    }

    /// Says everything again if the registry says something else, whoever changed it.
    pub async fn mend(&mut self) -> Result<(), MembershipError> {
        self.holds.doubt();
        self.say().await
    }

    async fn say(&mut self) -> Result<(), MembershipError> {
        if !self.holds() {
            self.register().await?;
        }
        let Some(registration) = &self.registration else { return Ok(()) };
        if !self.node.announced {
            return Ok(());
        }
        let said = std::mem::take(&mut self.said);
        let incarnation = incarnation::read(&*self.kv).await?;
        let incarnation =
            incarnation.ok_or_else(|| MembershipError::NoIncarnation(self.who.name.clone()))?;
        let epoch = Epoch { incarnation, index: registration.since().0 };
        let fence = registration.fence()?;
        let rows: Vec<HoldsRow> = self.held.values().cloned().collect();
        self.node.stored_bytes = rows.iter().map(|row| row.version.length).sum();
        let written = self.holds.write(&*self.kv, &fence, epoch, rows).await;
        let told = match written {
            // every change of the node's own document brings a cycle of the lead about
            Ok(written) if said && written == Written::default() => {
                registration.confirm().await.map_err(MembershipError::from)
            }
            Ok(_) => {
                self.node.revision += 1;
                registration.update(&self.node).await.map_err(MembershipError::from)
            }
            Err(error) => Err(error.into()),
        };
        if let Err(
            MembershipError::Node(NodeError::Over(_))
            | MembershipError::Table(TableError::Fenced { .. }),
        ) = &told
        {
            self.registration = None;
        }
        self.said = told.is_ok();
        told
    }

    async fn register(&mut self) -> Result<(), MembershipError> {
        // what it holds is not said yet, so nobody is to count on it
        let mut node = self.node.clone();
        node.announced = false;
        let Identity { name, session_file, session_ttl, since_boot } = &self.who;
        let (kv, clock) = (self.kv.clone(), since_boot.clone());
        let registered =
            Registration::register(kv, name.clone(), &node, *session_ttl, session_file, clock);
        self.registration = Some(registered.await?);
        self.holds.doubt();
        Ok(())
    }

    /// Is cancelled when it is not there any more: then say something, so that it is again. `None` when it is not now.
    pub fn ending(&self) -> Option<CancellationToken> {
        self.registration.as_ref().filter(|one| one.holds()).map(Registration::ending)
    }

    /// Leaves: who looks sees at once that it is not there any more.
    pub async fn leave(self) {
        if let Some(registration) = self.registration {
            registration.leave().await;
        }
    }
}
