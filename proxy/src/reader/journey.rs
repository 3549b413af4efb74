//! One query's way to its answer: here, or where its segment is.
//!
//! Invariants: what is being written is answered for by who writes it ([`super::owned`]); what the mount has is answered here; what it has not, what it fails to give, and what a mount that hangs
//! does not give, is asked of the others that have it (S6); a query that another reader passed on is answered here or
//! not at all; nobody is answered who has no token, where one is needed, whoever passed the query on; a client's leaving ends its query wherever it is, also while it waits (S8).

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use fsd::segment::SegmentId;
use metrics::{counter, gauge};
use sync::node::NodeName;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::request::Target;
use super::{App, SEGMENT_HEADER, VERSION_HEADER, VIEW_AGE_HEADER, Visit, WRITABLE_HEADER};
use crate::catalogue;
use crate::error::QueryError;
use crate::metrics::{ADMITTED, MOUNT_WAITS};
use crate::pool::{Shown, Source};
use crate::query::control::{CancelGuard, Control};
use crate::query::{self, Job};
use crate::route::{
    DEADLINE_HEADER, FORWARDED_HEADER, OF_OWNER, ONLY_HEADER, Question, Route, There, Unreached,
    Whom,
};
use crate::rows::{AnswerBody, Head, Unanswered};
use crate::tokens::Right;

/// Between two tries at a missing mount.
const MOUNT_TRY_EVERY: Duration = Duration::from_millis(25);
/// A query whose thread has not answered so long after its deadline is answered for: the thread hangs in a
/// system call on the mount, or in a single step of SQLite's.
const THREAD_GRACE: Duration = Duration::from_secs(2);
/// What is passed on of a caller's headers.
const PASSED_ON: [HeaderName; 3] = [AUTHORIZATION, ACCEPT, CONTENT_TYPE];

/// What a request holds until the last byte of its answer is gone.
#[derive(Debug)]
struct Held {
    _cancel: CancelGuard,
    _admitted: Admitted,
}

/// A place among the queries that run or wait.
#[derive(Debug)]
pub(super) struct Admitted(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Drop for Admitted {
    fn drop(&mut self) {
        gauge!(ADMITTED).decrement(1.0);
    }
}

/// Who answers, and what is held until the answer's last byte.
pub(super) enum Begun {
    Here(Head, Admitted),
    There(There, Option<OwnedSemaphorePermit>),
}

/// Where a question comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Client,
    /// From a reader that takes any copy.
    Reader,
    /// From a reader that asks who writes the segment.
    Asker,
}

/// A query on its way.
pub(super) struct Asked {
    pub(super) target: Target,
    pub(super) job: Arc<Job>,
    pub(super) origin: Origin,
    /// The caller's headers.
    headers: HeaderMap,
    /// Told with the answer: how long ago it was heard that any copy will do.
    pub(super) view_age: OnceLock<HeaderValue>,
}

impl Asked {
    /// For another reader.
    pub(super) fn question(&self, whom: Whom) -> Question {
        let job = &self.job;
        let passed = PASSED_ON.into_iter().filter_map(|name| {
            let value = self.headers.get(&name)?.clone();
            Some((name, value))
        });
        Question {
            whom,
            id: job.id.clone(),
            sql: Bytes::copy_from_slice(job.sql.as_bytes()),
            headers: passed.collect(),
            deadline: job.control.deadline().into(),
            stall: Duration::from_millis(job.control.limits().stall_ms),
        }
    }
}

impl App {
    /// The answer to `request`; `visit` ends with its last byte.
    pub(super) async fn answer(&self, visit: Visit, request: Request) -> Response {
        let asked = match self.asked(&visit, request).await {
            Ok(asked) => asked,
            Err(error) => return visit.refused(error),
        };
        let cancel = CancelGuard::new(Arc::clone(&asked.job.control));
        let mut response = match self.find(&asked).await {
            Ok(begun) => begun.into_response(visit, cancel, &asked.target.id),
            Err(error) => visit.refused(error),
        };
        if let Some(age) = asked.view_age.into_inner() {
            response.headers_mut().insert(VIEW_AGE_HEADER, age);
        }
        response
    }

