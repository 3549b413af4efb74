//! Row 12: a point query at a reader that has the segment, and at one that asks another for it.
//!
//! The client is as thin as one can be, for whatever it takes itself makes both sides more alike: a socket that stays
//! open, one write for a question, and no more reads than its answer needs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::cluster::{Cluster, Machine, POOL};
use super::fresh::expected;
use super::hdfs::{files, id_of};
use crate::data::{Place, ROWS_PER_MIB};
use crate::harness::{Spread, interleave};
use crate::report::{Limit, Outcome};

/// Questions of one side in one round.
const QUERIES: u64 = 500;
/// Questions of each side before anything is measured.
const WARM_UPS: u64 = 2_000;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rows of the segment that are asked for.
const ROWS: u64 = 8 * ROWS_PER_MIB;

/// Row 12.
pub fn queries(place: &Place) -> anyhow::Result<Vec<Outcome>> {
    let (sources, _) = files(&place.segments(place.size(256, 16))?, 1)?;
    let id = id_of(&sources[0])?.to_string();
    let scratch = place.scratch()?;
    let mut cluster = Cluster::start(&["lead.cycle.settle_s=3"])?;
    cluster.deep.publish(&sources, POOL, scratch.path())?;
    cluster.up()?;
    cluster.until_held(1)?;
    let right = expected(&sources[0])?;
    cluster.until("every reader answers", |cluster| {
        let answers = |machine: &Machine| {
            let client = Client::connect(machine, &id);
            client.is_ok_and(|mut client| client.ask(1).is_ok_and(|answer| answer == right))
        };
        cluster.machines.iter().all(answers)
    })?;
    let find = |has: bool| -> anyhow::Result<&Machine> {
        for machine in &cluster.machines {
            if machine.shows(&id)? == has {
                return Ok(machine);
            }
        }
        bail!("no node that has the segment: {has}");
    };
    let (holder, other) = (find(true)?, find(false)?);
    let (mut local, mut forwarded) = (Client::connect(holder, &id)?, Client::connect(other, &id)?);
    let warm_ups = place.size(WARM_UPS, 100);
    local.median_of(warm_ups)?;
    forwarded.median_of(warm_ups)?;
    let rounds = place.size(41, 5);
    let times = interleave(
        rounds,
        &mut [&mut || forwarded.median_of(QUERIES), &mut || local.median_of(QUERIES)],
    )?;
    ensure!(!other.shows(&id)?, "the segment moved");
    let micros = |times: &[Duration]| Spread::of_times(times).median * 1e6;
    Ok(vec![Outcome {
        what: "point query over HTTP, forwarded to a holder vs local, p50".to_owned(),
        limit: Limit::TimeAtMost(2.5),
        measured: Spread::of_ratios(&times[0], &times[1]),
        runs: rounds,
        note: format!(
            "p50 of {QUERIES} queries a round on a connection that stays open: forwarded {:.0} µs, local {:.0} µs",
            micros(&times[0]),
            micros(&times[1])
        ),
    }])
}

/// A connection to a reader.
struct Client {
    stream: TcpStream,
    head: String,
    buffer: Vec<u8>,
    asked: u64,
}

impl Client {
    fn connect(machine: &Machine, id: &str) -> anyhow::Result<Self> {
        let address = machine.read_address();
        let stream = TcpStream::connect(&address).with_context(|| format!("reach {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let head = format!("POST /?segment={id} HTTP/1.1\r\nHost: {address}\r\nContent-Length: ");
        Ok(Self { stream, head, buffer: vec![0; 64 << 10], asked: 0 })
    }

    /// Asks for one row by its key; the body of the answer.
    fn ask(&mut self, row: u64) -> anyhow::Result<&str> {
        let sql = format!("SELECT name FROM t WHERE id = {row}");
        let question = format!("{}{}\r\n\r\n{sql}", self.head, sql.len());
        self.stream.write_all(question.as_bytes())?;
        let (mut filled, mut body) = (0, None);
        loop {
            let read = self.stream.read(&mut self.buffer[filled..])?;
            ensure!(read > 0, "the answer broke off, or is longer than the buffer");
            filled += read;
            if body.is_none() {
                body = body_of(&self.buffer[..filled])?;
            }
            if let Some((begin, length)) = body
                && filled >= begin + length
            {
                return Ok(std::str::from_utf8(&self.buffer[begin..begin + length])?);
            }
        }
    }

    /// The median time of so many questions for rows all over the segment.
    fn median_of(&mut self, queries: u64) -> anyhow::Result<Duration> {
        let mut times = Vec::new();
        for _ in 0..queries {
            self.asked += 1;
            // a multiplier without a common factor: every step lands far from the last
            let row = 1 + self.asked * 7_919 % ROWS;
            let begun = Instant::now();
            let answer = self.ask(row)?;
            times.push(begun.elapsed());
            ensure!(answer.starts_with("[{\"name\":\""), "row {row}: {answer}");
        }
        Ok(Duration::from_secs_f64(Spread::of_times(&times).median))
    }
}

/// Where the body of an answer begins and how long it is; `None` before all of its head is there.
pub(super) fn body_of(answer: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&answer[..end])?.to_ascii_lowercase();
    ensure!(head.starts_with("http/1.1 200 "), "{}", String::from_utf8_lossy(answer));
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    Ok(Some((end + 4, length.context("an answer of known length")?.trim().parse()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_found_once_all_of_its_head_is_there_and_only_in_an_answer_that_is_well() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]";
        assert_eq!(body_of(answer).unwrap(), Some((answer.len() - 2, 2)));
        for cut in 0..answer.len() - 2 {
            assert_eq!(body_of(&answer[..cut]).unwrap(), None);
        }
        assert!(body_of(b"HTTP/1.1 503 Not now\r\nContent-Length: 0\r\n\r\n").is_err());
        assert!(body_of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }
}
