//! `trough orphans`: what a person does about writes of this machine that were overtaken elsewhere.
//!
//! Invariants: an orphan is taken away by `discard --yes` alone; what is refused has changed nothing, and exits with 2.
//!
//! Left out: how rows are compared and made into requests ([`proxy::writer::orphans`]).

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use proxy::writer::orphans::{Difference, Orphan, OrphanLock, Place, Stop, compare};
use proxy::writer::{Files, fetch_published};
use sync::registry::Epoch;
use sync::store::Store;

use crate::cli::Orphans;
use crate::config::Config;
use crate::rows::{ago, bytes, short};
use crate::wiring;

mod export;
mod list;
mod progress;
mod replay;

use progress::Progress;

/// Exit status of what is refused.
const REFUSED: u8 = 2;

/// What is not done, for a reason that doing it again does not cure. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

/// Runs the command.
pub async fn run(config: &Config, order: &Orphans) -> anyhow::Result<ExitCode> {
    let done = match order {
        Orphans::List { rows, json } => list::run(config, *rows, *json).await,
        Orphans::Export { orphan, file } => export::run(config, orphan, file).await,
        Orphans::Replay(options) => replay::run(config, options).await,
        Orphans::Discard { orphan, yes } => discard(config, orphan, *yes).await,
    };
    match done {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.is::<Refused>() => {
            eprintln!("trough: {error:#}");
            Ok(ExitCode::from(REFUSED))
        }
        Err(error) => Err(error),
    }
}

fn refused<T>(reason: impl Into<String>) -> anyhow::Result<T> {
    Err(Refused(reason.into()).into())
}

/// What an orphan is called: `ID@EPOCH`, its epoch without the zeroes that its file has.
fn name(orphan: &Orphan) -> String {
    format!("{}@{}", orphan.note.segment, short(orphan.note.epoch))
}

/// A name taken apart.
fn parse(text: &str) -> anyhow::Result<(&str, Option<Epoch>)> {
    let Some((id, epoch)) = text.split_once('@') else { return Ok((text, None)) };
    let parsed = epoch.split_once('-').and_then(|(incarnation, index)| {
        Some(Epoch { incarnation: incarnation.parse().ok()?, index: index.parse().ok()? })
    });
    match parsed {
        Some(epoch) => Ok((id, Some(epoch))),
        None => refused(format!(
            "{text:?} names no orphan: write ID@N-N, as `trough orphans list` has it"
        )),
    }
}

/// The one called `text`.
fn find(config: &Config, text: &str) -> anyhow::Result<(Files, Orphan)> {
    let (id, epoch) = parse(text)?;
    let Some(files) = wiring::orphans::files(config)? else {
        return refused(format!(
            "there is no orphan {text} here: no writer ever ran in {}",
            config.write.dir.display()
        ));
    };
    let all = Orphan::all(&files).context("look for orphans")?;
    let wanted = |orphan: &Orphan| {
        orphan.note.segment.as_str() == id && epoch.is_none_or(|epoch| epoch == orphan.note.epoch)
    };
    let mut found: Vec<_> = all.iter().filter(|orphan| wanted(orphan)).cloned().collect();
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok((files, one)),
        (None, _) if all.is_empty() => {
            refused(format!("there is no orphan {text}: this machine has none"))
        }
        (None, _) => refused(format!("there is no orphan {text}; there are {}", names(&all))),
        (Some(last), false) => {
            found.push(last);
            refused(format!("there is more than one orphan of {id}; say which: {}", names(&found)))
        }
    }
}

fn names(orphans: &[Orphan]) -> String {
    orphans.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Takes it against other commands; it is there.
fn lock(files: &Files, orphan: &Orphan) -> anyhow::Result<OrphanLock> {
    match orphan.lock(files)? {
        Some(lock) if orphan.path.try_exists().unwrap_or(true) => Ok(lock),
        Some(_) => refused(format!("{} has been discarded", name(orphan))),
        None => refused(format!(
            "another `trough orphans` is at {} now; wait for its end",
            name(orphan)
        )),
    }
}

/// How `orphan` differs from what is published now.
async fn difference(
    files: &Files,
    store: &Arc<dyn Store>,
    orphan: &Orphan,
) -> anyhow::Result<Difference> {
    let progress = Progress::begin(format!("fetching {}", orphan.note.segment));
    let on_fetched = |done, all| progress.set(done, all);
    let theirs = fetch_published(&**store, files, &orphan.note.segment, &on_fetched).await;
    let theirs = theirs.context("fetch what is published")?;
    progress.say(format!("comparing {}", name(orphan)));
    let (files, ours) = (files.clone(), orphan.path.clone());
    let compared = tokio::task::spawn_blocking(move || {
        compare(&files, &ours, theirs.as_deref(), &Stop::default(), &mut |_, _| Ok(()))
    });
    Ok(compared.await??)
}

/// What `difference` says, a line for each table that has one, for people.
fn describe(difference: &Difference) -> Vec<String> {
    let mut lines = Vec::new();
    for table in &difference.tables {
        let (name, missing) = (&table.table, table.missing);
        match table.place {
            Place::There if missing > 0 => lines.push(format!("table {name:?}: {}", rows(missing))),
            Place::There => {}
            Place::Absent if missing > 0 => {
                lines.push(format!(
                    "table {name:?}: {}, and what is published has no such table",
                    rows(missing)
                ));
            }
            Place::OtherColumns if missing > 0 => lines.push(format!(
                "table {name:?}: {}, and the table that is published has other columns",
                rows(missing)
            )),
            Place::Absent | Place::OtherColumns => {}
        }
    }
    if !difference.not_compared.is_empty() {
        let names = difference.not_compared.join(", ");
        lines.push(format!("not compared, being virtual: {names}"));
    }
    lines
}

/// `1 row`, `2 rows`.
fn rows(count: u64) -> String {
    match count {
        1 => "1 row".to_owned(),
        _ => format!("{count} rows"),
    }
}

fn since(at_ms: Option<u64>) -> String {
    at_ms.map_or_else(|| "not known".to_owned(), |at_ms| ago(at_ms, now_ms()))
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

async fn discard(config: &Config, text: &str, yes: bool) -> anyhow::Result<()> {
    if parse(text)?.1.is_none() {
        return refused(format!("say which: {text}@EPOCH, as `trough orphans list` has it"));
    }
    let (files, orphan) = find(config, text)?;
    let named = name(&orphan);
    if yes {
        let lock = lock(&files, &orphan)?;
        files.discard(&orphan.note)?;
        drop(lock);
        println!("{named} is gone");
        return Ok(());
    }
    println!(
        "{named}: {}, unpublished since {}",
        bytes(orphan.bytes),
        since(orphan.note.unpublished_since_ms)
    );
    match difference(&files, &wiring::orphans::store(config)?, &orphan).await {
        Ok(difference) => {
            println!(
                "{} would be lost, which what is published has not",
                rows(difference.missing())
            );
            describe(&difference).iter().for_each(|line| println!("  {line}"));
        }
        // it is said all the same, and nothing is done
        Err(error) => println!("what would be lost is not known: {error:#}"),
    }
    refused(format!(
        "nothing was changed; `trough orphans discard {named} --yes` deletes it for good"
    ))
}
