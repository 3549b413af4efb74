//! Figures of the cache by itself: how long a start takes with many segments, and how fast verified, durable publishing
//! is beside plain copies with one fsync each.
//!
//! `cargo run -p fsd --example cache_bench -- DIR [SEGMENTS]`; DIR must not exist and is removed at the end.
//! With a third argument `many` only the many small segments are made and opened, and DIR/many stays for other
//! measurements (the mount, `trough up`); a DIR/many that is there already is only opened.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use fsd::cache::{Cache, CacheSettings, Source};
use fsd::segment::{Digest, SegmentId, Stamp};

const COPY_FILES: u64 = 32;
const COPY_BYTES: usize = 8 << 20;
const THREADS: u64 = 4;
const BATCH: u64 = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("name a directory that does not exist")?;
    let segments: u64 = arguments.next().map_or(Ok(100_000), |text| text.parse())?;
    let only_many = match arguments.next().as_deref() {
        None => false,
        Some("many") => true,
        Some(other) => return Err(format!("{other:?} is neither nothing nor `many`").into()),
    };
    match std::fs::create_dir(&dir) {
        Err(error) if !only_many => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    // a header is all that a sealed file needs to be admitted
    let (dir, database) = (Path::new(&dir), database(Path::new(&dir))?);
    if only_many {
        return many(dir, &database, segments);
    }
    let result = large(dir, &database).and_then(|()| many(dir, &database, segments));
    std::fs::remove_dir_all(dir)?;
    result
}

fn large(dir: &Path, database: &[u8]) -> Result<(), Box<dyn Error>> {
    for round in 0..3 {
        let copied = copy(&dir.join(format!("copies{round}")), database)?;
        let published = publish_large(&dir.join(format!("published{round}")), database)?;
        let ratio = copied.as_secs_f64() / published.as_secs_f64();
        println!(
            "{COPY_FILES} files of 8 MiB: copied in {copied:.2?}, published in {published:.2?}, {ratio:.2}x"
        );
    }
    Ok(())
}

fn many(dir: &Path, database: &[u8], segments: u64) -> Result<(), Box<dyn Error>> {
    let settings = CacheSettings { dir: dir.join("many"), ..CacheSettings::default() };
    let (cache, there) = Cache::open(&settings)?;
    let segments = if there.segments == 0 { segments } else { 0 };
    let started = Instant::now();
    for first in (0..segments).step_by(usize::try_from(BATCH)?) {
        let batch = (first..segments.min(first + BATCH))
            .map(|n| item(&cache, n, &with(&database[..8192], n)));
        let batch = batch.collect::<Result<Vec<_>, Box<dyn Error>>>()?;
        cache.publish(batch).into_iter().collect::<Result<Vec<_>, _>>()?;
    }
    println!("{segments} segments published in {:.1?}", started.elapsed());
    drop(cache);
    for _ in 0..3 {
        let started = Instant::now();
        let (cache, report) = Cache::open(&settings)?;
        println!(
            "opened in {:.0?}: {} segments, {} read again",
            started.elapsed(),
            report.segments,
            report.rehashed
        );
        drop(cache);
    }
    Ok(())
}

/// An 8 MiB database whose header does not vouch for its page count, so that its start is a segment too.
fn database(dir: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let path = dir.join("x.sqlite");
    let _ = std::fs::remove_file(&path);
    rusqlite::Connection::open(&path)?.execute_batch("CREATE TABLE t (a)")?;
    let mut bytes = std::fs::read(path)?;
    bytes.resize(COPY_BYTES, 1);
    bytes[92] ^= 1;
    Ok(bytes)
}

fn with(database: &[u8], n: u64) -> Vec<u8> {
    let mut bytes = database.to_vec();
    bytes[5000..5008].copy_from_slice(&n.to_le_bytes());
    bytes
}

fn item(
    cache: &Cache,
    n: u64,
    bytes: &[u8],
) -> Result<(fsd::cache::Verified, Source), Box<dyn Error>> {
    let mut staging =
        cache.stage(&SegmentId::new(&format!("segment-{n:06}"))?, bytes.len() as u64)?;
    for piece in bytes.chunks(128 << 10) {
        staging.write(piece)?;
    }
    let staged = staging.finish()?;
    let digest: Digest = staged.digest();
    let verified = staged.verify(Some(digest)).map_err(|rejected| rejected.refusal)?;
    let stamp = Stamp { length: bytes.len() as u64, mtime_ms: 1_700_000_000_000 + n };
    Ok((verified, Source { path: format!("/segments/{n}"), stamp, sealed: true }))
}

/// What a tool without checks does: write, fsync, next; on as many threads.
fn copy(dir: &Path, database: &[u8]) -> Result<Duration, Box<dyn Error>> {
    std::fs::create_dir(dir)?;
    timed(|n| {
        let mut file = File::create(dir.join(n.to_string()))?;
        for piece in with(database, n).chunks(128 << 10) {
            file.write_all(piece)?;
        }
        Ok(file.sync_all()?)
    })
}

fn publish_large(dir: &Path, database: &[u8]) -> Result<Duration, Box<dyn Error>> {
    let (cache, _) =
        Cache::open(&CacheSettings { dir: dir.to_owned(), ..CacheSettings::default() })?;
    timed(|n| {
        let item = item(&cache, n, &with(database, n))?;
        cache.publish(vec![item]).remove(0)?;
        Ok(())
    })
}

fn timed(
    one: impl Fn(u64) -> Result<(), Box<dyn Error>> + Sync,
) -> Result<Duration, Box<dyn Error>> {
    let started = Instant::now();
    let one = &one;
    std::thread::scope(|scope| {
        let all = |first| {
            move || {
                (first..COPY_FILES)
                    .step_by(THREADS as usize)
                    .try_for_each(|n| one(n).map_err(|e| e.to_string()))
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|first| scope.spawn(all(first))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or(Err("a thread panicked".to_owned())))
    })?;
    Ok(started.elapsed())
}
