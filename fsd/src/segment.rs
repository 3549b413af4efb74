//! What a segment is called and how one publication of it is told from another.
//!
//! Invariant: a value of these types is valid. A [`SegmentId`] can be joined to a directory without a
//! second look, a [`Digest`] is 32 bytes of BLAKE3, and no code takes a raw string in place of either.
//!
//! Left out: where a segment lives (cache, deep store) and whether its bytes were verified; that is
//! [`crate::cache`].

use std::ffi::OsStr;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest id, in bytes: with `.sqlite.seal` and a temporary suffix it stays below the 255 bytes
/// that Linux file systems and HDFS allow a name.
pub const ID_BYTES_MAX: usize = 200;

/// The ending of every segment file.
pub const FILE_SUFFIX: &str = ".sqlite";

/// The longest label DNS takes, in bytes (RFC 1035, section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// The start of a label that was made by hashing; no id that starts so is its own label.
const HASHED_LABEL_PREFIX: &str = "x--";

/// The name of one segment: `[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}` without `..`.
///
/// Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SegmentId(Arc<str>);

/// Why a string is not a segment id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSegmentId {
    /// Nothing at all.
    #[error("a segment id is empty; it needs 1 to {ID_BYTES_MAX} characters")]
    Empty,
    /// Over [`ID_BYTES_MAX`] bytes.
    #[error("a segment id of {0} bytes is too long; {ID_BYTES_MAX} is the most")]
    TooLong(usize),
    /// A character that is not allowed where it stands.
    #[error(
        "segment id {id:?} has {character:?} at byte {at}; allowed are letters, digits and `_`, \
         and after the first character also `.` and `-`"
    )]
    Character {
        /// The id as given.
        id: String,
        /// What is wrong in it.
        character: char,
        /// Where, counted in bytes from 0.
        at: usize,
    },
    /// Two dots in a row.
    #[error("segment id {0:?} has `..` in it, which is never allowed")]
    DotDot(String),
}

impl SegmentId {
    /// Checks and takes `id`.
    pub fn new(id: &str) -> Result<Self, InvalidSegmentId> {
        if id.is_empty() {
            return Err(InvalidSegmentId::Empty);
        }
        if id.len() > ID_BYTES_MAX {
            return Err(InvalidSegmentId::TooLong(id.len()));
        }
        let allowed = |at: usize, c: char| {
            c.is_ascii_alphanumeric() || c == '_' || (at > 0 && (c == '.' || c == '-'))
        };
        if let Some((at, character)) = id.char_indices().find(|&(at, c)| !allowed(at, c)) {
            return Err(InvalidSegmentId::Character { id: id.to_owned(), character, at });
        }
        if id.contains("..") {
            return Err(InvalidSegmentId::DotDot(id.to_owned()));
        }
        Ok(Self(id.into()))
    }

