//! What the local synchronizer says of itself: `/status`, `trough status` and health stand on it.

use serde::{Deserialize, Serialize};

use crate::pool::ListingReport;
use crate::pool::guard::HeldBack;
use crate::registry::{Epoch, SegmentState};
use fsd::segment::SegmentId;
use fsd::status::FsStatus;

/// How many segments with a problem are named; all are counted.
pub const PROBLEMS_MAX: usize = 100;

/// The local synchronizer at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LocalStatus {
    /// This node's name.
    pub node: String,
    /// The deep store.
    pub store: StoreStatus,
    /// When the synchronizer began, milliseconds since 1970.
    #[serde(default)]
    pub begun_at_ms: u64,
    /// The lead, on a node of a cluster.
    #[serde(default)]
    pub lead: Option<LeadView>,
    /// Segments by state.
    pub segments: SegmentCounts,
    /// Since when there has been something to pull all the time, milliseconds since 1970.
    #[serde(default)]
    pub behind_since_ms: Option<u64>,
    /// Bytes in the cache.
    pub cache: CacheStatus,
    /// The volume of the cache.
    #[serde(default)]
    pub disk: DiskStatus,
    /// The mount: whether what is published can be seen.
    pub mount: MountStatus,
    /// Work under way.
    pub work: WorkStatus,
    /// Segments of the pool that are not held at their newest version, with the reason.
    pub problems: Vec<Problem>,
    /// Removals that wait for a person.
    pub removals_held_back: Option<HeldBack>,
    /// The scrub, as its worker tells it.
    pub scrub: Option<serde_json::Value>,
}

/// What is known of the deep store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Its address.
    pub address: String,
    /// Whether the last listing saw everything. `None` before the first one ended.
    pub reachable: Option<bool>,
    /// When the newest complete listing ended, milliseconds since 1970: the age of this node's view.
    pub complete_listing_at_ms: Option<u64>,
    /// How long the newest listing took.
    pub listing_ms: Option<u64>,
    /// What that listing passed over, found twice or could not see.
    pub listing: ListingReport,
    /// Why pulls pause, when they do.
    pub pulls_paused: Option<String>,
}

/// What is known of the lead of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LeadView {
    /// In which epoch it said what this node goes by.
    pub epoch: Option<Epoch>,
    /// When the registry was last seen to say nothing newer, milliseconds since 1970: the age of this node's view.
    pub heard_at_ms: Option<u64>,
    /// Whether the others count on this node.
    pub registered: bool,
    /// Why it cannot be heard now.
    pub problem: Option<String>,
}

/// Segments of the pool by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentCounts {
    /// All of the pool.
    pub pool: u64,
    /// Verified, published and seen through the mount.
    pub held: u64,
    /// Wanted, not here yet at the newest version.
    pub pending: u64,
    /// Whose newest version was refused.
    pub refused: u64,
    /// Without a place within the quota.
    pub no_place: u64,
    /// In the cache, but no longer in the pool; they go after `withdraw_grace_s`.
    pub withdrawn: u64,
}

impl SegmentCounts {
    /// The count of `state`.
    pub fn of(&mut self, state: SegmentState) -> &mut u64 {
        match state {
            SegmentState::Pending => &mut self.pending,
            SegmentState::Held => &mut self.held,
            SegmentState::NoPlace => &mut self.no_place,
            SegmentState::Refused => &mut self.refused,
        }
    }
}

/// Bytes in the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheStatus {
    /// What it may take: its quota without [`Self::writable_bytes`].
    pub quota_bytes: u64,
    /// Objects.
    pub objects_bytes: u64,
    /// Files being staged.
    pub incoming_bytes: u64,
    /// What failed verification and is kept.
    pub quarantine_bytes: u64,
    /// What of the quota is taken by segments that are written here.
    #[serde(default)]
    pub writable_bytes: u64,
}

/// The volume of the cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// What it has free for trough.
    pub free_bytes: Option<u64>,
    /// Why it did not take what was written last.
    pub problem: Option<String>,
    /// Why the ledger did not.
    pub ledger_problem: Option<String>,
}

/// What stands at the mount point.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MountStatus {
    /// Where.
    pub path: String,
    /// Whether a live mount answers there.
    pub live: bool,
    /// The figures of fsd's `.trough/status.json`.
    pub figures: Option<FsStatus>,
}

/// Work under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkStatus {
    /// A listing runs.
    pub listing: bool,
    /// Pulls that run.
    pub pulls: u64,
    /// Pulls that wait for a place.
    pub queued: u64,
    /// Published, but not yet seen through the mount.
    pub unseen: u64,
    /// Withdrawn from readers, soon to leave the cache.
    pub draining: u64,
    /// Segments published since the start.
    pub published_total: u64,
    /// Bytes of them.
    pub published_bytes_total: u64,
    /// Versions refused since the start.
    pub refused_total: u64,
    /// Damaged objects found since the start.
    pub damaged_total: u64,
}

/// A segment of the pool that is not held at its newest version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Which.
    pub id: SegmentId,
    /// How far it is.
    pub state: SegmentState,
    /// Why, and what to do.
    pub reason: String,
    /// Whether an older version is served meanwhile.
    pub served: bool,
}
