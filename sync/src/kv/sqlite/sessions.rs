//! Sessions and locks in the tables.
//!
//! A session ends by the first call, of any process, that comes after its time; what it held is closed for its
//! lock-delay from that time on, not from that call.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::super::{Key, SessionId, SessionInfo, SessionOptions};
use super::{Failure, Now, keys, ms};

const EXPIRED: &str = "boot <> ? OR expires_ms <= ?";

/// Whether the time of a session is over.
pub(super) fn any_expired(connection: &Connection, now: &Now) -> Result<bool, Failure> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM session WHERE {EXPIRED})");
    let mut statement = connection.prepare_cached(&sql)?;
    Ok(statement.query_row(params![&*now.boot, now.ms], |row| row.get(0))?)
}

/// Ends the sessions whose time is over, in a transaction of its own: what is then asked may be refused, and
/// their end holds all the same.
pub(super) fn end_expired(connection: &mut Connection, now: &Now) -> Result<(), Failure> {
    if !any_expired(connection, now)? {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let sql = format!("SELECT id, boot, expires_ms FROM session WHERE {EXPIRED}");
        let mut statement = transaction.prepare_cached(&sql)?;
        let rows = statement.query_map(params![&*now.boot, now.ms], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, u64>(2)?))
        })?;
        for (id, boot, expires_ms) in rows.collect::<rusqlite::Result<Vec<_>>>()? {
            end(&transaction, &id, &boot, expires_ms)?;
        }
    }
    // of an earlier boot, or over: they close nothing any more
    transaction
        .prepare_cached("DELETE FROM lock_delay WHERE boot <> ? OR until_ms <= ?")?
        .execute(params![&*now.boot, now.ms])?;
    Ok(transaction.commit()?)
}

/// Ends a session that ended at `at_ms` of `boot`: its locks are free, and closed for its lock-delay.
fn end(transaction: &Transaction<'_>, id: &str, boot: &str, at_ms: u64) -> Result<(), Failure> {
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO lock_delay
             SELECT kv.key, ?2, ?3 + lock_delay_ms FROM session JOIN kv ON kv.session = session.id
             WHERE id = ?1 AND lock_delay_ms > 0",
        )?
        .execute(params![id, boot, at_ms])?;
    let index = keys::next_index(transaction)?;
    transaction
        .prepare_cached("UPDATE kv SET session = NULL, modified = ? WHERE session = ?")?
        .execute(params![index.0, id])?;
    transaction.prepare_cached("DELETE FROM session WHERE id = ?")?.execute([id])?;
    Ok(())
}

pub(super) fn create(
    transaction: &Transaction<'_>,
    now: &Now,
    options: &SessionOptions,
) -> Result<SessionId, Failure> {
    let id: String = transaction
        .prepare_cached(
            "INSERT INTO session VALUES (lower(hex(randomblob(16))), ?, ?, ?, ?, ?) RETURNING id",
        )?
        .query_row(
            params![
                options.name(),
                ms(options.ttl()),
                ms(options.lock_delay()),
                &*now.boot,
                now.ms + ms(options.ttl())
            ],
            |row| row.get(0),
        )?;
    SessionId::new(&id).ok_or_else(|| Failure::Malformed(format!("{id:?} is no session")))
}

pub(super) fn renew(
    transaction: &Transaction<'_>,
    now: &Now,
    session: &SessionId,
) -> Result<Duration, Failure> {
    let ttl_ms: Option<u64> = transaction
        .prepare_cached("UPDATE session SET expires_ms = ? + ttl_ms WHERE id = ? RETURNING ttl_ms")?
        .query_row(params![now.ms, session.as_str()], |row| row.get(0))
        .optional()?;
    ttl_ms.map(Duration::from_millis).ok_or_else(|| Failure::SessionGone(session.clone()))
}

pub(super) fn destroy(
    transaction: &Transaction<'_>,
    now: &Now,
    session: &SessionId,
) -> Result<(), Failure> {
    end(transaction, session.as_str(), &now.boot, now.ms)
}

