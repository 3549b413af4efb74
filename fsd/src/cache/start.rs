//! Opening a cache: take the lock, sweep, and bring names, objects and ledger together again.
//!
//! Invariant (S1, S2, S10): when this returns, every name leads to an object that the ledger vouches for, whatever
//! was there before. What a crash can have left, and what becomes of it:
//!
//! | found | becomes |
//! |---|---|
//! | anything in `incoming/` | removed |
//! | an object without a name and without a row | removed |
//! | a name whose object the ledger does not vouch for (no row, other fingerprint) | the object is read: right, the ledger learns of it; wrong, the name is withdrawn and the object quarantined |
//! | a name whose object is missing | withdrawn |
//! | a row without a name | a withdrawn segment |
//! | a ledger that cannot be read | set aside, all objects are read |
//! | anything in `segments/` or `objects/` that trough did not make | quarantined |
//!
//! Names, objects and rows are looked at in bulk, with one system call for each name and each object.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::layout::Layout;
use crate::ledger::{Change, Fingerprint, Ledger, LedgerError, ObjectRow, SegmentRow};
use crate::segment::{Digest, SegmentId, Stamp};

use super::quarantine::Record;
use super::survey::{self, Found};
use super::{Cache, CacheError, CacheSettings, Inner, QUOTA_DEFAULT_PERCENT, State, disk};

/// What a start found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StartReport {
    /// Published segments now.
    pub segments: u64,
    /// Bytes of all objects now.
    pub objects_bytes: u64,
    /// Files removed from `incoming/`.
    pub swept: u64,
    /// Objects removed because nothing named them.
    pub orphans_removed: u64,
    /// Objects that were read because the ledger did not vouch for them.
    pub rehashed: u64,
    /// Segments that the ledger learned of again.
    pub relearned: u64,
    /// Segments whose object was missing or damaged; pull them again.
    pub withdrawn: Vec<SegmentId>,
    /// Damaged objects moved to quarantine.
    pub quarantined: u64,
    /// Names in `segments/` and `objects/` that trough did not make; moved to quarantine where possible.
    pub foreign: Vec<String>,
    /// Why the ledger was set aside and rebuilt, if it was.
    pub ledger_rebuilt: Option<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

pub(super) fn open(settings: &CacheSettings) -> Result<(Cache, StartReport), CacheError> {
    let started = Instant::now();
    let layout = Layout::new(&settings.dir);
    make_directories(&layout)?;
    let lock = take_lock(&layout)?;
    let mut report = StartReport::default();
    sweep(&layout, &mut report)?;
    // two long readings, of the directories and of the ledger, at the same time
    let (ledger, found) = std::thread::scope(|scope| {
        let find = scope.spawn(|| survey::find(&layout));
        let ledger = open_ledger(&layout, &mut report);
        (ledger, find.join().expect("a panic aborts the process"))
    });
    let ((ledger, rows), found) = (ledger?, found?);
    let space = disk::space(layout.dir());
    let space = space.map_err(|error| CacheError::io("look at", layout.dir(), 0, error))?;
    let cache = Cache(Arc::new(Inner {
        quota_bytes: settings.quota_bytes.unwrap_or(space.size_bytes / 100 * QUOTA_DEFAULT_PERCENT),
        taken_bytes: AtomicU64::default(),
        layout,
        settings: settings.clone(),
        changes: Mutex::new(ledger),
        state: Mutex::new(State::default()),
        lock,
    }));
    let quarantine = cache.layout().quarantine();
    let loaded = cache.load_quarantine();
    loaded.map_err(|error| CacheError::io("list", &quarantine, 0, error))?;
    // what the last process made or renamed and did not live to sync; publication relies on the directories there
    cache.sync_dir(&cache.layout().objects())?;
    cache.sync_dir(&cache.layout().segments())?;
    recover(&cache, rows, found, &mut report)?;
    let usage = cache.usage();
    (report.segments, report.objects_bytes) = (usage.segments, usage.objects_bytes);
    report.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok((cache, report))
}

/// The directories of a cache, each with its mode.
fn directories(layout: &Layout) -> [(PathBuf, u32); 5] {
    [
        (layout.dir().to_owned(), 0o755),
        (layout.objects(), 0o755),
        (layout.segments(), 0o755),
        (layout.incoming(), 0o700),
        (layout.quarantine(), 0o700),
    ]
}

