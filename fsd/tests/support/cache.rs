//! What the cache tests share: databases, short cuts through admission, and the one check that everything on the disk
//! is as the cache says.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(dead_code, reason = "each test binary uses its part of this")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use fsd::cache::{
    Cache, CacheError, CacheSettings, Published, Source, Staged, StartReport, Verified,
};
use fsd::layout::digest_of_target;
use fsd::segment::{Digest, SegmentId, Stamp};

pub fn id(text: &str) -> SegmentId {
    SegmentId::new(text).unwrap()
}

pub fn settings(dir: &Path) -> CacheSettings {
    CacheSettings { dir: dir.to_owned(), ..CacheSettings::default() }
}

pub fn open(dir: &Path) -> (Cache, StartReport) {
    Cache::open(&settings(dir)).unwrap()
}

/// A sound database of at least three pages whose content depends on `seed`.
pub fn database(seed: u64) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sqlite");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "synchronous", "off").unwrap();
    connection.execute_batch("CREATE TABLE t (a); CREATE TABLE filler (b)").unwrap();
    connection.execute("INSERT INTO t VALUES (?)", [seed]).unwrap();
    connection.execute("INSERT INTO filler VALUES (zeroblob(9000))", []).unwrap();
    drop(connection);
    std::fs::read(path).unwrap()
}

pub fn digest(bytes: &[u8]) -> Digest {
    Digest::from(blake3::hash(bytes))
}

pub fn source(bytes: &[u8], mtime_ms: u64) -> Source {
    let stamp = Stamp { length: bytes.len() as u64, mtime_ms };
    Source { path: format!("/store/{mtime_ms}"), stamp, sealed: true }
}

pub fn stage(cache: &Cache, id: &SegmentId, bytes: &[u8]) -> Result<Staged, CacheError> {
    let mut staging = cache.stage(id, bytes.len() as u64)?;
    for piece in bytes.chunks(1000) {
        staging.write(piece)?;
    }
    staging.finish()
}

pub fn verified(cache: &Cache, id: &SegmentId, bytes: &[u8]) -> Verified {
    stage(cache, id, bytes).unwrap().verify(Some(digest(bytes))).unwrap()
}

pub fn publish(cache: &Cache, id: &SegmentId, bytes: &[u8], mtime_ms: u64) -> Published {
    let batch = vec![(verified(cache, id, bytes), source(bytes, mtime_ms))];
    cache.publish(batch).remove(0).unwrap()
}

/// The published names on the disk with their digests, each object read and hashed (S1, S2).
pub fn visible(dir: &Path) -> BTreeMap<SegmentId, Digest> {
    let mut names = BTreeMap::new();
    for entry in std::fs::read_dir(dir.join("segments")).unwrap() {
        let entry = entry.unwrap();
        let id = SegmentId::from_file_name(&entry.file_name()).unwrap().unwrap();
        let digest = digest_of_target(&std::fs::read_link(entry.path()).unwrap()).unwrap();
        let bytes = std::fs::read(entry.path()).unwrap_or_else(|error| panic!("{id}: {error}"));
        assert_eq!(self::digest(&bytes), digest, "{id} shows bytes that are not its digest's");
        names.insert(id, digest);
    }
    names
}

/// Everything on the disk is as the cache says, and nothing is there besides.
pub fn assert_consistent(cache: &Cache) {
    let dir = cache.layout().dir();
    let names = visible(dir);
    let holdings = cache.holdings().unwrap();
    let published: BTreeMap<SegmentId, Digest> = holdings
        .iter()
        .filter(|holding| holding.published)
        .map(|holding| (holding.id.clone(), holding.version.digest))
        .collect();
    assert_eq!(names, published);
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for holding in &holdings {
        expected.insert(holding.version.digest.to_hex(), holding.version.stamp.length);
        assert_eq!(holding.published, holding.withdrawn_at_ms.is_none());
    }
    let mut found = BTreeMap::new();
    for directory in std::fs::read_dir(dir.join("objects")).unwrap() {
        for object in std::fs::read_dir(directory.unwrap().path()).unwrap() {
            let object = object.unwrap();
            let meta = object.metadata().unwrap();
            assert_eq!(meta.permissions().mode() & 0o7777, 0o444);
            found.insert(object.file_name().into_string().unwrap(), meta.len());
        }
    }
    assert_eq!(found, expected, "objects on the disk and segments of the cache differ");
    let usage = cache.usage();
    assert_eq!(usage.objects_bytes, found.values().sum::<u64>());
    assert_eq!(usage.segments, names.len() as u64);
    assert_eq!(usage.incoming_bytes, 0);
    assert_eq!(count(&dir.join("incoming")), 0, "something was left in incoming/");
    let kept = std::fs::read_dir(dir.join("quarantine")).unwrap().map(Result::unwrap);
    let kept = kept.filter(|entry| !entry.file_name().to_string_lossy().ends_with(".json"));
    assert_eq!(
        usage.quarantine_bytes,
        kept.map(|entry| entry.metadata().unwrap().len()).sum::<u64>()
    );
}

pub fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}