pub(super) fn info(
    connection: &Connection,
    session: &SessionId,
) -> Result<Option<SessionInfo>, Failure> {
    let found = connection
        .prepare_cached("SELECT name, ttl_ms, lock_delay_ms FROM session WHERE id = ?")?
        .query_row([session.as_str()], |row| {
            Ok(SessionInfo {
                id: session.clone(),
                name: row.get(0)?,
                ttl: Duration::from_millis(row.get(1)?),
                lock_delay: Duration::from_millis(row.get(2)?),
            })
        })
        .optional()?;
    Ok(found)
}

pub(super) fn acquire(
    transaction: &Transaction<'_>,
    now: &Now,
    key: &Key,
    value: &[u8],
    session: &SessionId,
) -> Result<bool, Failure> {
    let free = may_acquire(transaction, now, key, session)?;
    if free {
        let index = keys::next_index(transaction)?;
        keys::put(transaction, index, key, value, Some(session))?;
    }
    Ok(free)
}

/// Whether `session` has the lock of `key`, or would get it.
pub(super) fn may_acquire(
    connection: &Connection,
    now: &Now,
    key: &Key,
    session: &SessionId,
) -> Result<bool, Failure> {
    let closed: bool = connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM lock_delay WHERE key = ? AND boot = ? AND until_ms > ?)",
        )?
        .query_row(params![key.as_str(), &*now.boot, now.ms], |row| row.get(0))?;
    // in this order, as Consul: during a lock-delay even a session that is gone only hears no
    if closed {
        return Ok(false);
    }
    if info(connection, session)?.is_none() {
        return Err(Failure::SessionGone(session.clone()));
    }
    let held = keys::get(connection, key)?.and_then(|entry| entry.session);
    Ok(held.is_none_or(|holder| holder == *session))
}

pub(super) fn release(
    transaction: &Transaction<'_>,
    key: &Key,
    value: &[u8],
    session: &SessionId,
) -> Result<bool, Failure> {
    let held = keys::get(transaction, key)?.and_then(|entry| entry.session);
    if held.as_ref() != Some(session) {
        return Ok(false);
    }
    let index = keys::next_index(transaction)?;
    keys::put(transaction, index, key, value, None)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::sqlite::schema;

    fn at(boot: &str, ms: u64) -> Now {
        Now { boot: boot.into(), ms }
    }

    #[test]
    fn a_session_of_an_earlier_boot_is_over_and_closes_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        crate::sqlite_file::migrate(&mut connection, schema::STEPS).unwrap();
        let (key, hour) = (Key::new("a").unwrap(), Duration::from_secs(3600));
        let options = SessionOptions::new("n", hour, Duration::from_secs(60)).unwrap();
        let before = at("boot 1", 5_000);
        let transaction = connection.transaction().unwrap();
        let old = create(&transaction, &before, &options).unwrap();
        assert!(acquire(&transaction, &before, &key, b"", &old).unwrap());
        transaction.commit().unwrap();
        end_expired(&mut connection, &before).unwrap();
        assert!(info(&connection, &old).unwrap().is_some());

        // the clock since boot begins again, and says less than before
        let after = at("boot 2", 10);
        end_expired(&mut connection, &after).unwrap();
        let transaction = connection.transaction().unwrap();
        assert!(info(&transaction, &old).unwrap().is_none());
        let new = create(&transaction, &after, &options).unwrap();
        assert!(acquire(&transaction, &after, &key, b"", &new).unwrap());
    }

    #[test]
    fn a_lock_delay_counts_from_the_end_of_the_session_not_from_the_call_that_saw_it() {
        let mut connection = Connection::open_in_memory().unwrap();
        crate::sqlite_file::migrate(&mut connection, schema::STEPS).unwrap();
        let key = Key::new("a").unwrap();
        let options =
            SessionOptions::new("n", Duration::from_secs(10), Duration::from_secs(60)).unwrap();
        let transaction = connection.transaction().unwrap();
        let old = create(&transaction, &at("b", 0), &options).unwrap();
        assert!(acquire(&transaction, &at("b", 0), &key, b"", &old).unwrap());
        transaction.commit().unwrap();
        end_expired(&mut connection, &at("b", 50_000)).unwrap();
        let transaction = connection.transaction().unwrap();
        let new = create(&transaction, &at("b", 50_000), &options).unwrap();
        assert!(!acquire(&transaction, &at("b", 69_999), &key, b"", &new).unwrap());
        assert!(acquire(&transaction, &at("b", 70_000), &key, b"", &new).unwrap());
    }
}
