//! Many processes that want the same locks of one file, and one among them that dies with one.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sync::clock::{SystemClock, since_boot};
use sync::kv::sqlite::SqliteKv;
use sync::store::{StoreTimeouts, open};
use sync::write_lock::{WriteLockError, WriteLocks};

use crate::one_server::PATIENT;
use crate::support::*;

const PROCESSES: usize = 4;
const SEGMENTS: usize = 3;
/// Locks that each process takes.
const ROUNDS: usize = 40;
/// The bound of every wait: five times the time to live that all wait for.
const PATIENCE: Duration = Duration::from_secs(5 * TTL.as_secs());

const DIR: &str = "TROUGH_TEST_DIR";
const NAME: &str = "TROUGH_TEST_NAME";
const VICTIM: &str = "victim";

/// Not a test of its own: one of the processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test of this file as its child"]
async fn child() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let (dir, name) = (variable(DIR), variable(NAME));
    let dir = Path::new(&dir);
    let kv = Arc::new(SqliteKv::open(dir.join("keys.sqlite"), since_boot, PATIENT).unwrap());
    let store = open(dir.join("store").to_str().unwrap(), StoreTimeouts::default()).unwrap();
    let (day, boot) = (Arc::new(SystemClock), Arc::new(since_boot));
    let locks = WriteLocks::new(kv, store, day, boot, TTL, name.clone()).unwrap();
    let number: usize = name.parse().unwrap_or(0);
    for round in 0..ROUNDS {
        let segment = (round + number) % SEGMENTS;
        let id = id(&format!("segment-{segment}"));
        let deadline = Instant::now() + PATIENCE;
        let lock = loop {
            match locks.acquire(&id).await {
                Ok(lock) => break lock,
                Err(WriteLockError::HeldBy { .. } | WriteLockError::Contended) => {
                    assert!(Instant::now() < deadline, "{name} never gets {id}");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(error) => panic!("{name}: {error}"),
            }
        };
        let epochs = dir.join(format!("epochs-{segment}"));
        let mut epochs = File::options().create(true).append(true).open(epochs).unwrap();
        writeln!(epochs, "{}", lock.epoch()).unwrap();
        if name == VICTIM {
            std::process::abort();
        }
        let holding = dir.join(format!("holding-{segment}"));
        File::create_new(&holding).expect("nobody else holds it");
        assert!(lock.confirm().await.unwrap());
        std::fs::remove_file(&holding).unwrap();
        lock.release().await;
    }
    locks.close().await;
}

fn start(dir: &Path, name: &str) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::child", "--ignored", "--nocapture"])
        .envs([(DIR, dir.to_str().unwrap()), (NAME, name)])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn s4_many_processes_take_turns_and_a_dead_one_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!start(dir.path(), VICTIM).wait().unwrap().success());
    let names: Vec<_> = (0..PROCESSES).map(|n| n.to_string()).collect();
    let processes: Vec<_> = names.iter().map(|name| start(dir.path(), name)).collect();
    for mut process in processes {
        assert!(process.wait().unwrap().success());
    }
    let mut taken = 0;
    for segment in 0..SEGMENTS {
        let epochs = std::fs::read_to_string(dir.path().join(format!("epochs-{segment}"))).unwrap();
        let epochs: Vec<_> = epochs.lines().collect();
        assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
        taken += epochs.len();
    }
    assert_eq!(taken, PROCESSES * ROUNDS + 1);
    let raw = rusqlite::Connection::open(dir.path().join("keys.sqlite")).unwrap();
    let count = |sql| raw.query_row(sql, [], |row| row.get::<_, u64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM kv WHERE key LIKE 'trough/write/%'"), 0);
    assert_eq!(count("SELECT count(*) FROM session"), 0);
}
