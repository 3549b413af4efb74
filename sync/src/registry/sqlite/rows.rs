//! Rows of the pool table as types and back.

use fsd::segment::{Digest, Stamp};
use rusqlite::types::Type;
use rusqlite::{Row, Transaction, params};

use super::super::{PoolRow, SegmentState};

/// The columns that [`row_of`] reads, in its order.
pub(super) const ROW: &str = "id, path, length, mtime_ms, state, digest, reason";

fn code(state: SegmentState) -> u8 {
    match state {
        SegmentState::Pending => 0,
        SegmentState::Held => 1,
        SegmentState::NoPlace => 2,
        SegmentState::Refused => 3,
    }
}

fn state_of(code: u8) -> Option<SegmentState> {
    use SegmentState::{Held, NoPlace, Pending, Refused};
    [Pending, Held, NoPlace, Refused].into_iter().find(|state| self::code(*state) == code)
}

/// Writes `row`; whether its id is new.
pub(super) fn upsert(transaction: &Transaction<'_>, row: &PoolRow) -> rusqlite::Result<bool> {
    let digest = row.digest.map(|digest| digest.as_bytes().to_vec());
    let values = params![
        row.id.as_str(),
        row.path.as_str(),
        row.stamp.length,
        row.stamp.mtime_ms,
        code(row.state),
        digest,
        row.reason
    ];
    let update = "UPDATE pool SET path = ?2, length = ?3, mtime_ms = ?4, state = ?5, digest = ?6,
                  reason = ?7 WHERE id = ?1";
    if transaction.prepare_cached(update)?.execute(values)? == 1 {
        return Ok(false);
    }
    let insert = "INSERT INTO pool VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    transaction.prepare_cached(insert)?.execute(values)?;
    Ok(true)
}

/// Reads the columns of [`ROW`].
pub(super) fn row_of(row: &Row<'_>) -> rusqlite::Result<PoolRow> {
    let text = |column: usize| row.get::<_, String>(column);
    let invalid = |column: usize, kind: Type| {
        move |error: Box<dyn std::error::Error + Send + Sync>| {
            rusqlite::Error::FromSqlConversionFailure(column, kind, error)
        }
    };
    let digest = row
        .get::<_, Option<Vec<u8>>>(5)?
        .map(|bytes| blake3::Hash::from_slice(&bytes).map(Digest::from))
        .transpose()
        .map_err(|error| invalid(5, Type::Blob)(error.into()))?;
    let state: u8 = row.get(4)?;
    Ok(PoolRow {
        id: text(0)?.try_into().map_err(|e| invalid(0, Type::Text)(Box::new(e)))?,
        path: text(1)?.try_into().map_err(|e| invalid(1, Type::Text)(Box::new(e)))?,
        stamp: Stamp { length: row.get(2)?, mtime_ms: row.get(3)? },
        state: state_of(state)
            .ok_or_else(|| invalid(4, Type::Integer)(format!("state {state} is unknown").into()))?,
        digest,
        reason: row.get(6)?,
    })
}
