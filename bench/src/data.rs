//! The data sets: made once, kept in the user's cache directory under a name that says what they are.
//!
//! Invariant: a data set is whole or not there; it is made aside and renamed. One that is changed gets another
//! name here.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, bail};
use fsd::cache::{Cache, CacheSettings, Source, Verified};
use fsd::segment::{Digest, SegmentId, Stamp};
use rusqlite::Connection;

/// What all data sets and one run's output take at most, in bytes: 1 GiB in a cache, another as a file, 2 GiB of
/// segments, all of those three times in HDFS and twice as copies, and what `put` writes.
const ROOM_BYTES: u64 = 20 << 30;
/// When everything in a data set was last changed, milliseconds since 1970.
const MTIME_MS: u64 = 1_700_000_000_000;
/// What a segment file is called that is alone.
const FILE: &str = "segment.sqlite";
/// Segments published in one step while a cache is made.
const BATCH: usize = 1_000;

/// Where data sets lie, and how large they are this time.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    /// Small sizes.
    pub quick: bool,
}

/// A cache of [`Place::small`].
#[derive(Debug)]
pub struct Small {
    /// Holds `cache/`, `store/` with the same segments, and what a trough on them leaves.
    pub dir: PathBuf,
    /// How many.
    pub count: usize,
}

impl Small {
    /// The id of one that is in it.
    pub fn id(number: usize) -> String {
        format!("segment-{number:06}")
    }
}

impl Place {
    /// Finds the directory, and refuses where there is no room.
    pub fn open(quick: bool) -> anyhow::Result<Self> {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        let dir = cache.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?;
        let dir = dir.join("trough/bench");
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let volume = rustix::fs::statvfs(&dir).context("look at the volume")?;
        let (free, needed) = (volume.f_bavail * volume.f_frsize, ROOM_BYTES);
        if !quick && free < needed {
            bail!(
                "{} has {} GiB free, and this needs {} GiB",
                dir.display(),
                free >> 30,
                needed >> 30
            );
        }
        Ok(Self { dir, quick })
    }

    /// `full`, or with `--quick` the other.
    pub fn size<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// A directory that goes with what is returned, on the volume of the data sets.
    pub fn scratch(&self) -> anyhow::Result<tempfile::TempDir> {
        tempfile::Builder::new().prefix("run-").tempdir_in(&self.dir).context("make a directory")
    }

    /// A cache that holds one segment, named `segment`, of about `mib` MiB; see [`write_segment`].
    pub fn large(&self, mib: u64) -> anyhow::Result<PathBuf> {
        self.made(&format!("cache-1x{mib}MiB-v1"), |dir| {
            let file = dir.join("segment.sqlite");
            write_segment(&file, mib)?;
            let cache = open_cache(&dir.join("cache"))?;
            let bytes = std::fs::read(&file).context("read it back")?;
            publish(&cache, vec![verified(&cache, "segment", &bytes)?])?;
            std::fs::remove_file(&file).context("remove the original")
        })
        .map(|dir| dir.join("cache"))
    }

    /// A segment file of about `mib` MiB; see [`write_segment`].
    pub fn segment(&self, mib: u64) -> anyhow::Result<PathBuf> {
        let made =
            self.made(&format!("file-1x{mib}MiB-v1"), |dir| write_segment(&dir.join(FILE), mib));
        Ok(made?.join(FILE))
    }

    /// A directory of `count` segment files of about 8 MiB.
    pub fn segments(&self, count: usize) -> anyhow::Result<PathBuf> {
        self.made(&format!("files-{count}x8MiB-v1"), |dir| {
            for number in 0..count {
                crate::harness::check_stopped()?;
                write_segment(&dir.join(format!("{}.sqlite", Small::id(number))), 8)?;
            }
            Ok(())
        })
    }

