//! `trough query`: asks a reader and prints the rows as they come.
//!
//! Invariant: exit status 0 means that the whole answer was printed. What the reader says when it refuses is
//! printed as it came.

use std::io::{Read, Write};
use std::process::ExitCode;

use anyhow::Context;
use fsd::segment::SegmentId;
use futures::StreamExt;
use proxy::tokens::Right;
use reqwest::{Response, StatusCode};

use crate::cli::{Format, Query};
use crate::config::Config;
use crate::http;
use crate::rows::print::Printer;
use crate::rows::{Row, RowReader, is_broken_pipe};

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
    let request = http::authorized(request, config, Right::Read)?;
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
        Format::Json => pass_on(response, output).await,
        format => {
            let mut printer = Printer::new(format, output);
            let all = each_row(response, |row| printer.row(row)).await;
            printer.end(all)
        }
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
async fn pass_on(response: Response, mut output: impl Write) -> anyhow::Result<()> {
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
