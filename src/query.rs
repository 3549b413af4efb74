//! `trough query`: asks a reader and prints the rows as they come.
//!
//! Invariant: exit status 0 means that the whole answer was printed. What the reader says when it refuses is
//! printed as it came.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

use anyhow::Context;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use fsd::segment::SegmentId;
use futures::StreamExt;
use reqwest::{Response, StatusCode};
use serde_json::Value;

use crate::cli::{Format, Query};
use crate::config::Config;
use crate::http;
use crate::rows::{Row, RowReader, cell, is_broken_pipe};

/// The most rows of a table: it is held in memory until its columns' widths are known, and nobody reads more.
const TABLE_ROWS_MAX: usize = 10_000;

/// The most bytes of a statement that is read from standard input.
const SQL_BYTES_MAX: u64 = 64 << 20;

/// The most bytes of an error's text that are printed.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// The reader refused the question.
const REFUSED: u8 = 1;
/// No answer, or not a whole one.
const NO_ANSWER: u8 = 3;

/// Runs the command.
pub async fn run(config: &Config, options: &Query) -> anyhow::Result<ExitCode> {
    let id: SegmentId = options.segment.parse().context("read the segment's name")?;
    let sql = match options.sql.as_str() {
        "-" => read_statement(std::io::stdin().lock())?,
        sql => sql.to_owned(),
    };
    let url = match &options.url {
        Some(url) => url.clone(),
        None => http::url_of(&config.node.read_listen)?,
    };
    let request = http::client(None)?.post(&url).query(&[("segment", id.as_str())]).body(sql);
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => {
            eprintln!("trough: ask the reader at {url}: {:#}", anyhow::Error::new(error));
            eprintln!("trough: is it running? `trough up` starts it");
            return Ok(ExitCode::from(NO_ANSWER));
        }
    };
    let status = response.status();
    if !status.is_success() {
        show_refusal(response).await;
        return Ok(ExitCode::from(if status == StatusCode::SERVICE_UNAVAILABLE {
            NO_ANSWER
        } else {
            REFUSED
        }));
    }
    let output = std::io::BufWriter::new(std::io::stdout().lock());
    let printed = match options.format {
        Format::Json => print_json(response, output).await,
        Format::Csv => print_csv(response, output).await,
        Format::Table => print_table(response, output).await,
    };
    match printed {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("trough: {error:#}");
            Ok(ExitCode::from(NO_ANSWER))
        }
    }
}

fn read_statement(input: impl Read) -> anyhow::Result<String> {
    let mut sql = String::new();
    input.take(SQL_BYTES_MAX).read_to_string(&mut sql).context("read the statement")?;
    Ok(sql)
}

async fn show_refusal(response: Response) {
    let status = response.status();
    let mut text = Vec::new();
    let mut body = response.bytes_stream();
    while let Some(Ok(piece)) = body.next().await {
        text.extend_from_slice(&piece);
        if text.len() > ERROR_BYTES_MAX {
            text.truncate(ERROR_BYTES_MAX);
            break;
        }
    }
    let mut text = String::from_utf8_lossy(&text).into_owned();
    if text.trim().is_empty() {
        text = status.to_string();
    }
    eprintln!("{}", text.trim_end());
}

/// Passes the answer through; only its end is looked at.
async fn print_json(response: Response, mut output: impl Write) -> anyhow::Result<()> {
    let mut body = response.bytes_stream();
    let mut end = Vec::new();
    while let Some(piece) = body.next().await {
        let piece = piece.context("read the answer")?;
        output.write_all(&piece)?;
        end.extend_from_slice(&piece[piece.len().saturating_sub(2)..]);
        end.drain(..end.len().saturating_sub(2));
    }
    output.flush()?;
    anyhow::ensure!(end == b"]\n", crate::rows::RowsError::BrokenOff);
    Ok(())
}

async fn each_row(
    response: Response,
    mut each: impl FnMut(Row) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut reader = RowReader::default();
    let mut body = response.bytes_stream();
    while let Some(piece) = body.next().await {
        reader.push(&piece.context("read the answer")?, &mut each)?;
    }
    Ok(reader.finish()?)
}

async fn print_csv(response: Response, output: impl Write) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_writer(output);
    let mut first = true;
    let printed = each_row(response, |row| {
        if std::mem::take(&mut first) {
            writer.write_record(row.0.iter().map(|(name, _)| name))?;
        }
        Ok(writer.write_record(row.0.iter().map(|(_, value)| cell(value)))?)
    })
    .await;
    // also what came before an error is shown
    writer.flush()?;
    printed
}

async fn print_table(response: Response, mut output: impl Write) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    // only a terminal has a width to fit into
    table.set_content_arrangement(match std::io::stdout().is_terminal() {
        true => ContentArrangement::Dynamic,
        false => ContentArrangement::Disabled,
    });
    let mut count = 0;
    let mut numeric: Vec<bool> = Vec::new();
    let read = each_row(response, |row| {
        if count == 0 {
            table.set_header(row.0.iter().map(|(name, _)| name));
            numeric = vec![true; row.0.len()];
        }
        if count == TABLE_ROWS_MAX {
            return Err(TooMany.into());
        }
        count += 1;
        for (numeric, (_, value)) in numeric.iter_mut().zip(&row.0) {
            *numeric &= matches!(value, Value::Number(_) | Value::Null);
        }
        table.add_row(row.0.iter().map(|(_, value)| cell(value)));
        Ok(())
    })
    .await;
    for (column, _) in numeric.iter().enumerate().filter(|(_, numeric)| **numeric) {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    if count > 0 {
        writeln!(output, "{table}")?;
    }
    match read {
        Ok(()) => writeln!(output, "{}", crate::rows::counted(count, "row"))?,
        Err(error) if error.is::<TooMany>() => writeln!(
            output,
            "the first {count} rows; `--format csv` or `--format json` print them all"
        )?,
        Err(error) => {
            output.flush()?;
            return Err(error);
        }
    }
    Ok(output.flush()?)
}

#[derive(Debug, thiserror::Error)]
#[error("more rows than a table shows")]
struct TooMany;
