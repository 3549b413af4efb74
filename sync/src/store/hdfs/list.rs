//! The walk over a directory tree of HDFS: a bounded number of directories at a time, each page by page.
//!
//! Invariant: memory is that of one page for each directory being read, however large the store is. A
//! directory found while all places are taken is read on the spot, before its parent goes on.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fsd::segment::{FILE_SUFFIX, SegmentId};
use futures::FutureExt;
use futures::future::BoxFuture;
use hdfs_native::client::{FileStatus, ListStatusIterator};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;

use super::super::{ListItem, Listed, SkipReason, StoreError, StoreErrorKind, StorePath};
use super::error::{failed, late};
use super::{Current, HdfsStore, stamp};

/// Directories read at the same time. A NameNode answers some 10 listings at once before they only queue.
const DIRECTORIES_AT_ONCE: usize = 8;

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread now is one of `hdfs-native` that the listing answers (it cannot say a name
/// that is not UTF-8). A panic hook that ends the process asks this first.
pub fn panic_is_contained() -> bool {
    CONTAINED.get()
}

struct Walk {
    store: HdfsStore,
    sender: Sender<ListItem>,
    places: Arc<Semaphore>,
    /// The store does not answer: every further directory would wait for its own time-out.
    given_up: AtomicBool,
}

/// The caller dropped the stream, or the store does not answer any more.
struct Ended;

/// Hands every entry below the root to `sender`.
pub(super) async fn walk(store: HdfsStore, sender: Sender<ListItem>) {
    let places = Arc::new(Semaphore::new(DIRECTORIES_AT_ONCE));
    let walk = Arc::new(Walk { store, sender, places, given_up: AtomicBool::new(false) });
    let _: Result<(), Ended> = directory(walk, StorePath::root()).await;
}

fn directory(walk: Arc<Walk>, path: StorePath) -> BoxFuture<'static, Result<(), Ended>> {
    async move {
        let full = walk.store.path(&path);
        let mut pages = Pages::new(&walk.store, &full);
        let mut held = Vec::new();
        loop {
            if walk.given_up.load(Ordering::Relaxed) {
                return Err(Ended);
            }
            let status = match pages.next().await {
                Ok(Some(status)) => status,
                Ok(None) => break,
                Err(error) => {
                    let hopeless = matches!(
                        error.kind,
                        StoreErrorKind::TimedOut | StoreErrorKind::Unavailable
                    );
                    if !hopeless {
                        walk.send(ListItem::Unseen(error)).await?;
                        break;
                    }
                    // one item says it for all directories that are being read
                    if !walk.given_up.swap(true, Ordering::Relaxed) {
                        walk.send(ListItem::Unseen(error)).await?;
                    }
                    return Err(Ended);
                }
            };
            let name = status.path.rsplit('/').next().unwrap_or_default().to_owned();
            for ready in release(&mut held, Some(&name)) {
                walk.send(ready).await?;
            }
            if name.starts_with('.') {
                continue;
            }
            let segment_like = name.ends_with(FILE_SUFFIX);
            if segment_like && !status.isdir {
                held.push(Held { item: entry(&path, &name, &status), name, side_file: false });
                continue;
            }
            if !status.isdir {
                continue;
            }
            if segment_like {
                let path = format!("{path}/{name}");
                walk.send(ListItem::Skipped { path, reason: SkipReason::NotAFile }).await?;
            }
            let Ok(child) = path.join(&name) else { continue };
            match walk.places.clone().try_acquire_owned() {
                Ok(place) => {
                    let walk = walk.clone();
                    tokio::spawn(async move {
                        let _: Result<(), Ended> = directory(walk, child).await;
                        drop(place);
                    });
                }
                Err(_) => directory(walk.clone(), child).await?,
            }
        }
        for ready in release(&mut held, None) {
            walk.send(ready).await?;
        }
        Ok(())
    }
    .boxed()
}

impl Walk {
    async fn send(&self, item: ListItem) -> Result<(), Ended> {
        self.sender.send(item).await.map_err(|_| Ended)
    }
}

/// A segment that waits for the names behind it: HDFS lists in byte order, so a side file of `x.sqlite` comes
/// before the first name that does not start with `x.sqlite`.
struct Held {
    name: String,
    item: ListItem,
    side_file: bool,
}

/// Takes note of `name`, and gives back what no later name can be a side file of.
fn release(held: &mut Vec<Held>, name: Option<&str>) -> Vec<ListItem> {
    for one in held.iter_mut() {
        let suffix = name.and_then(|name| name.strip_prefix(one.name.as_str()));
        one.side_file |= matches!(suffix, Some("-wal" | "-journal"));
    }
    let waits = |one: &Held| name.is_some_and(|name| name.starts_with(&one.name));
    // each held name is the start of the next one
    let keep = held.iter().take_while(|one| waits(one)).count();
    let say = |one: Held| match one.item {
        ListItem::Segment(listed) if one.side_file => {
            ListItem::Skipped { path: listed.path.to_string(), reason: SkipReason::SideFile }
        }
        other => other,
    };
    held.drain(keep..).map(say).collect()
}

