//! Who asks for a lock, and whether it may have one that nobody holds.
//!
//! Invariant: a lock under which rows were acknowledged that are not published goes at once to the node that has those
//! rows, to another's writer only after the time that a person set, and to `put` never.
//!
//! Left out: what becomes of the rows. The node that has them keeps them, and never publishes them once another had
//! the lock.

use std::time::Duration;

use fsd::segment::SegmentId;

use super::Ownership;
use crate::node::NodeName;
use crate::registry::Epoch;

/// A writer that wants to own a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimant {
    /// Its node.
    pub node: NodeName,
    /// Where that node's writer answers, as `host:port`.
    pub write_address: String,
    /// The schema that the segment was provisioned by.
    pub schema: Option<SegmentId>,
    /// Whether it takes what another node left with rows that are not published.
    pub takeover: Takeover,
    /// Since when its node has rows of it that are not published (milliseconds since 1970), by what it wrote down itself:
    /// a registry that came back empty does not know.
    pub unpublished_since_ms: Option<u64>,
}

impl Claimant {
    /// What the document of who takes a lock says of its epoch, which is not known yet: if it dies before it has told,
    /// its next life must see whether another had the lock since its last note. So what its own node said stays, and
    /// after another's it is one above all.
    pub(super) fn epoch_for_now(&self, before: Option<&Ownership>) -> Option<Epoch> {
        match before {
            Some(before) if before.node == self.node => before.epoch,
            Some(_) => Some(Epoch { incarnation: u64::MAX, index: u64::MAX }),
            None => None,
        }
    }
}

/// When a segment is taken from a node that is gone, and has rows of it that are not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takeover {
    /// So long after somebody first saw it so; zero is at once.
    After(Duration),
    /// Only when a person removes the key.
    Never,
}

/// What a lock is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose<'a> {
    /// To publish a file once.
    Put,
    /// To write, for long.
    Own(&'a Claimant),
}

/// Whether what lies there without a holder may be taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Take,
    /// In so long; nobody has counted yet.
    Count(Duration),
    /// In so long; `None` is never.
    Wait(Option<Duration>),
}

impl Purpose<'_> {
    /// What may be done about what `left` says, at `now_ms` of the time of day.
    pub(super) fn judge(self, left: &Ownership, now_ms: u64) -> Verdict {
        let takeover = match self {
            _ if left.dirty_since_ms.is_none() => return Verdict::Take,
            // its file is there: it died, and was started again
            Self::Own(claimant) if claimant.node == left.node => return Verdict::Take,
            Self::Own(claimant) => claimant.takeover,
            Self::Put => Takeover::Never,
        };
        match (takeover, left.abandoned_ms) {
            (Takeover::Never, _) => Verdict::Wait(None),
            (Takeover::After(Duration::ZERO), _) => Verdict::Take,
            (Takeover::After(after), Some(since_ms)) if since_ms <= now_ms => {
                match after.saturating_sub(Duration::from_millis(now_ms - since_ms)) {
                    Duration::ZERO => Verdict::Take,
                    left => Verdict::Wait(Some(left)),
                }
            }
            // one in the future was written by a clock that goes ahead: counting from there could take for ever
            (Takeover::After(after), _) => Verdict::Count(after),
        }
    }

    /// Since when there are rows, once the lock that `before` lay at is taken. The node that has them has them still,
    /// whatever the registry forgot; who took it from another gave them up by that.
    pub(super) fn inherits(self, before: Option<&Ownership>) -> Option<u64> {
        let Self::Own(claimant) = self else { return None };
        match before {
            Some(before) if claimant.node != before.node => None,
            Some(before) => before.dirty_since_ms.or(claimant.unpublished_since_ms),
            None => claimant.unpublished_since_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write_lock::document::tests::ownership;

    #[test]
    fn who_may_take_what_was_left_depends_on_whose_rows_are_in_it() {
        let s = Duration::from_secs;
        let claimant = |node, takeover| Claimant {
            node: NodeName::new(node).unwrap(),
            write_address: "h:1".to_owned(),
            schema: None,
            takeover,
            unpublished_since_ms: None,
        };
        let left = |dirty_since_ms, abandoned_ms| Ownership {
            dirty_since_ms,
            abandoned_ms,
            ..ownership("a")
        };
        let (clean, dirty) = (left(None, None), left(Some(1), None));
        let seen = |ms| left(Some(1), Some(ms));
        for (node, takeover, left, now_ms, expected) in [
            ("b", Takeover::Never, &clean, 0, Verdict::Take),
            ("a", Takeover::Never, &dirty, 0, Verdict::Take),
            ("b", Takeover::Never, &dirty, u64::MAX, Verdict::Wait(None)),
            ("b", Takeover::Never, &seen(1), u64::MAX, Verdict::Wait(None)),
            ("b", Takeover::After(s(0)), &dirty, 0, Verdict::Take),
            ("b", Takeover::After(s(9)), &dirty, u64::MAX, Verdict::Count(s(9))),
            ("b", Takeover::After(s(9)), &seen(1_001), 1_000, Verdict::Count(s(9))),
            ("b", Takeover::After(s(9)), &seen(1_000), 1_000, Verdict::Wait(Some(s(9)))),
            ("b", Takeover::After(s(9)), &seen(1_000), 9_000, Verdict::Wait(Some(s(1)))),
            ("b", Takeover::After(s(9)), &seen(1_000), 10_000, Verdict::Take),
        ] {
            let claimant = claimant(node, takeover);
            let judged = Purpose::Own(&claimant).judge(left, now_ms);
            assert_eq!(judged, expected, "{claimant:?} {left:?} {now_ms}");
        }
        assert_eq!(Purpose::Put.judge(&clean, 0), Verdict::Take);
        assert_eq!(Purpose::Put.judge(&seen(1), u64::MAX), Verdict::Wait(None));

        let (a, b) = (claimant("a", Takeover::Never), claimant("b", Takeover::Never));
        assert_eq!(Purpose::Own(&a).inherits(Some(&dirty)), Some(1));
        assert_eq!(Purpose::Own(&b).inherits(Some(&dirty)), None);
        assert_eq!(Purpose::Own(&a).inherits(None), None);
        // what it wrote down itself holds where the registry does not know, and not for what it took from another
        let knows = |claimant| Claimant { unpublished_since_ms: Some(7), ..claimant };
        let (a, b) = (knows(a), knows(b));
        let inherited =
            [None, Some(&clean), Some(&dirty)].map(|left| Purpose::Own(&a).inherits(left));
        assert_eq!(inherited, [Some(7), Some(7), Some(1)]);
        assert_eq!(Purpose::Own(&b).inherits(Some(&dirty)), None);
    }
}
