//! The store of keys in Consul, through its HTTP API.
//!
//! Invariant: a question whose answer decides something is asked `consistent`. An HTTP status alone decides
//! nothing about a transaction: Consul answers 409 for whatever failed in it, so the operations are looked at.
//!
//! Left out: Consul's services ([`crate::services::consul`]). Sessions are bound to their time to live alone (`Checks: []`):
//! Consul's default also ends them when gossip believes the node dead, which it does for a node that is only slow.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::limits::{check_txn, check_value, too_large};
use super::{
    Consistency, Entry, Index, Key, Kv, KvError, KvErrorKind, KvTimeouts, Op, SessionId,
    SessionInfo, SessionOptions, Snapshot, Txn, WATCH_WAIT_MAX, Watched,
};

pub(crate) mod http;
mod tls;
mod wire;

use http::{Answer, Http, Question};

/// How Consul is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsulSettings {
    /// `http://HOST:PORT` or `https://HOST:PORT`; the agent of this machine.
    pub address: String,
    /// A file that holds the token and nothing else; read again when Consul denies a call.
    pub token_file: Option<PathBuf>,
    /// The authorities that Consul's certificate must come from, as PEM; needed for `https`.
    pub ca_file: Option<PathBuf>,
    /// This client's certificate as PEM, where Consul asks for one; with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The key of `cert_file`, as PEM.
    pub key_file: Option<PathBuf>,
    /// The name that Consul's certificate must have, where it is not the host of `address`.
    pub tls_server_name: Option<String>,
    /// How long calls may take.
    pub timeouts: KvTimeouts,
}

impl Default for ConsulSettings {
    fn default() -> Self {
        Self {
            address: "http://127.0.0.1:8500".to_owned(),
            token_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            tls_server_name: None,
            timeouts: KvTimeouts::default(),
        }
    }
}

impl ConsulSettings {
    /// What is wrong with their form: a setting's name, and why. The files are not looked at.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let address = http::address_problem(&self.address);
        let mut found: Vec<_> = address.map(|problem| ("address", problem)).into_iter().collect();
        found.extend(tls::problems(self));
        found
    }
}

/// The store of keys in Consul.
#[derive(Debug)]
pub struct ConsulKv {
    http: Http,
}

impl ConsulKv {
    /// Reads the files that `settings` name; nothing is asked of Consul yet.
    pub fn new(settings: &ConsulSettings) -> Result<Self, KvError> {
        Ok(Self { http: Http::new(settings)? })
    }

    fn target(&self, key: &Key) -> String {
        format!("{} ({key})", self.http.address())
    }

    async fn lock(
        &self,
        attempted: &'static str,
        verb: &str,
        key: &Key,
        value: Bytes,
        session: &SessionId,
    ) -> Result<bool, KvError> {
        check_value(&value).map_err(|reason| too_large(attempted, self.target(key), reason))?;
        let question = Question::put(attempted, format!("/v1/kv/{key}?{verb}={session}"), value);
        let answer = self.http.ask(question).await?.only(&[StatusCode::OK])?;
        wire::boolean(&answer)
    }
}

fn query(consistency: Consistency) -> &'static str {
    match consistency {
        Consistency::Consistent => "consistent",
        // Consul's default has no name in a query; an empty parameter is none
        Consistency::Default => "",
    }
}

/// The entries of an answer to a question about keys; 404 says that there are none.
fn entries(answer: &Answer) -> Result<Vec<Entry>, KvError> {
    if answer.status == StatusCode::NOT_FOUND { Ok(Vec::new()) } else { wire::entries(answer) }
}

