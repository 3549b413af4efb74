//! The kinds of statements that a writer may run.
//!
//! Left out: which of them it does: the writer's settings and the segment's schema say that.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A kind of statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[repr(u8)]
pub enum Verb {
    /// INSERT, REPLACE.
    Insert,
    /// UPDATE.
    Update,
    /// DELETE.
    Delete,
    /// CREATE TABLE.
    CreateTable,
    /// CREATE INDEX.
    CreateIndex,
    /// CREATE VIEW.
    CreateView,
    /// CREATE TRIGGER.
    CreateTrigger,
    /// CREATE VIRTUAL TABLE with fts5 or rtree.
    CreateVirtualTable,
    /// ALTER TABLE.
    AlterTable,
    /// DROP TABLE.
    DropTable,
    /// DROP INDEX.
    DropIndex,
    /// DROP VIEW.
    DropView,
    /// DROP TRIGGER.
    DropTrigger,
}

/// All of them with their names.
const NAMES: [(Verb, &str); 13] = [
    (Verb::Insert, "insert"),
    (Verb::Update, "update"),
    (Verb::Delete, "delete"),
    (Verb::CreateTable, "create table"),
    (Verb::CreateIndex, "create index"),
    (Verb::CreateView, "create view"),
    (Verb::CreateTrigger, "create trigger"),
    (Verb::CreateVirtualTable, "create virtual table"),
    (Verb::AlterTable, "alter table"),
    (Verb::DropTable, "drop table"),
    (Verb::DropIndex, "drop index"),
    (Verb::DropView, "drop view"),
    (Verb::DropTrigger, "drop trigger"),
];

/// A text that names no [`Verb`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no kind of statement; known are {}", NAMES.map(|(_, name)| name).join(", "))]
pub struct UnknownVerb {
    text: String,
}

impl Verb {
    /// As the settings and people write it.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(verb, _)| *verb == self).map_or("", |(_, name)| name)
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|(verb, _)| *verb)
    }

    /// Whether it changes the schema.
    pub fn is_of_schema(self) -> bool {
        !matches!(self, Self::Insert | Self::Update | Self::Delete)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Verb {
    type Err = UnknownVerb;
    fn from_str(text: &str) -> Result<Self, UnknownVerb> {
        let normal =
            text.split_ascii_whitespace().collect::<Vec<_>>().join(" ").to_ascii_lowercase();
        let found = NAMES.iter().find(|(_, name)| *name == normal);
        found.map(|(verb, _)| *verb).ok_or_else(|| UnknownVerb { text: text.to_owned() })
    }
}

impl TryFrom<String> for Verb {
    type Error = UnknownVerb;
    fn try_from(text: String) -> Result<Self, UnknownVerb> {
        text.parse()
    }
}

impl From<Verb> for String {
    fn from(verb: Verb) -> Self {
        verb.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_any_form_and_written_in_one() {
        for (verb, name) in NAMES {
            assert_eq!(name.parse(), Ok(verb));
            assert_eq!(name.to_uppercase().replace(' ', "  ").parse(), Ok(verb));
            assert_eq!(verb.to_string(), name);
        }
        assert!("vacuum".parse::<Verb>().unwrap_err().to_string().contains("create table"));
    }
}
