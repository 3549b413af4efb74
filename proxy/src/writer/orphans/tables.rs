//! The tables of a database that have rows of their own.
//!
//! Left out: virtual tables, and the tables beneath them, which are theirs; what SQLite keeps for itself.

use rusqlite::Connection;

/// A table and its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// The columns that a row is made of, in order: not those that SQLite computes.
    pub columns: Vec<String>,
}

/// What a database has.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// In the order in which they were made, so that those which others refer to come first.
    pub(super) ordinary: Vec<Table>,
    /// The names of virtual ones.
    pub(super) virtual_ones: Vec<String>,
}

impl Tables {
    /// Those of `database`.
    pub(super) fn of(database: &Connection) -> rusqlite::Result<Self> {
        // SQLite itself tells which are beneath a virtual one; the schema knows their order
        let mut list = database.prepare(
            "SELECT made.name, kinds.type FROM main.sqlite_schema AS made, pragma_table_list AS kinds
             WHERE made.type = 'table' AND kinds.schema = 'main' AND kinds.name = made.name
             ORDER BY made.rowid",
        )?;
        let mut rows = list.query([])?;
        let mut tables = Self::default();
        while let Some(row) = rows.next()? {
            let (name, kind): (String, String) = (row.get(0)?, row.get(1)?);
            match &*kind {
                // names that begin so are SQLite's own
                "table"
                    if !name
                        .get(..7)
                        .is_some_and(|start| start.eq_ignore_ascii_case("sqlite_")) =>
                {
                    let columns = columns(database, &name)?;
                    tables.ordinary.push(Table { name, columns });
                }
                "virtual" => tables.virtual_ones.push(name),
                _ => {}
            }
        }
        Ok(tables)
    }

    /// The table called `name`, as SQL takes names.
    pub(super) fn find(&self, name: &str) -> Option<&Table> {
        self.ordinary.iter().find(|table| table.name.eq_ignore_ascii_case(name))
    }
}

fn columns(database: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT name FROM pragma_table_xinfo(?1, 'main') WHERE hidden = 0 ORDER BY cid";
    let mut list = database.prepare(sql)?;
    list.query_map([table], |row| row.get(0))?.collect()
}

impl Table {
    /// Whether rows of `other` have the same columns as its own, in whatever order.
    pub(super) fn has_columns_of(&self, other: &Self) -> bool {
        let has = |name: &String| other.columns.iter().any(|one| one.eq_ignore_ascii_case(name));
        self.columns.len() == other.columns.len() && self.columns.iter().all(has)
    }

    /// The names of its columns as SQL.
    pub(super) fn columns_sql(&self) -> String {
        let names: Vec<_> = self.columns.iter().map(|name| quoted(name)).collect();
        names.join(", ")
    }

    /// Its name as SQL.
    pub(super) fn name_sql(&self) -> String {
        quoted(&self.name)
    }
}

/// A name as SQL, whatever is in it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
