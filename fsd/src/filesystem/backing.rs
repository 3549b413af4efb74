//! The object behind an open inode: handed to the kernel (passthrough), else mapped into memory.
//!
//! Invariant: all handles of one inode that are open at the same time share one mode and one backing id;
//! the kernel answers EIO otherwise (fuse.md 1.1).
//!
//! Reading a mapping never raises SIGBUS here: its bytes are only passed to `writev` on the device, which
//! turns a bad page into an error of that one request.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};

use fuser::{BackingId, ReplyOpen};
use memmap2::Mmap;

use crate::status::Figures;

/// The open object of one inode.
pub struct Opened {
    object: Object,
    figures: Arc<Figures>,
}

enum Object {
    Passthrough(BackingId),
    Mapped(Mmap),
    /// No bytes: nothing can be mapped.
    Empty,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opened")
    }
}

impl Opened {
    /// The id to answer an open with, when the kernel reads the object itself.
    pub fn backing(&self) -> Option<&BackingId> {
        match &self.object {
            Object::Passthrough(id) => Some(id),
            Object::Mapped(_) | Object::Empty => None,
        }
    }

    /// At most `size` bytes from `offset`; nothing past the end.
    pub fn slice(&self, offset: u64, size: u32) -> &[u8] {
        let bytes: &[u8] = match &self.object {
            Object::Mapped(map) => map,
            Object::Empty | Object::Passthrough(_) => &[],
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(size as usize).min(bytes.len());
        &bytes[start..end]
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        match self.object {
            Object::Passthrough(_) => self.figures.backing_ids.fetch_sub(1, Ordering::Relaxed),
            Object::Mapped(_) => self.figures.mapped_objects.fetch_sub(1, Ordering::Relaxed),
            Object::Empty => 0,
        };
    }
}

/// Where an inode keeps its open object while a handle holds it.
///
/// Its lock is held while the object is opened, so that two first opens do not make two backing ids. It is
/// the inode's own and no call under it goes through the mount.
#[derive(Debug, Default)]
pub struct Slot(Mutex<Weak<Opened>>);

impl Slot {
    /// The object at `path`, opened in the mode it is open in already, else in the best one.
    pub fn open(
        &self,
        path: &Path,
        passthrough: bool,
        reply: &ReplyOpen,
        figures: &Arc<Figures>,
    ) -> io::Result<Arc<Opened>> {
        let mut slot = self.0.lock().expect("a panic ends the process, so no lock is poisoned");
        if let Some(opened) = slot.upgrade() {
            return Ok(opened);
        }
        let file = File::open(path)?;
        let object = match passthrough.then(|| reply.open_backing(&file)) {
            Some(Ok(id)) => Object::Passthrough(id),
            Some(Err(error)) => {
                let text = format!("the kernel refused {}: {error}", path.display());
                if figures.no_passthrough(text) {
                    tracing::warn!(path = %path.display(), %error, "passthrough refused; reads go through fsd");
                }
                map(&file)?
            }
            None => map(&file)?,
        };
        match object {
            Object::Passthrough(_) => figures.backing_ids.fetch_add(1, Ordering::Relaxed),
            Object::Mapped(_) => figures.mapped_objects.fetch_add(1, Ordering::Relaxed),
            Object::Empty => 0,
        };
        let opened = Arc::new(Opened { object, figures: figures.clone() });
        *slot = Arc::downgrade(&opened);
        Ok(opened)
    }
}

fn map(file: &File) -> io::Result<Object> {
    if file.metadata()?.len() == 0 {
        return Ok(Object::Empty);
    }
    // SAFETY: objects are immutable once named by their digest, and the bytes are only given to the kernel,
    // which checks every page itself; no Rust code depends on them not changing.
    let map = unsafe { Mmap::map(file)? };
    Ok(Object::Mapped(map))
}
