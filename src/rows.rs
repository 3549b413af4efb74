//! How figures are written for people, and the reader's rows taken apart as they come.
//!
//! The reader sends `[`, one JSON object a row joined by `,` and a line break, and `]` at the end. JSON has no
//! raw line break inside a value, so a line is a row and nothing needs the whole answer in memory.
//!
//! Invariant: an answer without its `]` is an error, never a shorter answer.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use sync::registry::Epoch;

/// The longest row that is taken, in bytes: SQLite's own limit for a value is a thousand million.
const ROW_BYTES_MAX: usize = 1 << 30;

pub mod print;

/// What is younger needs no number.
const JUST_NOW: Duration = Duration::from_secs(2);

/// One row: the columns in the order of the SELECT, also where two have one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Row(pub Vec<(String, Value)>);

impl<'de> serde::Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;
        impl<'de> Visitor<'de> for Columns {
            type Value = Row;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row as a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut columns = Vec::new();
                while let Some(column) = map.next_entry()? {
                    columns.push(column);
                }
                Ok(Row(columns))
            }
        }
        deserializer.deserialize_map(Columns)
    }
}

/// Why an answer could not be taken apart.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// It ended before its `]`.
    #[error("the answer broke off before its end; the rows so far are not the whole answer")]
    BrokenOff,
    /// A row over the limit.
    #[error("a row of the answer has more than {ROW_BYTES_MAX} bytes")]
    TooLong,
    /// It is not what the reader sends.
    #[error("the answer is not rows as the reader sends them: {0}")]
    NotRows(String),
}

/// Takes pieces of an answer and gives rows.
#[derive(Debug, Default)]
pub struct RowReader {
    pending: Vec<u8>,
    begun: bool,
    ended: bool,
}

impl RowReader {
    /// Adds a piece; `each` sees every row that is complete now.
    pub fn push(
        &mut self,
        mut piece: &[u8],
        each: &mut dyn FnMut(Row) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        while let Some(at) = piece.iter().position(|&byte| byte == b'\n') {
            self.pending.extend_from_slice(&piece[..at]);
            piece = &piece[at + 1..];
            let line = std::mem::take(&mut self.pending);
            if let Some(row) = self.line(&line)? {
                each(row)?;
            }
        }
        self.pending.extend_from_slice(piece);
        match self.pending.len() > ROW_BYTES_MAX {
            true => Err(RowsError::TooLong.into()),
            false => Ok(()),
        }
    }

    /// Says whether the answer was whole.
    pub fn finish(self) -> Result<(), RowsError> {
        match self.ended && self.pending.is_empty() {
            true => Ok(()),
            false => Err(RowsError::BrokenOff),
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<Row>, RowsError> {
        let not_rows = |text: &[u8]| RowsError::NotRows(String::from_utf8_lossy(text).into_owned());
        if self.ended {
            return Err(not_rows(line));
        }
        let mut text = line;
        if !self.begun {
            text = text.strip_prefix(b"[").ok_or_else(|| not_rows(line))?;
            self.begun = true;
        }
        match text.split_last() {
            Some((b']', rest)) => {
                self.ended = true;
                text = rest;
            }
            Some((b',', rest)) => text = rest,
            _ => return Err(not_rows(line)),
        }
        if text.is_empty() && self.ended {
            return Ok(None);
        }
        serde_json::from_slice(text)
            .map(Some)
            .map_err(|error| RowsError::NotRows(error.to_string()))
    }
}

/// A value as a person or a CSV file sees it; NULL is nothing.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// `1 segment`, `2 segments`.
pub fn counted(count: usize, thing: &str) -> String {
    match count {
        1 => format!("1 {thing}"),
        _ => format!("{count} {thing}s"),
    }
}

/// Bytes with a binary unit and three figures.
pub fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// How long before `now_ms` it was at `at_ms`, both milliseconds since 1970.
pub fn ago(at_ms: u64, now_ms: u64) -> String {
    match Duration::from_millis(now_ms.saturating_sub(at_ms)) {
        age if age < JUST_NOW => "just now".to_owned(),
        age => format!("{} ago", indicatif::HumanDuration(age)),
    }
}

/// An epoch without the zeroes that it is sorted by.
pub fn short(epoch: Epoch) -> String {
    format!("{}-{}", epoch.incarnation, epoch.index)
}

/// Whether whoever read our output has enough, as `head` does.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// How much of `whole` a part is, in percent.
pub fn percent(part: u64, whole: u64) -> String {
    let percent = part.saturating_mul(100).checked_div(whole).unwrap_or(0);
    format!("{percent} %")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(answer: &[u8], piece: usize) -> anyhow::Result<Vec<Row>> {
        let (mut reader, mut rows) = (RowReader::default(), Vec::new());
        for piece in answer.chunks(piece.max(1)) {
            reader.push(piece, &mut |row| {
                rows.push(row);
                Ok(())
            })?;
        }
        reader.finish()?;
        Ok(rows)
    }

    #[test]
    fn rows_keep_their_columns_order_and_equal_names() {
        let rows = read(b"[{\"b\":1,\"a\":\"x\\ny\"},\n{\"b\":null,\"b\":2}]\n", 3).unwrap();
        let expected = [
            Row(vec![("b".into(), 1.into()), ("a".into(), "x\ny".into())]),
            Row(vec![("b".into(), Value::Null), ("b".into(), 2.into())]),
        ];
        assert_eq!(rows, expected);
        assert_eq!(read(b"[]\n", 1).unwrap(), []);
    }

    #[test]
    fn an_answer_that_breaks_off_is_an_error() {
        let whole = b"[{\"a\":1},\n{\"a\":2}]\n";
        for end in 0..whole.len() {
            assert!(read(&whole[..end], 4).is_err(), "{end} bytes were taken as whole");
        }
        for wrong in [&b"{\"a\":1}\n"[..], b"[]\n[]\n", b"[{\"a\":1}\n]\n", b"error: x\n"] {
            assert!(read(wrong, 4).is_err(), "{:?}", String::from_utf8_lossy(wrong));
        }
    }

    proptest! {
        #[test]
        fn how_an_answer_is_cut_does_not_matter(values in proptest::collection::vec(any::<(i64, String)>(), 0..9), piece in 1_usize..40) {
            let rows: Vec<String> = values.iter().map(|(number, text)| serde_json::json!({"n": number, "t": text}).to_string()).collect();
            let answer = format!("[{}]\n", rows.join(",\n"));
            let read = read(answer.as_bytes(), piece).unwrap();
            let expected: Vec<Row> = values.iter().map(|(number, text)| Row(vec![("n".into(), (*number).into()), ("t".into(), text.as_str().into())])).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
