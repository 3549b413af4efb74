//! What one request writes: a script, or one statement with rows of values.
//!
//! Invariant: every value is one that SQLite keeps as it is given; what would lose something is an error.

use std::fmt;

use data_encoding::BASE64;
use rusqlite::types::ValueRef;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

use super::WriteError;

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
    pub rows: Vec<RowValues>,
}

/// The values of one run.
#[derive(Debug, Clone, PartialEq)]
pub enum RowValues {
    /// In order of the parameters.
    Positional(Vec<BoundValue>),
    /// By name, with or without the sign before it.
    Named(Vec<(String, BoundValue)>),
}

/// A value to be bound.
#[derive(Debug, Clone, PartialEq)]
pub enum BoundValue {
    /// NULL.
    Null,
    /// An integer; true and false are 1 and 0.
    Integer(i64),
    /// A number with a fraction.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl<'a> From<&'a BoundValue> for ValueRef<'a> {
    fn from(value: &'a BoundValue) -> Self {
        match value {
            BoundValue::Null => Self::Null,
            BoundValue::Integer(value) => Self::Integer(*value),
            BoundValue::Real(value) => Self::Real(*value),
            BoundValue::Text(text) => Self::Text(text.as_bytes()),
            BoundValue::Blob(bytes) => Self::Blob(bytes),
        }
    }
}

impl BoundValue {
    /// The value so that exactly it is read again.
    pub(crate) fn to_json(&self) -> String {
        let value = match self {
            Self::Null => serde_json::Value::Null,
            Self::Integer(value) => (*value).into(),
            // the shortest text that only this number is read from
            Self::Real(value) => serde_json::json!({ REAL_KEY: format!("{value:e}") }),
            Self::Text(text) => text.as_str().into(),
            Self::Blob(bytes) => serde_json::json!({ BLOB_KEY: BASE64.encode(bytes) }),
        };
        value.to_string()
    }
}

/// The JSON form of a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    sql: String,
    /// One row.
    params: Option<RowValues>,
    /// Many.
    rows: Option<Vec<RowValues>>,
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
            (Some(row), None) => Ok(Self::Rows(RowsRequest { sql, rows: vec![row] })),
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

impl<'de> Deserialize<'de> for RowValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Row;
        impl<'de> Visitor<'de> for Row {
            type Value = RowValues;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of values, or an object of named ones")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<RowValues, A::Error> {
                let mut row = Vec::with_capacity(values.size_hint().unwrap_or(8));
                while let Some(value) = values.next_element()? {
                    row.push(value);
                }
                Ok(RowValues::Positional(row))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<RowValues, A::Error> {
                let mut row: Vec<(String, BoundValue)> = Vec::new();
                while let Some((name, value)) = values.next_entry::<String, _>()? {
                    if row.iter().any(|(other, _)| *other == name) {
                        return Err(de::Error::custom(format_args!("{name:?} is there twice")));
                    }
                    row.push((name, value));
                }
                Ok(RowValues::Named(row))
            }
        }
        deserializer.deserialize_any(Row)
    }
}

