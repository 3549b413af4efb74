//! Which writable segments of this node may be read here, and until when: a file that the writer renews and the reader
//! asks before it opens one.
//!
//! Invariants: the reader reads a writable file only while the writer's lock on it holds by this machine's clock, so
//! never beside another node's writer; what is not whole or not understood, is of another boot, or has passed, says no.
//! A full disk stops neither the renewal of what is said nor its end.
//!
//! Left out: whether another node owns it then; that is in the registry.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fsd::segment::SegmentId;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};
use sync::clock::SinceBoot;

use crate::writer::Files;

/// What the file is called, in the directory of writable segments.
const NAME: &str = "lease";
/// What the one before is called, which the next is written into.
const SPARE: &str = "lease.spare";
/// The format of [`Leased`].
const FORMAT: u32 = 2;
/// Tells one boot of the machine from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Leased {
    format: u32,
    /// Of which boot its time is.
    boot: String,
    /// Until when it holds for all of them; milliseconds since boot.
    until_ms: u64,
    segments: HashSet<SegmentId>,
}

impl Leased {
    /// With a line that tells whether all of it is there.
    fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        let mut text = serde_json::to_vec(self)?;
        let digest = blake3::hash(&text).to_hex();
        text.push(b'\n');
        text.extend_from_slice(digest.as_bytes());
        Ok(text)
    }

    fn understand(text: &[u8]) -> Option<Self> {
        let end = text.iter().rposition(|byte| *byte == b'\n')?;
        let (text, digest) = (&text[..end], &text[end + 1..]);
        let whole = blake3::hash(text).to_hex().as_bytes() == digest;
        whole.then(|| serde_json::from_slice(text).ok())?
    }
}

/// The boot that this process runs in.
fn boot() -> std::io::Result<String> {
    Ok(std::fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

/// Writes the file: over the one before the last, which then takes the place of the last. So it needs no room on the disk
/// but what it has.
#[derive(Debug)]
pub struct LeaseFile {
    path: PathBuf,
    spare: PathBuf,
    boot: String,
    /// When the last was written, as it says.
    written_at: SystemTime,
}

impl LeaseFile {
    /// In `directory`; nothing is leased before the first [`Self::write`].
    pub fn new(directory: &Path) -> std::io::Result<Self> {
        let (path, spare) = (directory.join(NAME), directory.join(SPARE));
        Ok(Self { path, spare, boot: boot()?, written_at: SystemTime::UNIX_EPOCH })
    }

    /// Says that `segments` may be read until `until`, in time since boot, and no others. Not durable: it ends with the
    /// boot.
    pub fn write(
        &mut self,
        segments: impl IntoIterator<Item = SegmentId>,
        until: Duration,
    ) -> std::io::Result<()> {
        let until_ms = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
        let segments = segments.into_iter().collect();
        let leased = Leased { format: FORMAT, boot: self.boot.clone(), until_ms, segments };
        let text = leased.to_bytes()?;
        let mut how = File::options();
        let spare = how.write(true).create(true).truncate(false).mode(0o600).open(&self.spare)?;
        spare.write_all_at(&text, 0)?;
        spare.set_len(text.len() as u64)?;
        // the file system's own clock may stand still for some milliseconds
        self.written_at = SystemTime::now().max(self.written_at + Duration::from_nanos(1));
        spare.set_modified(self.written_at)?;
        match renameat_with(CWD, &self.spare, CWD, &self.path, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(()),
            // it is the first, or the file system does not exchange files
            Err(_) => std::fs::rename(&self.spare, &self.path),
        }
    }
}

/// Asks the file. Cloning is cheap.
#[derive(Clone)]
pub struct Leases {
    directory: Arc<Path>,
    since_boot: SinceBoot,
    /// Of which file, and what it says; read again when another was put in its place.
    read: Arc<Mutex<Option<(Which, Leased)>>>,
    boot: Option<Arc<str>>,
}

/// One of them: asked when an answer from the file begins, and when its first byte is about to leave.
#[derive(Debug, Clone)]
pub struct Lent {
    leases: Leases,
    id: SegmentId,
}

impl Lent {
    /// The file, if it may be read now. Blocks for as long as a stat takes.
    pub fn path(&self) -> Option<PathBuf> {
        self.leases.path(&self.id)
    }
}

impl std::fmt::Debug for Leases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Leases").field(&self.directory).finish()
    }
}