    /// A cache of `count` segments of 1 KiB, and a deep store with the same.
    pub fn small(&self, count: usize) -> anyhow::Result<Small> {
        let dir = self.made(&format!("cache-{count}x1KiB-v1"), |dir| {
            let template = dir.join("template.sqlite");
            let connection = Connection::open(&template).context("make a database")?;
            connection.execute_batch(
                "PRAGMA page_size = 512; PRAGMA journal_mode = off;
                 CREATE TABLE t (name TEXT); INSERT INTO t VALUES ('segment-000000');",
            )?;
            drop(connection);
            let mut bytes = std::fs::read(&template).context("read the database")?;
            std::fs::remove_file(&template).context("remove the template")?;
            let name = Small::id(0);
            let mut windows = bytes.windows(name.len());
            let at = windows.position(|window| window == name.as_bytes());
            let at = at.context("the name in the database's bytes")?;
            let cache = open_cache(&dir.join("cache"))?;
            let store = dir.join("store");
            std::fs::create_dir(&store).context("make the store")?;
            let mut batch = Vec::new();
            for number in 0..count {
                crate::harness::check_stopped()?;
                let id = Small::id(number);
                bytes[at..at + id.len()].copy_from_slice(id.as_bytes());
                let file = std::fs::File::create(store.join(format!("{id}.sqlite")))?;
                file.write_all_at(&bytes, 0)?;
                file.set_modified(UNIX_EPOCH + Duration::from_millis(MTIME_MS))?;
                batch.push(verified(&cache, &id, &bytes)?);
                if batch.len() == BATCH || number + 1 == count {
                    publish(&cache, std::mem::take(&mut batch))?;
                }
            }
            Ok(())
        })?;
        Ok(Small { dir, count })
    }

    fn made(
        &self,
        name: &str,
        make: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<PathBuf> {
        let dir = self.dir.join(name);
        if dir.is_dir() {
            return Ok(dir);
        }
        eprintln!("  making the data set {}", dir.display());
        let part = tempfile::Builder::new().prefix("part-").tempdir_in(&self.dir)?;
        make(part.path()).with_context(|| format!("make the data set {name}"))?;
        rustix::fs::sync();
        let part = part.keep();
        std::fs::rename(&part, &dir).context("put the data set in its place")?;
        Ok(dir)
    }
}

/// How many rows [`write_segment`] writes for each MiB: four to a page, and some pages for the index.
pub const ROWS_PER_MIB: u64 = 985;

/// A database of about `mib` MiB: one table with an integer key, an indexed name, and a body that cannot be
/// compressed.
fn write_segment(path: &Path, mib: u64) -> anyhow::Result<()> {
    let connection = Connection::open(path).context("make a database")?;
    connection.execute_batch(&format!(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = off; PRAGMA synchronous = off; BEGIN;
         CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT NOT NULL, body BLOB NOT NULL);
         WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO t SELECT i, hex(randomblob(16)), randomblob(940) FROM n;
         CREATE INDEX t_name ON t (name); COMMIT;",
        rows = mib * ROWS_PER_MIB
    ))?;
    Ok(())
}

fn open_cache(dir: &Path) -> anyhow::Result<Cache> {
    let (cache, _) =
        Cache::open(&CacheSettings { dir: dir.to_owned(), ..CacheSettings::default() })?;
    Ok(cache)
}

fn verified(cache: &Cache, id: &str, bytes: &[u8]) -> anyhow::Result<(Verified, Source)> {
    let mut staging = cache.stage(&SegmentId::new(id)?, bytes.len() as u64)?;
    staging.write(bytes)?;
    let digest = Digest::from(blake3::hash(bytes));
    let verified = staging.finish()?.verify(Some(digest)).map_err(|rejected| rejected.refusal)?;
    let stamp = Stamp { length: bytes.len() as u64, mtime_ms: MTIME_MS };
    Ok((verified, Source { path: format!("{id}.sqlite"), stamp, sealed: true }))
}

fn publish(cache: &Cache, batch: Vec<(Verified, Source)>) -> anyhow::Result<()> {
    cache.publish(batch).into_iter().try_for_each(|result| result.map(drop))?;
    Ok(())
}