    async fn asked(&self, visit: &Visit, request: Request) -> Result<Asked, QueryError> {
        let (parts, body) = request.into_parts();
        self.tokens.check(Right::Read, &parts.headers)?;
        let target = self.target(&parts).await?;
        let sql = self.read_body(&parts, body).await?;
        let headers = parts.headers;
        let mut limits = self.settings.limits();
        let left = headers.get(DEADLINE_HEADER).and_then(|left| left.to_str().ok());
        if let Some(left_ms) = left.and_then(|left| left.parse().ok()) {
            limits.query_ms = limits.query_ms.min(left_ms);
        }
        let control = Arc::new(Control::new(visit.started, limits));
        let job = Arc::new(Job { id: target.id.clone(), source: Source::Copy, sql, control });
        let origin = match headers.contains_key(FORWARDED_HEADER) {
            false => Origin::Client,
            true if headers.get(ONLY_HEADER).is_some_and(|only| only == OF_OWNER) => Origin::Asker,
            true => Origin::Reader,
        };
        Ok(Asked { target, job, origin, headers, view_age: OnceLock::new() })
    }

    /// From who writes it, or from any copy.
    async fn find(&self, asked: &Asked) -> Result<Begun, QueryError> {
        match self.owned(asked).await? {
            Some(begun) => Ok(begun),
            None => self.copied(asked).await,
        }
    }

    /// Here, or there; and here after all when nobody answers there.
    async fn copied(&self, asked: &Asked) -> Result<Begun, QueryError> {
        let own = asked.origin == Origin::Client;
        let Some(route) = self.route.as_ref().filter(|_| own) else {
            return self.here(asked).await;
        };
        let holders = catalogue::holders(&*self.catalogue, &asked.target.id).await;
        let is_own = |node: &NodeName| route.is_own(node);
        let first = if holders.newest.is_empty() { &holders.older } else { &holders.newest };
        if first.is_empty() {
            return self.here(asked).await;
        }
        if !first.iter().any(is_own) {
            let unreached = match self.there(route, asked).await {
                Ok(answer) => return Ok(answer),
                Err(unreached) => unreached,
            };
            // it may have come here moments ago
            return match (self.try_here(asked).await, unreached) {
                (Ok(Ok(answer)), _) => Ok(answer),
                (_, Unreached::Failed(error)) => Err(error),
                (_, Unreached::Refused(there)) => Ok(Begun::There(*there, None)),
            };
        }
        let tried = tokio::select! {
            tried = self.try_here(asked) => tried?,
            () = self.mount_hangs() => Err(Unanswered::MountAway("the mount hangs".to_owned())),
        };
        let alone = holders.newest.iter().chain(&holders.older).all(is_own);
        match tried {
            Ok(answer) => Ok(answer),
            Err(Unanswered::Failed(error)) if alone || !error.is_of_this_copy() => Err(error),
            Err(Unanswered::MountAway(_)) if alone => self.here(asked).await,
            // when nobody else has it, the table is late: who has it now is heard of in a moment
            Err(missed) => match self.there(route, asked).await {
                Ok(answer) => Ok(answer),
                Err(_) => match missed {
                    Unanswered::Failed(error) => Err(error),
                    Unanswered::NotHere | Unanswered::MountAway(_) => self.here(asked).await,
                },
            },
        }
    }

    /// From another reader.
    async fn there(&self, route: &Route, asked: &Asked) -> Result<Begun, Unreached> {
        let question = asked.question(Whom::Holder);
        let (there, place) = route.ask(&question, &*self.catalogue).await?;
        Ok(Begun::There(there, Some(place)))
    }

