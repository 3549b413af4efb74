//! What one request writes: a script, or one statement with rows of values.

use data_encoding::BASE64;
use rusqlite::types::ValueRef;
use serde::Deserialize;

use super::WriteError;

mod rows;

use rows::Single;
pub use rows::{Row, Rows};

/// The key of an object that stands for a blob.
const BLOB_KEY: &str = "$base64";
/// The key of an object that stands for a number with a fraction, as text: JSON has no infinity, and what writes its
/// numbers may not write all of them.
const REAL_KEY: &str = "$real";

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub enum WriteRequest {
    /// Statements one after the other, in one transaction.
    Script(String),
    /// One statement, run once for each row of values, in one transaction.
    Rows(RowsRequest),
}

/// One statement and its values.
#[derive(Debug, Clone, PartialEq)]
pub struct RowsRequest {
    /// The statement.
    pub sql: String,
    /// The values of one run each.
    pub rows: Rows,
}

/// The value as JSON from which exactly it is read again; `None` for text that is not UTF-8, which JSON cannot carry.
pub(crate) fn to_json(value: ValueRef<'_>) -> Option<String> {
    let value = match value {
        ValueRef::Null => serde_json::Value::Null,
        ValueRef::Integer(value) => value.into(),
        // the shortest text that only this number is read from
        ValueRef::Real(value) => serde_json::json!({ REAL_KEY: format!("{value:e}") }),
        ValueRef::Text(text) => std::str::from_utf8(text).ok()?.into(),
        ValueRef::Blob(bytes) => serde_json::json!({ BLOB_KEY: BASE64.encode(bytes) }),
    };
    Some(value.to_string())
}

/// The JSON form of a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    sql: String,
    /// One row.
    params: Option<Single>,
    /// Many.
    rows: Option<Rows>,
}

impl WriteRequest {
    /// A body of JSON: `{"sql": …}`, with `"params"` for one row of values, with `"rows"` for many.
    pub fn from_json(body: &[u8]) -> Result<Self, WriteError> {
        let document: Document = serde_json::from_slice(body).map_err(|error| {
            WriteError::BadRequest(format!(
                "the body is not {{\"sql\": …, \"params\": [values] or \"rows\": [[values], …]}}: {error}"
            ))
        })?;
        let Document { sql, params, rows } = document;
        match (params, rows) {
            (None, None) => Ok(Self::Script(sql)),
            (Some(Single(rows)), None) => Ok(Self::Rows(RowsRequest { sql, rows })),
            (None, Some(rows)) if rows.is_empty() => Err(WriteError::Parameters(
                "`rows` is empty; give at least one row of values".to_owned(),
            )),
            (None, Some(rows)) => Ok(Self::Rows(RowsRequest { sql, rows })),
            (Some(_), Some(_)) => Err(WriteError::Parameters(
                "there are both `params` and `rows`; give the values of one row, or rows"
                    .to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of a body.
    fn read(body: &str) -> Rows {
        match WriteRequest::from_json(body.as_bytes()).unwrap() {
            WriteRequest::Rows(request) => request.rows,
            WriteRequest::Script(script) => panic!("{script}"),
        }
    }

    #[test]
    fn values_are_what_sqlite_keeps() {
        let rows = read(
            r#"{"sql":"s","rows":[[null,true,-1,9223372036854775807,0.5,1e300,"t\u0000",{"$base64":"AAE="}],
            {"a":1,":b":"x"},[],["y"]]}"#,
        );
        use ValueRef::*;
        let expected = [
            Null,
            Integer(1),
            Integer(-1),
            Integer(i64::MAX),
            Real(0.5),
            Real(1e300),
            Text(b"t\0"),
            Blob(&[0, 1]),
        ];
        let all: Vec<Row<'_>> = rows.iter().collect();
        fn values<'a>(row: &Row<'a>) -> Vec<ValueRef<'a>> {
            row.values().collect()
        }
        assert_eq!(rows.len(), all.len());
        assert_eq!((values(&all[0]), all[0].names()), (expected.to_vec(), None));
        let names = ["a", ":b"].map(str::to_owned);
        assert_eq!(all[1].names(), Some(&names[..]));
        assert_eq!(values(&all[1]), [Integer(1), Text(b"x")]);
        assert!(all[2].is_empty());
        assert_eq!(values(&all[3]), [Text(b"y")]);
        for row in all {
            let alone = row.alone();
            let same = alone.iter().next().unwrap();
            assert_eq!((alone.len(), values(&same), same.names()), (1, values(&row), row.names()));
        }
        assert_eq!(
            WriteRequest::from_json(br#"{"sql":"s"}"#).unwrap(),
            WriteRequest::Script("s".to_owned())
        );
    }

    /// The one value of a body that has one.
    fn only(rows: &Rows) -> ValueRef<'_> {
        rows.iter().next().unwrap().values().next().unwrap()
    }

