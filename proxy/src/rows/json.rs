//! The original trough's shape: `[`, one object a row, joined by `,\n`, then `]\n`.
//!
//! Choices where that shape loses something:
//! - Columns of one name: the second is called `name:1`, the third `name:2`; the original kept the last
//!   value only, without a word.
//! - A blob is `{"$base64": "..."}`; so is text that is not UTF-8, which JSON cannot say.
//! - Infinities and NaN are `null`: JSON has no number for them. Integers are exact, beyond 2^53 too.

use rusqlite::types::ValueRef;

use super::ROW_BYTES_MAX;
use crate::connection::statement::{Row, Statement};
use crate::error::QueryError;

/// Writes the rows of one statement.
#[derive(Debug, Default)]
pub(crate) struct JsonRows {
    /// What stands before each value: `{"first":`, then `,"next":`. Known with the first row only: SQLite prepares a
    /// statement anew when it begins to run and the schema has changed.
    keys: Vec<Vec<u8>>,
    rows: u64,
}

impl JsonRows {
    fn keys(statement: &Statement) -> Vec<Vec<u8>> {
        let names = (0..statement.columns()).map(|index| statement.column_name(index)).collect();
        let key = |(index, name): (usize, &String)| {
            let mut key = vec![if index == 0 { b'{' } else { b',' }];
            write_text(&mut key, name);
            key.push(b':');
            key
        };
        distinct(names).iter().enumerate().map(key).collect()
    }

    /// Writes one row; an error when it is over [`ROW_BYTES_MAX`].
    pub fn row(&mut self, out: &mut Vec<u8>, row: &Row<'_>) -> Result<(), QueryError> {
        let start = out.len();
        if self.rows == 0 {
            self.keys = Self::keys(row.statement());
        }
        out.extend_from_slice(if self.rows == 0 { b"[" } else { b",\n" });
        self.rows += 1;
        for (index, key) in self.keys.iter().enumerate() {
            out.extend_from_slice(key);
            write_value(out, row.value(index));
            if out.len() - start > ROW_BYTES_MAX {
                let text = format!("a row of the answer is over {ROW_BYTES_MAX} bytes");
                return Err(QueryError::ValueTooLarge(text));
            }
        }
        out.push(b'}');
        Ok(())
    }

    /// Writes what follows the last row.
    pub fn end(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self.rows == 0 { b"[]\n" } else { b"]\n" });
    }

    /// Rows written.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

/// The names, the later ones of equal names with `:1`, `:2` and so on behind them.
fn distinct(names: Vec<String>) -> Vec<String> {
    let mut taken: std::collections::HashSet<String> = names.iter().cloned().collect();
    let mut seen = std::collections::HashSet::new();
    let mut unique = |name: String| {
        if seen.insert(name.clone()) {
            return name;
        }
        // one of the first `names + 1` numbers is free
        let free = (1_u32..).map(|n| format!("{name}:{n}")).find(|other| !taken.contains(other));
        let free = free.unwrap_or_default();
        taken.insert(free.clone());
        free
    };
    names.into_iter().map(&mut unique).collect()
}

fn write_value(out: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::Null => out.extend_from_slice(b"null"),
        ValueRef::Integer(number) => {
            out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        }
        ValueRef::Real(number) => write_real(out, number),
        ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => write_text(out, text),
            Err(_) => write_blob(out, bytes),
        },
        ValueRef::Blob(bytes) => write_blob(out, bytes),
    }
}

fn write_real(out: &mut Vec<u8>, number: f64) {
    // the shortest digits that read back as the same number; null where there are none
    if serde_json::to_writer(&mut *out, &number).is_err() {
        out.extend_from_slice(b"null");
    }
}

fn write_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(br#"{"$base64":""#);
    let start = out.len();
    out.resize(start + data_encoding::BASE64.encode_len(bytes.len()), 0);
    data_encoding::BASE64.encode_mut(bytes, &mut out[start..]);
    out.extend_from_slice(br#""}"#);
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut done = 0;
    // bytes beyond ASCII need nothing: JSON is UTF-8
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[done..at]);
        done = at + 1;
        match byte {
            b'"' => out.extend_from_slice(br#"\""#),
            b'\\' => out.extend_from_slice(br"\\"),
            b'\n' => out.extend_from_slice(br"\n"),
            b'\r' => out.extend_from_slice(br"\r"),
            b'\t' => out.extend_from_slice(br"\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                out.extend_from_slice(br"\u00");
                out.extend_from_slice(&digits);
            }
        }
    }
    out.extend_from_slice(&bytes[done..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(value: ValueRef<'_>) -> serde_json::Value {
        let mut out = Vec::new();
        write_value(&mut out, value);
        serde_json::from_slice(&out).unwrap()
    }

    proptest! {
        #[test]
        fn text_reads_back(text in "\\PC*|[\0-\u{2f}\"\\\\]*") {
            prop_assert_eq!(written(ValueRef::Text(text.as_bytes())), serde_json::json!(text));
        }

        #[test]
        fn numbers_read_back_exactly(integer: i64, real: f64) {
            prop_assert_eq!(written(ValueRef::Integer(integer)), serde_json::json!(integer));
            let mut out = Vec::new();
            write_value(&mut out, ValueRef::Real(real));
            let text = String::from_utf8(out).unwrap();
            // serde_json reads numbers quickly rather than exactly, so the text is read by std
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
            match real.is_finite() {
                true => prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), real.to_bits()),
                false => prop_assert_eq!(text, "null"),
            }
        }

        #[test]
        fn blobs_read_back(bytes: Vec<u8>) {
            let text = written(ValueRef::Blob(&bytes))["$base64"].as_str().unwrap().to_owned();
            prop_assert_eq!(data_encoding::BASE64.decode(text.as_bytes()).unwrap(), bytes);
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_not_lost() {
        assert_eq!(written(ValueRef::Text(b"a\xff"))["$base64"], "Yf8=");
        assert!(written(ValueRef::Real(f64::INFINITY)).is_null());
        assert!(written(ValueRef::Real(f64::NAN)).is_null());
    }

    #[test]
    fn equal_names_are_told_apart() {
        let names = |list: &[&str]| distinct(list.iter().map(|&name| name.to_owned()).collect());
        assert_eq!(names(&["a", "b"]), ["a", "b"]);
        assert_eq!(names(&["a", "a", "a"]), ["a", "a:1", "a:2"]);
        assert_eq!(names(&["a", "a", "a:1"]), ["a", "a:2", "a:1"]);
        assert_eq!(names(&["a:1", "a", "a", "a:1"]), ["a:1", "a", "a:2", "a:1:1"]);
    }
}
