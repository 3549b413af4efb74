//! Questions to Consul and their answers: token, time limits and bounds.
//!
//! hyper itself, because TLS in the workspace's `reqwest` would hold for every client in the process, and make each
//! of them look for the machine's certificates.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;

use super::super::{ANSWER_BYTES_MAX, Index, KvError, KvErrorKind, KvTimeouts};
use super::{ConsulSettings, tls, wire};

/// A connection that nobody used for so long is closed; Consul keeps its own for longer.
const IDLE: Duration = Duration::from_secs(30);
/// So much of what Consul said about a failure is passed on.
const SAID_CHARS_MAX: usize = 300;
/// The longest token file.
const TOKEN_BYTES_MAX: usize = 4096;

/// A client of one Consul agent.
#[derive(Debug)]
pub(crate) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    address: String,
    token_file: Option<PathBuf>,
    token: RwLock<Option<HeaderValue>>,
    tokens_read: AtomicU64,
    timeouts: KvTimeouts,
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    attempted: &'static str,
    method: Method,
    path: String,
    body: Bytes,
    wait: Duration,
}

impl Question {
    pub(crate) fn get(attempted: &'static str, path: String) -> Self {
        Self { attempted, method: Method::GET, path, body: Bytes::new(), wait: Duration::ZERO }
    }

    pub(crate) fn put(attempted: &'static str, path: String, body: Bytes) -> Self {
        Self { attempted, method: Method::PUT, path, body, wait: Duration::ZERO }
    }

    /// The answer may take `wait` longer, and the sixteenth of it that Consul adds.
    pub(crate) fn waiting(self, wait: Duration) -> Self {
        Self { wait: wait + wait / 16, ..self }
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) index: Option<Index>,
    pub(crate) body: Bytes,
    attempted: &'static str,
    target: String,
    denied_hint: String,
}

impl Http {
    pub(crate) fn new(settings: &ConsulSettings) -> Result<Self, KvError> {
        let address = settings.address.trim_end_matches('/').to_owned();
        let error = |reason: String| KvError {
            kind: KvErrorKind::Malformed,
            attempted: "set up the way to Consul",
            target: address.clone(),
            reason,
        };
        if let Some((_, problem)) = settings.problems().into_iter().next() {
            return Err(error(problem));
        }
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(settings.timeouts.connect()));
        let builder = HttpsConnectorBuilder::new()
            .with_tls_config(tls::config(settings).map_err(error)?)
            .https_or_http();
        let connector = match settings.tls_server_name.clone() {
            Some(name) => {
                let name = name.try_into().map_err(|e| error(format!("tls_server_name: {e}")))?;
                builder.with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name))
            }
            None => builder,
        }
        .enable_http1()
        .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        let http = Self {
            client,
            address: address.clone(),
            token_file: settings.token_file.clone(),
            token: RwLock::new(None),
            tokens_read: AtomicU64::new(0),
            timeouts: settings.timeouts,
        };
        http.read_token().map_err(error)?;
        Ok(http)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Which token is used, counted from the first.
    pub(crate) fn token_number(&self) -> u64 {
        self.tokens_read.load(Ordering::Relaxed)
    }

    /// A call that the token does not allow.
    pub(crate) fn denied(&self, attempted: &'static str, said: &str) -> KvError {
        let reason = format!("{}; {}", said.trim(), self.denied_hint());
        KvError { kind: KvErrorKind::Denied, attempted, target: self.address.clone(), reason }
    }

    /// Asks, and once more with the token read again if Consul denied the first and the file says another.
    pub(crate) async fn ask(&self, question: Question) -> Result<Answer, KvError> {
        let error = |kind, reason: String| KvError {
            kind,
            attempted: question.attempted,
            target: format!("{}{}", self.address, question.path),
            reason,
        };
        let limit = self.timeouts.call() + question.wait;
        let asked = async {
            let answer =
                self.ask_once(&question).await.map_err(|(kind, reason)| error(kind, reason))?;
            if answer.status != StatusCode::FORBIDDEN {
                return Ok(answer);
            }
            let changed = self.read_token().map_err(|reason| error(KvErrorKind::Denied, reason))?;
            if !changed {
                return Ok(answer);
            }
            self.ask_once(&question).await.map_err(|(kind, reason)| error(kind, reason))
        };
        tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| {
            Err(error(
                KvErrorKind::TimedOut,
                format!("no answer within {limit:?}; is Consul well?"),
            ))
        })
    }

    async fn ask_once(&self, question: &Question) -> Result<Answer, (KvErrorKind, String)> {
        let mut request = Request::builder()
            .method(question.method.clone())
            .uri(format!("{}{}", self.address, question.path))
            .body(Full::new(question.body.clone()))
            .map_err(|e| (KvErrorKind::Malformed, e.to_string()))?;
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(token) = token {
            request.headers_mut().insert("x-consul-token", token);
        }
        let response = self.client.request(request).await.map_err(|e| {
            (KvErrorKind::Unavailable, format!("{}; is Consul running there?", chain(&e)))
        })?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|e| {
            if e.is::<http_body_util::LengthLimitError>() {
                let reason = format!(
                    "the answer has more than {ANSWER_BYTES_MAX} bytes; ask for less at once"
                );
                return (KvErrorKind::TooLarge, reason);
            }
            (KvErrorKind::Unavailable, format!("the answer broke off: {}", chain(&*e)))
        })?;
        Ok(Answer {
            status: head.status,
            index: index(&head.headers),
            body: body.to_bytes(),
            attempted: question.attempted,
            target: format!("{}{}", self.address, question.path),
            denied_hint: self.denied_hint(),
        })
    }

    fn denied_hint(&self) -> String {
        match &self.token_file {
            Some(path) => format!("check the token in {}", path.display()),
            None => "set token_file to a file with a token that may do this".to_owned(),
        }
    }

    /// Reads the token file, if there is one; says whether the token is another now.
    fn read_token(&self) -> Result<bool, String> {
        let Some(path) = &self.token_file else { return Ok(false) };
        let text = std::fs::read_to_string(path)
            .map_err(|e| format!("{e} at the token file {}", path.display()))?;
        let token = text.trim();
        let header = (!token.is_empty() && token.len() <= TOKEN_BYTES_MAX)
            .then(|| HeaderValue::from_str(token).ok())
            .flatten();
        let mut header =
            header.ok_or_else(|| format!("{} holds no token, and nothing else", path.display()))?;
        header.set_sensitive(true);
        let mut held = self.token.write().unwrap_or_else(PoisonError::into_inner);
        let changed = held.as_ref() != Some(&header);
        *held = Some(header);
        if changed {
            self.tokens_read.fetch_add(1, Ordering::Relaxed);
        }
        Ok(changed)
    }
}

