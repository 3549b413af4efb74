//! SIGTERM and SIGINT as a token that everything long-running watches.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGTERM or SIGINT. A second one ends the process at once, for the
/// person who no longer wants to wait.
///
/// Needs a running tokio runtime.
pub fn shutdown_token() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let name = next().await;
        tracing::info!(signal = name, "stopping");
        cancelled.cancel();
        let name = next().await;
        tracing::warn!(signal = name, "stopping at once");
        std::process::exit(130);
    });
    Ok(token)
}
