//! `trough status`: what this machine holds, or how its cluster is; and what a person may have to do about it.
//!
//! Invariant: what cannot be asked now is said, and the rest is shown all the same.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sync::clock::{Clock, SystemClock};
use sync::local::status::LocalStatus;
use sync::orphans;
use sync::unpublished::Unpublished;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Status;
use crate::config::Config;
use crate::{columns, http, rows, wiring};

pub mod cluster;
mod report;
mod writes;

/// How long a server may be silent.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Between two looks of `--watch`.
const WATCH_PERIOD: Duration = Duration::from_secs(2);

/// Moves a terminal's cursor to the upper left, and clears what is below.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Who knows does not answer: the synchronizer, or the registry of the cluster.
const NOT_RUNNING: u8 = 3;

/// One look.
struct Page {
    text: String,
    /// Whether who knows answered.
    known: bool,
}

/// Runs the command.
pub async fn run(config: &Config, options: &Status) -> anyhow::Result<ExitCode> {
    match show(config, options).await {
        // whoever read our output has enough, as `head` does
        Err(error) if rows::is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        shown => shown,
    }
}

async fn show(config: &Config, options: &Status) -> anyhow::Result<ExitCode> {
    if !options.watch {
        let page = look(config, options).await?;
        print(&page.text)?;
        return Ok(ExitCode::from(if page.known { 0 } else { NOT_RUNNING }));
    }
    // one for all of it: a Ctrl-C between two waits for one is lost
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    tokio::select! {
        ended = watch(config, options) => ended,
        _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
    }
}

/// Shows it again and again.
async fn watch(config: &Config, options: &Status) -> anyhow::Result<ExitCode> {
    let whole_screen = std::io::stdout().is_terminal() && !options.json;
    let before = if whole_screen { CLEAR } else { "" };
    let after = if whole_screen || options.json { "" } else { "\n" };
    loop {
        let page = look(config, options).await?;
        print(&format!("{before}{}{after}", page.text))?;
        tokio::time::sleep(WATCH_PERIOD).await;
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut output = std::io::stdout();
    output.write_all(text.as_bytes())?;
    Ok(output.flush()?)
}

async fn look(config: &Config, options: &Status) -> anyhow::Result<Page> {
    if config.in_cluster() && !options.node && options.url.is_none() {
        let status = cluster::gather(config).await?;
        let known = status.registry.problem.is_none();
        let text = match options.json {
            true => format!("{}\n", serde_json::to_string(&status)?),
            false => cluster::render(&status),
        };
        return Ok(Page { text, known });
    }
    let url = match &options.url {
        Some(url) => url.clone(),
        None => http::url_of(&config.node.manager_listen)?,
    };
    let text = match options.json {
        true => ask::<Value>(&url).await.map(|status| format!("{status}\n")),
        false => {
            let status = ask::<LocalStatus>(&url).await;
            status.map(|status| report::render(&status, SystemClock.now_ms()))
        }
    };
    Ok(match text {
        // of a node the status of its cluster says it
        Ok(text) if options.url.is_none() && !options.json && !config.in_cluster() => {
            let text = text + &columns::named(writes_of_machine(config).await);
            Page { text, known: true }
        }
        Ok(text) => Page { text, known: true },
        Err(error) => {
            eprintln!("trough: ask the synchronizer at {url}: {error:#}");
            eprintln!("trough: is it running? `trough up` starts it");
            Page { text: String::new(), known: false }
        }
    })
}

/// What is written on a machine on its own.
async fn writes_of_machine(config: &Config) -> Vec<(&'static str, String)> {
    let read = async {
        let kv = wiring::keys(config)?;
        anyhow::Ok((Unpublished::read(&*kv).await?, orphans::read_all(&*kv).await?))
    };
    match read.await {
        Ok((unpublished, orphans)) => {
            let now_ms = SystemClock.now_ms();
            [writes::lines(&unpublished, now_ms), writes::orphans(&orphans.nodes, now_ms)].concat()
        }
        Err(error) => vec![("writes", format!("cannot be seen: {error:#}"))],
    }
}

/// What a server says of itself.
async fn ask<T: DeserializeOwned>(url: &str) -> anyhow::Result<T> {
    let request = http::client(Some(TIMEOUT))?.get(format!("{url}/status"));
    let answer = request.send().await?.error_for_status()?;
    let text = answer.text().await.context("read the answer")?;
    serde_json::from_str(&text).context("understand the answer; is it of another version?")
}
