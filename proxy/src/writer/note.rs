//! What a node writes down of a segment that it writes, beside the segment's file.
//!
//! Invariant: the note says that there is something unpublished before anything is acknowledged, and which bytes are on
//! their way to the deep store before they show there. So whoever finds file and note after a crash knows whether the
//! file may go on, and whether anything of it would be lost.

use fsd::segment::{Digest, SegmentId, Stamp};
use serde::{Deserialize, Serialize};
use sync::publish::Published;
use sync::registry::Epoch;

/// The format of [`Note`].
pub const FORMAT: u32 = 1;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// [`FORMAT`].
    pub format: u32,
    /// Which.
    pub segment: SegmentId,
    /// Of the lock under which it was opened last.
    pub epoch: Epoch,
    /// Under which schema it was made.
    pub schema: Option<SegmentId>,
    /// What was published when it was fetched, or published from it last; `None`: nothing.
    pub from: Option<Stamp>,
    /// What is being published.
    pub publishing: Option<Digest>,
    /// Since when it has something unpublished; Unix time in milliseconds.
    pub unpublished_since_ms: Option<u64>,
}

impl Note {
    /// What its segment is called as an orphan.
    pub fn orphan_name(&self) -> String {
        format!("{}@{}", self.segment, self.epoch)
    }

    /// Whether what is published now, if anything, is what the file goes on from.
    pub fn goes_on_from(&self, published: Option<&Published>) -> bool {
        let Some(published) = published else { return self.from.is_none() };
        let sealed = published.seal.as_ref().map(|seal| seal.blake3);
        // a crash between the rename and the next note
        self.from == Some(published.stamp) || (sealed.is_some() && sealed == self.publishing)
    }
}
