//! Rows on their way to a person or a program: as a table, as JSON like the reader's, or as CSV.
//!
//! Invariant: what came before an error is shown, and the error is told; it never looks like the end.

use std::io::{IsTerminal, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serializer;
use serde_json::Value;

use super::{Row, cell, counted};
use crate::cli::Format;

/// The most rows of a table: it is held in memory until its columns' widths are known, and nobody reads more.
const TABLE_ROWS_MAX: usize = 10_000;

/// More rows than a table shows.
#[derive(Debug, thiserror::Error)]
#[error("more rows than a table shows")]
struct TooMany;

/// Prints rows as they come.
pub struct Printer<W: Write> {
    count: usize,
    kind: Kind<W>,
}

enum Kind<W: Write> {
    Table { table: Box<Table>, numeric: Vec<bool>, output: W },
    Json(W),
    Csv(Box<csv::Writer<W>>),
}

impl<W: Write> Printer<W> {
    /// To `output`, as `format` says.
    pub fn new(format: Format, output: W) -> Self {
        let kind = match format {
            Format::Table => {
                let mut table = Table::new();
                table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
                // only a terminal has a width to fit into
                table.set_content_arrangement(match std::io::stdout().is_terminal() {
                    true => ContentArrangement::Dynamic,
                    false => ContentArrangement::Disabled,
                });
                Kind::Table { table: Box::new(table), numeric: Vec::new(), output }
            }
            Format::Json => Kind::Json(output),
            Format::Csv => Kind::Csv(Box::new(csv::Writer::from_writer(output))),
        };
        Self { count: 0, kind }
    }

    /// Takes the next row. An error ends the rows; [`Self::end`] knows what it means.
    pub fn row(&mut self, row: Row) -> anyhow::Result<()> {
        let first = self.count == 0;
        match &mut self.kind {
            Kind::Table { table, numeric, .. } => {
                if first {
                    table.set_header(row.0.iter().map(|(name, _)| name));
                    *numeric = vec![true; row.0.len()];
                }
                if self.count == TABLE_ROWS_MAX {
                    return Err(TooMany.into());
                }
                for (numeric, (_, value)) in numeric.iter_mut().zip(&row.0) {
                    *numeric &= matches!(value, Value::Number(_) | Value::Null);
                }
                table.add_row(row.0.iter().map(|(_, value)| cell(value)));
            }
            Kind::Json(output) => {
                output.write_all(if first { b"[" } else { b",\n" })?;
                let columns = row.0.iter().map(|(name, value)| (name, value));
                serde_json::Serializer::new(output).collect_map(columns)?;
            }
            Kind::Csv(writer) => {
                if first {
                    writer.write_record(row.0.iter().map(|(name, _)| name))?;
                }
                writer.write_record(row.0.iter().map(|(_, value)| cell(value)))?;
            }
        }
        self.count += 1;
        Ok(())
    }

    /// Ends the rows; `all` says whether they are all.
    pub fn end(self, all: anyhow::Result<()>) -> anyhow::Result<()> {
        let Self { count, kind } = self;
        match kind {
            Kind::Table { mut table, numeric, mut output } => {
                for (column, _) in numeric.iter().enumerate().filter(|(_, numeric)| **numeric) {
                    if let Some(column) = table.column_mut(column) {
                        column.set_cell_alignment(CellAlignment::Right);
                    }
                }
                if count > 0 {
                    writeln!(output, "{table}")?;
                }
                let all = match all {
                    Ok(()) => writeln!(output, "{}", counted(count, "row")).map_err(Into::into),
                    Err(error) if error.is::<TooMany>() => writeln!(
                        output,
                        "the first {count} rows; `--format csv` or `--format json` print them all"
                    )
                    .map_err(Into::into),
                    Err(error) => Err(error),
                };
                output.flush()?;
                all
            }
            Kind::Json(mut output) => {
                if all.is_ok() {
                    output.write_all(if count == 0 { b"[]\n" } else { b"]\n" })?;
                }
                output.flush()?;
                all
            }
            Kind::Csv(mut writer) => {
                writer.flush()?;
                all
            }
        }
    }
}
