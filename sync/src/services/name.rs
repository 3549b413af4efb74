//! Names that DNS, a URL and a filter of Consul take as they are.

use std::fmt;
use std::sync::Arc;

use fsd::segment::Label;
use serde::{Deserialize, Serialize};

/// The longest: of an instance, which is a service's and a node's.
const NAME_BYTES_MAX: usize = 128;

/// The name of a service, of an instance, or a tag: `[a-z0-9]([a-z0-9-]*[a-z0-9])?`, at most 128 characters. DNS finds
/// services and tags of up to 63.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

/// A text that is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no service: it needs 1 to {NAME_BYTES_MAX} characters of a-z, 0-9 and -, and - neither first nor last"
)]
pub struct InvalidName(String);

impl Name {
    /// Checks and takes `text`.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let right = is_hyphenated(text, NAME_BYTES_MAX);
        right.then(|| Self(text.into())).ok_or_else(|| InvalidName(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `text` is 1 to `bytes_max` characters of a-z, 0-9 and -, and - neither first nor last.
pub(crate) fn is_hyphenated(text: &str, bytes_max: usize) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=bytes_max).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl From<Label> for Name {
    fn from(label: Label) -> Self {
        // a label is a name of at most 63 characters
        Self(label.as_str().into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fsd::segment::SegmentId;
    use proptest::prelude::*;

    #[test]
    fn a_name_needs_no_escape_anywhere() {
        for right in ["a", "trough-read", "0", "x--ab", &"x".repeat(NAME_BYTES_MAX)] {
            assert_eq!(Name::new(right).unwrap().as_str(), right);
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for wrong in ["", "-a", "a-", "a.b", "A", "a/b", "a b", "a\"b", "ä", &long] {
            assert_eq!(Name::new(wrong), Err(InvalidName(wrong.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn the_label_of_a_segment_is_a_name(text in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}") {
            if let Ok(id) = SegmentId::new(&text) {
                let label = id.label();
                prop_assert_eq!(Name::new(label.as_str()).unwrap(), Name::from(label));
            }
        }
    }
}
