//! What the key of a write lock says: format 1 of one that only holds it for a moment, format 2 of a segment's owner.
//!
//! Invariant: only a document that this trough understands to its last field is taken over. A newer trough may say of
//! a segment that there is more to it than its lock, and whoever passed over that would lose it.

use bytes::Bytes;
use fsd::segment::SegmentId;
use serde::{Deserialize, Serialize};

use super::Claimant;
use crate::node::NodeName;
use crate::registry::Epoch;

/// The format of [`Holding`].
const HOLDING: u64 = 1;
/// The format of [`Ownership`].
const OWNING: u64 = 2;

/// What one says of itself that has nothing at stake but its lock.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Holding {
    format: u64,
    /// Who it is, for people.
    holder: String,
}

/// What the writer of a node says of a segment that it owns, or that it owned when it died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ownership {
    pub(super) format: u64,
    /// Who it is, for people: host, process, purpose.
    pub holder: String,
    /// The segment, which the name of the key may only be a hash of.
    pub segment: SegmentId,
    /// The node whose disk has what is not published.
    pub node: NodeName,
    /// Where that node's writer answers, as `host:port`.
    pub write_address: String,
    /// The epoch of its lock. Who just took it does not know it yet: that of the document before, if that was of the
    /// same node; above all epochs if it was of another; none if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Since when it has acknowledged, or is about to acknowledge, rows that are not published: milliseconds since
    /// 1970. `None` is clean: all that it acknowledged is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty_since_ms: Option<u64>,
    /// Whether it is publishing.
    pub promoting: bool,
    /// Why it could not be published when that was tried last, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The schema that the segment was provisioned by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<SegmentId>,
    /// When somebody first saw it dirty without a holder, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abandoned_ms: Option<u64>,
    /// Grows with all that is told under one lock, so that no two of its documents are the same: writing what is there
    /// already changes nothing, and would not outdate an earlier one that is still on its way.
    pub(super) revision: u64,
}

/// What every format has.
#[derive(Deserialize)]
struct Any {
    format: u64,
    holder: Option<String>,
}

impl Ownership {
    /// What the key of a write lock says of an owner; `None` when it says it of none, or in a way that this trough does
    /// not understand. Who is to take the lock asks [`super::WriteLocks::own`] instead.
    pub fn read(value: &[u8]) -> Option<Self> {
        understand(value).ok().flatten()
    }

    /// What `claimant` says of `segment` when it takes the lock as `holder`.
    pub(super) fn new(
        holder: &str,
        segment: &SegmentId,
        claimant: &Claimant,
        dirty_since_ms: Option<u64>,
    ) -> Self {
        Self {
            format: OWNING,
            holder: holder.to_owned(),
            segment: segment.clone(),
            node: claimant.node.clone(),
            write_address: claimant.write_address.clone(),
            epoch: None,
            dirty_since_ms,
            promoting: false,
            problem: None,
            schema: claimant.schema.clone(),
            abandoned_ms: None,
            revision: 0,
        }
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        // numbers and text: this cannot fail
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

/// The document of `holder`, who owns nothing.
pub(super) fn holding(holder: &str) -> Bytes {
    let document = Holding { format: HOLDING, holder: holder.to_owned() };
    // a number and text: this cannot fail
    serde_json::to_vec(&document).unwrap_or_default().into()
}

/// Who owned what `value` lay at, if it says so; or why it may not be taken over.
pub(crate) fn understand(value: &[u8]) -> Result<Option<Ownership>, String> {
    if value.is_empty() {
        return Err("it is empty".to_owned());
    }
    let format = serde_json::from_slice::<Any>(value).map(|any| any.format);
    match format {
        Ok(OWNING) => serde_json::from_slice(value).map(Some).map_err(|e| e.to_string()),
        Ok(format) if format != HOLDING => {
            Err(format!("its format is {format}, and this trough knows {HOLDING} and {OWNING}"))
        }
        _ => serde_json::from_slice::<Holding>(value).map(|_| None).map_err(|e| e.to_string()),
    }
}

/// Who holds the lock at which `value` is, in whatever format.
pub(super) fn holder(value: &[u8]) -> Option<String> {
    serde_json::from_slice::<Any>(value).ok()?.holder
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::write_lock::Takeover;

    /// What `node` says.
    pub fn ownership(node: &str) -> Ownership {
        let claimant = Claimant {
            node: NodeName::new(node).unwrap(),
            write_address: "10.0.0.7:6222".to_owned(),
            schema: None,
            takeover: Takeover::Never,
            unpublished_since_ms: None,
        };
        Ownership::new("me", &SegmentId::new("Strikes.OH").unwrap(), &claimant, None)
    }

    #[test]
    fn s11_a_document_of_format_1_is_what_it_always_was() {
        let written = br#"{"format":1,"holder":"me"}"#;
        assert_eq!(&holding("me")[..], written);
        assert_eq!(understand(written), Ok(None));
        assert_eq!(holder(written).as_deref(), Some("me"));
        assert_eq!(Ownership::read(written), None);
    }

    #[test]
    fn s11_a_document_of_format_2_is_what_it_always_was() {
        let first = ownership("north");
        let all = Ownership {
            epoch: Some(Epoch { incarnation: 3, index: 17 }),
            dirty_since_ms: Some(1_795_364_008_524),
            promoting: true,
            problem: Some("no room".to_owned()),
            schema: Some(SegmentId::new("strikes").unwrap()),
            abandoned_ms: Some(1_795_364_009_000),
            revision: 4,
            ..first.clone()
        };
        for (document, written) in [
            (
                first,
                r#"{"format":2,"holder":"me","segment":"Strikes.OH","node":"north","write_address":"10.0.0.7:6222","promoting":false,"revision":0}"#,
            ),
            (
                all,
                r#"{"format":2,"holder":"me","segment":"Strikes.OH","node":"north","write_address":"10.0.0.7:6222","epoch":{"incarnation":3,"index":17},"dirty_since_ms":1795364008524,"promoting":true,"problem":"no room","schema":"strikes","abandoned_ms":1795364009000,"revision":4}"#,
            ),
        ] {
            assert_eq!(document.to_bytes(), written);
            assert_eq!(understand(written.as_bytes()), Ok(Some(document.clone())));
            assert_eq!(Ownership::read(written.as_bytes()), Some(document));
            assert_eq!(holder(written.as_bytes()).as_deref(), Some("me"));
        }
    }

    #[test]
    fn what_is_not_understood_says_why_and_still_names_its_holder() {
        let newer = String::from_utf8(ownership("north").to_bytes().to_vec()).unwrap();
        let newer = newer.replace('}', r#","standby":"south"}"#);
        for (value, why, named) in [
            (newer.as_str(), "unknown field `standby`", Some("me")),
            (r#"{"format":3,"holder":"me","dirty":true}"#, "format is 3", Some("me")),
            (r#"{"format":2,"holder":"me","dirty":true}"#, "unknown field `dirty`", Some("me")),
            (r#"{"format":1,"holder":"me","dirty":true}"#, "unknown field `dirty`", Some("me")),
            (r#"{"format":1}"#, "missing field `holder`", None),
            (r#"{"holder":"me"}"#, "missing field `format`", None),
            ("", "empty", None),
            ("x", "expected value", None),
        ] {
            let said = understand(value.as_bytes()).unwrap_err();
            assert!(said.contains(why), "{said}");
            assert_eq!(holder(value.as_bytes()).as_deref(), named);
            assert_eq!(Ownership::read(value.as_bytes()), None);
        }
    }
}
