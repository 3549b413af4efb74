//! Keys and indexes in the tables.
//!
//! A removed key is remembered in `gone` for a while, so that a watch of it or of what it lay below sees the
//! removal; what is forgotten raises one index that every watch sees.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::{ANSWER_BYTES_MAX, Entry, Index, Key, SessionId, Watched};
use super::{Failure, schema};

/// A removal is remembered for so many changes: a watch older than that wakes once for nothing.
const REMEMBERED: u64 = 10_000;

const ENTRY: &str = "key, value, created, modified, session";

fn meta(connection: &Connection, key: &str) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE key = ?")?;
    statement.query_row([key], |row| row.get(0))
}

/// The index of a change that begins now.
pub(super) fn next_index(connection: &Connection) -> rusqlite::Result<Index> {
    connection
        .prepare_cached("UPDATE meta SET value = value + 1 WHERE key = ? RETURNING value")?
        .query_row([schema::INDEX], |row| row.get(0).map(Index))
}

/// A key as the tables have it: text that is checked only when it leaves.
struct Found {
    key: String,
    value: Vec<u8>,
    created: u64,
    modified: u64,
    session: Option<String>,
}

impl Found {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            key: row.get(0)?,
            value: row.get(1)?,
            created: row.get(2)?,
            modified: row.get(3)?,
            session: row.get(4)?,
        })
    }

    fn entry(self) -> Result<Entry, Failure> {
        let key = Key::new(self.key).map_err(|e| Failure::Malformed(e.to_string()))?;
        let session = self.session.map(|text| {
            SessionId::new(&text)
                .ok_or_else(|| Failure::Malformed(format!("{text:?} at {key} is no session")))
        });
        Ok(Entry {
            value: Bytes::from(self.value),
            created: Index(self.created),
            modified: Index(self.modified),
            session: session.transpose()?,
            key,
        })
    }
}

pub(super) fn get(connection: &Connection, key: &Key) -> Result<Option<Entry>, Failure> {
    connection
        .prepare_cached(&format!("SELECT {ENTRY} FROM kv WHERE key = ?"))?
        .query_row([key.as_str()], Found::of)
        .optional()?
        .map(Found::entry)
        .transpose()
}

/// Where the keys below `key` begin and end: `0` is the character after `/`.
fn range(key: &Key) -> (String, String) {
    (format!("{key}/"), format!("{key}0"))
}

pub(super) fn list(connection: &Connection, below: &Key) -> Result<Vec<Entry>, Failure> {
    let (from, to) = range(below);
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {ENTRY} FROM kv WHERE key >= ? AND key < ? ORDER BY key"
    ))?;
    let mut bytes = 0;
    let mut entries = Vec::new();
    for found in statement.query_map([from, to], Found::of)? {
        let entry = found?.entry()?;
        bytes += entry.value.len() + entry.key.as_str().len();
        if bytes > ANSWER_BYTES_MAX {
            return Err(Failure::TooLarge);
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// The newest change of what is watched, removals included. Never [`Index::ABSENT`].
pub(super) fn index_of(connection: &Connection, what: &Watched) -> Result<Index, Failure> {
    let (from, to) = match what {
        // keys have no character below `-`, so nothing lies between a key and itself with a `!`
        Watched::Key(key) => (key.to_string(), format!("{key}!")),
        Watched::Below(key) => range(key),
    };
    let newest: u64 = connection
        .prepare_cached(
            "SELECT max(
                 ifnull((SELECT max(modified) FROM kv WHERE key >= ?1 AND key < ?2), 0),
                 ifnull((SELECT max(modified) FROM gone WHERE key >= ?1 AND key < ?2), 0))",
        )?
        .query_row([from, to], |row| row.get(0))?;
    Ok(Index(newest.max(meta(connection, schema::FORGOTTEN)?)))
}

/// Writes `value` and who holds the lock. What says the same already keeps its index, as in Consul.
pub(super) fn put(
    connection: &Connection,
    at: Index,
    key: &Key,
    value: &[u8],
    session: Option<&SessionId>,
) -> Result<(), Failure> {
    connection
        .prepare_cached(
            "INSERT INTO kv VALUES (?1, ?2, ?3, ?3, ?4)
             ON CONFLICT (key) DO UPDATE SET value = ?2, modified = ?3, session = ?4
             WHERE value IS NOT ?2 OR session IS NOT ?4",
        )?
        .execute(params![key.as_str(), value, at.0, session.map(SessionId::as_str)])?;
    connection.prepare_cached("DELETE FROM gone WHERE key = ?")?.execute([key.as_str()])?;
    Ok(())
}

/// Removes the key, if it is there, and remembers that.
pub(super) fn delete(connection: &Connection, at: Index, key: &Key) -> Result<(), Failure> {
    let removed =
        connection.prepare_cached("DELETE FROM kv WHERE key = ?")?.execute([key.as_str()])?;
    if removed == 0 {
        return Ok(());
    }
    connection
        .prepare_cached("INSERT OR REPLACE INTO gone VALUES (?, ?)")?
        .execute(params![key.as_str(), at.0])?;
    let before = at.0.saturating_sub(REMEMBERED);
    let forgotten: Option<u64> = connection
        .prepare_cached("SELECT max(modified) FROM gone WHERE modified < ?")?
        .query_row([before], |row| row.get(0))?;
    if let Some(forgotten) = forgotten {
        connection.prepare_cached("DELETE FROM gone WHERE modified < ?")?.execute([before])?;
        connection
            .prepare_cached("UPDATE meta SET value = ? WHERE key = ?")?
            .execute(params![forgotten, schema::FORGOTTEN])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_wakes_every_watch_once() {
        let mut connection = Connection::open_in_memory().unwrap();
        crate::sqlite_file::migrate(&mut connection, schema::STEPS).unwrap();
        let key = |text| Key::new(text).unwrap();
        let index = |text| index_of(&connection, &Watched::Key(key(text))).unwrap();
        let change = |text| {
            let at = next_index(&connection).unwrap();
            put(&connection, at, &key(text), b"", None).unwrap();
            let at = next_index(&connection).unwrap();
            delete(&connection, at, &key(text)).unwrap();
            at
        };
        let before = index("other");
        let removed = change("a");
        assert_eq!(index("a"), removed);
        for _ in 0..=REMEMBERED {
            next_index(&connection).unwrap();
        }
        let last = change("b");
        let left: u64 =
            connection.query_row("SELECT count(*) FROM gone", [], |row| row.get(0)).unwrap();
        assert_eq!(left, 1, "the table of removals is bounded");
        assert_eq!(index("b"), last);
        assert!(index("a") == removed && index("other") == removed && removed > before);
    }
}