    /// From this machine's mount, waiting for one that is away.
    async fn here(&self, asked: &Asked) -> Result<Begun, QueryError> {
        let id = &asked.target.id;
        let mut away: Option<(Instant, String)> = None;
        loop {
            let error = match self.try_here(asked).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(Unanswered::MountAway(reason))) => {
                    let since = away.take().map(|(since, _)| since).unwrap_or_else(|| {
                        counter!(MOUNT_WAITS).increment(1);
                        Instant::now()
                    });
                    if since.elapsed() >= Duration::from_millis(self.settings.mount_wait_ms) {
                        return Err(QueryError::MountAway { id: id.clone(), reason });
                    }
                    away = Some((since, reason));
                    // its place among the running is free meanwhile
                    tokio::time::sleep(MOUNT_TRY_EVERY).await;
                    continue;
                }
                Ok(Err(Unanswered::NotHere)) => return Err(self.why_absent(asked).await),
                Ok(Err(Unanswered::Failed(error))) | Err(error) => error,
            };
            return Err(match (error, away) {
                // the wait used its time up: it is not too much that was asked, and may be asked again
                (QueryError::TimeLimit { .. }, Some((_, reason))) => {
                    QueryError::MountAway { id: id.clone(), reason }
                }
                (error, _) => error,
            });
        }
    }

    async fn why_absent(&self, asked: &Asked) -> QueryError {
        if asked.origin != Origin::Client {
            return QueryError::NotHere(asked.target.id.clone());
        }
        let Target { id, by_host } = &asked.target;
        let why = catalogue::why_absent(&*self.catalogue, id).await;
        if !matches!(why, QueryError::NotInPool(_)) {
            return why;
        }
        match (self.may_be_owned(id), by_host) {
            (Some(why), _) => why,
            (None, Some(host)) => QueryError::WrongHost(host.clone()),
            (None, None) => why,
        }
    }

    /// One try at this machine's mount.
    async fn try_here(&self, asked: &Asked) -> Result<Result<Begun, Unanswered>, QueryError> {
        let admitted = self.admit()?;
        let head = self.attempt(Arc::clone(&asked.job)).await?;
        Ok(head.map(|head| Begun::Here(head, admitted)))
    }

    /// Returns when the mount has not answered for a while.
    async fn mount_hangs(&self) {
        loop {
            tokio::time::sleep(Duration::from_millis(self.settings.forward.silent_ms)).await;
            if self.health.mount().await.is_none() {
                return;
            }
        }
    }

    /// One query on a thread that may wait.
    pub(super) async fn attempt(
        &self,
        job: Arc<Job>,
    ) -> Result<Result<Head, Unanswered>, QueryError> {
        let limit_ms = job.control.limits().query_ms;
        let late = || QueryError::TimeLimit { limit_ms };
        let deadline = job.control.deadline();
        let running = Arc::clone(&self.running).acquire_owned();
        let running = match tokio::time::timeout_at(deadline.into(), running).await {
            Ok(Ok(running)) => running,
            // the semaphore is never closed
            Ok(Err(_)) | Err(_) => return Err(late()),
        };
        let (sender, head) = oneshot::channel();
        let pool = Arc::clone(&self.pool);
        tokio::task::spawn_blocking(move || {
            let _running = running;
            query::run(&job, &pool, sender);
        });
        match tokio::time::timeout_at((deadline + THREAD_GRACE).into(), head).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(QueryError::Lost),
            Err(_) => Err(late()),
        }
    }

    pub(super) fn admit(&self) -> Result<Admitted, QueryError> {
        let busy = |_| QueryError::Busy {
            running: self.settings.concurrency,
            queued: self.settings.queue_max,
        };
        let permit = Arc::clone(&self.admitted).try_acquire_owned().map_err(busy)?;
        gauge!(ADMITTED).increment(1.0);
        Ok(Admitted(permit))
    }
}

impl Begun {
    /// With its status and headers; `cancel` and `visit` end with its last byte.
    fn into_response(self, mut visit: Visit, cancel: CancelGuard, id: &SegmentId) -> Response {
        let (head, admitted) = match self {
            Self::There(there, place) => {
                visit.answered(there.status().as_str());
                return there.into_response((place, visit));
            }
            Self::Here(head, admitted) => (head, admitted),
        };
        visit.answered("200");
        let held = Held { _cancel: cancel, _admitted: admitted };
        let body = Body::new(AnswerBody::new(head.first, head.rest, (held, visit)));
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let shown = match head.shown {
            Shown::Version(digest) => (VERSION_HEADER, digest.to_hex()),
            Shown::Writable(_) => (WRITABLE_HEADER, "1".to_owned()),
        };
        // hexadecimal digits and segment ids are always header values
        for (name, value) in [shown, (SEGMENT_HEADER, id.as_str().to_owned())] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
        response
    }
}
