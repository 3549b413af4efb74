//! `trough put`: publishes SQLite files as segments.
//!
//! Invariant: one file that fails does not stop the others, and the exit status says whether all were
//! published. Names are checked before anything is sent.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use fsd::segment::SegmentId;
use futures::StreamExt;

use crate::cli::Put;
use crate::config::Config;
use crate::rows::{bytes, counted};
use crate::{signals, wiring};

mod progress;

use progress::Progress;

/// Runs the command.
pub async fn run(config: &Config, options: &Put) -> anyhow::Result<ExitCode> {
    let wanted = name_all(&options.files, options.id.as_deref())?;
    let started = Instant::now();
    let progress = Arc::new(Progress::new(wanted.len()));
    let shown = progress.clone();
    let on_progress = Arc::new(move |_: &SegmentId, step| shown.step(step));
    let publisher = wiring::publisher(config, on_progress).context("reach the deep store")?;
    let files: HashMap<_, _> = wanted.iter().cloned().collect();
    // after the first Ctrl-C what is on its way is finished, so that no lock and no half-sent file stays
    let stopping = signals::shutdown_token()?;
    let all = wanted.len();
    let sources = futures::stream::iter(wanted).take_until(stopping.clone().cancelled_owned());
    let mut outcomes = std::pin::pin!(publisher.put_all(sources));
    let (mut done, mut failed, mut total) = (0, 0, 0);
    while let Some((id, outcome)) = outcomes.next().await {
        match outcome {
            Ok(published) => {
                done += 1;
                total += published.version.stamp.length;
                progress.published(&published);
            }
            Err(error) => {
                failed += 1;
                progress.failed(&files[&id], &error.into());
            }
        }
    }
    publisher.close().await;
    progress.finish();
    if done + failed < all {
        eprintln!("trough: interrupted; {} not begun", counted(all - done - failed, "file"));
    }
    println!(
        "published {}, {} in {:.1} s{}",
        counted(done, "segment"),
        bytes(total),
        started.elapsed().as_secs_f64(),
        if failed == 0 {
            String::new()
        } else {
            format!("; {} not published", counted(failed, "file"))
        }
    );
    if done > 0 {
        wiring::trigger(config).await;
    }
    Ok(ExitCode::from(u8::from(done < all)))
}

/// The segment each file becomes. All problems are told at once, and none of the files is touched then.
fn name_all(files: &[PathBuf], id: Option<&str>) -> anyhow::Result<Vec<(SegmentId, PathBuf)>> {
    if id.is_some() && files.len() > 1 {
        bail!("--id names one segment, but {} files are given", files.len());
    }
    let mut problems = Vec::new();
    let mut named: HashMap<SegmentId, PathBuf> = HashMap::new();
    let mut wanted = Vec::new();
    for file in files {
        match name(file, id) {
            Ok(id) => match named.insert(id.clone(), file.clone()) {
                None => wanted.push((id, file.clone())),
                Some(other) => problems.push(format!(
                    "{} and {} would both become the segment {id}",
                    other.display(),
                    file.display()
                )),
            },
            Err(error) => problems.push(format!("{}: {error:#}", file.display())),
        }
    }
    match problems.is_empty() {
        true => Ok(wanted),
        false => bail!("nothing was published\n{}", problems.join("\n")),
    }
}

fn name(file: &Path, id: Option<&str>) -> anyhow::Result<SegmentId> {
    let meta = std::fs::metadata(file).context("look at the file")?;
    if meta.is_dir() {
        bail!("this is a directory; name the files in it, as in {}/*.sqlite", file.display());
    }
    if !meta.is_file() {
        bail!("this is not a file");
    }
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    let id = id.or(stem).context("the file's name is not UTF-8; say --id")?;
    SegmentId::new(id).context("the file's name makes no segment id; say --id")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_stem_and_problems_are_told_together() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, "").unwrap();
            path
        };
        let (ohio, again, bad) = (file("ohio.sqlite"), file("ohio.db"), file("a b.sqlite"));
        let wanted = name_all(std::slice::from_ref(&ohio), None).unwrap();
        assert_eq!(wanted, [(SegmentId::new("ohio").unwrap(), ohio.clone())]);
        assert_eq!(name_all(std::slice::from_ref(&bad), Some("ab")).unwrap()[0].0.as_str(), "ab");
        let all = [ohio, again, bad, directory.path().to_owned(), directory.path().join("none")];
        let problems = name_all(&all, None).unwrap_err().to_string();
        for part in
            ["both become the segment ohio", "say --id", "this is a directory", "No such file"]
        {
            assert!(problems.contains(part), "{part} is missing in {problems}");
        }
        assert!(name_all(&all, Some("x")).unwrap_err().to_string().contains("5 files"));
    }
}
