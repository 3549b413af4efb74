//! Telling the kernel which names changed in `segments/`.
//!
//! Invariant: every change made after [`Watch::new`] is followed by an invalidation of its name, or, when
//! events were lost, of every name: all that are published now (a remembered "absent" matters only for those)
//! and all that the kernel may remember a version of. The kernel takes the lock of the directory for it,
//! which every look-up in progress holds, so no look-up that began before the change outlives it.
//!
//! Invalidations come from this thread alone; from within a request they would wait for themselves.
//!
//! Left out: the attributes of a replaced inode. They never change, and a reader that holds the old version must
//! go on with them when no fsd lives. Right answers to open(2); they do not depend on anything here.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use fuser::{INodeNo, Notifier};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tracing::warn;

use crate::filesystem::Tree;
use crate::filesystem::inodes::INO_ROOT;
use crate::layout::Layout;
use crate::segment::SegmentId;
use crate::status::count;

/// How much of the queue is taken at once, bytes: about 2,000 events with names of 16 bytes.
const BUFFER_BYTES: usize = 64 * 1024;

/// A watch on the published names.
#[derive(Debug)]
pub struct Watch(OwnedFd);

/// What one look at the queue brought.
#[derive(Debug, Default)]
struct Batch {
    names: HashSet<OsString>,
    overflow: bool,
    gone: bool,
}

impl Watch {
    /// Begins to watch; changes from here on are seen.
    pub fn new(layout: &Layout) -> io::Result<Self> {
        let queue = inotify::init(CreateFlags::CLOEXEC)?;
        let events = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&queue, layout.segments(), events)?;
        Ok(Self(queue))
    }

    /// Passes changes on until the directory is gone or the queue fails, and says why it ended.
    pub fn run(self, tree: &Tree, notifier: &Notifier) -> io::Error {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER_BYTES];
        loop {
            let batch = match self.next(&mut buffer) {
                Ok(batch) => batch,
                Err(error) => return error,
            };
            for name in &batch.names {
                invalidate(tree, notifier, name);
            }
            if batch.overflow {
                count(&tree.figures().watch_overflows);
                warn!("more names changed than the kernel queues; the kernel forgets all names");
                if let Err(error) = invalidate_all(tree, notifier) {
                    return error;
                }
            }
            // the directory's own modification time
            report(tree, notifier.inval_inode(INodeNo(INO_ROOT), -1, 0));
            if batch.gone {
                return io::Error::other("the directory was moved or deleted");
            }
        }
    }

    fn next(&self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Batch> {
        let mut batch = Batch::default();
        let mut reader = Reader::new(&self.0, buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let what = event.events();
            batch.overflow |= what.contains(ReadFlags::QUEUE_OVERFLOW);
            batch.gone |=
                what.intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED);
            if let Some(name) = event.file_name() {
                let name = OsStr::from_bytes(name.to_bytes());
                // the publisher's temporary names never showed
                if let Some(Ok(_)) = SegmentId::from_file_name(name) {
                    batch.names.insert(name.to_owned());
                }
            }
            if reader.is_buffer_empty() {
                return Ok(batch);
            }
        }
    }
}

fn invalidate(tree: &Tree, notifier: &Notifier, name: &OsStr) {
    report(tree, notifier.inval_entry(INodeNo(INO_ROOT), name));
}

fn invalidate_all(tree: &Tree, notifier: &Notifier) -> io::Result<()> {
    for id in tree.inodes().ids() {
        invalidate(tree, notifier, OsStr::new(&id.file_name()));
    }
    for entry in std::fs::read_dir(tree.layout().segments())? {
        invalidate(tree, notifier, &entry?.file_name());
    }
    Ok(())
}

fn report(tree: &Tree, sent: io::Result<()>) {
    match sent {
        Ok(()) => count(&tree.figures().invalidations),
        // unmounted: nobody remembers anything
        Err(error) if error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) => {}
        Err(error) => {
            count(&tree.figures().invalidations_failed);
            tree.figures().trouble(format!("invalidation failed: {error}"));
            tracing::debug!(%error, "an invalidation failed");
        }
    }
}
