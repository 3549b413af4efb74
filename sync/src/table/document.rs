//! A document as bytes: zstd of JSON, so that a person reads it with `consul kv get KEY | zstd -d`.
//!
//! Invariant: what unpacks to more than a limit is refused before memory is taken for it.

use std::io::Read;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest document: a part goes into one transaction with its table's meta document.
pub const DOCUMENT_BYTES_MAX: usize = 240 << 10;

/// The most that a document may unpack to. Rows of a table pack to a tenth and not to a thousandth: more is an
/// accident or an attack.
const UNPACKED_BYTES_MAX: usize = 64 << 20;

/// zstd's default: the figures of a table repeat so much that more effort gains little.
const LEVEL: i32 = 3;

/// `content` as it is stored: the same gives the same. `None` when that is longer than [`DOCUMENT_BYTES_MAX`].
pub(crate) fn pack(content: &impl Serialize) -> Option<Bytes> {
    // maps with keys of text, numbers, strings: nothing in a document can fail to become JSON
    let json = serde_json::to_vec(content).ok()?;
    let packed = zstd::bulk::compress(&json, LEVEL).ok()?;
    (packed.len() <= DOCUMENT_BYTES_MAX).then(|| packed.into())
}

/// What a document says, or why it cannot be read.
pub(crate) fn unpack<T: DeserializeOwned>(packed: &[u8]) -> Result<T, String> {
    if packed.is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut json = Vec::new();
    let decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(|e| e.to_string())?;
    decoder
        .take(UNPACKED_BYTES_MAX as u64 + 1)
        .read_to_end(&mut json)
        .map_err(|e| format!("it is not zstd: {e}"))?;
    if json.len() > UNPACKED_BYTES_MAX {
        return Err(format!("it unpacks to more than {UNPACKED_BYTES_MAX} bytes"));
    }
    serde_json::from_slice(&json).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_reads_back_and_the_same_is_stored_the_same() {
        let packed = pack(&vec!["a", "b"]).unwrap();
        assert_eq!(unpack::<Vec<String>>(&packed), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(pack(&vec!["a", "b"]).unwrap(), packed);
        assert_ne!(pack(&vec!["a"]).unwrap(), packed);
    }

    #[test]
    fn what_is_garbled_cut_short_or_blown_up_is_refused() {
        let packed = pack(&vec!["a row"; 100]).unwrap();
        let read = |bytes: &[u8]| unpack::<Vec<String>>(bytes).unwrap_err();
        assert!(read(b"").contains("empty"));
        assert!(read(b"not zstd at all").contains("zstd"));
        for cut in 1..packed.len() {
            read(&packed[..cut]);
        }
        read(&zstd::bulk::compress(b"{\"not\": \"rows\"}", 1).unwrap());
        let bomb = zstd::bulk::compress(&vec![b' '; UNPACKED_BYTES_MAX + 2], 1).unwrap();
        assert!(bomb.len() < DOCUMENT_BYTES_MAX);
        assert!(read(&bomb).contains("unpacks to more"));
    }

    #[test]
    fn what_does_not_fit_is_not_packed() {
        let random: Vec<String> =
            (0..20_000_u64).map(|n| blake3::hash(&n.to_le_bytes()).to_hex().to_string()).collect();
        assert!(pack(&random).is_none());
        assert!(pack(&&random[..4_000]).is_some());
    }
}
