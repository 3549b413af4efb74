//! The calls of fuser's trait, each turned into one call of the tree.
//!
//! Invariant: whatever would change something is EROFS, and no call that a file system may lack is answered
//! with ENOSYS where the kernel would then never ask again for good reason.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use crate::status::count;

use super::errno::Failure;
use super::inodes::{INO_ROOT, INO_SERVICE, INO_STATUS};
use super::listing::Listing;
use super::{ATTRIBUTES_TTL, Handle, Name, SERVICE_DIR, STATUS_FILE, Tree, xattrs};

/// Numbers are never given to another content, so one generation is enough.
const GENERATION: Generation = Generation(0);

/// How many file systems may lie under the mount: with 2 the cache may be on overlayfs (fuse.md 1.1).
const STACK_DEPTH: u32 = 2;

/// Entries of the root that stand before the segments: `.`, `..`, `.trough`.
const FIXED_ENTRIES: u64 = 3;

/// The tree as fuser takes it.
#[derive(Debug)]
pub struct Served(pub Arc<Tree>);

/// Answers EROFS.
macro_rules! read_only {
    ($self:ident, $reply:ident) => {
        $reply.error($self.0.failed("change", &Failure::ReadOnly))
    };
}

impl Tree {
    fn negotiate(&self, config: &mut KernelConfig) {
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

    fn answer_lookup(&self, parent: u64, name: &OsStr, reply: ReplyEntry) {
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

    fn answer_open(&self, ino: u64, flags: OpenFlags, reply: ReplyOpen) {
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

    fn open_directory(&self, ino: u64) -> Result<u64, Failure> {
        match ino {
            INO_ROOT => Ok(self.add_handle(Handle::Root(Arc::new(Listing::read(&self.layout)?)))),
            INO_SERVICE => Ok(self.add_handle(Handle::Service)),
            _ => Err(Failure::NotADirectory),
        }
    }

    /// Calls `add(ino, next offset, is a directory, name)` for the entries before the segments, until it says full.
    fn fixed_entries(
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

    fn list(
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

    fn list_plus(
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

    fn attribute(&self, ino: u64, name: &OsStr) -> Result<Vec<u8>, Failure> {
        let (id, digest) = self.digest_of(ino).ok_or(Failure::NoAttribute)?;
        let name = name.to_str().ok_or(Failure::NoAttribute)?;
        let value = xattrs::value(name, &digest, || self.facts.facts(&id, &digest));
        value.map(String::into_bytes).ok_or(Failure::NoAttribute)
    }

    fn send_attribute(&self, found: Result<Vec<u8>, Failure>, size: u32, reply: ReplyXattr) {
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

impl Filesystem for Served {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.0.negotiate(config);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.0.answer_lookup(parent.0, name, reply);
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.0.inodes.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.attributes(ino.0) {
            Ok(attr) => reply.attr(&self.0.ttl(ino.0), &attr),
            Err(failure) => reply.error(self.0.failed("getattr", &failure)),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.0.answer_open(ino.0, flags, reply);
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.handle(fh.0) {
            Ok(Handle::Segment(opened)) => reply.data(opened.slice(offset, size)),
            Ok(Handle::Status(text)) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
                let end = start.saturating_add(size as usize).min(text.len());
                reply.data(&text[start..end]);
            }
            Ok(Handle::Root(_) | Handle::Service) => {
                reply.error(self.0.failed("read", &Failure::BadHandle));
            }
            Err(failure) => reply.error(self.0.failed("read", &failure)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.0.drop_handle(fh.0);
        reply.ok();
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.0.open_directory(ino.0) {
            Ok(fh) => reply.opened(FileHandle(fh), FopenFlags::empty()),
            Err(failure) => reply.error(self.0.failed("opendir", &failure)),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.0.list(ino.0, fh.0, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(failure) => reply.error(self.0.failed("readdir", &failure)),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        match self.0.list_plus(ino.0, fh.0, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(failure) => reply.error(self.0.failed("readdir", &failure)),
        }
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.0.drop_handle(fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match rustix::fs::statvfs(self.0.layout.dir()) {
            Ok(volume) => reply.statfs(
                volume.f_blocks,
                volume.f_bfree,
                volume.f_bavail,
                volume.f_files,
                volume.f_ffree,
                u32::try_from(volume.f_bsize).unwrap_or(super::BLOCK_BYTES),
                255,
                u32::try_from(volume.f_frsize).unwrap_or(super::BLOCK_BYTES),
            ),
            Err(errno) => reply.error(self.0.failed("statfs", &Failure::Io(errno.into()))),
        }
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.0.send_attribute(self.0.attribute(ino.0, name), size, reply);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = match self.0.digest_of(ino.0) {
            Some((id, digest)) => xattrs::list(self.0.facts.facts(&id, &digest).as_ref()),
            None => Vec::new(),
        };
        self.0.send_attribute(Ok(names), size, reply);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        match mask.contains(AccessFlags::W_OK) {
            true => read_only!(self, reply),
            false => reply.ok(),
        }
    }

    fn readlink(&self, _req: &Request, _ino: INodeNo, reply: ReplyData) {
        reply.error(Errno::EINVAL);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(self.0.failed("ioctl", &Failure::NoSuchCall));
    }

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        read_only!(self, reply);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        read_only!(self, reply);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        read_only!(self, reply);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        read_only!(self, reply);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        read_only!(self, reply);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        read_only!(self, reply);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        read_only!(self, reply);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        read_only!(self, reply);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        read_only!(self, reply);
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        read_only!(self, reply);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        read_only!(self, reply);
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        read_only!(self, reply);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: i32,
        reply: ReplyEmpty,
    ) {
        read_only!(self, reply);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        read_only!(self, reply);
    }
}