impl Answer {
    /// The answer, if its status is one of `expected`; else the error that it means.
    pub(crate) fn only(self, expected: &[StatusCode]) -> Result<Self, KvError> {
        if expected.contains(&self.status) {
            return Ok(self);
        }
        let said = self.said();
        let (kind, advice) = match self.status {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                (KvErrorKind::Denied, self.denied_hint.clone())
            }
            StatusCode::PAYLOAD_TOO_LARGE => {
                (KvErrorKind::TooLarge, "Consul's limits are lower than usual".to_owned())
            }
            _ if wire::is_session_gone(&said) => {
                (KvErrorKind::SessionGone, "the session ended; make a new one".to_owned())
            }
            StatusCode::TOO_MANY_REQUESTS => {
                (KvErrorKind::Unavailable, "Consul limits its callers".to_owned())
            }
            status if status.is_server_error() => {
                (KvErrorKind::Unavailable, "it may pass; see Consul's log".to_owned())
            }
            _ => (KvErrorKind::Malformed, "is this Consul?".to_owned()),
        };
        Err(self.error(kind, format!("{}: {said}; {advice}", self.status.as_u16())))
    }

    /// What its JSON says.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, KvError> {
        serde_json::from_slice(&self.body).map_err(|e| self.malformed(e))
    }

    pub(crate) fn malformed(&self, what: impl std::fmt::Display) -> KvError {
        self.error(KvErrorKind::Malformed, format!("{what}: {:?}; is this Consul?", self.said()))
    }

    pub(crate) fn error(&self, kind: KvErrorKind, reason: String) -> KvError {
        KvError { kind, attempted: self.attempted, target: self.target.clone(), reason }
    }

    /// The beginning of what it says.
    fn said(&self) -> String {
        String::from_utf8_lossy(&self.body[..self.body.len().min(4 * SAID_CHARS_MAX)])
            .trim()
            .chars()
            .take(SAID_CHARS_MAX)
            .collect()
    }
}

/// Why `address` is none of Consul.
pub(super) fn address_problem(address: &str) -> Option<String> {
    let uri = match address.trim_end_matches('/').parse::<Uri>() {
        Ok(uri) => uri,
        Err(error) => return Some(format!("{error}; use http://HOST:PORT")),
    };
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    (!known || uri.authority().is_none() || uri.path() != "/" || uri.query().is_some())
        .then(|| "not an address of Consul; use http://HOST:PORT or https://HOST:PORT".to_owned())
}

fn index(headers: &HeaderMap) -> Option<Index> {
    headers.get("x-consul-index")?.to_str().ok()?.parse().ok().map(Index)
}

/// An error with what caused it: hyper's own text says only "client error".
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |e| e.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