fn entry(directory: &StorePath, name: &str, status: &FileStatus) -> ListItem {
    let skipped = |reason| ListItem::Skipped { path: format!("{directory}/{name}"), reason };
    match (SegmentId::from_file_name(name.as_ref()), directory.join(name)) {
        (Some(Ok(id)), Ok(path)) if status.length > 0 => {
            ListItem::Segment(Listed { id, path, stamp: stamp(status) })
        }
        (Some(Ok(_)), Ok(_)) => skipped(SkipReason::Empty),
        _ => skipped(SkipReason::InvalidId),
    }
}

/// The names directly in `full`; none when it is not there.
pub(super) async fn names(
    store: &HdfsStore,
    full: &str,
    limit: usize,
) -> Result<Vec<String>, StoreError> {
    let mut pages = Pages::new(store, full);
    let mut names = Vec::new();
    loop {
        match pages.next().await {
            Ok(Some(_)) if names.len() == limit => {
                let reason = format!("more than {limit} names, which is too many here");
                let (kind, target) = (StoreErrorKind::Unavailable, store.target(full));
                return Err(StoreError { kind, attempted: "list", target, reason });
            }
            Ok(Some(status)) => {
                names.extend(status.path.rsplit('/').next().map(str::to_owned));
            }
            Ok(None) => return Ok(names),
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(names),
            Err(error) => return Err(error),
        }
    }
}

/// The entries of one directory, read page by page.
struct Pages<'a> {
    store: &'a HdfsStore,
    full: &'a str,
    entries: ListStatusIterator,
    generation: u64,
}

impl<'a> Pages<'a> {
    fn new(store: &'a HdfsStore, full: &'a str) -> Self {
        let Current { client, generation } = store.current();
        Self { store, full, entries: client.list_status_iter(full, false), generation }
    }

    async fn next(&mut self) -> Result<Option<FileStatus>, StoreError> {
        let limit = self.store.shared.timeouts.call();
        let target = || self.store.target(self.full);
        let Ok(answer) = timeout(limit, contained(self.entries.next())).await else {
            self.store.renew(self.generation);
            return Err(late("list", target(), limit));
        };
        let corrupt = |reason: &str| StoreError {
            kind: StoreErrorKind::Corrupt,
            attempted: "list",
            target: target(),
            reason: reason.to_owned(),
        };
        match answer {
            Ok(None) => Ok(None),
            // a file lists as itself
            Ok(Some(Ok(status)))
                if status.path.trim_end_matches('/') == self.full && !status.isdir =>
            {
                Err(corrupt("it is a file, not a directory"))
            }
            Ok(Some(Ok(status))) => Ok(Some(status)),
            Ok(Some(Err(error))) => Err(failed("list", target(), error)),
            Err(_) => Err(corrupt("it has a name that is not UTF-8; rename or delete that entry")),
        }
    }
}

/// Runs `call` and turns its panic into an error.
async fn contained<T>(call: impl Future<Output = T>) -> std::thread::Result<T> {
    let mut call = std::pin::pin!(AssertUnwindSafe(call).catch_unwind());
    std::future::poll_fn(|context| {
        CONTAINED.set(true);
        let polled = call.as_mut().poll(context);
        CONTAINED.set(false);
        polled
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn side_files_are_seen_although_other_names_stand_between() {
        let listed = |name: &str| {
            let status = FileStatus {
                path: name.to_owned(),
                length: 1,
                isdir: false,
                permission: 0,
                owner: String::new(),
                group: String::new(),
                modification_time: 0,
                access_time: 0,
                replication: None,
                blocksize: None,
            };
            entry(&StorePath::root(), name, &status)
        };
        let mut names = vec![
            "a.sqlite",
            "x.sqlite",
            "x.sqlite-a.sqlite",
            "x.sqlite-a.sqlite-journal",
            "x.sqlite-b.sqlite",
            "x.sqlite-wal",
            "y.sqlite",
            "y.sqlitewal",
        ];
        names.sort_unstable();
        let (mut held, mut said) = (Vec::new(), Vec::new());
        for name in names {
            said.extend(release(&mut held, Some(name)));
            if name.ends_with(FILE_SUFFIX) {
                held.push(Held { item: listed(name), name: name.to_owned(), side_file: false });
            }
        }
        said.extend(release(&mut held, None));
        let mut segments = Vec::new();
        let mut skipped = Vec::new();
        for item in said {
            match item {
                ListItem::Segment(listed) => segments.push(listed.path.to_string()),
                ListItem::Skipped { path, reason } => {
                    assert_eq!(reason, SkipReason::SideFile);
                    skipped.push(path);
                }
                ListItem::Unseen(error) => panic!("{error}"),
            }
        }
        segments.sort_unstable();
        skipped.sort_unstable();
        assert_eq!(segments, ["a.sqlite", "x.sqlite-b.sqlite", "y.sqlite"]);
        assert_eq!(skipped, ["x.sqlite", "x.sqlite-a.sqlite"]);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_marked_as_contained() {
        let inside = contained(async { panic_is_contained() }).await.unwrap();
        assert!(inside && !panic_is_contained());
        let panicked = contained(async { String::from_utf8(vec![0xff]).unwrap() }).await;
        assert!(panicked.is_err() && !panic_is_contained());
    }
}
