//! Leases that are lost, disks that refuse, and kills at every step.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proxy::writable::WriteError;

use crate::support::*;

const CHILD_DIR: &str = "WRITABLE_CHILD_DIR";
const CHILD_ROUNDS: &str = "WRITABLE_CHILD_ROUNDS";

#[tokio::test]
async fn s4_a_lost_lease_stops_writing_and_is_never_an_acknowledgement() {
    let bench = Bench::new();
    let (lease, lose) = (bench.lease.clone(), Arc::new(AtomicBool::new(false)));
    let losing = Arc::clone(&lose);
    let open = bench.open_with(Arc::new(move |log| {
        let synced = log.sync_data();
        // lost between the commit and its acknowledgement
        lease.lost.fetch_or(losing.load(Ordering::Relaxed), Ordering::Relaxed);
        synced
    }));
    sql(&open, "INSERT INTO t VALUES (1, 'x')").await.unwrap();
    lose.store(true, Ordering::Relaxed);
    let error = sql(&open, "INSERT INTO t VALUES (2, 'x')").await.unwrap_err();
    assert!(matches!(error, WriteError::Unknown(_)), "{error:?}");
    let error = sql(&open, "INSERT INTO t VALUES (3, 'x')").await.unwrap_err();
    assert!(matches!(error, WriteError::Closed(_)), "{error:?}");
    assert_eq!(bench.rows(), [1, 2]);
}

#[tokio::test]
async fn s3_a_sync_that_fails_ends_the_segment_and_is_never_tried_again() {
    let bench = Bench::new();
    let (fail, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (failing, seen) = (Arc::clone(&fail), Arc::clone(&asked));
    let open = bench.open_with(Arc::new(move |log| match failing.load(Ordering::Relaxed) {
        false => log.sync_data(),
        true => {
            assert!(!seen.swap(true, Ordering::Relaxed), "a sync that failed is not tried again");
            Err(std::io::Error::from_raw_os_error(5))
        }
    }));
    sql(&open, "INSERT INTO t VALUES (1, 'x')").await.unwrap();
    fail.store(true, Ordering::Relaxed);
    for n in 2..5 {
        let error = sql(&open, &format!("INSERT INTO t VALUES ({n}, 'x')")).await.unwrap_err();
        assert!(matches!(error, WriteError::Disk(_)), "{error:?}");
    }
    assert!(open.poisoned().is_some() && asked.load(Ordering::Relaxed));
    assert!(matches!(open.copy(bench.dir.path().join("copy")).await, Err(WriteError::Disk(_))));
    tokio::task::spawn_blocking(move || open.close()).await.unwrap().unwrap();
    let open = bench.open();
    sql(&open, "INSERT INTO t VALUES (9, 'x')").await.unwrap();
    let rows = bench.rows();
    assert!(rows.first() == Some(&1) && rows.last() == Some(&9) && !rows.contains(&3), "{rows:?}");
}

/// Not a test of its own: the body of the child process. It writes rows and tells of each that was acknowledged.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    fsd::failpoint::setup();
    let rounds: i64 = std::env::var(CHILD_ROUNDS).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let open = Arc::new(open_at(Path::new(&dir)));
        for round in 0..rounds {
            let group = (1..=8).map(|n| {
                let (open, n) = (Arc::clone(&open), round * 8 + n);
                tokio::spawn(async move {
                    let large = "x".repeat(300 * (1 + n as usize % 7));
                    let done = sql(&open, &format!("INSERT INTO t VALUES ({n}, '{large}')")).await;
                    if done.is_ok() {
                        let mut out = std::io::stdout().lock();
                        writeln!(out, "\nacknowledged {n}").unwrap();
                        out.flush().unwrap();
                    }
                })
            });
            for one in group.collect::<Vec<_>>() {
                one.await.unwrap();
            }
        }
    });
}

fn open_at(dir: &Path) -> proxy::writable::Writable {
    use proxy::writable::{Opening, Verbs, Writable, WritableSettings};
    let database = dir.join("s.sqlite");
    let opening = Opening {
        database: &database,
        name: "s".to_owned(),
        verbs: Verbs::default(),
        unpublished_since_ms: None,
    };
    let lease = Arc::new(TestLease::default());
    let clock = Arc::new(sync::clock::SystemClock);
    let sync_data = Arc::new(std::fs::File::sync_data);
    Writable::open(opening, &WritableSettings::default(), lease, clock, sync_data).unwrap()
}

/// A child that writes in `dir` and what it tells; `at_row` is called for each.
pub fn write_in_child(
    dir: &Path,
    rounds: u64,
    failpoints: &str,
    mut told: impl FnMut(&mut std::process::Child, i64),
) -> Option<i32> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::child", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(CHILD_ROUNDS, rounds.to_string())
        .env("FAILPOINTS", failpoints)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        if let Some(n) = line.strip_prefix("acknowledged ") {
            told(&mut child, n.parse().unwrap());
        }
    }
    child.wait().unwrap().signal()
}

#[test]
fn s3_a_kill_at_every_step_loses_nothing_that_was_acknowledged() {
    for point in ["write.committed", "write.before-sync", "write.synced", "write.acknowledged"] {
        for nth in [0, 1, 5, 20] {
            let bench = Bench::new();
            let mut acknowledged = Vec::new();
            let failpoints = format!("{point}={nth}*off->return");
            let dir = bench.dir.path();
            let signal = write_in_child(dir, 60, &failpoints, |_, n| acknowledged.push(n));
            assert_eq!(signal, Some(9), "{point} is reached {nth} times");
            let found = bench.rows();
            let lost: Vec<_> = acknowledged.iter().filter(|n| !found.contains(n)).collect();
            assert!(lost.is_empty(), "{point}, {nth}: {lost:?}");
            // and it goes on
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(sql(&open_at(dir), "INSERT INTO t VALUES (1000, 'x')")).unwrap();
        }
    }
}