/// [`CacheError::Gone`] when a directory is not there, or the lock that `held` is is not the cache's any more.
pub(super) fn check(layout: &Layout, held: &File) -> Result<(), CacheError> {
    let directories = directories(layout).into_iter().map(|(path, _)| path);
    let missing = directories.into_iter().find(|path| is_gone(path, Metadata::is_dir));
    let own = held.metadata().ok().map(|own| (own.dev(), own.ino()));
    let is_held = |found: &Metadata| own.is_none_or(|own| own == (found.dev(), found.ino()));
    let lost = Some(layout.lock()).filter(|path| is_gone(path, is_held));
    missing.or(lost).map_or(Ok(()), |path| Err(CacheError::Gone { path }))
}

/// What cannot be looked at now may be there.
fn is_gone(path: &Path, is_right: impl Fn(&Metadata) -> bool) -> bool {
    match std::fs::metadata(path) {
        Ok(found) => !is_right(&found),
        Err(error) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    }
}

fn make_directories(layout: &Layout) -> Result<(), CacheError> {
    let directories = directories(layout);
    // the lock is made after the first sync, so where it stands they are on the disk
    let is_made = layout.lock().is_file() && directories.iter().all(|(path, _)| path.is_dir());
    for (path, mode) in &directories {
        let made = DirBuilder::new().recursive(true).mode(*mode).create(path);
        made.map_err(|error| CacheError::io("make", path, disk::BLOCK_BYTES, error))?;
    }
    if is_made {
        return Ok(());
    }
    let synced = disk::sync_dir(layout.dir());
    synced.map_err(|error| CacheError::io("sync", layout.dir(), disk::BLOCK_BYTES, error))
}

/// What the lock file says of its holder, for people.
#[derive(Serialize, Deserialize)]
struct Holder {
    pid: u32,
    started_at_ms: u64,
}

fn take_lock(layout: &Layout) -> Result<File, CacheError> {
    let path = layout.lock();
    let fail = |error: io::Error| CacheError::io("lock", &path, disk::BLOCK_BYTES, error);
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
    let mut file = options.open(&path).map_err(fail)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            let holder = match serde_json::from_str(&text) {
                Ok(Holder { pid, started_at_ms }) => {
                    format!("process {pid} (since {started_at_ms} ms after 1970)")
                }
                Err(_) => "another process".to_owned(),
            };
            return Err(CacheError::Locked { path: layout.dir().to_owned(), holder });
        }
        Err(errno) => return Err(fail(errno.into())),
    }
    let holder = Holder { pid: std::process::id(), started_at_ms: disk::now_ms() };
    let text = serde_json::to_string(&holder).map_err(|error| fail(error.into()))?;
    let written = file.set_len(0).and_then(|()| file.rewind());
    written.and_then(|()| file.write_all(text.as_bytes())).map_err(fail)?;
    Ok(file)
}

fn sweep(layout: &Layout, report: &mut StartReport) -> Result<(), CacheError> {
    let incoming = layout.incoming();
    let mut sweep = || -> io::Result<()> {
        for entry in std::fs::read_dir(&incoming)? {
            disk::remove_file(&entry?.path())?;
            report.swept += 1;
        }
        Ok(())
    };
    sweep().map_err(|error| CacheError::io("sweep", &incoming, 0, error))
}

/// All rows of a ledger.
struct Rows {
    objects: HashMap<Digest, ObjectRow>,
    segments: HashMap<SegmentId, SegmentRow>,
}

