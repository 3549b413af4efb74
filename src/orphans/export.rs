//! `trough orphans export`.
//!
//! Invariant: the file shows whole and durable, or not at all; nothing is overwritten.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{find, lock, name, refused};
use crate::config::Config;
use crate::rows::bytes;

/// Copies the orphan called `text` to `target`.
pub(super) async fn run(config: &Config, text: &str, target: &Path) -> anyhow::Result<()> {
    let (files, orphan) = find(config, text)?;
    // nobody discards it meanwhile
    let _lock = lock(&files, &orphan)?;
    if target.symlink_metadata().is_ok() {
        return refused(format!("{} is there already; name another file", target.display()));
    }
    if !orphan.is_one_file()? {
        let path = orphan.path.display();
        return refused(format!(
            "{path} has a log beside it: somebody has it open; close that first"
        ));
    }
    let (from, to) = (orphan.path.clone(), target.to_owned());
    let copied = tokio::task::spawn_blocking(move || copy(&from, &to)).await?;
    let length = match copied {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return refused(format!("{} is there already; name another file", target.display()));
        }
        copied => {
            copied.with_context(|| format!("copy {} to {}", name(&orphan), target.display()))?
        }
    };
    println!("{} is in {}, {}", name(&orphan), target.display(), bytes(length));
    Ok(())
}

fn copy(from: &Path, to: &Path) -> io::Result<u64> {
    let directory = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // as any new file of this person
    let mode = Permissions::from_mode(0o666);
    let mut part =
        tempfile::Builder::new().suffix(".part").permissions(mode).tempfile_in(&directory)?;
    let length = io::copy(&mut File::open(from)?, part.as_file_mut())?;
    part.as_file().sync_all()?;
    part.persist_noclobber(to).map_err(|error| error.error)?;
    File::open(&directory)?.sync_all()?;
    Ok(length)
}
