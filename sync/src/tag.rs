//! A short name for some bytes: enough to see that they are others, not to prove that they are the same.

use std::fmt;

use fsd::segment::Digest;
use serde::{Deserialize, Serialize};

/// The first 8 bytes of a BLAKE3.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(u64);

impl Tag {
    /// The tag of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Digest::from(blake3::hash(bytes)).into()
    }
}

impl From<Digest> for Tag {
    fn from(digest: Digest) -> Self {
        let mut first = [0; 8];
        first.copy_from_slice(&digest.as_bytes()[..8]);
        Self(u64::from_be_bytes(first))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> Self {
        tag.to_string()
    }
}

impl TryFrom<String> for Tag {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match u64::from_str_radix(&text, 16) {
            Ok(tag) if text.len() == 16 => Ok(Self(tag)),
            _ => Err(format!("{text:?} is no tag")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_the_beginning_of_the_digest_and_reads_back() {
        let tag = Tag::of(b"x");
        let digest = Digest::from(blake3::hash(b"x"));
        assert!(digest.to_hex().starts_with(&tag.to_string()));
        assert_eq!(Tag::try_from(String::from(tag)), Ok(tag));
        assert!(Tag::try_from("12".to_owned()).is_err());
    }
}
