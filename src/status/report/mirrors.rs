//! REPLACE AT THE MERGE by `sync::local::LocalStatus`, which has these fields under these names.
#![allow(missing_docs, reason = "this goes when the synchronizer's own struct is there")]

use serde::Deserialize;
use serde_json::Value;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct LocalStatus {
    pub store: StoreStatus,
    pub segments: SegmentCounts,
    pub cache: CacheStatus,
    pub mount: MountStatus,
    pub work: WorkStatus,
    pub problems: Vec<Problem>,
    pub removals_held_back: Option<HeldBack>,
    pub scrub: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct StoreStatus {
    pub address: String,
    pub reachable: Option<bool>,
    pub complete_listing_at_ms: Option<u64>,
    pub pulls_paused: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SegmentCounts {
    pub pool: u64,
    pub held: u64,
    pub pending: u64,
    pub refused: u64,
    pub no_place: u64,
    pub withdrawn: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CacheStatus {
    pub quota_bytes: u64,
    pub objects_bytes: u64,
    pub incoming_bytes: u64,
    pub quarantine_bytes: u64,
    pub quarantine_files: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MountStatus {
    pub path: String,
    pub live: bool,
    pub figures: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct WorkStatus {
    pub pulls: u64,
    pub queued: u64,
    pub published_total: u64,
    pub published_bytes_total: u64,
    pub damaged_total: u64,
}

#[derive(Debug, Deserialize)]
pub struct Problem {
    pub id: String,
    pub reason: String,
    pub served: bool,
}

#[derive(Debug, Deserialize)]
pub struct HeldBack {
    pub reason: String,
}
