//! The system calls that change or sync a directory, of a child process and all of its threads, by strace(1).
//! Needs strace and the right to trace a child; what is missing is a failure.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(dead_code, reason = "each test binary uses its part of this")]

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is traced; `?` lets out what this machine's architecture does not have.
const CALLS: &str = "trace=?fsync,?fdatasync,?sync_file_range,?rename,?renameat,?renameat2,?symlink,?symlinkat,\
                     ?unlink,?unlinkat,?mkdir,?mkdirat";

/// One call that has returned.
#[derive(Debug, Clone)]
pub struct Call {
    /// Which thread.
    pub thread: u32,
    name: String,
    /// Paths in the order of its arguments; that of a descriptor for a sync.
    paths: Vec<PathBuf>,
    succeeded: bool,
    /// The lines of the trace at which it was entered and had returned: another thread's may stand between.
    entered: usize,
    returned: usize,
}

impl Call {
    /// Before all others.
    pub fn start() -> Self {
        let (name, paths) = (String::new(), Vec::new());
        Self { thread: 0, name, paths, succeeded: true, entered: 0, returned: 0 }
    }

    /// It had returned when the other was entered.
    pub fn is_before(&self, other: &Self) -> bool {
        self.returned < other.entered
    }

    /// The first path of a rename.
    pub fn from(&self) -> &Path {
        &self.paths[0]
    }

    fn is(&self, kinds: &[&str]) -> bool {
        kinds.contains(&self.name.as_str())
    }
}

const SYNC: &[&str] = &["fsync", "fdatasync"];
const RENAME: &[&str] = &["rename", "renameat", "renameat2"];
const SYMLINK: &[&str] = &["symlink", "symlinkat"];
const UNLINK: &[&str] = &["unlink", "unlinkat"];
const MKDIR: &[&str] = &["mkdir", "mkdirat"];

/// What a process did.
pub struct Trace(Vec<Call>);

impl Trace {
    /// Runs `child`, which must succeed, and notes what it does in `file`.
    pub fn of(child: &Command, file: &Path) -> Self {
        Self::with(&[], child, file)
    }

    /// Likewise, and lets the `nth` fsync of `path` by each thread fail; only calls on `path` are noted.
    pub fn of_failing(child: &Command, file: &Path, path: &Path, nth: u32) -> Self {
        let inject = format!("inject=fsync:error=EIO:when={nth}");
        Self::with(&["-P".as_ref(), path.as_ref(), "-e".as_ref(), inject.as_ref()], child, file)
    }