/// Tells one lease from another: the two files take turns, and no two writes of one have the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Which {
    inode: u64,
    modified: (i64, i64),
}

impl Which {
    fn of(file: &Metadata) -> Self {
        Self { inode: file.ino(), modified: (file.mtime(), file.mtime_nsec()) }
    }
}

impl Leases {
    /// Those of the writer in `directory`, which need not be there.
    pub fn new(directory: PathBuf, since_boot: SinceBoot) -> Self {
        let boot = boot().ok().map(Arc::from);
        Self { directory: directory.into(), since_boot, read: Arc::default(), boot }
    }

    /// That of `id`, to be asked later.
    pub fn lent(&self, id: SegmentId) -> Lent {
        Lent { leases: self.clone(), id }
    }

    /// The file of `id`, if it may be read now. Blocks for as long as a stat takes.
    pub fn path(&self, id: &SegmentId) -> Option<PathBuf> {
        let path = self.directory.join(NAME);
        let which = Which::of(&std::fs::metadata(&path).ok()?);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.as_ref().is_none_or(|(of, _)| *of != which) {
            let leased = std::fs::read(&path).ok()?;
            *read = Some((which, Leased::understand(&leased)?));
        }
        let (_, leased) = read.as_ref()?;
        let holds = leased.format == FORMAT
            && Some(&*leased.boot) == self.boot.as_deref()
            && (self.since_boot)() < Duration::from_millis(leased.until_ms);
        (holds && leased.segments.contains(id)).then(|| self.directory.join(id.file_name()))
    }

    /// Whether the writer wrote down that `id` has something which is not published, whatever became of its lock; also when
    /// what it wrote down cannot be read. Blocks for as long as it takes to read a small file.
    pub fn unpublished(&self, id: &SegmentId) -> bool {
        let note = Files::at(self.directory.to_path_buf()).note(id);
        note.map_or(true, |note| note.is_some_and(|note| note.unpublished_since_ms.is_some()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn s4_a_file_is_read_only_while_its_lease_holds() {
        let dir = tempfile::tempdir().unwrap();
        let now = Arc::new(AtomicU64::new(1_000));
        let clock = Arc::clone(&now);
        let since_boot: SinceBoot =
            Arc::new(move || Duration::from_millis(clock.load(Ordering::Relaxed)));
        let leases = Leases::new(dir.path().to_owned(), since_boot);
        let id = |text: &str| SegmentId::new(text).unwrap();
        let path = |text: &str| leases.path(&id(text));
        assert_eq!(path("ohio"), None, "there is no file");
        let mut file = LeaseFile::new(dir.path()).unwrap();
        file.write([id("ohio")], Duration::from_millis(2_000)).unwrap();
        assert_eq!(path("ohio"), Some(dir.path().join("ohio.sqlite")));
        assert_eq!(path("texas"), None);
        file.write([id("ohio"), id("texas")], Duration::from_millis(3_000)).unwrap();
        now.store(2_999, Ordering::Relaxed);
        assert!(path("texas").is_some() && path("ohio").is_some());
        now.store(3_000, Ordering::Relaxed);
        assert_eq!((path("texas"), path("ohio")), (None, None));
        file.write([id("texas")], Duration::from_millis(9_000)).unwrap();
        assert!(path("texas").is_some() && path("ohio").is_none());
        // as fast as it goes, and each is seen
        for n in 0..1_000 {
            let (one, another) = if n % 4 < 2 { ("maine", "texas") } else { ("texas", "maine") };
            file.write([id(one)], Duration::from_millis(9_000)).unwrap();
            assert!(path(one).is_some() && path(another).is_none(), "{n}");
        }
        let mut other = LeaseFile { boot: "another-boot".to_owned(), ..file };
        other.write([id("texas")], Duration::from_millis(9_000)).unwrap();
        assert_eq!(path("texas"), None, "time of another boot");
        other.boot = boot().unwrap();
        other.write([id("texas")], Duration::from_millis(9_000)).unwrap();
        let said = std::fs::read_to_string(dir.path().join(NAME)).unwrap();
        assert!(path("texas").is_some());
        for half in ["?", &said[..said.len() - 9], &said.replace("9000", "9999")] {
            std::fs::write(dir.path().join(NAME), half).unwrap();
            assert_eq!(path("texas"), None, "{half}");
        }
    }
}
