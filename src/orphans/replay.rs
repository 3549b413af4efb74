//! `trough orphans replay`: the rows of an orphan that are not published go back by the front door.
//!
//! Invariants: nothing is sent before all of it was tried on a private copy; what an earlier replay sent is published
//! before it is looked at what is missing, so that nothing is sent twice, wherever that one ended; that nothing is missing
//! is said of what was read back from the deep store.
//!
//! Stated limit: who is killed may have a request under way. The next waits for [`SETTLE`] before it looks; a request that
//! took longer to reach its writer would be found there as rows of somebody else.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use fsd::failpoint::crash_point;
use fsd::segment::SegmentId;
use proxy::writer::orphans::{
    Difference, DifferenceError, OnConflict, Orphan, OrphanLock, RehearsalError, Requests, Stop,
    rehearse,
};
use proxy::writer::{Files, fetch_published};
use sync::store::Store;

use super::{Progress, Refused, describe, difference, find, lock, name, refused, rows};
use crate::cli::{self, Replay};
use crate::config::Config;
use crate::wiring;

mod door;

use door::Door;

/// How long what a replay that was killed had sent may take to reach the queue of its writer; promoting stands behind it
/// in that queue.
const SETTLE: Duration = Duration::from_secs(5);

/// What is rehearsed and to be sent.
struct Plan {
    requests: Requests,
    difference: Difference,
    /// Rows that others keep out.
    skipped: u64,
}

/// Runs the command.
pub(super) async fn run(config: &Config, options: &Replay) -> anyhow::Result<()> {
    let (files, orphan) = find(config, &options.orphan)?;
    let mut held = lock(&files, &orphan)?;
    let store = wiring::orphans::store(config)?;
    let door = Door::new(config)?;
    let (id, named) = (&orphan.note.segment, name(&orphan));
    if options.dry_run {
        if door.owner(id).await?.is_some_and(|owner| owner.has_unpublished) {
            println!(
                "{id} is being written: what is not published of it yet is taken for missing here"
            );
        }
    } else {
        if held.was_sending() {
            tokio::time::sleep(SETTLE).await;
        }
        door.publish(id).await.context("nothing was sent")?;
    }
    let plan = plan(config, &files, &store, &orphan, options).await?;
    let missing = plan.difference.missing();
    if missing == 0 {
        held.note_sending(false)?;
        println!("{named}: {}", nothing_missing(&named, &plan.difference));
        return Ok(());
    }
    println!("{named}: {} not in what is published", are(missing));
    describe(&plan.difference).iter().for_each(|line| println!("  {line}"));
    let others = plan.difference.others();
    if others > 0 {
        println!(
            "  only in what is published: {} of these tables; what the orphan changed or deleted is not repeated",
            rows(others)
        );
    }
    if plan.skipped > 0 {
        println!("  {} left out, for others are in their place", are(plan.skipped));
    }
    if plan.skipped == plan.requests.rows() {
        held.note_sending(false)?;
        println!("{named}: nothing else is missing; what is left out is in the orphan alone");
        return Ok(());
    }
    if options.dry_run {
        println!("rehearsed on a private copy: all of it goes in; nothing was sent");
        return Ok(());
    }
    send(&door, &orphan, &plan.requests, &mut held).await?;
    door.publish(id).await.context("the rows are sent, and not published yet; run it again")?;
    // what it needs room for is not needed any more
    let skipped = plan.skipped;
    drop(plan);
    let after = difference(&files, &store, &orphan).await.context("look what is published now")?;
    held.note_sending(false)?;
    match after.missing() {
        0 => println!("published: {}", nothing_missing(&named, &after)),
        left if left == skipped => println!(
            "published; {} left out, for others are in their place: they are in the orphan alone",
            are(left)
        ),
        left => bail!(
            "{} still not in what is published; somebody else writes {id}; run it again",
            are(left)
        ),
    }
    Ok(())
}

/// `1 row is`, `2 rows are`.
fn are(count: u64) -> String {
    let verb = if count == 1 { "is" } else { "are" };
    format!("{} {verb}", rows(count))
}

