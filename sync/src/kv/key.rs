//! Names and indexes that cannot hold something invalid.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest key: Consul has no limit of its own, and every key goes into the line of an HTTP request.
const KEY_BYTES_MAX: usize = 512;

/// A key: components of `[A-Za-z0-9_-]` joined by `/`, none of them empty. Consul's own rules have changed from
/// version to version; these characters were allowed by all of them, and need no escape in a URL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

/// A string that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a key: it needs components of A-Z, a-z, 0-9, _ and - joined by /, at most {KEY_BYTES_MAX} characters"
)]
pub struct InvalidKey(String);

impl Key {
    /// Checks and takes `text`.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidKey> {
        let text = text.into();
        let component = |c: &str| {
            !c.is_empty()
                && c.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
        };
        if text.len() <= KEY_BYTES_MAX && text.split('/').all(component) {
            return Ok(Self(text));
        }
        Err(InvalidKey(text))
    }

    /// This key, a `/`, and `rest`.
    pub fn join(&self, rest: &str) -> Result<Self, InvalidKey> {
        Self::new(format!("{}/{rest}", self.0))
    }

    /// What stands after `below` and its `/`, if this key lies below it.
    pub fn below(&self, below: &Self) -> Option<&str> {
        self.0.strip_prefix(below.as_str())?.strip_prefix('/')
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<String> for Key {
    type Error = InvalidKey;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

/// A moment in the life of a store: it grows with every change, and starts again when the store comes back
/// empty. Compare only indexes of one life.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Index(pub u64);

impl Index {
    /// No change has this index: in a compare-and-set it stands for a key that is not there.
    pub const ABSENT: Self = Self(0);
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_allowed_characters_make_a_key() {
        for text in ["a", "trough/lead", "trough/node/n-1_X", "0/1/2"] {
            assert_eq!(Key::new(text).unwrap().as_str(), text);
        }
        let long = "a".repeat(KEY_BYTES_MAX + 1);
        for text in [
            "", "/", "/a", "a/", "a//b", "a.b", "..", "a/../b", "a b", "a%2fb", "ä", "a?b", "a&b",
            "a\n", &long,
        ] {
            assert_eq!(Key::new(text), Err(InvalidKey(text.to_owned())));
        }
    }

    #[test]
    fn what_lies_below_is_told_by_whole_components() {
        let key = |text| Key::new(text).unwrap();
        assert_eq!(key("a/b/c").below(&key("a")), Some("b/c"));
        assert_eq!(key("ab/c").below(&key("a")), None);
        assert_eq!(key("a").below(&key("a")), None);
        assert_eq!(key("a").join("b/c").unwrap(), key("a/b/c"));
        assert!(key("a").join("").is_err() && key("a").join("/b").is_err());
    }

    proptest! {
        #[test]
        fn no_key_holds_anything_else(text in ".{0,12}") {
            if let Ok(key) = Key::new(text) {
                prop_assert!(key.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b"_-/".contains(&b)));
                prop_assert!(!key.as_str().starts_with('/') && !key.as_str().ends_with('/'));
                prop_assert!(!key.as_str().contains("//") && !key.as_str().is_empty());
            }
        }
    }
}
