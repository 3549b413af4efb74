//! A machine with a writer, and orders to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fsd::segment::SegmentId;
use proxy::segments::ManageError;
use proxy::writer::control::Control;
use rig::hdfs::Hdfs;
use sync::store::{StorePath, StoreTimeouts};

use crate::faults::short;
use crate::support::{Trough, until};

/// Times so short that a fault and its repair fit into a test.
pub const WRITING: &str = "
[write]
promote_after_s = 3600
view_max_age_ms = 200
takeover_dirty_after_s = 0
";

/// What the log may say while a writer dies and comes back.
pub const COMES_BACK: [&str; 3] = [
    "its write lock was lost",
    "is not open yet; it is tried again",
    "not published; it is tried again",
];

/// A trough whose deep store is the directory `root` of `hdfs`; nothing runs yet.
pub fn on(hdfs: &Hdfs, root: &str) -> Trough {
    let store = hdfs.url(root);
    // by this user, not by that of Hadoop's tools
    let opened = sync::store::open(&store, StoreTimeouts::default()).unwrap();
    run(opened.mkdir(&StorePath::root())).unwrap();
    let store =
        format!("[store]\nurl = {store:?}\ntimeouts = {{ call_ms = 2000, io_ms = 6000 }}\n");
    let trough = short(&format!("{WRITING}{store}"));
    COMES_BACK.into_iter().fold(trough, Trough::allow)
}

/// Where a segment is written.
pub fn write_url(trough: &Trough, id: &str) -> String {
    format!("http://127.0.0.1:{}/?segment={id}", trough.write_port())
}

fn control(trough: &Trough) -> Control {
    Control::new(&trough.dir().join("writable"))
}

/// Waits for what a writer is ordered to do.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(work)
}

/// The id of a segment.
pub fn id(name: &str) -> SegmentId {
    SegmentId::new(name).unwrap()
}

/// What a segment begins with, as a file in `dir`: a table `t (n)`, and one for what is large.
pub fn first(dir: &Path) -> PathBuf {
    let file = dir.join("first.sqlite");
    let db = rusqlite::Connection::open(&file).unwrap();
    db.execute_batch("CREATE TABLE IF NOT EXISTS t (n); CREATE TABLE IF NOT EXISTS large (n, x)")
        .unwrap();
    file
}

/// Opens a segment for writing that is as [`first`] makes it.
#[track_caller]
pub fn provision(trough: &Trough, name: &str) {
    // there is no schema yet: what is published is gone on from
    let file = first(trough.dir());
    let put = trough.command(&["put", "--id", name, file.to_str().unwrap()]);
    assert!(put.status.success(), "{put:?}");
    provision_again(trough, name);
}

/// Opens it until that succeeds.
#[track_caller]
pub fn provision_again(trough: &Trough, name: &str) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while let Err(error) = run(control(trough).provision(&id(name), None)) {
        assert!(std::time::Instant::now() < deadline, "{name}: {error}\n{}", trough.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Publishes it, whatever comes of it.
pub fn promote(trough: &Trough, name: &str) -> Result<(), ManageError> {
    run(control(trough).promote(&id(name))).map(drop)
}

/// Publishes it until that succeeds.
#[track_caller]
pub fn promote_in_the_end(trough: &Trough, name: &str) {
    let mut last = None;
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while let Err(error) = promote(trough, name) {
        assert!(
            std::time::Instant::now() < deadline,
            "{name}: {error}, {last:?}\n{}",
            trough.log()
        );
        last = Some(error);
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The rows that the reader has.
#[track_caller]
pub fn rows(trough: &Trough, name: &str) -> Vec<i64> {
    let mut rows = None;
    let mut last = (0, String::new());
    until(&format!("{name} is answered for ({last:?})"), || {
        last = trough.ask(name, "SELECT n FROM t ORDER BY n");
        if last.0 == 200 {
            let said: Vec<serde_json::Value> = serde_json::from_str(&last.1).unwrap();
            rows = Some(said.iter().map(|row| row["n"].as_i64().unwrap()).collect());
        }
        rows.is_some()
    });
    rows.unwrap()
}

/// The rows that are published.
#[track_caller]
pub fn published(hdfs: &Hdfs, trough: &Trough, root: &str, name: &str) -> Vec<i64> {
    let file = trough.dir().join("published.sqlite");
    let _ = std::fs::remove_file(&file);
    let path = StorePath::published(&id(name));
    hdfs.dfs(&["-get", &format!("{root}/{path}"), file.to_str().unwrap()]);
    rows_of(&file)
}

/// The same in a deep store that is a directory.
#[track_caller]
pub fn in_store(trough: &Trough, name: &str) -> Vec<i64> {
    rows_of(&trough.store().join(StorePath::published(&id(name)).as_str()))
}

/// The rows of a file that nobody writes.
#[track_caller]
pub fn rows_of(file: &Path) -> Vec<i64> {
    let db = rusqlite::Connection::open(file).unwrap();
    let mut rows = db.prepare("SELECT n FROM t ORDER BY n").unwrap();
    rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Waits until the writer whose files lie in `writable` has set something aside; that file.
#[track_caller]
pub fn an_orphan_in(writable: &Path) -> PathBuf {
    let orphans = writable.join("orphans");
    let mut found = None;
    until("it is an orphan", || {
        let files = std::fs::read_dir(&orphans).unwrap().map(|entry| entry.unwrap().path());
        let mut databases =
            files.filter(|path| path.extension().is_some_and(|end| end == "sqlite"));
        found = databases.next();
        found.is_some()
    });
    found.unwrap()
}