    fn with(options: &[&OsStr], child: &Command, file: &Path) -> Self {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-s", "4096", "-e", CALLS, "-e", "signal=none"]).args(options);
        strace.arg("-o").arg(file).arg(child.get_program()).args(child.get_args());
        strace.envs(child.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = strace.output();
        let output = output.unwrap_or_else(|error| panic!("this test needs strace: {error}"));
        assert!(
            output.status.success(),
            "{strace:?} (needs the right to trace a child): {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Self(parse(&std::fs::read_to_string(file).unwrap()))
    }

    /// The last sync of `path` that began after `after` had returned and had returned before `before` began. SQLite
    /// syncs a database by its log, so for `x` a sync of `x-wal` counts.
    pub fn synced_between(&self, after: &Call, path: &Path, before: &Call) -> Call {
        let mut syncs = self.syncs_of(path).rev();
        let found = syncs.find(|sync| after.is_before(sync) && sync.is_before(before));
        found.cloned().unwrap_or_else(|| {
            let calls: Vec<String> = self.0.iter().map(|call| format!("{call:?}")).collect();
            panic!(
                "no sync of {} between {after:?} and {before:?} in\n{}",
                path.display(),
                calls.join("\n")
            )
        })
    }

    pub fn syncs_of(&self, path: &Path) -> impl DoubleEndedIterator<Item = &Call> {
        let log = PathBuf::from(format!("{}-wal", path.display()));
        let path = path.to_owned();
        self.done(SYNC).filter(move |call| call.paths[0] == path || call.paths[0] == log)
    }

    /// Whether each sync of `path` succeeded, in their order.
    pub fn sync_results(&self, path: &Path) -> Vec<bool> {
        let syncs = self.0.iter().filter(|call| call.is(SYNC) && call.paths[0] == path);
        syncs.map(|call| call.succeeded).collect()
    }

    pub fn rename_to(&self, path: &Path) -> Call {
        self.one(RENAME, path, |call| call.paths[1] == path)
    }

    pub fn rename_from(&self, path: &Path) -> Call {
        self.one(RENAME, path, |call| call.paths[0] == path)
    }

    pub fn symlink_at(&self, path: &Path) -> Call {
        self.one(SYMLINK, path, |call| call.paths[1] == path)
    }

    pub fn unlink(&self, path: &Path) -> Call {
        self.one(UNLINK, path, |call| call.paths[0] == path)
    }

    pub fn find_unlink(&self, path: &Path) -> Option<&Call> {
        self.done(UNLINK).find(|call| call.paths[0] == path)
    }

    pub fn mkdir(&self, path: &Path) -> Option<Call> {
        self.done(MKDIR).find(|call| call.paths[0] == path).cloned()
    }

    /// The one unlink of `path` that found nothing.
    pub fn failed_unlink(&self, path: &Path) -> Call {
        let found = self.0.iter().find(|call| call.is(UNLINK) && call.paths[0] == path);
        let call = found.unwrap_or_else(|| panic!("no unlink of {}", path.display()));
        assert!(!call.succeeded);
        call.clone()
    }

    fn done(&self, kinds: &'static [&str]) -> impl DoubleEndedIterator<Item = &Call> {
        self.0.iter().filter(move |call| call.succeeded && call.is(kinds))
    }

    fn one(&self, kinds: &'static [&str], path: &Path, is: impl Fn(&Call) -> bool) -> Call {
        let found: Vec<&Call> = self.done(kinds).filter(|call| is(call)).collect();
        match found[..] {
            [call] => call.clone(),
            _ => panic!("{} calls of {kinds:?} on {}: {found:?}", found.len(), path.display()),
        }
    }
}

/// Lines are `THREAD NAME(ARGUMENTS) = RESULT`, or two of them: `THREAD NAME(ARGUMENTS <unfinished ...>` and
/// `THREAD <... NAME resumed>) = RESULT`.
fn parse(text: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut unfinished: HashMap<u32, (usize, String)> = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let (thread, rest) = line.split_once(' ').unwrap();
        let (thread, rest) = (thread.parse().unwrap(), rest.trim_start());
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, (number, begun.to_owned()));
            continue;
        }
        let (entered, whole) = match rest.strip_prefix("<... ") {
            None => (number, rest.to_owned()),
            Some(resumed) => {
                let (entered, begun) = unfinished.remove(&thread).unwrap();
                let end = resumed.split_once(" resumed>").unwrap().1;
                (entered, begun + end)
            }
        };
        let (name, rest) = whole.split_once('(').unwrap_or_else(|| panic!("{line:?}"));
        let (arguments, result) = rest.rsplit_once(" = ").unwrap_or_else(|| panic!("{line:?}"));
        let succeeded = result == "0";
        let paths = match SYNC.contains(&name) {
            true => vec![between(arguments, '<', '>').unwrap().into()],
            false => quoted(arguments),
        };
        let name = name.to_owned();
        calls.push(Call { thread, name, paths, succeeded, entered, returned: number });
    }
    calls
}

fn between(text: &str, open: char, close: char) -> Option<&str> {
    text.split_once(open)?.1.rsplit_once(close).map(|(inner, _)| inner)
}

/// The strings among the arguments; no path of these tests has a quote in it.
fn quoted(arguments: &str) -> Vec<PathBuf> {
    arguments.split('"').skip(1).step_by(2).map(PathBuf::from).collect()
}
