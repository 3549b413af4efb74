//! From rows to the bytes of an answer, in chunks, with no tree of values in between.
//!
//! Invariants: an answer ends well only by the word [`Part::End`]: a stream whose sender went away, for
//! whatever reason, ends with an error, so HTTP breaks the connection off and a late failure never looks
//! like success. What waits for a slow client is bounded by [`CHUNKS_WAITING`] chunks.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{mpsc, oneshot};

use crate::error::QueryError;
use crate::pool::Shown;
use crate::query::control::Control;

pub mod json;

/// An answer is handed on in pieces of about this size. One value may make a piece longer.
pub const CHUNK_BYTES: usize = 64 << 10;
/// The longest row, as written. A row is written whole before anything of it is sent.
pub const ROW_BYTES_MAX: usize = 32 << 20;
/// Pieces that may wait for the client, besides the one being written.
pub const CHUNKS_WAITING: usize = 4;
/// Rows that are there wait no longer than this for their piece to fill up.
const FLUSH_AFTER: Duration = Duration::from_millis(100);

/// The beginning of an answer, sent when its status is certain.
#[derive(Debug)]
pub struct Head {
    /// What of the segment answers.
    pub shown: Shown,
    /// The first piece.
    pub first: Bytes,
    /// The rest; `None` when the first piece is all.
    pub rest: Option<mpsc::Receiver<Part>>,
}

/// One message from the query to the answer's body.
#[derive(Debug)]
pub enum Part {
    /// More bytes.
    Piece(Bytes),
    /// That was all of it.
    End,
}

/// Why an attempt has no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// It never will have one.
    Failed(QueryError),
    /// A live mount has no such segment: only the pool table can say what that means. Of a file that is being written: it
    /// may not be read here any more.
    NotHere,
    /// The mount is away, or failed before anything was sent: worth another try when it is back.
    MountAway(String),
}

/// Where the first word of a query goes.
pub type HeadSender = oneshot::Sender<Result<Head, Unanswered>>;

/// Takes bytes from the query and hands them on.
#[derive(Debug)]
pub struct Sink {
    buffer: Vec<u8>,
    written_at: Option<Instant>,
    head: Option<HeadSender>,
    rest: Option<mpsc::Sender<Part>>,
    shown: Shown,
    control: Arc<Control>,
    sent_bytes: u64,
}

impl Sink {
    /// A sink whose first word goes to `head`.
    pub fn new(head: HeadSender, shown: Shown, control: Arc<Control>) -> Self {
        Self {
            buffer: Vec::new(),
            written_at: None,
            head: Some(head),
            rest: None,
            shown,
            control,
            sent_bytes: 0,
        }
    }

    /// Where the next row is to be written.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// To be called after each row: hands the buffer on when it is full or old enough.
    pub fn row_done(&mut self) -> Result<(), QueryError> {
        let total_bytes = self.sent_bytes + self.buffer.len() as u64;
        if total_bytes > self.control.limits().answer_bytes_max {
            let limit_bytes = self.control.limits().answer_bytes_max;
            return Err(QueryError::AnswerTooLarge { limit_bytes });
        }
        let now = Instant::now();
        self.control.check(now)?;
        let since = *self.written_at.get_or_insert(now);
        match self.buffer.len() >= CHUNK_BYTES || now - since >= FLUSH_AFTER {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Ends the answer well. Bytes sent, all in all. An error leaves it to be failed or broken off.
    pub fn finish(&mut self) -> Result<u64, QueryError> {
        let total_bytes = self.sent_bytes + self.buffer.len() as u64;
        if let Some((head, shown)) = self.begin()? {
            let first = std::mem::take(&mut self.buffer).into();
            let whole = Head { shown, first, rest: None };
            // nobody listens any more: the client is gone, and so is the reason to say anything
            return head.send(Ok(whole)).map(|()| total_bytes).map_err(|_| QueryError::Cancelled);
        }
        if !self.buffer.is_empty() {
            self.flush()?;
        }
        self.send(Part::End)?;
        Ok(total_bytes)
    }

    /// Ends without an answer; `false` when its first byte had left and it is broken off instead.
    pub fn fail(mut self, error: Unanswered) -> bool {
        match self.head.take() {
            Some(head) => {
                drop(head.send(Err(error)));
                true
            }
            // dropping the sender without `End` is what breaks it off
            None => false,
        }
    }

    /// Whether the status can still be chosen.
    pub fn nothing_sent(&self) -> bool {
        self.head.is_some()
    }

    /// What begins the answer, the first time.
    fn begin(&mut self) -> Result<Option<(HeadSender, Shown)>, QueryError> {
        if self.nothing_sent() && !self.shown.holds() {
            return Err(QueryError::LentNoMore);
        }
        Ok(self.head.take().map(|head| (head, self.shown.clone())))
    }

    fn flush(&mut self) -> Result<(), QueryError> {
        let begin = self.begin()?;
        let full = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES + 4096));
        self.written_at = None;
        self.sent_bytes += full.len() as u64;
        let piece = Bytes::from(full);
        match begin {
            Some((head, shown)) => {
                let (sender, rest) = mpsc::channel(CHUNKS_WAITING);
                self.rest = Some(sender);
                let begun = Head { shown, first: piece, rest: Some(rest) };
                head.send(Ok(begun)).map_err(|_| QueryError::Cancelled)
            }
            None => self.send(Part::Piece(piece)),
        }
    }

    /// Waits for the client at most until the query's time is up, or `stall_ms` have passed.
    fn send(&mut self, part: Part) -> Result<(), QueryError> {
        let Some(rest) = &self.rest else { return Ok(()) };
        let part = match rest.try_send(part) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(QueryError::Cancelled),
            Err(mpsc::error::TrySendError::Full(part)) => part,
        };
        let stall_ms = self.control.limits().stall_ms;
        let now = Instant::now();
        let stalled = now + Duration::from_millis(stall_ms);
        let until = stalled.min(self.control.deadline());
        let sent = tokio::runtime::Handle::current()
            .block_on(async { tokio::time::timeout_at(until.into(), rest.send(part)).await });
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(QueryError::Cancelled),
            Err(_) => {
                self.control.check(Instant::now())?;
                Err(QueryError::SlowClient { limit_ms: stall_ms })
            }
        }
    }
}

/// The body of an answer: what a [`Sink`] sends. `Guard` lives as long as the body does.
#[derive(Debug)]
pub struct AnswerBody<Guard> {
    first: Option<Bytes>,
    rest: Option<mpsc::Receiver<Part>>,
    ended: bool,
    _guard: Guard,
}

/// Ends a body that will not be whole.
#[derive(Debug, thiserror::Error)]
#[error("the answer was broken off; the server's log says why")]
pub struct BrokenOff;

impl<Guard> AnswerBody<Guard> {
    /// The body that begins with `first`.
    pub fn new(first: Bytes, rest: Option<mpsc::Receiver<Part>>, guard: Guard) -> Self {
        Self { first: Some(first), ended: rest.is_none(), rest, _guard: guard }
    }
}

impl<Guard: Unpin> Body for AnswerBody<Guard> {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let Some(rest) = self.rest.as_mut() else { return Poll::Ready(None) };
        let part = std::task::ready!(rest.poll_recv(context));
        Poll::Ready(match part {
            Some(Part::Piece(piece)) => Some(Ok(Frame::data(piece))),
            Some(Part::End) => {
                self.ended = true;
                None
            }
            None => {
                self.ended = true;
                Some(Err(BrokenOff))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.ended
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.first, self.ended) {
            (Some(first), true) => SizeHint::with_exact(first.len() as u64),
            (None, true) => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }
}
