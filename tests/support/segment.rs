//! Segment files for tests: sound ones, broken ones, and ways to lay them into a deep store past `trough put`.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fsd::segment::{Digest, SegmentId, Stamp};
use sync::seal::Seal;

/// Bytes of a page of the files made here.
pub const PAGE: usize = 4096;

/// A sound database: table `t (n)` with the one row `n`, and about `padding` bytes in `pad` that say `n` as well. Two
/// of the same padding have the same length and the same pages but for `n`, so a mix of them looks sound, too.
pub fn sound(n: i64, padding: usize) -> Vec<u8> {
    made(n, padding, "DELETE")
}

/// The same in WAL mode.
pub fn in_wal_mode(n: i64) -> Vec<u8> {
    made(n, 0, "WAL")
}

fn made(n: i64, padding: usize, journal_mode: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made.sqlite");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch(&format!(
            "PRAGMA page_size = {PAGE}; PRAGMA journal_mode = {journal_mode}; PRAGMA synchronous = OFF;
             BEGIN; CREATE TABLE t (n); INSERT INTO t VALUES ({n}); CREATE TABLE pad (n, bytes)"
        ))
        .unwrap();
    let bytes = vec![u8::try_from(n % 251).unwrap(); PAGE - 200];
    for _ in 0..padding / PAGE {
        connection.execute("INSERT INTO pad VALUES (?1, ?2)", (n, &bytes)).unwrap();
    }
    connection.execute_batch("COMMIT").unwrap();
    drop(connection);
    std::fs::read(path).unwrap()
}

/// The second page overwritten with what no page may be.
pub fn with_a_broken_page(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[PAGE..2 * PAGE].fill(0xff);
    bytes
}

/// Lays a file as one that was whole when its name appeared.
pub fn lay(path: &Path, bytes: &[u8]) {
    lay_at(path, bytes, None);
}

/// The same with a modification time, in milliseconds since 1970.
pub fn lay_at(path: &Path, bytes: &[u8], mtime_ms: Option<u64>) {
    let directory = path.parent().unwrap();
    std::fs::create_dir_all(directory).unwrap();
    let mut aside = tempfile::Builder::new().prefix(".aside.").tempfile_in(directory).unwrap();
    aside.write_all(bytes).unwrap();
    if let Some(mtime_ms) = mtime_ms {
        set_mtime(aside.as_file(), mtime_ms);
    }
    aside.persist(path).unwrap();
}

/// Sets when a file was modified, in milliseconds since 1970.
pub fn set_mtime(file: &File, mtime_ms: u64) {
    file.set_modified(UNIX_EPOCH + Duration::from_millis(mtime_ms)).unwrap();
}

/// Now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// A seal that says `digest` of the version `stamp` of `id`.
pub fn seal(id: &str, stamp: Stamp, digest: Digest) -> Seal {
    Seal {
        format: sync::seal::FORMAT,
        id: SegmentId::new(id).unwrap(),
        length: stamp.length,
        mtime_ms: stamp.mtime_ms,
        blake3: digest,
        page_size: u32::try_from(PAGE).unwrap(),
        schema_blake3: digest,
        rows: [("t".to_owned(), 1)].into(),
        integrity_checked: true,
        sealed_by: "a test".to_owned(),
    }
}
