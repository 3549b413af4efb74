//! The rows of values of one request: all values in one place, and their bytes in another. Memory for each by itself would
//! cost more than to write them.
//!
//! Invariant: every value is one that SQLite keeps as it is given; what would lose something is an error.

use std::fmt;
use std::ops::Range;

use data_encoding::BASE64;
use rusqlite::types::ValueRef;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{BLOB_KEY, REAL_KEY};

/// See the module.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rows {
    values: Vec<Held>,
    bytes: Vec<u8>,
    rows: Vec<End>,
}

/// A value; of what has a length, where its bytes are.
#[derive(Debug, Clone, PartialEq)]
enum Held {
    Null,
    Integer(i64),
    Real(f64),
    Text(Range<usize>),
    Blob(Range<usize>),
}

/// Where a row ends.
#[derive(Debug, Clone, PartialEq)]
struct End {
    values: usize,
    /// What the values are called; else they come in order of the parameters.
    names: Option<Box<[String]>>,
}

/// The values of one run of a statement.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    values: &'a [Held],
    bytes: &'a [u8],
    names: Option<&'a [String]>,
}

impl Rows {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        let mut begin = 0;
        self.rows.iter().map(move |end| {
            let values = &self.values[begin..end.values];
            begin = end.values;
            Row { values, bytes: &self.bytes, names: end.names.as_deref() }
        })
    }

    fn hold(&mut self, bytes: &[u8]) -> Range<usize> {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        begin..self.bytes.len()
    }

    fn end_row(&mut self, names: Option<Vec<String>>) {
        let names = names.map(Vec::into_boxed_slice);
        self.rows.push(End { values: self.values.len(), names });
    }
}

impl<'a> Row<'a> {
    /// How many values it has.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// What the values are called, with or without the sign before it; `None`: they come in order of the parameters.
    pub fn names(&self) -> Option<&'a [String]> {
        self.names
    }

    /// Its values.
    pub fn values(&self) -> impl Iterator<Item = ValueRef<'a>> {
        let bytes = self.bytes;
        self.values.iter().map(move |value| match value {
            Held::Null => ValueRef::Null,
            Held::Integer(value) => ValueRef::Integer(*value),
            Held::Real(value) => ValueRef::Real(*value),
            Held::Text(at) => ValueRef::Text(&bytes[at.clone()]),
            Held::Blob(at) => ValueRef::Blob(&bytes[at.clone()]),
        })
    }

    /// Rows of which it is the only one.
    pub fn alone(&self) -> Rows {
        let mut rows = Rows::default();
        for value in self.values() {
            let held = match value {
                ValueRef::Null => Held::Null,
                ValueRef::Integer(value) => Held::Integer(value),
                ValueRef::Real(value) => Held::Real(value),
                ValueRef::Text(text) => Held::Text(rows.hold(text)),
                ValueRef::Blob(bytes) => Held::Blob(rows.hold(bytes)),
            };
            rows.values.push(held);
        }
        rows.end_row(self.names.map(<[String]>::to_vec));
        rows
    }
}

/// Many rows, as JSON has them.
impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Rows;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of rows")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Rows, A::Error> {
                let mut rows = Rows::default();
                while all.next_element_seed(OneRow(&mut rows))?.is_some() {}
                Ok(rows)
            }
        }
        deserializer.deserialize_seq(All)
    }
}

/// One row, as JSON has it.
#[derive(Debug)]
pub(super) struct Single(pub(super) Rows);

impl<'de> Deserialize<'de> for Single {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut rows = Rows::default();
        OneRow(&mut rows).deserialize(deserializer)?;
        Ok(Self(rows))
    }
}

/// Adds a row.
struct OneRow<'a>(&'a mut Rows);

impl<'de> DeserializeSeed<'de> for OneRow<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OneRow<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of values, or an object of named ones")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while values.next_element_seed(OneValue(self.0))?.is_some() {}
        self.0.end_row(None);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        let mut names: Vec<String> = Vec::new();
        while let Some(name) = values.next_key::<String>()? {
            if names.contains(&name) {
                return Err(de::Error::custom(format_args!("{name:?} is there twice")));
            }
            names.push(name);
            values.next_value_seed(OneValue(self.0))?;
        }
        self.0.end_row(Some(names));
        Ok(())
    }
}

/// Adds a value to the row that has not ended.
struct OneValue<'a>(&'a mut Rows);

impl OneValue<'_> {
    fn is(self, value: Held) {
        self.0.values.push(value);
    }
}

impl<'de> DeserializeSeed<'de> for OneValue<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OneValue<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "null, true, false, a number, a string, {{\"{BLOB_KEY}\": …}} or {{\"{REAL_KEY}\": …}}"
        )
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.is(Held::Null);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.is(Held::Integer(value.into()));
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.is(Held::Integer(value));
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        let Ok(value) = i64::try_from(value) else {
            return Err(E::custom(format_args!(
                "{value} is over 2^63-1, SQLite's largest integer; send it as text"
            )));
        };
        self.is(Held::Integer(value));
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        // JSON writes an integer that is too long for 64 bits as any other number
        if value.fract() == 0.0 && value.abs() >= 9_223_372_036_854_775_808.0 && value.abs() < 1e21
        {
            return Err(E::custom(format_args!(
                "{value:e} has more digits than SQLite's numbers keep; send it as text, or as {{\"{REAL_KEY}\": …}}"
            )));
        }
        self.is(Held::Real(value));
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        let text = self.0.hold(value.as_bytes());
        self.is(Held::Text(text));
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
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
                let bytes = BASE64.decode(text.as_bytes()).map_err(|error| {
                    de::Error::custom(format_args!("what {BLOB_KEY:?} has is not base64: {error}"))
                })?;
                let blob = self.0.hold(&bytes);
                self.is(Held::Blob(blob));
            }
            // SQLite has NULL for what is no number
            REAL_KEY => match text.parse::<f64>() {
                Ok(real) if !real.is_nan() => self.is(Held::Real(real)),
                _ => {
                    return Err(de::Error::custom(format_args!(
                        "what {REAL_KEY:?} has is no number: {text:?}"
                    )));
                }
            },
            _ => return Err(wrong()),
        }
        Ok(())
    }
}
