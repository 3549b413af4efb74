//! The one table from what went wrong to the errno a program sees.

use std::fmt;
use std::io;

use fuser::Errno;

/// Why a request is not answered with what it asked for.
#[derive(Debug)]
pub enum Failure {
    /// Something would be changed.
    ReadOnly,
    /// No such name.
    NotFound,
    /// The inode is a version that is no longer the published one.
    Stale,
    /// No such extended attribute.
    NoAttribute,
    /// The caller's buffer is too small for the attribute.
    SmallBuffer,
    /// The inode is not a directory.
    NotADirectory,
    /// A handle or inode that the kernel should not know any longer.
    BadHandle,
    /// A call that no file here has (device control).
    NoSuchCall,
    /// The cache directory failed.
    Io(io::Error),
}

/// [`Failure`] without its cause, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    ReadOnly,
    NotFound,
    Stale,
    NoAttribute,
    SmallBuffer,
    NotADirectory,
    BadHandle,
    NoSuchCall,
    Io,
}

/// All kinds, in the order of their numbers.
pub const KINDS: [Kind; 9] = [
    Kind::ReadOnly,
    Kind::NotFound,
    Kind::Stale,
    Kind::NoAttribute,
    Kind::SmallBuffer,
    Kind::NotADirectory,
    Kind::BadHandle,
    Kind::NoSuchCall,
    Kind::Io,
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::ReadOnly => "read_only",
            Kind::NotFound => "not_found",
            Kind::Stale => "stale",
            Kind::NoAttribute => "no_attribute",
            Kind::SmallBuffer => "small_buffer",
            Kind::NotADirectory => "not_a_directory",
            Kind::BadHandle => "bad_handle",
            Kind::NoSuchCall => "no_such_call",
            Kind::Io => "io",
        })
    }
}

impl Failure {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Failure::ReadOnly => Kind::ReadOnly,
            Failure::NotFound => Kind::NotFound,
            Failure::Stale => Kind::Stale,
            Failure::NoAttribute => Kind::NoAttribute,
            Failure::SmallBuffer => Kind::SmallBuffer,
            Failure::NotADirectory => Kind::NotADirectory,
            Failure::BadHandle => Kind::BadHandle,
            Failure::NoSuchCall => Kind::NoSuchCall,
            Failure::Io(_) => Kind::Io,
        }
    }

    /// What a program sees.
    pub fn errno(&self) -> Errno {
        match self {
            Failure::ReadOnly => Errno::EROFS,
            Failure::NotFound => Errno::ENOENT,
            Failure::Stale => Errno::ESTALE,
            Failure::NoAttribute => Errno::NO_XATTR,
            Failure::SmallBuffer => Errno::ERANGE,
            Failure::NotADirectory => Errno::ENOTDIR,
            Failure::BadHandle => Errno::EBADF,
            Failure::NoSuchCall => Errno::ENOTTY,
            // what the node lacks is said as it is; the rest would mislead about this mount
            Failure::Io(error) => match error.kind() {
                io::ErrorKind::OutOfMemory => Errno::ENOMEM,
                io::ErrorKind::PermissionDenied => Errno::EACCES,
                _ => match rustix::io::Errno::from_io_error(error) {
                    Some(rustix::io::Errno::MFILE) => Errno::EMFILE,
                    Some(rustix::io::Errno::NFILE) => Errno::ENFILE,
                    _ => Errno::EIO,
                },
            },
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_stand_at_their_number() {
        for (number, kind) in KINDS.iter().enumerate() {
            assert_eq!(*kind as usize, number);
        }
    }

    #[test]
    fn a_cache_that_cannot_be_read_never_looks_like_an_absent_segment() {
        let error = |errno: rustix::io::Errno| Failure::Io(errno.into()).errno();
        assert_eq!(error(rustix::io::Errno::NOENT), Errno::EIO);
        assert_eq!(error(rustix::io::Errno::MFILE), Errno::EMFILE);
        assert_eq!(error(rustix::io::Errno::ACCESS), Errno::EACCES);
    }
}