    fn random_reals() -> impl Iterator<Item = f64> {
        let mut bits = 7_u64;
        std::iter::repeat_with(move || {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            f64::from_bits(bits)
        })
    }

    #[test]
    fn a_number_of_json_is_read_to_its_last_bit() {
        let is_integer = |real: &f64| (9e18..1e21).contains(&real.abs());
        let reals = random_reals().filter(|real| real.is_finite() && !is_integer(real));
        for real in reals.take(10_000) {
            let rows = read(&format!(r#"{{"sql":"s","params":[{real:e}]}}"#));
            assert_eq!(only(&rows), ValueRef::Real(real));
        }
    }

    #[test]
    fn every_value_is_read_as_it_was_written() {
        use ValueRef::*;
        let reals = random_reals().filter(|real| !real.is_nan()).take(10_000);
        let special = [0.1, 1.0, 1e19, -1e308, 5e-324, f64::INFINITY, f64::NEG_INFINITY];
        let every_byte: Vec<u8> = (0..=255).collect();
        let others = [
            Null,
            Integer(i64::MIN),
            Integer(i64::MAX),
            Text(b""),
            Text("\"\0\u{7f}\u{1f600}\\".as_bytes()),
            Text(b"1"),
            Blob(&[]),
            Blob(&every_byte),
        ];
        for value in reals.chain(special).map(Real).chain(others) {
            let rows = read(&format!(r#"{{"sql":"s","params":[{}]}}"#, to_json(value).unwrap()));
            assert_eq!(only(&rows), value);
        }
        assert_eq!(to_json(Real(0.1)).unwrap(), r#"{"$real":"1e-1"}"#);
        assert_eq!(to_json(Text(&[0xff])), None);
    }

    #[test]
    fn what_would_lose_something_is_refused() {
        for (body, why) in [
            (r#"{"sql":"s","params":[9223372036854775808]}"#, "largest integer"),
            (r#"{"sql":"s","params":[18446744073709551616]}"#, "more digits"),
            (r#"{"sql":"s","params":[[1]]}"#, "null, true, false"),
            (r#"{"sql":"s","params":[{"a":"b"}]}"#, "one key"),
            (r#"{"sql":"s","params":[{"$base64":"AA==","x":"y"}]}"#, "one key"),
            (r#"{"sql":"s","params":[{"$base64":"?"}]}"#, "not base64"),
            (r#"{"sql":"s","params":[{"$real":"nan"}]}"#, "no number"),
            (r#"{"sql":"s","params":[{"$real":1.5}]}"#, "expected a string"),
            (r#"{"sql":"s","params":{"a":1,"a":2}}"#, "twice"),
            (r#"{"sql":"s","params":[1],"rows":[[1]]}"#, "both"),
            (r#"{"sql":"s","rows":[]}"#, "empty"),
            (r#"{"sql":"s","limits":{}}"#, "unknown field"),
            (r#"{"params":[1]}"#, "missing field"),
            (r#"["s"]"#, "invalid"),
            ("", "EOF"),
        ] {
            let said = WriteRequest::from_json(body.as_bytes()).unwrap_err().to_string();
            assert!(said.contains(why), "{body}: {said}");
        }
    }
}
