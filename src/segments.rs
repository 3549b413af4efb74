//! `trough segments`: the segments of the pool, with who holds them, as many as a condition in SQL leaves.
//!
//! Invariants: memory does not grow with the pool, for its rows lie in a temporary file of SQLite's and are printed as
//! they are found; a pool that nobody knows is an error, never an empty list.

use std::process::ExitCode;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Statement};
use serde_json::Value;

use crate::cli::{Format, Segments};
use crate::config::Config;
use crate::rows::print::Printer;
use crate::rows::{Row, is_broken_pipe};

mod load;

/// The condition cannot be used.
const WRONG_USE: u8 = 2;
/// Nobody knows the pool now.
const NOT_KNOWN: u8 = 3;

/// What a person sees, with when it was published as text.
const SHOWN: &str = "id, state, length AS bytes, datetime(mtime_ms / 1000, 'unixepoch') AS \"published (UTC)\", \
                     copies, holders, unplaced";
/// What a program sees.
const ALL: &str = "id, state, length, mtime_ms, tag, copies, holders, unplaced, vanished";

/// Runs the command.
pub async fn run(config: &Config, options: &Segments) -> anyhow::Result<ExitCode> {
    let connection = match load::pool(config).await {
        Ok(connection) => connection,
        Err(error) => {
            eprintln!("trough: {error:#}");
            return Ok(ExitCode::from(NOT_KNOWN));
        }
    };
    let columns = if options.format == Format::Table { SHOWN } else { ALL };
    // on a line of its own, so that a comment in it ends there
    let condition = options.condition.as_deref().unwrap_or("true");
    let sql = format!("SELECT {columns} FROM segments WHERE (\n{condition}\n) ORDER BY id");
    let mut statement = match connection.prepare(&sql) {
        Ok(statement) => statement,
        Err(error) => {
            eprintln!("trough: --where {condition:?}: {error}");
            eprintln!(
                "trough: it is an SQL condition on the columns {ALL}, as in --where \"copies < 2 AND id GLOB 'web-*'\""
            );
            return Ok(ExitCode::from(WRONG_USE));
        }
    };
    match print(&mut statement, options.format) {
        Err(error) if !is_broken_pipe(&error) => {
            Err(error.context(format!("--where {condition:?}")))
        }
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}

fn print(statement: &mut Statement<'_>, format: Format) -> anyhow::Result<()> {
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut printer = Printer::new(format, std::io::BufWriter::new(std::io::stdout().lock()));
    let mut rows = statement.query([])?;
    let all = loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error.into()),
        };
        let column = |(at, name): (usize, &String)| Ok((name.clone(), value(row.get_ref(at)?)));
        let columns: rusqlite::Result<_> = names.iter().enumerate().map(column).collect();
        if let Err(error) = columns.map_err(Into::into).and_then(|all| printer.row(Row(all))) {
            break Err(error);
        }
    };
    printer.end(all)
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into(),
    }
}

/// `has(list, name)`: whether `name` is among those that are joined by commas.
fn add_functions(connection: &Connection) -> rusqlite::Result<()> {
    use rusqlite::functions::FunctionFlags;
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function("has", 2, flags, |arguments| {
        let (list, name): (String, String) = (arguments.get(0)?, arguments.get(1)?);
        Ok(list.split(',').any(|one| one == name))
    })
}
