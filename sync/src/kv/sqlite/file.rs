//! The open file, and a look at each call whether it is still the one at its path.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::{Failure, schema};
use crate::sqlite_file;

/// Device and inode: which file it is.
type Identity = (u64, u64);

/// A connection to the file at a path.
pub(crate) struct File {
    path: Arc<Path>,
    busy: Duration,
    boot: Arc<str>,
    connection: Connection,
    identity: Identity,
    opened: u64,
}

impl File {
    /// Opens or makes the file. A call may take `call` in all, so it waits less for another's transaction.
    pub(super) fn open(path: Arc<Path>, call: Duration) -> Result<Self, Failure> {
        const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
        let boot = std::fs::read_to_string(BOOT_ID)
            .map_err(|e| Failure::Io(format!("{e} at {BOOT_ID}; is /proc mounted?")))?;
        let busy = call / 4 * 3;
        let (connection, identity) = connect(&path, busy)?;
        Ok(Self { path, busy, boot: boot.trim().into(), connection, identity, opened: 0 })
    }

    /// The boot that sessions made now belong to.
    pub(super) fn boot(&self) -> Arc<str> {
        self.boot.clone()
    }

    /// The connection to the file that is at the path now.
    pub(crate) fn connection(&mut self) -> Result<&mut Connection, Failure> {
        self.follow()?;
        Ok(&mut self.connection)
    }

    /// How many other files were found at the path so far.
    pub(super) fn opened(&mut self) -> Result<u64, Failure> {
        self.follow()?;
        Ok(self.opened)
    }

    fn follow(&mut self) -> Result<(), Failure> {
        if identity(&self.path).ok() != Some(self.identity) {
            (self.connection, self.identity) = connect(&self.path, self.busy)?;
            self.opened += 1;
        }
        Ok(())
    }
}

fn connect(path: &Path, busy: Duration) -> Result<(Connection, Identity), Failure> {
    let connection = sqlite_file::open(path, busy, schema::STEPS)?;
    let identity =
        identity(path).map_err(|e| Failure::Io(format!("{e} at the file just opened")))?;
    Ok((connection, identity))
}

fn identity(path: &Path) -> std::io::Result<Identity> {
    std::fs::metadata(path).map(|found| (found.dev(), found.ino()))
}
