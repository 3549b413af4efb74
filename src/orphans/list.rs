//! `trough orphans list`.

use anyhow::Context;
use proxy::writer::orphans::{Difference, Orphan};
use serde::Serialize;

use super::{describe, difference, name, now_ms, rows};
use crate::columns;
use crate::config::Config;
use crate::rows::{ago, bytes};
use crate::wiring;

/// An orphan as a program sees it.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    segment: String,
    epoch: sync::registry::Epoch,
    unpublished_since_ms: Option<u64>,
    set_aside_ms: u64,
    bytes: u64,
    path: String,
    /// Rows that are not published, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<Difference>,
    /// Why they are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Lists all orphans of this machine; `with_rows` says what of them is not published.
pub(super) async fn run(config: &Config, with_rows: bool, json: bool) -> anyhow::Result<()> {
    let files = wiring::orphans::files(config)?;
    let all = match &files {
        Some(files) => Orphan::all(files).context("look for orphans")?,
        None => Vec::new(),
    };
    let mut lines: Vec<Line> = all.iter().map(Line::of).collect();
    if let (Some(files), true, false) = (&files, with_rows, all.is_empty()) {
        let store = wiring::orphans::store(config)?;
        for (line, orphan) in lines.iter_mut().zip(&all) {
            match difference(files, &store, orphan).await {
                Ok(difference) => {
                    line.missing = Some(difference.missing());
                    line.difference = Some(difference);
                }
                Err(error) => line.problem = Some(format!("{error:#}")),
            }
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else if lines.is_empty() {
        println!(
            "there are no orphans on this machine: all that was acknowledged here is published, or will be"
        );
    } else {
        print!("{}", table(&lines, with_rows, now_ms()));
    }
    let unknown = lines.iter().filter(|line| line.problem.is_some()).count();
    anyhow::ensure!(unknown == 0, "the rows of {unknown} of them are not known");
    Ok(())
}

fn table(lines: &[Line], with_rows: bool, now_ms: u64) -> String {
    let mut head = vec!["orphan", "unpublished since", "set aside", ">bytes"];
    if with_rows {
        head.push(">not published");
    }
    let row = |line: &Line| {
        let since = line.unpublished_since_ms;
        let mut row = vec![
            line.name.clone(),
            since.map_or_else(|| "not known".to_owned(), |at_ms| ago(at_ms, now_ms)),
            ago(line.set_aside_ms, now_ms),
            bytes(line.bytes),
        ];
        if with_rows {
            row.push(line.missing.map_or_else(|| "not known".to_owned(), rows));
        }
        row
    };
    let mut text = columns::table(&head, lines.iter().map(row).collect());
    for line in lines {
        let details = line.difference.iter().flat_map(describe);
        for detail in details.chain(line.problem.clone()) {
            text.push_str(&format!("{}: {detail}\n", line.name));
        }
    }
    text
}

impl Line {
    fn of(orphan: &Orphan) -> Self {
        Self {
            name: name(orphan),
            segment: orphan.note.segment.to_string(),
            epoch: orphan.note.epoch,
            unpublished_since_ms: orphan.note.unpublished_since_ms,
            set_aside_ms: orphan.set_aside_ms,
            bytes: orphan.bytes,
            path: orphan.path.display().to_string(),
            missing: None,
            difference: None,
            problem: None,
        }
    }
}