    /// The id of the segment whose file is called `name` (`<id>.sqlite`).
    ///
    /// `None` when `name` does not end in `.sqlite`; an error when it does but the rest is no id.
    pub fn from_file_name(name: &OsStr) -> Option<Result<Self, InvalidSegmentId>> {
        let bytes = name.as_encoded_bytes().strip_suffix(FILE_SUFFIX.as_bytes())?;
        Some(Self::new(&String::from_utf8_lossy(bytes)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the segment's file: `<id>.sqlite`.
    pub fn file_name(&self) -> String {
        format!("{}{FILE_SUFFIX}", self.0)
    }

    /// The id as a DNS label: the id itself where it is one, else `x--` and a hash.
    pub fn label(&self) -> Label {
        if is_dns_label(&self.0) && !self.0.starts_with(HASHED_LABEL_PREFIX) {
            return Label(self.0.to_string());
        }
        let hash = blake3::hash(self.0.as_bytes());
        let text = data_encoding::BASE32_NOPAD.encode(&hash.as_bytes()[..16]).to_ascii_lowercase();
        Label(format!("{HASHED_LABEL_PREFIX}{text}"))
    }

    /// The first 16 bytes of the BLAKE3 of the id that `label` was made for by hashing; `None` for one that was not,
    /// which is an id itself.
    pub fn hash_of_label(label: &str) -> Option<[u8; 16]> {
        let text = label.strip_prefix(HASHED_LABEL_PREFIX)?.to_ascii_uppercase();
        let hash = data_encoding::BASE32_NOPAD.decode(text.as_bytes()).ok()?;
        hash.try_into().ok()
    }
}

fn is_dns_label(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    text.len() <= LABEL_BYTES_MAX
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl AsRef<str> for SegmentId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for SegmentId {
    type Err = InvalidSegmentId;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<String> for SegmentId {
    type Error = InvalidSegmentId;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<SegmentId> for String {
    fn from(id: SegmentId) -> Self {
        id.0.as_ref().to_owned()
    }
}

/// A segment id in the form that DNS takes; see [`SegmentId::label`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

impl Label {
    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The BLAKE3 hash of a segment file's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; blake3::OUT_LEN]);

/// A string that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a BLAKE3 digest (64 hexadecimal digits)")]
pub struct InvalidDigest(String);

impl Digest {
    /// The raw hash.
    pub fn as_bytes(&self) -> &[u8; blake3::OUT_LEN] {
        &self.0
    }

    /// 64 lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.0)
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; blake3::OUT_LEN];
        // `decode_mut` takes nothing but twice as many digits as there is room for
        let decoded = text.len() == 2 * bytes.len()
            && data_encoding::HEXLOWER.decode_mut(text.as_bytes(), &mut bytes).is_ok();
        decoded.then_some(Self(bytes)).ok_or_else(|| InvalidDigest(text.to_owned()))
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_hex()
    }
}

/// What the deep store says of a file without reading it; two publications differ in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Length in bytes.
    pub length: u64,
    /// Last modification in the deep store, milliseconds since 1970 (HDFS keeps no finer time).
    pub mtime_ms: u64,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {} ms", self.length, self.mtime_ms)
    }
}

/// One publication of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Length and modification time in the deep store.
    pub stamp: Stamp,
    /// What its bytes hash to.
    pub digest: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_that_are_not_valid_cannot_exist() {
        let long = "a".repeat(300);
        for bad in
            ["", ".", "..", "a..b", "a/b", "../a", "a b", "-a", ".a", "a\0", "é", "a\n", &long]
        {
            assert!(SegmentId::new(bad).is_err(), "{bad:?} was taken");
        }
        for good in ["a", "_", "0", "A.b-c_d", "a.", &"a".repeat(200)] {
            assert_eq!(SegmentId::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_file_name_gives_its_id_back() {
        let id = SegmentId::new("archive-17.x").unwrap();
        let name = id.file_name();
        assert_eq!(name, "archive-17.x.sqlite");
        assert_eq!(SegmentId::from_file_name(OsStr::new(&name)).unwrap().unwrap(), id);
        assert!(SegmentId::from_file_name(OsStr::new("x.sqlite-wal")).is_none());
        assert!(SegmentId::from_file_name(OsStr::new(".sqlite")).unwrap().is_err());
        assert!(SegmentId::from_file_name(OsStr::new("a b.sqlite")).unwrap().is_err());
    }

    #[test]
    fn labels_are_the_id_where_dns_takes_it() {
        let label = |id: &str| SegmentId::new(id).unwrap().label().to_string();
        assert_eq!(label("ohio"), "ohio");
        assert_eq!(label("a-1"), "a-1");
        for hashed in ["Ohio", "a_b", "a.b", "a-", "x--ohio", &"a".repeat(64)] {
            let label = label(hashed);
            assert!(label.starts_with("x--") && is_dns_label(&label), "{hashed} gave {label}");
        }
    }

    #[test]
    fn digests_read_back_and_refuse_other_text() {
        let digest = Digest::from(blake3::hash(b"x"));
        assert_eq!(digest.to_hex().parse::<Digest>().unwrap(), digest);
        for bad in ["", "00", &digest.to_hex().to_uppercase(), &format!("{digest}0")] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn a_valid_id_is_one_safe_path_component(text in "\\PC{0,20}") {
            if let Ok(id) = SegmentId::new(&text) {
                let path = std::path::Path::new("/cache").join(id.file_name());
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("/cache")));
                prop_assert_eq!(path.components().count(), 3);
            }
        }

        #[test]
        fn labels_are_dns_labels_and_differ(a in "[A-Za-z0-9_][A-Za-z0-9_-]{0,80}", b in "[A-Za-z0-9_][A-Za-z0-9_-]{0,80}") {
            let (la, lb) = (SegmentId::new(&a).unwrap().label(), SegmentId::new(&b).unwrap().label());
            prop_assert!(is_dns_label(la.as_str()));
            prop_assert_eq!(a == b, la == lb);
        }
    }
}
