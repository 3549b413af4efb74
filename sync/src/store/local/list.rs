//! The walk over a directory tree, depth first, on a thread that may block.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

use fsd::segment::{FILE_SUFFIX, SegmentId};
use tokio::sync::mpsc::Sender;

use super::super::{ListItem, Listed, SkipReason, StorePath};
use super::{failed, skipped, sorted_names, stamp};

/// What became of handing an entry on.
enum Flow {
    Go,
    /// The caller dropped the stream.
    Stop,
}

/// Hands every entry below `root` to `sender`; ends early when nobody listens.
pub(super) fn walk(root: &Path, sender: &Sender<ListItem>) {
    let mut ahead = vec![root.to_path_buf()];
    while let Some(directory) = ahead.pop() {
        if let Flow::Stop = walk_one(root, &directory, &mut ahead, sender) {
            return;
        }
    }
}

fn walk_one(
    root: &Path,
    directory: &Path,
    ahead: &mut Vec<PathBuf>,
    sender: &Sender<ListItem>,
) -> Flow {
    let names = match std::fs::read_dir(directory).and_then(sorted_names) {
        Ok(names) => names,
        Err(error) => return send(sender, ListItem::Unseen(failed("list", directory, &error))),
    };
    let first_below = ahead.len();
    for name in &names {
        let path = directory.join(name);
        let segment_like = name.as_encoded_bytes().ends_with(FILE_SUFFIX.as_bytes());
        let metadata = match std::fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            // gone since the directory was read
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => match send(sender, ListItem::Unseen(failed("stat", &path, &error))) {
                Flow::Go => continue,
                Flow::Stop => return Flow::Stop,
            },
        };
        // a symlink may lead out of the store, so none is followed; one that hides segments is reported
        let hides = segment_like || (metadata.is_symlink() && path.is_dir());
        let readable = name.to_str().is_some();
        let item = if metadata.is_dir() {
            if readable {
                ahead.push(path.clone());
            }
            match (readable, segment_like) {
                (false, _) => Some(skipped(&path, SkipReason::UnreadableName)),
                (true, true) => Some(skipped(&path, SkipReason::NotAFile)),
                (true, false) => None,
            }
        } else if !hides {
            None
        } else if !readable {
            Some(skipped(&path, SkipReason::UnreadableName))
        } else if !metadata.is_file() {
            Some(skipped(&path, SkipReason::NotAFile))
        } else {
            let beside = |suffix: &str| {
                let mut side = name.clone();
                side.push(suffix);
                names.binary_search(&side).is_ok()
            };
            let side_file = beside("-wal") || beside("-journal");
            Some(segment(root, &path, &metadata, side_file))
        };
        if let Some(item) = item
            && let Flow::Stop = send(sender, item)
        {
            return Flow::Stop;
        }
    }
    // so that directories, too, come in byte order
    ahead[first_below..].reverse();
    Flow::Go
}

fn segment(root: &Path, path: &Path, metadata: &Metadata, side_file: bool) -> ListItem {
    let id = path.file_name().and_then(SegmentId::from_file_name);
    let below = path.strip_prefix(root).ok().and_then(Path::to_str).map(StorePath::new);
    match (id, below) {
        (Some(Ok(id)), Some(Ok(below))) => {
            if metadata.len() == 0 {
                return skipped(path, SkipReason::Empty);
            }
            if side_file {
                return skipped(path, SkipReason::SideFile);
            }
            ListItem::Segment(Listed { id, path: below, stamp: stamp(metadata) })
        }
        _ => skipped(path, SkipReason::InvalidId),
    }
}

fn send(sender: &Sender<ListItem>, item: ListItem) -> Flow {
    match sender.blocking_send(item) {
        Ok(()) => Flow::Go,
        Err(_) => Flow::Stop,
    }
}
