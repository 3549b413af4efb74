//! One query's way to its answer: here, or where its segment is.
//!
//! Invariants: what the mount has is answered here; what it has not, what it fails to give, and what a mount that hangs
//! does not give, is asked of the others that have it (S6); a query that another reader passed on is answered here or
//! not at all; a client's leaving ends its query wherever it is, also while it waits (S8).

use std::sync::Arc;
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
use super::{App, SEGMENT_HEADER, VERSION_HEADER, Visit};
use crate::catalogue;
use crate::error::QueryError;
use crate::metrics::{ADMITTED, MOUNT_WAITS};
use crate::query::control::{CancelGuard, Control};
use crate::query::{self, Job};
use crate::route::{DEADLINE_HEADER, FORWARDED_HEADER, Question, Route, There, Unreached};
use crate::rows::{AnswerBody, Head, Unanswered};

/// Between two tries at a missing mount.
const MOUNT_TRY_EVERY: Duration = Duration::from_millis(25);
/// A query whose thread has not answered so long after its deadline is answered for: the thread hangs in a
/// system call on the mount, or in a single step of SQLite's.
const THREAD_GRACE: Duration = Duration::from_secs(2);
/// What is passed on of a caller's headers.
const PASSED_ON: [HeaderName; 3] = [AUTHORIZATION, ACCEPT, CONTENT_TYPE];

/// An answer that has begun well.
#[derive(Debug)]
pub(super) enum Answer {
    /// From this machine's mount.
    Here { head: Head, id: SegmentId, held: Held },
    /// From another's.
    There { there: There, place: Option<OwnedSemaphorePermit> },
}

/// What a request holds until the last byte of its answer is gone.
#[derive(Debug)]
pub(super) struct Held {
    _cancel: CancelGuard,
    _admitted: Admitted,
}

/// A place among the queries that run or wait.
#[derive(Debug)]
struct Admitted(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Drop for Admitted {
    fn drop(&mut self) {
        gauge!(ADMITTED).decrement(1.0);
    }
}

impl Answer {
    /// With its status and headers; `visit` ends with its last byte.
    pub(super) fn into_response(self, mut visit: Visit) -> Response {
        let (head, id, held) = match self {
            Self::There { there, place } => {
                visit.answered(there.status().as_str());
                return there.into_response((place, visit));
            }
            Self::Here { head, id, held } => (head, id, held),
        };
        visit.answered("200");
        let body = Body::new(AnswerBody::new(head.first, head.rest, (held, visit)));
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // hexadecimal digits and segment ids are always header values
        for (name, value) in
            [(VERSION_HEADER, head.digest.to_hex()), (SEGMENT_HEADER, id.as_str().to_owned())]
        {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
        response
    }
}

/// Who answers, and what is held until the answer's last byte.
enum Begun {
    Here(Head, Admitted),
    There(There, Option<OwnedSemaphorePermit>),
}

/// A query on its way.
struct Asked {
    target: Target,
    job: Arc<Job>,
    /// Another reader passed it on.
    forwarded: bool,
    /// The caller's headers.
    headers: HeaderMap,
}

impl App {
    pub(super) async fn answer(
        &self,
        visit: &Visit,
        request: Request,
    ) -> Result<Answer, QueryError> {
        let (parts, body) = request.into_parts();
        let target = self.target(&parts).await?;
        let sql = self.read_body(&parts, body).await?;
        let mut limits = self.settings.limits();
        let left = parts.headers.get(DEADLINE_HEADER).and_then(|left| left.to_str().ok());
        if let Some(left_ms) = left.and_then(|left| left.parse().ok()) {
            limits.query_ms = limits.query_ms.min(left_ms);
        }
        let control = Arc::new(Control::new(visit.started, limits));
        let job = Arc::new(Job { id: target.id.clone(), sql, control });
        let forwarded = parts.headers.contains_key(FORWARDED_HEADER);
        let cancel = CancelGuard::new(Arc::clone(&job.control));
        let asked = Asked { target, job, forwarded, headers: parts.headers };
        Ok(match self.find(&asked).await? {
            Begun::Here(head, admitted) => {
                let held = Held { _cancel: cancel, _admitted: admitted };
                Answer::Here { head, id: asked.target.id, held }
            }
            Begun::There(there, place) => Answer::There { there, place },
        })
    }

    /// Here, or there; and here after all when nobody answers there.
    async fn find(&self, asked: &Asked) -> Result<Begun, QueryError> {
        let Some(route) = self.route.as_ref().filter(|_| !asked.forwarded) else {
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
        let job = &asked.job;
        let passed = PASSED_ON.into_iter().filter_map(|name| {
            let value = asked.headers.get(&name)?.clone();
            Some((name, value))
        });
        let question = Question {
            id: job.id.clone(),
            sql: Bytes::copy_from_slice(job.sql.as_bytes()),
            headers: passed.collect(),
            deadline: job.control.deadline().into(),
            stall: Duration::from_millis(job.control.limits().stall_ms),
        };
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
        if asked.forwarded {
            return QueryError::NotHere(asked.target.id.clone());
        }
        match (
            catalogue::why_absent(&*self.catalogue, &asked.target.id).await,
            &asked.target.by_host,
        ) {
            (QueryError::NotInPool(_), Some(host)) => QueryError::WrongHost(host.clone()),
            (why, _) => why,
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
    async fn attempt(&self, job: Arc<Job>) -> Result<Result<Head, Unanswered>, QueryError> {
        let late = || QueryError::TimeLimit { limit_ms: self.settings.query_ms };
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

    fn admit(&self) -> Result<Admitted, QueryError> {
        let busy = |_| QueryError::Busy {
            running: self.settings.concurrency,
            queued: self.settings.queue_max,
        };
        let permit = Arc::clone(&self.admitted).try_acquire_owned().map_err(busy)?;
        gauge!(ADMITTED).increment(1.0);
        Ok(Admitted(permit))
    }
}
