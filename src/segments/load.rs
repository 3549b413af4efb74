//! The pool as a table `segments` of SQLite's, from the registry of a cluster or of a machine on its own.
//!
//! Invariant: what a look at the registry began and did not finish, because somebody wrote at that moment, leaves
//! nothing behind.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use rusqlite::{Connection, params};
use sync::cluster::{PoolRow, pool_table};
use sync::kv::Kv;
use sync::node::NodeName;
use sync::registry::{self, Registry, SegmentState};
use sync::table::TableReader;
use sync::tag::Tag;

use crate::config::Config;
use crate::wiring;

/// Rows read at once from the registry of a machine on its own.
const ROWS_PER_PAGE: usize = 10_000;

/// Nobody knows what the pool is.
const NOT_LISTED: &str = "the deep store was not listed yet; is `trough sync local` running?";

/// A database of its own, in a file that is gone with it; kibibytes of it stay in memory.
const SETUP: &str = "
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA cache_size = -65536;
    CREATE TABLE segments (
        id TEXT PRIMARY KEY, state TEXT, length INTEGER, mtime_ms INTEGER, tag TEXT, copies INTEGER, holders TEXT,
        unplaced TEXT, vanished INTEGER, batch INTEGER
    ) WITHOUT ROWID;
    BEGIN;";

/// One segment.
struct Line {
    id: String,
    state: &'static str,
    length: u64,
    mtime_ms: u64,
    tag: Option<Tag>,
    copies: usize,
    holders: String,
    unplaced: Option<String>,
    vanished: bool,
}

/// The pool that the settings lead to.
pub(super) async fn pool(config: &Config) -> anyhow::Result<Connection> {
    match config.in_cluster() {
        true => of_cluster(&*wiring::kv(config)?).await,
        // who only looks makes no registry
        false if !config.registry.path.try_exists()? => bail!(NOT_LISTED),
        false => of_machine(&*wiring::registry(config)?, &config.display_name()).await,
    }
}

async fn of_cluster(kv: &dyn Kv) -> anyhow::Result<Connection> {
    let loader = Loader::new()?;
    let mut reader = TableReader::<PoolRow>::new(pool_table()?, Duration::ZERO)?;
    let take = |rows: Vec<PoolRow>| loader.batch(rows.into_iter().map(Line::from));
    let change = reader.look_with(kv, &take).await.context("read the pool table")?;
    let change = change.context("no pool table was written yet; is a lead running?")?;
    let kept: rusqlite::Result<Vec<i64>> =
        change.parts.into_iter().map(|(_, batch)| batch).collect();
    Ok(loader.finish(&kept?)?)
}

async fn of_machine(registry: &dyn Registry, name: &str) -> anyhow::Result<Connection> {
    let known = registry.pool_meta().await?;
    known.context(NOT_LISTED)?;
    let loader = Loader::new()?;
    let (mut after, mut batches) = (None, Vec::new());
    loop {
        let page = registry.pool_page(after.as_ref(), ROWS_PER_PAGE).await?;
        let last = page.len() < ROWS_PER_PAGE;
        after = page.last().map(|row| row.id.clone());
        batches.push(loader.batch(page.into_iter().map(|row| Line::on_its_own(row, name)))?);
        if last {
            return Ok(loader.finish(&batches)?);
        }
    }
}

impl From<PoolRow> for Line {
    fn from(row: PoolRow) -> Self {
        let state = match (row.vanished, row.holders.is_empty(), row.unplaced.is_some()) {
            (true, _, _) => "vanished",
            (false, false, false) => "held",
            (false, false, true) => "short",
            (false, true, false) => "pending",
            (false, true, true) => "no_place",
        };
        let holders: Vec<&str> = row.holders.iter().map(NodeName::as_str).collect();
        Self {
            id: row.id.as_str().to_owned(),
            state,
            length: row.version.length,
            mtime_ms: row.version.mtime_ms,
            tag: row.tag,
            copies: holders.len(),
            holders: holders.join(","),
            unplaced: row.unplaced.map(|why| why.to_string()),
            vanished: row.vanished,
        }
    }
}

impl Line {
    /// On a machine that is called `name`.
    fn on_its_own(row: registry::PoolRow, name: &str) -> Self {
        let state = match row.state {
            SegmentState::Pending => "pending",
            SegmentState::Held => "held",
            SegmentState::NoPlace => "no_place",
            SegmentState::Refused => "refused",
        };
        Self {
            id: row.id.as_str().to_owned(),
            state,
            length: row.stamp.length,
            mtime_ms: row.stamp.mtime_ms,
            tag: row.digest.map(Tag::from),
            copies: usize::from(row.digest.is_some()),
            holders: row.digest.map_or_else(String::new, |_| name.to_owned()),
            unplaced: row.reason,
            vanished: false,
        }
    }
}

/// Fills the table, batch by batch.
struct Loader {
    /// The database, and how many batches it was given.
    database: Mutex<(Connection, i64)>,
}

impl Loader {
    fn new() -> rusqlite::Result<Self> {
        let connection = Connection::open("")?;
        connection.execute_batch(SETUP)?;
        super::add_functions(&connection)?;
        Ok(Self { database: Mutex::new((connection, 0)) })
    }

    /// Takes some lines; gives the batch a number.
    fn batch(&self, lines: impl IntoIterator<Item = Line>) -> rusqlite::Result<i64> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let (connection, batches) = &mut *database;
        *batches += 1;
        let sql =
            "INSERT OR REPLACE INTO segments VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        let mut insert = connection.prepare_cached(sql)?;
        for line in lines {
            insert.execute(params![
                line.id,
                line.state,
                line.length,
                line.mtime_ms,
                line.tag.map(|tag| tag.to_string()),
                line.copies,
                line.holders,
                line.unplaced,
                line.vanished,
                *batches
            ])?;
        }
        Ok(*batches)
    }

    /// The table with the batches `kept`, and nothing of the others.
    fn finish(self, kept: &[i64]) -> rusqlite::Result<Connection> {
        let (connection, batches) =
            self.database.into_inner().unwrap_or_else(PoisonError::into_inner);
        if batches > kept.len() as i64 {
            let kept: Vec<_> = kept.iter().map(i64::to_string).collect();
            let sql = "DELETE FROM segments WHERE batch NOT IN (SELECT value FROM json_each(?1))";
            connection.execute(sql, [format!("[{}]", kept.join(","))])?;
        }
        connection.execute_batch("COMMIT")?;
        Ok(connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, copies: usize) -> Line {
        Line {
            id: id.to_owned(),
            state: "held",
            length: 4096,
            mtime_ms: 7,
            tag: None,
            copies,
            holders: String::new(),
            unplaced: None,
            vanished: false,
        }
    }

    #[test]
    fn a_look_that_was_begun_again_leaves_nothing_of_the_first() {
        let loader = Loader::new().unwrap();
        loader.batch([line("gone", 1), line("stays", 1)]).unwrap();
        let kept = loader.batch([line("stays", 2), line("new", 2)]).unwrap();
        let connection = loader.finish(&[kept]).unwrap();
        let mut rows = connection.prepare("SELECT id, copies FROM segments ORDER BY id").unwrap();
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let rows: Vec<(String, i64)> = rows.map(Result::unwrap).collect();
        assert_eq!(rows, [("new".to_owned(), 2), ("stays".to_owned(), 2)]);
    }
}
