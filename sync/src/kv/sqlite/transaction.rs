//! The operations of one transaction, with Consul's outcome for each.

use bytes::Bytes;
use rusqlite::Connection;

use super::super::{Entry, Index, Key, Op, Refusal, Txn};
use super::{Failure, keys};

/// Runs `ops`. After [`Txn::Refused`] the caller rolls back.
pub(super) fn run(connection: &Connection, ops: &[Op]) -> Result<Txn, Failure> {
    let at = keys::next_index(connection)?;
    let mut entries = Vec::new();
    let mut refusals = Vec::new();
    for (op, operation) in ops.iter().enumerate() {
        match one(connection, at, operation)? {
            Ok(entry) => entries.extend(entry),
            Err(reason) => refusals.push(Refusal { op, reason }),
        }
    }
    Ok(if refusals.is_empty() { Txn::Committed(entries) } else { Txn::Refused(refusals) })
}

/// What it left or read, or why it refuses.
type Outcome = Result<Option<Entry>, String>;

fn one(connection: &Connection, at: Index, op: &Op) -> Result<Outcome, Failure> {
    let key = op.key();
    let found = keys::get(connection, key)?;
    let modified = found.as_ref().map_or(Index::ABSENT, |entry| entry.modified);
    let other = |wanted: Index| match modified {
        Index::ABSENT => format!("{key} is not there"),
        modified => format!("{key} was last changed at {modified}, not at {wanted}"),
    };
    Ok(match op {
        Op::Set { value, .. } => Ok(Some(set(connection, at, key, value, found)?)),
        Op::Cas { value, index, .. } if modified == *index => {
            Ok(Some(set(connection, at, key, value, found)?))
        }
        Op::Cas { index, .. } => Err(other(*index)),
        Op::Delete { .. } => {
            keys::delete(connection, at, key)?;
            Ok(None)
        }
        Op::DeleteCas { index, .. } if found.is_none() || modified == *index => {
            keys::delete(connection, at, key)?;
            Ok(None)
        }
        Op::DeleteCas { index, .. } => Err(other(*index)),
        Op::Get { .. } => found.map(Some).ok_or_else(|| other(Index::ABSENT)),
        Op::CheckSession { session, .. } => match found {
            Some(entry) if entry.session.as_ref() == Some(session) => Ok(Some(bare(entry))),
            Some(_) => Err(format!("session {session} does not hold {key}")),
            None => Err(other(Index::ABSENT)),
        },
        Op::CheckIndex { index, .. } => match found {
            Some(entry) if entry.modified == *index => Ok(Some(bare(entry))),
            Some(_) | None => Err(other(*index)),
        },
        Op::CheckNotExists { .. } if found.is_none() => Ok(None),
        Op::CheckNotExists { .. } => Err(format!("{key} is there")),
    })
}

fn set(
    connection: &Connection,
    at: Index,
    key: &Key,
    value: &Bytes,
    found: Option<Entry>,
) -> Result<Entry, Failure> {
    // a write by whomever leaves the lock with its holder
    let session = found.and_then(|entry| entry.session);
    keys::put(connection, at, key, value, session.as_ref())?;
    let written = keys::get(connection, key)?;
    written
        .map(bare)
        .ok_or_else(|| Failure::Malformed(format!("{key} was written and is not there")))
}

fn bare(entry: Entry) -> Entry {
    Entry { value: Bytes::new(), ..entry }
}
