//! What the kernel's questions are answered: look-ups, opens, listings, attributes.
//!
//! Invariant: an answer is worked out from the symlink as it is now; what the kernel was told before counts for
//! nothing. Left out: the protocol's handlers, which call these ([`super::handlers`]).

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    FileHandle, FileType, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, OpenAccMode,
    OpenFlags, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyOpen, ReplyXattr,
};

use super::errno::Failure;
use super::inodes::{INO_ROOT, INO_SERVICE, INO_STATUS};
use super::listing::Listing;
use super::{ATTRIBUTES_TTL, Handle, Name, SERVICE_DIR, STATUS_FILE, Tree, xattrs};
use crate::status::count;

/// Numbers are never given to another content, so one generation is enough.
const GENERATION: Generation = Generation(0);

/// How many file systems may lie under the mount: with 2 the cache may be on overlayfs (fuse.md 1.1).
const STACK_DEPTH: u32 = 2;

/// Entries of the root that stand before the segments: `.`, `..`, `.trough`.
const FIXED_ENTRIES: u64 = 3;

impl Tree {
    pub(super) fn negotiate(&self, config: &mut KernelConfig) {
        let abi = config.kernel_abi();
        self.figures.protocol(format!("{}.{}", abi.0, abi.1));
        for wanted in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
        ] {
            // an older kernel without it is slower, not wrong
            let _ = config.add_capabilities(wanted);
        }
        if !self.use_passthrough.load(std::sync::atomic::Ordering::Relaxed) {
            return;
        }
        let granted = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(STACK_DEPTH).is_ok();
        if !granted {
            self.use_passthrough.store(false, std::sync::atomic::Ordering::Relaxed);
            let reason = "this kernel does not offer it (Linux 6.9 does)".to_owned();
            self.figures.no_passthrough(reason);
        }
    }

    pub(super) fn answer_lookup(&self, parent: u64, name: &OsStr, reply: ReplyEntry) {
        let fixed = match (parent, name.to_str()) {
            (INO_ROOT, Some(SERVICE_DIR)) => Some(INO_SERVICE),
            (INO_SERVICE, Some(STATUS_FILE)) => Some(INO_STATUS),
            (INO_ROOT | INO_SERVICE, _) => None,
            (_, _) => return reply.error(self.failed("lookup", &Failure::NotADirectory)),
        };
        count(&self.figures.lookups);
        if let Some(ino) = fixed {
            return match self.attributes(ino) {
                Ok(attr) => {
                    reply.entry_with_ttls(&Duration::ZERO, &self.entry_ttl, &attr, GENERATION);
                }
                Err(failure) => reply.error(self.failed("lookup", &failure)),
            };
        }
        let found = match parent {
            INO_ROOT => self.resolve(name),
            _ => Ok(Name::Absent),
        };
        match found {
            Ok(Name::Segment(known)) => {
                let (size, mtime) = (known.size, known.mtime);
                let attr = self.file(self.inodes.remember(known), size, mtime);
                reply.entry_with_ttls(&ATTRIBUTES_TTL, &self.entry_ttl, &attr, GENERATION);
            }
            Ok(Name::Absent) => {
                count(&self.figures.negative_lookups);
                // inode 0: the kernel remembers that the name is absent
                reply.entry(
                    &self.negative_ttl,
                    &self.file(0, 0, SystemTime::UNIX_EPOCH),
                    GENERATION,
                );
            }
            Ok(Name::Dangling) => {
                count(&self.figures.negative_lookups);
                reply.error(self.failed("lookup", &Failure::NotFound));
            }
            Err(failure) => reply.error(self.failed("lookup", &failure)),
        }
    }

    pub(super) fn answer_open(&self, ino: u64, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(self.failed("open", &Failure::ReadOnly));
        }
        if ino == INO_STATUS {
            return match serde_json::to_vec_pretty(&self.status()) {
                Ok(mut text) => {
                    text.push(b'\n');
                    let fh = self.add_handle(Handle::Status(Arc::new(text)));
                    reply.opened(FileHandle(fh), FopenFlags::FOPEN_DIRECT_IO);
                }
                Err(error) => reply.error(self.failed("open", &Failure::Io(error.into()))),
            };
        }
        let opened = match self.open_segment(ino, &reply) {
            Ok(opened) => opened,
            Err(failure) => return reply.error(self.failed("open", &failure)),
        };
        let fh = FileHandle(self.add_handle(Handle::Segment(opened.clone())));
        match opened.backing() {
            Some(id) => {
                count(&self.figures.opens_passthrough);
                reply.opened_passthrough(fh, FopenFlags::FOPEN_NOFLUSH, id);
            }
            None => {
                count(&self.figures.opens_mapped);
                reply.opened(fh, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
            }
        }
    }

    pub(super) fn open_directory(&self, ino: u64) -> Result<u64, Failure> {
        match ino {
            INO_ROOT => Ok(self.add_handle(Handle::Root(Arc::new(Listing::read(&self.layout)?)))),
            INO_SERVICE => Ok(self.add_handle(Handle::Service)),
            _ => Err(Failure::NotADirectory),
        }
    }

    /// Calls `add(ino, next offset, is a directory, name)` for the entries before the segments, until it says full.
    pub(super) fn fixed_entries(
        ino: u64,
        offset: u64,
        mut add: impl FnMut(u64, u64, FileType, &str) -> bool,
    ) -> bool {
        let last = match ino {
            INO_ROOT => (INO_SERVICE, FileType::Directory, SERVICE_DIR),
            _ => (INO_STATUS, FileType::RegularFile, STATUS_FILE),
        };
        let entries =
            [(ino, FileType::Directory, "."), (INO_ROOT, FileType::Directory, ".."), last];
        for (at, (ino, kind, name)) in (1..).zip(entries) {
            if at > offset && add(ino, at, kind, name) {
                return true;
            }
        }
        false
    }

    pub(super) fn list(
        &self,
        ino: u64,
        fh: u64,
        offset: u64,
        reply: &mut ReplyDirectory,
    ) -> Result<(), Failure> {
        let handle = self.handle(fh)?;
        let full = Self::fixed_entries(ino, offset, |ino, next, kind, name| {
            reply.add(INodeNo(ino), next, kind, name)
        });
        let Handle::Root(listing) = handle else { return Ok(()) };
        if full {
            return Ok(());
        }
        for (number, name) in listing.names(offset.saturating_sub(FIXED_ENTRIES)) {
            // a name that went meanwhile is left out
            let Some((id, digest)) = listing.published(name) else { continue };
            let ino = INodeNo(self.inodes.number(&id, &digest));
            let next = number + 1 + FIXED_ENTRIES;
            if reply.add(ino, next, FileType::RegularFile, name) {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn list_plus(
        &self,
        ino: u64,
        fh: u64,
        offset: u64,
        reply: &mut ReplyDirectoryPlus,
    ) -> Result<(), Failure> {
        let handle = self.handle(fh)?;
        let full = Self::fixed_entries(ino, offset, |ino, next, kind, name| {
            let now = SystemTime::now();
            let attr = match kind {
                FileType::Directory => self.directory(ino, now),
                _ => self.file(ino, 0, now),
            };
            reply.add(INodeNo(ino), next, name, &Duration::ZERO, &attr, GENERATION)
        });
        let Handle::Root(listing) = handle else { return Ok(()) };
        if full {
            return Ok(());
        }
        for (number, name) in listing.names(offset.saturating_sub(FIXED_ENTRIES)) {
            let Ok(Name::Segment(known)) = self.resolve(OsStr::new(name)) else { continue };
            let (size, mtime) = (known.size, known.mtime);
            let ino = self.inodes.remember(known);
            let attr = self.file(ino, size, mtime);
            let next = number + 1 + FIXED_ENTRIES;
            if reply.add(INodeNo(ino), next, name, &self.entry_ttl, &attr, GENERATION) {
                // it did not fit: the kernel was not told of it
                self.inodes.forget(ino, 1);
                break;
            }
        }
        Ok(())
    }

    pub(super) fn attribute(&self, ino: u64, name: &OsStr) -> Result<Vec<u8>, Failure> {
        let (id, digest) = self.digest_of(ino).ok_or(Failure::NoAttribute)?;
        let name = name.to_str().ok_or(Failure::NoAttribute)?;
        let value = xattrs::value(name, &digest, || self.facts.facts(&id, &digest));
        value.map(String::into_bytes).ok_or(Failure::NoAttribute)
    }

    pub(super) fn send_attribute(
        &self,
        found: Result<Vec<u8>, Failure>,
        size: u32,
        reply: ReplyXattr,
    ) {
        let found = match found {
            Ok(bytes) if size > 0 && bytes.len() > size as usize => Err(Failure::SmallBuffer),
            found => found,
        };
        match found {
            Ok(bytes) if size == 0 => {
                reply.size(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            }
            Ok(bytes) => reply.data(&bytes),
            Err(failure) => reply.error(self.failed("getxattr", &failure)),
        }
    }
}
