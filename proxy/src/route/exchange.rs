//! One question to one reader, and what came of it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use fsd::segment::SegmentId;
use futures::stream;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{
    CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Request, Response, StatusCode};
use metrics::counter;
use sync::node::NodeName;
use tokio::time::{Instant, timeout};

use super::peer::{Asking, Peer};
use super::{ForwardSettings, HttpClient, Question, Unreached, Whom};
use crate::causes::causes;
use crate::error::QueryError;
use crate::metrics::FORWARDS;
use crate::reader::{SEGMENT_HEADER, VERSION_HEADER, WRITABLE_HEADER};
use crate::rows::BrokenOff;

/// Which node's reader passes the question on; who is asked so asks nobody else.
pub const FORWARDED_HEADER: HeaderName = HeaderName::from_static("trough-forwarded-by");
/// Beside it: only what this says may answer. Another value than [`OF_OWNER`] is there is none.
pub const ONLY_HEADER: HeaderName = HeaderName::from_static("trough-forwarded");
/// The file that the reader's node writes.
pub const OF_OWNER: &str = "owner";
/// How much of the query's time is left, in milliseconds.
pub const DEADLINE_HEADER: HeaderName = HeaderName::from_static("trough-deadline-ms");
/// An answer is held back until it is complete, up to so many bytes.
pub const HELD_BACK_BYTES: usize = 64 << 10;
/// What is passed on of an answer's headers.
const PASSED_BACK: [HeaderName; 6] =
    [CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE, VERSION_HEADER, SEGMENT_HEADER, WRITABLE_HEADER];

/// An answer that may be passed on: all of it, or its beginning.
#[derive(Debug)]
pub struct There {
    status: StatusCode,
    headers: HeaderMap,
    first: Bytes,
    rest: Option<Incoming>,
    stall: Duration,
    asking: Asking,
}

/// Why there is no answer from one reader.
#[derive(Debug)]
pub(super) enum Miss {
    /// Nobody was asked.
    Nobody,
    /// It was silent, or broke off, or there is nothing at its address.
    Silent { node: NodeName, reason: String },
    /// It does not have the segment (any more).
    NotThere(NodeName),
    /// It is there, and cannot answer now.
    Refused(Box<There>),
}

impl Miss {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Silent { .. } => "silent",
            Self::NotThere(_) => "not_there",
            Self::Refused(_) => "refused",
        }
    }

    /// What says more to the caller.
    pub(super) fn or(self, later: Self) -> Self {
        match (&self, &later) {
            (Self::Refused(_), Self::Silent { .. } | Self::NotThere(_)) => self,
            _ => later,
        }
    }

    /// Whether asking again makes it worse.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Refused(there) if there.status == StatusCode::TOO_MANY_REQUESTS)
    }

    pub(super) fn into_unreached(self, id: &SegmentId) -> Unreached {
        let reason = match self {
            Self::Nobody => "the nodes that have it are not known yet".to_owned(),
            Self::Silent { node, reason } => format!("node {node}: {reason}"),
            Self::NotThere(node) => format!("node {node} has it no more; it is moving"),
            // what a reader says of itself says more than that nobody answered
            Self::Refused(there) => return Unreached::Refused(there),
        };
        Unreached::Failed(QueryError::NoAnswer { id: id.clone(), reason })
    }
}

