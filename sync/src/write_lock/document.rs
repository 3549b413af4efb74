//! What the key of a write lock says.
//!
//! Invariant: only a document that this trough understands to its last field is taken over. A newer trough may say of
//! a segment that there is more to it than its lock, and whoever passed over that would lose it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The format of [`Document`].
const FORMAT: u64 = 1;

/// What a holder says of itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u64,
    /// Who it is, for people.
    holder: String,
}

/// What every format has.
#[derive(Deserialize)]
struct Any {
    format: u64,
    holder: Option<String>,
}

/// The document of `holder`.
pub(super) fn write(holder: &str) -> Bytes {
    let document = Document { format: FORMAT, holder: holder.to_owned() };
    // a number and text: this cannot fail
    serde_json::to_vec(&document).unwrap_or_default().into()
}

/// Why `value` may not be taken over, if it may not.
pub(super) fn understand(value: &[u8]) -> Result<(), String> {
    if value.is_empty() {
        return Err("it is empty".to_owned());
    }
    match serde_json::from_slice::<Any>(value) {
        Ok(any) if any.format != FORMAT => {
            Err(format!("its format is {}, and this trough knows {FORMAT}", any.format))
        }
        _ => serde_json::from_slice::<Document>(value).map(drop).map_err(|e| e.to_string()),
    }
}

/// Who holds the lock at which `value` is, in whatever format.
pub(super) fn holder(value: &[u8]) -> Option<String> {
    serde_json::from_slice::<Any>(value).ok()?.holder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s11_a_document_of_format_1_is_what_it_always_was() {
        let written = br#"{"format":1,"holder":"me"}"#;
        assert_eq!(&write("me")[..], written);
        assert_eq!(understand(written), Ok(()));
        assert_eq!(holder(written).as_deref(), Some("me"));
    }

    #[test]
    fn what_is_not_understood_says_why_and_still_names_its_holder() {
        for (value, why, named) in [
            (r#"{"format":2,"holder":"me","dirty":true}"#, "format is 2", Some("me")),
            (r#"{"format":1,"holder":"me","dirty":true}"#, "unknown field `dirty`", Some("me")),
            (r#"{"format":1}"#, "missing field `holder`", None),
            (r#"{"holder":"me"}"#, "missing field `format`", None),
            ("", "empty", None),
            ("x", "expected value", None),
        ] {
            let said = understand(value.as_bytes()).unwrap_err();
            assert!(said.contains(why), "{said}");
            assert_eq!(holder(value.as_bytes()).as_deref(), named);
        }
    }
}
