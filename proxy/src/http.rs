//! HTTP connections: how many, and how long each may keep the server waiting.
//!
//! Invariants: connections are bounded in number (the rest waits in the kernel's queue); a head, and the
//! next request on a kept connection, must come within `idle_ms`; a client that takes no byte for
//! `stall_ms` is cut off by the kernel (TCP_USER_TIMEOUT), also while an answer is under way; a stop ends
//! within `stop_ms`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use metrics::gauge;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::metrics::HTTP_CONNECTIONS;

/// The pause after a failed accept: out of descriptors, most likely, which does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What an HTTP server bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSettings {
    /// Connections open at once; more wait until one closes.
    pub connections_max: usize,
    /// How long a request's head may take, and a kept connection may lie idle, in milliseconds.
    pub idle_ms: u64,
    /// How long a client may take nothing of its answer, in milliseconds.
    pub stall_ms: u32,
    /// How long requests under way may go on after the order to stop, in milliseconds.
    pub stop_ms: u64,
}

impl Default for HttpSettings {
    fn default() -> Self {
        // a client that sends on a kept connection just as the server closes it cannot know whether it was heard, so
        // the client is to close first: those of Rust and Go do after 90 s
        Self { connections_max: 4096, idle_ms: 120_000, stall_ms: 30_000, stop_ms: 10_000 }
    }
}

/// Serves until `shutdown`, then lets what is under way end.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    settings: HttpSettings,
    shutdown: CancellationToken,
) {
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(settings.connections_max));
    let mut connections = JoinSet::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(Duration::from_millis(settings.idle_ms));
    loop {
        let accepted = async {
            // the semaphore is never closed
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accepted => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if prepare(&stream, &settings).is_err() {
            // gone already
            continue;
        }
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        connections.spawn(async move {
            let _slot = slot;
            let _open = Open::begin();
            if let Err(error) = connection.await {
                // broken off by the client, by a limit, or by us on purpose: each is counted where it is
                tracing::debug!(%error, "connection ended");
            }
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let in_time = Duration::from_millis(settings.stop_ms);
    if tokio::time::timeout(in_time, graceful.shutdown()).await.is_err() {
        tracing::warn!(open = connections.len(), "stopping with requests under way");
    }
    connections.shutdown().await;
}

fn prepare(stream: &TcpStream, settings: &HttpSettings) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(stream, settings.stall_ms)?;
    Ok(())
}

/// Counts an open connection.
struct Open;

impl Open {
    fn begin() -> Self {
        gauge!(HTTP_CONNECTIONS).increment(1.0);
        Self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        gauge!(HTTP_CONNECTIONS).decrement(1.0);
    }
}