/// Asks `peer`, and waits until its answer may be passed on.
pub(super) async fn exchange(
    client: &HttpClient,
    peer: &Arc<Peer>,
    question: &Question,
    own: &NodeName,
    settings: &ForwardSettings,
) -> Result<There, Miss> {
    let asking = peer.ask();
    let begun = Instant::now();
    let silent = |reason: String| Miss::Silent { node: peer.name().clone(), reason };
    let answered = async {
        let request = request(peer, question, own).map_err(|e| silent(e.to_string()))?;
        let answer = client.request(request).await.map_err(|error| {
            if error.is_connect() {
                peer.failed();
            }
            silent(causes(&error))
        })?;
        peer.heard();
        hold_back(answer).await.map_err(|error| silent(format!("it broke off: {}", causes(&error))))
    };
    let (head, first, rest) = tokio::select! {
        biased;
        answered = answered => answered?,
        () = peer.silent_since(begun) => {
            return Err(silent(format!("no answer within {} ms", settings.silent_ms)));
        }
        () = tokio::time::sleep_until(question.deadline) => {
            return Err(silent("the time of the query is up".to_owned()));
        }
    };
    let headers = head.headers.into_iter();
    let passed = |(name, value): (Option<HeaderName>, HeaderValue)| {
        name.filter(|name| PASSED_BACK.contains(name)).map(|name| (name, value))
    };
    let headers = headers.filter_map(passed).collect();
    let there = There { status: head.status, headers, first, rest, stall: question.stall, asking };
    match there.status {
        StatusCode::MISDIRECTED_REQUEST | StatusCode::NOT_FOUND => {
            Err(Miss::NotThere(peer.name().clone()))
        }
        StatusCode::TOO_MANY_REQUESTS => Err(Miss::Refused(Box::new(there))),
        status if status.is_server_error() => Err(Miss::Refused(Box::new(there))),
        // the answer, or what is wrong with the question
        _ => Ok(there),
    }
}

fn request(
    peer: &Peer,
    question: &Question,
    own: &NodeName,
) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let left = question.deadline.saturating_duration_since(Instant::now());
    let url = format!("http://{}/?segment={}", peer.address(), question.id);
    let mut request = Request::post(url)
        .header(FORWARDED_HEADER, own.as_str())
        .header(DEADLINE_HEADER, left.as_millis().to_string())
        .body(Full::new(question.sql.clone()))?;
    request.headers_mut().extend(question.headers.clone());
    if question.whom == Whom::Owner {
        request.headers_mut().insert(ONLY_HEADER, HeaderValue::from_static(OF_OWNER));
    }
    Ok(request)
}

/// Reads until the end, or until it is too much to keep.
async fn hold_back(
    answer: Response<Incoming>,
) -> Result<(hyper::http::response::Parts, Bytes, Option<Incoming>), hyper::Error> {
    let (head, mut body) = answer.into_parts();
    let mut first = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(piece) = frame?.into_data() {
            first.extend_from_slice(&piece);
        }
        if first.len() > HELD_BACK_BYTES {
            return Ok((head, first.freeze(), Some(body)));
        }
    }
    Ok((head, first.freeze(), None))
}

impl There {
    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether it is from the file that the other's node writes.
    pub fn is_writable(&self) -> bool {
        self.headers.contains_key(WRITABLE_HEADER)
    }

    /// The answer for the caller; `guard` lives until its last byte is gone.
    pub fn into_response(self, guard: impl Send + 'static) -> axum::response::Response {
        let Self { status, headers, first, rest, stall, asking } = self;
        let body = match rest {
            None => Body::from(first),
            Some(rest) => {
                let held = (guard, asking);
                let state = (Some(first), rest, held);
                Body::from_stream(stream::try_unfold(state, move |state| pass(state, stall)))
            }
        };
        let mut response = axum::response::Response::new(body);
        (*response.status_mut(), *response.headers_mut()) = (status, headers);
        response
    }
}

/// The next piece of a long answer; one that does not come is an error, which breaks off what was begun.
async fn pass<G>(
    (first, mut rest, held): (Option<Bytes>, Incoming, G),
    stall: Duration,
) -> Result<Option<(Bytes, (Option<Bytes>, Incoming, G))>, BrokenOff> {
    if let Some(first) = first {
        return Ok(Some((first, (None, rest, held))));
    }
    loop {
        let frame = match timeout(stall, rest.frame()).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) | Err(_) => {
                counter!(FORWARDS, "outcome" => "broken_off").increment(1);
                return Err(BrokenOff);
            }
        };
        if let Ok(piece) = frame.into_data() {
            return Ok(Some((piece, (None, rest, held))));
        }
    }
}
