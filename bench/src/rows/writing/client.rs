//! What sends to a writer: sockets that stay open, one write for a request, and no more reads than its answer needs.
//!
//! Left out: threads; all clients of a row share one, so that they leave the writer as much of the machine as they can.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fsd::segment::SegmentId;
use futures::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rows::forward::body_of;

/// A body that is a script.
pub(super) const SCRIPT: &str = "text/plain";
/// A body that is a statement with values.
pub(super) const JSON: &str = "application/json";
/// Longer than any answer to a write.
const ANSWER_BYTES: usize = 4 << 10;

/// A connection to a writer.
pub(super) struct Client {
    stream: TcpStream,
    head: String,
    message: Vec<u8>,
    answer: Vec<u8>,
}

impl Client {
    /// So many that write to the segment `id` at `address`, bodies of `kind`.
    pub(super) async fn connect_all(
        count: usize,
        address: &str,
        id: &SegmentId,
        kind: &'static str,
    ) -> anyhow::Result<Vec<Self>> {
        try_join_all((0..count).map(|_| Self::connect(address, id, kind))).await
    }

    async fn connect(address: &str, id: &SegmentId, kind: &'static str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await;
        let stream = stream.with_context(|| format!("reach {address}"))?;
        stream.set_nodelay(true)?;
        let head = format!(
            "POST /?segment={id} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {kind}\r\nContent-Length: "
        );
        Ok(Self { stream, head, message: Vec::new(), answer: vec![0; ANSWER_BYTES] })
    }

    /// Sends one body, and waits until it is acknowledged.
    pub(super) async fn post(&mut self, body: &str) -> anyhow::Result<()> {
        self.message.clear();
        for part in [&*self.head, &*body.len().to_string(), "\r\n\r\n", body] {
            self.message.extend_from_slice(part.as_bytes());
        }
        self.stream.write_all(&self.message).await?;
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.answer[filled..]).await?;
            ensure!(read > 0, "the answer broke off, or is longer than {ANSWER_BYTES} bytes");
            filled += read;
            // an answer that is not well is an error here
            if let Some((begin, length)) = body_of(&self.answer[..filled])?
                && filled >= begin + length
            {
                return Ok(());
            }
        }
    }
}

/// Has all clients send all bodies, each the next as soon as its last is acknowledged; how long that takes.
pub(super) async fn send_all(
    clients: &mut [Client],
    bodies: &[String],
) -> anyhow::Result<Duration> {
    let next = Cell::new(0);
    let send = async |client: &mut Client| {
        while let Some(body) = bodies.get(next.replace(next.get() + 1)) {
            client.post(body).await?;
        }
        anyhow::Ok(())
    };
    let begun = Instant::now();
    try_join_all(clients.iter_mut().map(send)).await?;
    Ok(begun.elapsed())
}

/// Has all clients send what `body` gives until `during` is done; what that gives, and how long each request took.
pub(super) async fn send_during<T>(
    clients: &mut [Client],
    body: impl Fn() -> String,
    during: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(T, Vec<Duration>)> {
    let over = Cell::new(false);
    let send = async |client: &mut Client| {
        let mut times = Vec::new();
        while !over.get() {
            let body = body();
            let begun = Instant::now();
            client.post(&body).await?;
            times.push(begun.elapsed());
        }
        anyhow::Ok(times)
    };
    let during = async {
        let done = during.await;
        over.set(true);
        done
    };
    let (done, times) = tokio::try_join!(during, try_join_all(clients.iter_mut().map(send)))?;
    Ok((done, times.concat()))
}