fn nothing_missing(named: &str, difference: &Difference) -> String {
    match difference.not_compared.is_empty() {
        true => format!(
            "nothing of it is missing any more; `trough orphans discard {named} --yes` is safe"
        ),
        false => format!(
            "nothing of its tables is missing any more, but its virtual ones are not compared ({}): look at them in a \
             copy (`trough orphans export {named} FILE`) before you discard it",
            difference.not_compared.join(", ")
        ),
    }
}

/// Looks what is missing, and tries it.
async fn plan(
    config: &Config,
    files: &Files,
    store: &Arc<dyn Store>,
    orphan: &Orphan,
    options: &Replay,
) -> anyhow::Result<Plan> {
    let id = &orphan.note.segment;
    let progress = Progress::begin(format!("fetching {id}"));
    let on_fetched = |done, all| progress.set(done, all);
    let theirs = fetch_published(&**store, files, id, &on_fetched).await;
    let Some(theirs) = theirs.context("fetch what is published; nothing was sent")? else {
        return refused(format!(
            "nothing is published as {id}, so there is nothing to put rows back into; `trough orphans export` writes a \
             copy, and `trough put --id {id}` publishes that as a whole"
        ));
    };
    progress.say(format!("comparing and rehearsing {}", name(orphan)));
    let on_conflict = match options.on_conflict {
        cli::OnConflict::Stop => OnConflict::Stop,
        cli::OnConflict::Skip => OnConflict::Skip,
        cli::OnConflict::Replace => OnConflict::Replace,
    };
    let (files, ours) = (files.clone(), orphan.path.clone());
    let settings = config.write_settings().write;
    let planned = tokio::task::spawn_blocking(move || -> anyhow::Result<Plan> {
        let stop = Stop::default();
        let (requests, difference) =
            Requests::of_difference(&files, &ours, &theirs, on_conflict, &stop)
                .map_err(of_difference)?;
        if let Some(table) = difference.out_of_place().next() {
            let lines = describe(&difference).join("\n  ");
            return refused(format!(
                "rows of table {:?} have no place in what is published; nothing was sent\n  {lines}\nmake that table there \
                 as it is in the orphan, or put the rows back by hand from `trough orphans export`",
                table.table
            ));
        }
        let copy: PathBuf = theirs.to_path_buf();
        let rehearsed = rehearse(&files, &requests, on_conflict, &ours, &copy, &settings, &stop);
        let skipped = rehearsed.map_err(of_rehearsal)?.skipped;
        Ok(Plan { requests, difference, skipped })
    });
    planned.await?
}

fn of_difference(error: DifferenceError) -> anyhow::Error {
    match error {
        DifferenceError::Row { .. } => Refused(error.to_string()).into(),
        _ => anyhow::Error::new(error).context("nothing was sent"),
    }
}

fn of_rehearsal(error: RehearsalError) -> anyhow::Error {
    match error {
        RehearsalError::Row { .. } => Refused(format!(
            "{error}; nothing was sent; `--on-conflict skip` leaves such rows out, `replace` puts them in the place of \
             those that are published"
        ))
        .into(),
        RehearsalError::TooLong { .. } | RehearsalError::NotKept { .. } => {
            Refused(format!("{error}; nothing was sent")).into()
        }
        RehearsalError::Difference(error) => of_difference(error),
        RehearsalError::Copy(_) => anyhow::Error::new(error).context("nothing was sent"),
    }
}

/// Sends all requests to whoever writes the segment.
async fn send(
    door: &Door<'_>,
    orphan: &Orphan,
    requests: &Requests,
    held: &mut OrphanLock,
) -> anyhow::Result<()> {
    let id: &SegmentId = &orphan.note.segment;
    let url = door.provision(id, orphan.note.schema.as_ref()).await.context("nothing was sent")?;
    held.note_sending(true).context("note that rows are being sent; nothing was sent")?;
    let progress = Progress::of_rows(format!("sending to {url}"), requests.rows());
    let (mut at, mut sent) = (0, 0);
    while let Some(request) = requests.get(at)? {
        let (table, count) = (request.table, request.rows);
        door.write(&url, request.body).await.with_context(|| {
            format!(
                "{sent} of {} rows were sent, and the next {count} of table {table:?} were not acknowledged; run it again: \
                 it goes on where it ended",
                requests.rows()
            )
        })?;
        crash_point("replay.sent");
        at += 1;
        sent += count;
        progress.set(sent, requests.rows());
    }
    println!("sent {} to {url}", rows(sent));
    Ok(())
}