impl<'de> Deserialize<'de> for BoundValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = BoundValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(
                    f,
                    "null, true, false, a number, a string, {{\"{BLOB_KEY}\": …}} or {{\"{REAL_KEY}\": …}}"
                )
            }

            fn visit_unit<E>(self) -> Result<BoundValue, E> {
                Ok(BoundValue::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<BoundValue, E> {
                Ok(BoundValue::Integer(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<BoundValue, E> {
                Ok(BoundValue::Integer(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<BoundValue, E> {
                let fits = i64::try_from(value).map(BoundValue::Integer);
                fits.map_err(|_| {
                    E::custom(format_args!(
                        "{value} is over 2^63-1, SQLite's largest integer; send it as text"
                    ))
                })
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<BoundValue, E> {
                // JSON writes an integer that is too long for 64 bits as any other number
                match value.fract() == 0.0
                    && value.abs() >= 9_223_372_036_854_775_808.0
                    && value.abs() < 1e21
                {
                    true => Err(E::custom(format_args!(
                        "{value:e} has more digits than SQLite's numbers keep; send it as text, or as {{\"{REAL_KEY}\": …}}"
                    ))),
                    false => Ok(BoundValue::Real(value)),
                }
            }

            fn visit_str<E>(self, value: &str) -> Result<BoundValue, E> {
                Ok(BoundValue::Text(value.to_owned()))
            }

            fn visit_string<E>(self, value: String) -> Result<BoundValue, E> {
                Ok(BoundValue::Text(value))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<BoundValue, A::Error> {
                let wrong = || {
                    de::Error::custom(format_args!(
                        "an object as value has the one key {BLOB_KEY:?} or {REAL_KEY:?}"
                    ))
                };
                let Some((key, text)) = entries.next_entry::<String, String>()? else {
                    return Err(wrong());
                };
                if entries.next_key::<String>()?.is_some() {
                    return Err(wrong());
                }
                match &*key {
                    BLOB_KEY => {
                        BASE64.decode(text.as_bytes()).map(BoundValue::Blob).map_err(|error| {
                            de::Error::custom(format_args!(
                                "what {BLOB_KEY:?} has is not base64: {error}"
                            ))
                        })
                    }
                    // SQLite has NULL for what is no number
                    REAL_KEY => match text.parse::<f64>() {
                        Ok(real) if !real.is_nan() => Ok(BoundValue::Real(real)),
                        _ => Err(de::Error::custom(format_args!(
                            "what {REAL_KEY:?} has is no number: {text:?}"
                        ))),
                    },
                    _ => Err(wrong()),
                }
            }
        }
        deserializer.deserialize_any(One)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_sqlite_keeps() {
        let body = br#"{"sql":"s","rows":[[null,true,-1,9223372036854775807,0.5,1e300,"t\u0000",{"$base64":"AAE="}],
            {"a":1,":b":"x"}]}"#;
        let WriteRequest::Rows(request) = WriteRequest::from_json(body).unwrap() else { panic!() };
        let RowValues::Positional(values) = &request.rows[0] else { panic!() };
        use BoundValue::*;
        let expected = [
            Null,
            Integer(1),
            Integer(-1),
            Integer(i64::MAX),
            Real(0.5),
            Real(1e300),
            Text("t\0".to_owned()),
            Blob(vec![0, 1]),
        ];
        assert_eq!(values, &expected);
        let named = vec![("a".to_owned(), Integer(1)), (":b".to_owned(), Text("x".to_owned()))];
        assert_eq!(request.rows[1], RowValues::Named(named));
        assert_eq!(
            WriteRequest::from_json(br#"{"sql":"s"}"#).unwrap(),
            WriteRequest::Script("s".to_owned())
        );
    }

    #[test]
    fn a_number_of_json_is_read_to_its_last_bit() {
        let mut bits = 7_u64;
        for _ in 0..10_000 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let real = f64::from_bits(bits);
            let as_integer = (9e18..1e21).contains(&real.abs());
            if !real.is_finite() || as_integer {
                continue;
            }
            let body = format!(r#"{{"sql":"s","params":[{real:e}]}}"#);
            let read = WriteRequest::from_json(body.as_bytes()).unwrap();
            let rows = vec![RowValues::Positional(vec![BoundValue::Real(real)])];
            assert_eq!(read, WriteRequest::Rows(RowsRequest { sql: "s".to_owned(), rows }));
        }
    }

    #[test]
    fn every_value_is_read_as_it_was_written() {
        use BoundValue::*;
        let mut bits = 1_u64;
        let mut random = std::iter::repeat_with(|| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            f64::from_bits(bits)
        });
        let reals = random.by_ref().filter(|real| !real.is_nan()).take(10_000);
        let special = [0.1, 1.0, 1e19, -1e308, 5e-324, f64::INFINITY, f64::NEG_INFINITY];
        let reals = reals.chain(special).map(Real);
        let others = [
            Null,
            Integer(i64::MIN),
            Integer(i64::MAX),
            Text(String::new()),
            Text("\"\0\u{7f}\u{1f600}\\".to_owned()),
            Text("1".to_owned()),
            Blob(Vec::new()),
            Blob((0..=255).collect()),
        ];
        for value in reals.chain(others) {
            let body = format!(r#"{{"sql":"s","params":[{}]}}"#, value.to_json());
            let read = WriteRequest::from_json(body.as_bytes()).unwrap();
            let rows = vec![RowValues::Positional(vec![value])];
            assert_eq!(read, WriteRequest::Rows(RowsRequest { sql: "s".to_owned(), rows }));
        }
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
