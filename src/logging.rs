//! The log, on standard error, and what happens at a panic.
//!
//! Invariant: a panic ends the process. Whoever started it starts it again from a known state; a process
//! that lost one of its threads and goes on is in a state that nobody tested.

use std::io::{IsTerminal, Write};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// The variable that overrides `log.filter`.
pub const FILTER_VARIABLE: &str = "TROUGH_LOG";

/// `[log]`: what is logged and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// Directives of tracing's `EnvFilter`: `info`, or `info,sync=debug`.
    pub filter: String,
    /// Text for people, or one JSON object a line.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for LogSettings {
    fn default() -> Self {
        // what the HDFS client warns of, again and again while HDFS is away, is said once by whoever called it; a
        // reply that the kernel no longer waits for (its caller was interrupted, the mount is gone) is no error
        Self {
            filter: "info,hdfs_native=error,fuser::reply=off".to_owned(),
            format: LogFormat::Text,
        }
    }
}

impl LogSettings {
    /// Why `filter` cannot be used, when it cannot.
    pub fn filter_problem(&self) -> Option<String> {
        EnvFilter::try_new(&self.filter).err().map(|error| error.to_string())
    }
}

/// Starts the log. Call once.
pub fn start(settings: &LogSettings) -> anyhow::Result<()> {
    let directives = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| settings.filter.clone());
    let filter = EnvFilter::try_new(&directives)
        .with_context(|| format!("read the log filter {directives:?}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match settings.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("start the log: {error}"))
}

/// Makes a panic say what it means and then abort the process. The one panic that does not is that of the
/// HDFS client's lister at a name which is not UTF-8: its caller catches it and reports that directory.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        if sync::store::hdfs::panic_is_contained() {
            return;
        }
        let backtrace = std::backtrace::Backtrace::force_capture();
        let thread = std::thread::current();
        let text = format!(
            "trough {version} has found a mistake in itself and stops, so that it starts again from a known \
             state.\nNothing that was acknowledged is lost by this; please report the lines below.\n\n\
             thread {name}: {panic}\n\n{backtrace}\n",
            version = env!("CARGO_PKG_VERSION"),
            name = thread.name().unwrap_or("without a name"),
        );
        // a closed standard error must not panic again
        let _ = std::io::stderr().write_all(text.as_bytes());
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_used_says_why() {
        let settings =
            |filter: &str| LogSettings { filter: filter.to_owned(), ..Default::default() };
        assert_eq!(settings("info,sync=debug").filter_problem(), None);
        assert!(settings("sync=loud").filter_problem().is_some());
    }
}
