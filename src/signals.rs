//! SIGTERM and SIGINT as a token that everything long-running watches.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGTERM or SIGINT. A further SIGINT ends the process at once, for the
/// person who presses Ctrl-C again; a further SIGTERM does not: a script that passes on the Ctrl-C of its
/// terminal sends it too.
///
/// Needs a running tokio runtime.
pub fn shutdown_token() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
        cancelled.cancel();
        interrupt.recv().await;
        tracing::warn!("stopping at once");
        std::process::exit(EXIT_INTERRUPTED);
    });
    Ok(token)
}

/// What a shell says of a process that Ctrl-C ended: 128 and the signal's number.
const EXIT_INTERRUPTED: i32 = 130;