fn open_ledger(layout: &Layout, report: &mut StartReport) -> Result<(Ledger, Rows), CacheError> {
    let path = layout.ledger();
    let read = || -> Result<(Ledger, Rows), LedgerError> {
        let ledger = Ledger::open(&path)?;
        let objects = ledger.objects()?.into_iter().collect();
        let segments = ledger.segments()?.into_iter().collect();
        ledger.scrub()?;
        Ok((ledger, Rows { objects, segments }))
    };
    let error = match read() {
        Ok(opened) => return Ok(opened),
        Err(error) if error.is_damage() => error,
        Err(error) => return Err(CacheError::ledger(&path, error)),
    };
    tracing::error!(%error, "the ledger is damaged: it is set aside, and every object is read");
    report.ledger_rebuilt = Some(error.to_string());
    let aside = format!("{}.damaged-{}", path.display(), disk::now_ms());
    for side in ["", "-wal", "-shm"] {
        let from = PathBuf::from(format!("{}{side}", path.display()));
        match std::fs::rename(&from, format!("{aside}{side}")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(CacheError::io("set aside", &from, 0, error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    read().map_err(|error| CacheError::ledger(&path, error))
}

fn recover(
    cache: &Cache,
    rows: Rows,
    found: Found,
    report: &mut StartReport,
) -> Result<(), CacheError> {
    let Rows { objects: mut known, segments: rows } = rows;
    let Found { names, objects, foreign } = found;
    for path in foreign {
        tracing::warn!(path = %path.display(), "not a file of trough: moved to quarantine");
        report.foreign.push(path.display().to_string());
        let record = Record::new(Vec::new(), String::new(), None, "trough did not make this");
        if let Err(error) = cache.quarantine_file(&path, &record) {
            tracing::warn!(path = %path.display(), %error, "foreign file stays, unserved");
        }
    }
    let mut changes = Vec::new();
    let segments = merge(names, rows, &objects, &mut changes, report);

    let used: HashSet<Digest> = segments.values().map(|row| row.digest).collect();
    let mut doubtful = Vec::new();
    for (digest, fingerprint) in &objects {
        match known.get(digest).filter(|row| row.fingerprint == *fingerprint) {
            _ if !used.contains(digest) => {
                cache.remove_object(digest)?;
                report.orphans_removed += 1;
            }
            Some(row) => {
                cache.state().put_object(*digest, *row);
                // what is left of the rows in the end may have no object
                known.remove(digest);
            }
            None => doubtful.push(*digest),
        }
    }
    let mut damaged = Vec::new();
    for (digest, checked) in survey::verify(cache.layout(), &doubtful) {
        report.rehashed += 1;
        match checked {
            Ok(row) => {
                changes.push(Change::Object(digest, row));
                cache.state().put_object(digest, row);
            }
            Err(why) => damaged.push((digest, why)),
        }
    }

    // names of what is missing or damaged go before the damaged object does
    for (id, row) in segments {
        if cache.state().objects.contains_key(&row.digest) {
            cache.state().put(&id, row);
            continue;
        }
        let link = cache.layout().link(&id);
        disk::remove_file(&link).map_err(|error| CacheError::io("withdraw", &link, 0, error))?;
        changes.push(Change::ForgetSegment(id.clone()));
        report.withdrawn.push(id);
    }
    if !report.withdrawn.is_empty() {
        cache.sync_dir(&cache.layout().segments())?;
    }
    for (digest, why) in damaged {
        tracing::error!(%digest, why, "damaged object: its segments are withdrawn");
        let path = cache.layout().object(&digest);
        let record = Record::new(Vec::new(), String::new(), Some(digest), why);
        if let Err(error) = cache.quarantine_file(&path, &record) {
            tracing::warn!(%digest, %error, "damaged object is removed, for it cannot be kept");
            cache.remove_object(&digest)?;
        }
        report.quarantined += 1;
    }
    let gone = known.into_keys().filter(|digest| !cache.state().objects.contains_key(digest));
    changes.extend(gone.map(Change::ForgetObject));
    cache.write_ledger(&mut cache.changes(), &changes)
}

/// Which segments there are, by the names on the disk and the rows of the ledger; the names are right.
fn merge(
    names: Vec<(SegmentId, Digest)>,
    mut rows: HashMap<SegmentId, SegmentRow>,
    objects: &BTreeMap<Digest, Fingerprint>,
    changes: &mut Vec<Change>,
    report: &mut StartReport,
) -> HashMap<SegmentId, SegmentRow> {
    let mut segments = HashMap::with_capacity(names.len());
    for (id, digest) in names {
        let row = rows.remove(&id);
        if let Some(row) = row.as_ref().filter(|row| row.digest == digest) {
            let row = SegmentRow { withdrawn_at_ms: None, ..row.clone() };
            segments.insert(id, row);
            continue;
        }
        // the file has the mtime that it has in the deep store: see publish.rs
        let found = objects.get(&digest);
        let stamp = Stamp {
            length: found.map_or(0, |found| found.length),
            mtime_ms: found
                .map_or(0, |found| u64::try_from(found.mtime_ns / 1_000_000).unwrap_or(0)),
        };
        let source = row.map_or(String::new(), |row| row.source);
        let row = SegmentRow { digest, stamp, source, sealed: false, withdrawn_at_ms: None };
        report.relearned += 1;
        changes.push(Change::Segment(id.clone(), row.clone()));
        segments.insert(id, row);
    }
    for (id, row) in rows {
        if !objects.contains_key(&row.digest) {
            changes.push(Change::ForgetSegment(id));
            continue;
        }
        if row.withdrawn_at_ms.is_some() {
            segments.insert(id, row);
            continue;
        }
        let row = SegmentRow { withdrawn_at_ms: Some(disk::now_ms()), ..row };
        changes.push(Change::Segment(id.clone(), row.clone()));
        segments.insert(id, row);
    }
    segments
}
