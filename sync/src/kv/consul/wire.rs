//! Consul's JSON: what is sent and what is understood.

use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::super::{
    Entry, Index, Key, KvError, Op, Refusal, SessionId, SessionInfo, SessionOptions,
};
use super::http::Answer;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KvPair {
    key: String,
    value: Option<String>,
    create_index: u64,
    modify_index: u64,
    session: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct KvOp<'a> {
    verb: &'static str,
    key: &'a Key,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<Index>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct TxnOp<'a> {
    #[serde(rename = "KV")]
    kv: KvOp<'a>,
}

#[derive(Debug, Deserialize)]
struct TxnResult {
    #[serde(rename = "KV")]
    kv: KvPair,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TxnAnswer {
    results: Option<Vec<TxnResult>>,
    errors: Option<Vec<TxnError>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TxnError {
    op_index: usize,
    what: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NewSession<'a> {
    name: &'a str,
    #[serde(rename = "TTL")]
    ttl: String,
    lock_delay: String,
    behavior: &'static str,
    node_checks: [&'static str; 0],
    checks: [&'static str; 0],
}

#[derive(Debug, Deserialize)]
struct CreatedSession {
    #[serde(rename = "ID")]
    id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SessionEntry {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    #[serde(rename = "TTL")]
    ttl: String,
    /// Nanoseconds.
    lock_delay: u64,
}

/// `None` for a key that nobody of trough's can have written: what cannot be named does not exist here.
fn entry(pair: KvPair, answer: &Answer) -> Result<Option<Entry>, KvError> {
    let Ok(key) = Key::new(pair.key) else { return Ok(None) };
    let value = BASE64
        .decode(pair.value.unwrap_or_default().as_bytes())
        .map_err(|e| answer.malformed(format!("the value of {key}: {e}")))?;
    let session = match pair.session.as_deref() {
        None | Some("") => None,
        Some(id) => Some(session_of(id, answer)?),
    };
    Ok(Some(Entry {
        key,
        value: value.into(),
        created: Index(pair.create_index),
        modified: Index(pair.modify_index),
        session,
    }))
}

fn session_of(id: &str, answer: &Answer) -> Result<SessionId, KvError> {
    SessionId::new(id).ok_or_else(|| answer.malformed(format!("{id:?} is no session")))
}

pub(super) fn entries(answer: &Answer) -> Result<Vec<Entry>, KvError> {
    let pairs: Vec<KvPair> = answer.json()?;
    pairs.into_iter().filter_map(|pair| entry(pair, answer).transpose()).collect()
}

pub(super) fn boolean(answer: &Answer) -> Result<bool, KvError> {
    answer.json()
}

pub(super) fn transaction(ops: &[Op]) -> Vec<u8> {
    let ops: Vec<TxnOp<'_>> = ops.iter().map(|op| TxnOp { kv: operation(op) }).collect();
    serde_json::to_vec(&ops).expect("strings and numbers always have a JSON")
}

fn operation(op: &Op) -> KvOp<'_> {
    let (verb, index, session) = match op {
        Op::Set { .. } => ("set", None, None),
        Op::Cas { index, .. } => ("cas", Some(*index), None),
        Op::Delete { .. } => ("delete", None, None),
        Op::DeleteCas { index, .. } => ("delete-cas", Some(*index), None),
        Op::Acquire { session, .. } => ("lock", None, Some(session.as_str())),
        Op::Get { .. } => ("get", None, None),
        Op::CheckSession { session, .. } => ("check-session", None, Some(session.as_str())),
        Op::CheckIndex { index, .. } => ("check-index", Some(*index), None),
        Op::CheckNotExists { .. } => ("check-not-exists", None, None),
    };
    let value = op.value().map(|value: &Bytes| BASE64.encode(value));
    KvOp { verb, key: op.key(), value, index, session }
}

pub(super) fn committed(answer: &Answer) -> Result<Vec<Entry>, KvError> {
    let parsed: TxnAnswer = answer.json()?;
    let results = parsed.results.unwrap_or_default().into_iter();
    results.filter_map(|result| entry(result.kv, answer).transpose()).collect()
}

pub(super) fn refusals(answer: &Answer) -> Result<Vec<Refusal>, KvError> {
    let parsed: TxnAnswer = answer.json()?;
    let errors = parsed.errors.unwrap_or_default().into_iter();
    Ok(errors.map(|error| Refusal { op: error.op_index, reason: error.what }).collect())
}

/// Consul has no code for this in a transaction's errors, only its words.
pub(super) fn is_denied(what: &str) -> bool {
    what.to_ascii_lowercase().contains("permission denied") || what.contains("ACL not found")
}

/// Whether the session that was to take a lock is over. It has no code for this either.
pub(super) fn is_session_gone(what: &str) -> bool {
    what.contains("invalid session")
}

pub(super) fn session(options: &SessionOptions) -> Vec<u8> {
    let session = NewSession {
        name: options.name(),
        ttl: format!("{}ms", options.ttl().as_millis()),
        lock_delay: format!("{}ms", options.lock_delay().as_millis()),
        behavior: "release",
        node_checks: [],
        checks: [],
    };
    serde_json::to_vec(&session).expect("strings always have a JSON")
}

pub(super) fn session_id(answer: &Answer) -> Result<SessionId, KvError> {
    let created: CreatedSession = answer.json()?;
    session_of(&created.id, answer)
}

pub(super) fn sessions(answer: &Answer) -> Result<Vec<SessionInfo>, KvError> {
    let found: Option<Vec<SessionEntry>> = answer.json()?;
    found
        .unwrap_or_default()
        .into_iter()
        .map(|session| {
            let ttl = go_duration(&session.ttl)
                .ok_or_else(|| answer.malformed(format!("the TTL {:?}", session.ttl)))?;
            let lock_delay = Duration::from_nanos(session.lock_delay);
            Ok(SessionInfo {
                id: session_of(&session.id, answer)?,
                name: session.name,
                ttl,
                lock_delay,
            })
        })
        .collect()
}

/// A duration as Go writes it, in whole units: `10s`, `1m30s`, `10000ms`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let piece = match &rest[..unit] {
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            "us" | "µs" => Duration::from_micros(number),
            "ns" => Duration::from_nanos(number),
            _ => return None,
        };
        sum = sum.checked_add(piece)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(go_duration("10s"), Some(Duration::from_secs(10)));
        assert_eq!(go_duration("10000ms"), Some(Duration::from_secs(10)));
        assert_eq!(go_duration("1h1m30s"), Some(Duration::from_secs(3690)));
        for text in
            ["", "s", "10", "10x", "1.5s", "-1s", "18446744073709551616s", "18446744073709551615h"]
        {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }
}
