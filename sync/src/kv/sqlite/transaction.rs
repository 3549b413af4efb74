//! The operations of one transaction, with Consul's outcome for each.

use bytes::Bytes;
use rusqlite::Connection;

use super::super::{Entry, Index, Key, Op, Refusal, SessionId, Txn};
use super::{Failure, Now, keys, sessions};

/// Runs `ops`. After [`Txn::Refused`] the caller rolls back.
pub(super) fn run(connection: &Connection, now: &Now, ops: &[Op]) -> Result<Txn, Failure> {
    let at = match ops.iter().all(Op::only_reads) {
        true => Index::ABSENT,
        false => keys::next_index(connection)?,
    };
    let mut entries = Vec::new();
    let mut refusals = Vec::new();
    for (op, operation) in ops.iter().enumerate() {
        match one(connection, now, at, operation)? {
            Ok(entry) => entries.extend(entry),
            Err(reason) => refusals.push(Refusal { op, reason }),
        }
    }
    Ok(if refusals.is_empty() { Txn::Committed(entries) } else { Txn::Refused(refusals) })
}

/// What it left or read, or why it refuses.
type Outcome = Result<Option<Entry>, String>;

fn one(connection: &Connection, now: &Now, at: Index, op: &Op) -> Result<Outcome, Failure> {
    let key = op.key();
    let found = keys::get(connection, key)?;
    let modified = found.as_ref().map_or(Index::ABSENT, |entry| entry.modified);
    let holder = found.as_ref().and_then(|entry| entry.session.clone());
    let other = |wanted: Index| match modified {
        Index::ABSENT => format!("{key} is not there"),
        modified => format!("{key} was last changed at {modified}, not at {wanted}"),
    };
    Ok(match op {
        // a write by whomever leaves the lock with its holder
        Op::Set { value, .. } => Ok(Some(put(connection, at, key, value, holder)?)),
        Op::Cas { value, index, .. } if modified == *index => {
            Ok(Some(put(connection, at, key, value, holder)?))
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
        Op::Acquire { value, session, .. } => {
            match sessions::may_acquire(connection, now, key, session)? {
                true => Ok(Some(put(connection, at, key, value, Some(session.clone()))?)),
                false => Err(format!("{key} is locked, or its lock-delay is not over")),
            }
        }
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

fn put(
    connection: &Connection,
    at: Index,
    key: &Key,
    value: &Bytes,
    session: Option<SessionId>,
) -> Result<Entry, Failure> {
    keys::put(connection, at, key, value, session.as_ref())?;
    let written = keys::get(connection, key)?;
    written
        .map(bare)
        .ok_or_else(|| Failure::Malformed(format!("{key} was written and is not there")))
}

fn bare(entry: Entry) -> Entry {
    Entry { value: Bytes::new(), ..entry }
}
