//! Looking at all names and objects in bulk, for a start with 100,000 segments: one `readlinkat` a name, one
//! `statat` an object, on several threads.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::layout::{Layout, Links};
use crate::ledger::{Fingerprint, ObjectRow};
use crate::segment::{Digest, SegmentId};

use super::{CacheError, disk};

/// How many threads look at files: system calls on a directory tree in memory gain no more from further ones.
const THREADS_MAX: usize = 4;

/// What the directories say.
#[derive(Default)]
pub(super) struct Found {
    pub names: Vec<(SegmentId, Digest)>,
    pub objects: BTreeMap<Digest, Fingerprint>,
    /// What trough did not make.
    pub foreign: Vec<PathBuf>,
}

pub(super) fn find(layout: &Layout) -> Result<Found, CacheError> {
    let mut found = Found::default();
    let segments = layout.segments();
    let names = find_names(layout, &segments);
    for name in names.map_err(|error| CacheError::io("list", &segments, 0, error))? {
        match name {
            Name::Segment(id, digest) => found.names.push((id, digest)),
            Name::Foreign(path) => found.foreign.push(path),
        }
    }
    let objects = layout.objects();
    let listed = find_objects(&objects);
    let mut known = Vec::new();
    for object in listed.map_err(|error| CacheError::io("list", &objects, 0, error))? {
        match object {
            Object::Object(digest, fingerprint) => known.push((digest, fingerprint)),
            Object::Foreign(path) => found.foreign.push(path),
        }
    }
    // all at once: it is sorted once instead of searched for each
    found.objects = known.into_iter().collect();
    Ok(found)
}

/// Reads each object of `digests` and says for each what the ledger may say of it, or what is wrong.
pub(super) fn verify(
    layout: &Layout,
    digests: &[Digest],
) -> Vec<(Digest, Result<ObjectRow, String>)> {
    in_threads(digests, |digest| (*digest, verify_one(&layout.object(digest), digest)))
}

fn verify_one(path: &Path, digest: &Digest) -> Result<ObjectRow, String> {
    let read = || {
        let before = disk::fingerprint(path)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(std::fs::File::open(path)?)?;
        Ok((before, Digest::from(hasher.finalize())))
    };
    match read().map_err(|error: io::Error| error.to_string())? {
        (fingerprint, got) if got == *digest => {
            Ok(ObjectRow { fingerprint, verified_at_ms: disk::now_ms() })
        }
        (_, got) => Err(format!("it hashes to {got}")),
    }
}

enum Name {
    Segment(SegmentId, Digest),
    Foreign(PathBuf),
}

fn find_names(layout: &Layout, path: &Path) -> io::Result<Vec<Name>> {
    let links = Links::open(layout)?;
    let entries: Vec<CString> = list(&links)?.into_iter().map(|(name, _)| name).collect();
    let look = |name: &CString| -> io::Result<Option<Name>> {
        use io::ErrorKind::{InvalidData, InvalidInput};
        let text = OsStr::from_bytes(name.as_bytes());
        let foreign = || Name::Foreign(path.join(text));
        let digest = match links.published(name.as_c_str()) {
            Ok(Some(digest)) => digest,
            Ok(None) => return Ok(None),
            // another target, or no symlink
            Err(error) if matches!(error.kind(), InvalidData | InvalidInput) => {
                return Ok(Some(foreign()));
            }
            Err(error) => return Err(error),
        };
        let id = SegmentId::from_file_name(text).and_then(Result::ok);
        Ok(Some(id.map_or_else(foreign, |id| Name::Segment(id, digest))))
    };
    in_threads(&entries, look).into_iter().filter_map(Result::transpose).collect()
}

enum Object {
    Object(Digest, Fingerprint),
    Foreign(PathBuf),
}

fn find_objects(path: &Path) -> io::Result<Vec<Object>> {
    let directory = open_dir(path)?;
    let entries = list(&directory)?;
    let look = |(name, kind): &(CString, FileType)| -> io::Result<Vec<Object>> {
        let sub_path = path.join(OsStr::from_bytes(name.as_bytes()));
        let two_digits =
            matches!(name.as_bytes(), [b'0'..=b'9' | b'a'..=b'f', b'0'..=b'9' | b'a'..=b'f']);
        if !two_digits || *kind != FileType::Directory {
            return Ok(vec![Object::Foreign(sub_path)]);
        }
        let directory = open_dir(&sub_path)?;
        let mut objects = Vec::new();
        for (object, kind) in list(&directory)? {
            let text =
                object.to_str().ok().filter(|text| text.as_bytes().starts_with(name.as_bytes()));
            let digest = text.and_then(|text| text.parse().ok());
            objects.push(match digest.filter(|_| kind == FileType::RegularFile) {
                Some(digest) => {
                    let stat = rustix::fs::statat(&directory, &object, AtFlags::SYMLINK_NOFOLLOW)?;
                    Object::Object(digest, disk::fingerprint_of(&stat))
                }
                None => Object::Foreign(sub_path.join(OsStr::from_bytes(object.as_bytes()))),
            });
        }
        Ok(objects)
    };
    let nested: io::Result<Vec<Vec<Object>>> = in_threads(&entries, look).into_iter().collect();
    Ok(nested?.into_iter().flatten().collect())
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The entries of a directory with their types (asked for where the file system does not tell).
fn list(directory: impl AsFd) -> io::Result<Vec<(CString, FileType)>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        entries.push((name.to_owned(), kind));
    }
    Ok(entries)
}

/// `work` on each of `items`, in their order.
fn in_threads<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS_MAX));
    let per_thread = items.len().div_ceil(threads).max(1);
    let work = &work;
    std::thread::scope(|scope| {
        let start = |chunk| scope.spawn(move || Iterator::map(<[T]>::iter(chunk), work).collect());
        let running: Vec<_> = items.chunks(per_thread).map(start).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Vec<R>>| {
            thread.join().expect("a panic aborts the process")
        };
        running.into_iter().flat_map(join).collect()
    })
}