#[async_trait]
impl Kv for ConsulKv {
    fn address(&self) -> String {
        self.http.address().to_owned()
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>, KvError> {
        let question = Question::get("read a key", format!("/v1/kv/{key}?consistent"));
        let answer =
            self.http.ask(question).await?.only(&[StatusCode::OK, StatusCode::NOT_FOUND])?;
        Ok(entries(&answer)?.into_iter().next())
    }

    async fn list(&self, below: &Key, consistency: Consistency) -> Result<Vec<Entry>, KvError> {
        let path = format!("/v1/kv/{below}/?recurse&{}", query(consistency));
        let answer = self.http.ask(Question::get("list keys", path)).await?;
        entries(&answer.only(&[StatusCode::OK, StatusCode::NOT_FOUND])?)
    }

    async fn watch(
        &self,
        what: &Watched,
        after: Option<Index>,
        wait: Duration,
    ) -> Result<Snapshot, KvError> {
        let path = match what {
            Watched::Key(key) => format!("/v1/kv/{key}?"),
            Watched::Below(key) => format!("/v1/kv/{key}/?recurse&"),
        };
        // Consul takes a wait of 0 for its own default of 5 minutes
        let wait = wait.clamp(Duration::from_millis(1), WATCH_WAIT_MAX);
        let question = match after {
            Some(after) => {
                let path = format!("{path}index={after}&wait={}ms", wait.as_millis());
                Question::get("watch keys", path).waiting(wait)
            }
            None => Question::get("watch keys", path),
        };
        let answer =
            self.http.ask(question).await?.only(&[StatusCode::OK, StatusCode::NOT_FOUND])?;
        let index = answer.index.ok_or_else(|| answer.malformed("it has no X-Consul-Index"))?;
        Ok(Snapshot { index, entries: entries(&answer)? })
    }

    async fn txn(&self, ops: &[Op]) -> Result<Txn, KvError> {
        let attempted = "commit a transaction";
        check_txn(ops)
            .map_err(|reason| too_large(attempted, self.http.address().to_owned(), reason))?;
        let question = Question::put(
            attempted,
            "/v1/txn?consistent".to_owned(),
            wire::transaction(ops).into(),
        );
        let answer =
            self.http.ask(question).await?.only(&[StatusCode::OK, StatusCode::CONFLICT])?;
        if answer.status == StatusCode::OK {
            return wire::committed(&answer).map(Txn::Committed);
        }
        let refusals = wire::refusals(&answer)?;
        if let Some(denied) = refusals.iter().find(|r| wire::is_denied(&r.reason)) {
            return Err(self.http.denied(attempted, &denied.reason));
        }
        if let Some(gone) = refusals.iter().find(|r| wire::is_session_gone(&r.reason)) {
            let reason = format!("{}; make a new one", gone.reason);
            return Err(answer.error(KvErrorKind::SessionGone, reason));
        }
        // what nothing can refuse was not refused: it failed
        let failed = refusals.iter().find(|r| !ops.get(r.op).is_some_and(Op::is_conditional));
        match failed {
            Some(failed) => Err(answer.error(KvErrorKind::Unavailable, failed.reason.clone())),
            None if refusals.is_empty() => Err(answer.malformed("it names no failed operation")),
            None => Ok(Txn::Refused(refusals)),
        }
    }

    async fn create_session(&self, options: &SessionOptions) -> Result<SessionId, KvError> {
        let body = wire::session(options).into();
        let question = Question::put("make a session", "/v1/session/create".to_owned(), body);
        wire::session_id(&self.http.ask(question).await?.only(&[StatusCode::OK])?)
    }

    async fn renew_session(&self, session: &SessionId) -> Result<Duration, KvError> {
        let path = format!("/v1/session/renew/{session}");
        let question = Question::put("renew a session", path, Bytes::new());
        let answer =
            self.http.ask(question).await?.only(&[StatusCode::OK, StatusCode::NOT_FOUND])?;
        let gone = || {
            let reason = format!("session {session} ended; make a new one");
            answer.error(KvErrorKind::SessionGone, reason)
        };
        if answer.status == StatusCode::NOT_FOUND {
            return Err(gone());
        }
        wire::sessions(&answer)?.first().map(|info| info.ttl).ok_or_else(gone)
    }

    async fn destroy_session(&self, session: &SessionId) -> Result<(), KvError> {
        let path = format!("/v1/session/destroy/{session}");
        let question = Question::put("end a session", path, Bytes::new());
        self.http.ask(question).await?.only(&[StatusCode::OK]).map(drop)
    }

    async fn session(&self, session: &SessionId) -> Result<Option<SessionInfo>, KvError> {
        let path = format!("/v1/session/info/{session}?consistent");
        let question = Question::get("read a session", path);
        let answer = self.http.ask(question).await?.only(&[StatusCode::OK])?;
        Ok(wire::sessions(&answer)?.into_iter().next())
    }

    async fn acquire(&self, key: &Key, value: Bytes, session: &SessionId) -> Result<bool, KvError> {
        self.lock("take a lock", "acquire", key, value, session).await
    }

    async fn release(&self, key: &Key, value: Bytes, session: &SessionId) -> Result<bool, KvError> {
        self.lock("give a lock back", "release", key, value, session).await
    }
}
