//! What is known of another reader: whether it answers, and how much it has to do.
//!
//! Invariants: a reader is probed only while it is used, so that the probes of a large cluster are as many as its
//! readers need, not all to all; one that was never asked is taken for well.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::HeaderName;
use hyper::{Request, StatusCode};
use sync::node::NodeName;
use tokio::time::Instant;

use super::{ForwardSettings, HttpClient};

/// How many queries a reader has that run or wait: on its `/health`.
pub const LOAD_HEADER: HeaderName = HeaderName::from_static("trough-load");
/// A reader that nobody asked for so long is probed no more.
const USED_FOR: Duration = Duration::from_secs(30);
/// The longest `/health`.
const HEALTH_BYTES_MAX: usize = 64 << 10;

/// All readers that were asked, each at the address at which it was asked last.
#[derive(Debug)]
pub(super) struct Peers {
    known: Mutex<HashMap<NodeName, Arc<Peer>>>,
    client: HttpClient,
    settings: ForwardSettings,
}

/// One reader.
#[derive(Debug)]
pub(super) struct Peer {
    name: NodeName,
    address: Arc<str>,
    silent: Duration,
    asked: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When it was heard last, or when somebody began to listen.
    quiet_since: Instant,
    /// It said that it cannot answer, or its machine did.
    failed: bool,
    probed: bool,
    used_at: Instant,
    load: usize,
}

/// A question that is with a reader.
#[derive(Debug)]
pub(super) struct Asking(Arc<Peer>);

impl Peers {
    pub(super) fn new(client: HttpClient, settings: ForwardSettings) -> Self {
        Self { known: Mutex::default(), client, settings }
    }

    /// The reader of `name`, which is used now.
    pub(super) fn of(&self, name: &NodeName, address: &Arc<str>) -> Arc<Peer> {
        let mut known = self.known.lock().expect("no code panics while it holds the readers");
        let peer = match known.get(name) {
            Some(peer) if peer.address == *address => peer.clone(),
            _ => {
                let silent = Duration::from_millis(self.settings.silent_ms);
                let peer = Arc::new(Peer::new(name.clone(), address.clone(), silent));
                known.insert(name.clone(), peer.clone());
                peer
            }
        };
        drop(known);
        if peer.used() {
            tokio::spawn(probe(peer.clone(), self.client.clone(), self.settings));
        }
        peer
    }
}

impl Peer {
    pub(super) fn new(name: NodeName, address: Arc<str>, silent: Duration) -> Self {
        let now = Instant::now();
        let state = State { quiet_since: now, failed: false, probed: false, used_at: now, load: 0 };
        Self { name, address, silent, asked: AtomicUsize::new(0), state: Mutex::new(state) }
    }

    pub(super) fn name(&self) -> &NodeName {
        &self.name
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// What it has to do, as far as is known: what it said, and what it was asked from here.
    pub(super) fn load(&self) -> usize {
        self.state().load + self.asked.load(Ordering::Relaxed)
    }

    /// Whether it is known not to answer.
    pub(super) fn is_silent(&self) -> bool {
        let state = self.state();
        state.failed || (state.probed && state.quiet_since.elapsed() >= self.silent)
    }

    /// Counts a question to it until that is dropped.
    pub(super) fn ask(self: &Arc<Self>) -> Asking {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Asking(self.clone())
    }

    /// It answered something.
    pub(super) fn heard(&self) {
        self.state().quiet_since = Instant::now();
    }

    /// It said that it cannot answer, or there is nothing at its address.
    pub(super) fn failed(&self) {
        self.state().failed = true;
    }

    /// Returns when nothing was heard of it for as long as it may be silent, counted from `since` at the earliest.
    pub(super) async fn silent_since(&self, since: Instant) {
        loop {
            let quiet_since = self.state().quiet_since.max(since);
            tokio::time::sleep_until(quiet_since + self.silent).await;
            if self.state().quiet_since <= quiet_since {
                return;
            }
        }
    }

    /// Notes that it is used; `true` when it is to be probed from now on.
    fn used(&self) -> bool {
        let mut state = self.state();
        state.used_at = Instant::now();
        if std::mem::replace(&mut state.probed, true) {
            return false;
        }
        // what was seen long ago says nothing any more
        (state.quiet_since, state.failed, state.load) = (state.used_at, false, 0);
        true
    }

    /// Whether it is still used; `false` ends the probing.
    fn is_used(&self) -> bool {
        let mut state = self.state();
        state.probed = state.used_at.elapsed() < USED_FOR || self.asked.load(Ordering::Relaxed) > 0;
        if !state.probed {
            state.failed = false;
        }
        state.probed
    }

    fn answered(&self, load: usize) {
        let mut state = self.state();
        (state.quiet_since, state.failed, state.load) = (Instant::now(), false, load);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds a reader's state")
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.asked.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Asks `peer` how it is for as long as it is used.
async fn probe(peer: Arc<Peer>, client: HttpClient, settings: ForwardSettings) {
    let url = format!("http://{}/health", peer.address);
    while peer.is_used() {
        let begun = Instant::now();
        match tokio::time::timeout(peer.silent, health(&client, &url)).await {
            Ok(Some(load)) => peer.answered(load),
            Ok(None) => peer.failed(),
            // silence speaks for itself
            Err(_) => {}
        }
        tokio::time::sleep_until(begun + Duration::from_millis(settings.probe_ms)).await;
    }
}

/// The load of a reader that is well.
pub(crate) async fn health(client: &HttpClient, url: &str) -> Option<usize> {
    let request = Request::get(url).body(Full::<Bytes>::default()).ok()?;
    let answer = client.request(request).await.ok()?;
    let (head, body) = answer.into_parts();
    // a connection is used again only when its answer was read to the end
    let read = Limited::new(body, HEALTH_BYTES_MAX).collect().await;
    if head.status != StatusCode::OK || read.is_err() {
        return None;
    }
    let load = head.headers.get(LOAD_HEADER).and_then(|load| load.to_str().ok()?.parse().ok());
    Some(load.unwrap_or(0))
}
