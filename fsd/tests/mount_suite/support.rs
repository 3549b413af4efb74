//! A cache made by hand, a daemon in a process of its own, and a guard that leaves nothing behind.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use fsd::daemon::{self, Shutdown};
use fsd::filesystem::xattrs::Facts;
use fsd::layout::Layout;
use fsd::mount::{Feature, MountSettings, table};
use fsd::segment::{Digest, SegmentId, Stamp};
use fsd::status::FsStatus;
use fsd::view::{MountState, MountView};
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

/// In the environment of a process that is to be a daemon: cache directory, newline, settings as JSON.
pub const ROLE: &str = "TROUGH_TEST_FSD";
/// How long a wait may last: five times the 5 s that a promise allows.
pub const BOUND: Duration = Duration::from_secs(25);
/// What the daemon's facts say of every version.
pub const MTIME_MS: u64 = 1_000_000_000_000;

/// The combinations of passthrough and beneath that a test runs with.
pub const MODES: [(Feature, Feature); 2] =
    [(Feature::Auto, Feature::Auto), (Feature::Off, Feature::Off)];

pub fn serve_if_asked() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (cache, json) = role.split_once('\n').unwrap();
    let settings: MountSettings = serde_json::from_str(json).unwrap();
    let facts = |id: &SegmentId, _: &Digest| {
        let stamp = Stamp { length: 8192, mtime_ms: MTIME_MS };
        Some(Facts {
            stamp,
            source: format!("/store/{id}.sqlite"),
            verified_at_ms: 1_700_000_000_000,
        })
    };
    let layout = Layout::new(cache);
    let done = daemon::run(&settings, &layout, Box::new(facts), Shutdown::default(), || {});
    if let Err(error) = done {
        eprintln!("fsd: {error}");
        std::process::exit(3);
    }
    std::process::exit(0);
}

pub fn id(text: &str) -> SegmentId {
    SegmentId::new(text).unwrap()
}

/// Waits for `done`; panics with `what` when it does not come.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < BOUND, "did not happen within {BOUND:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A database of `rows` rows that all say `version`.
pub fn database(version: i64, rows: i64) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let connection = Connection::open(file.path()).unwrap();
    connection.execute_batch("pragma synchronous = off").unwrap();
    connection.execute_batch("create table t(version integer, filler blob)").unwrap();
    connection
        .execute(
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < ?2)
             insert into t select ?1, randomblob(400) from n",
            [version, rows],
        )
        .unwrap();
    connection.close().unwrap();
    std::fs::read(file.path()).unwrap()
}

/// A cache directory filled by hand in the order that publishing keeps.
pub struct Cache {
    pub layout: Layout,
}

impl Cache {
    pub fn new(dir: &Path) -> Self {
        let layout = Layout::new(dir);
        for directory in [layout.objects(), layout.segments()] {
            std::fs::create_dir_all(directory).unwrap();
        }
        Self { layout }
    }

    pub fn object(&self, content: &[u8]) -> Digest {
        let digest = Digest::from(blake3::hash(content));
        let path = self.layout.object(&digest);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        if !path.try_exists().unwrap() {
            let part = path.with_extension("part");
            std::fs::write(&part, content).unwrap();
            std::fs::set_permissions(&part, Permissions::from_mode(0o444)).unwrap();
            std::fs::rename(part, path).unwrap();
        }
        digest
    }

    pub fn link(&self, name: &str, digest: &Digest) {
        let link = self.layout.link(&id(name));
        let aside = self.layout.segments().join(format!(".{name}.new"));
        symlink(Layout::link_target(digest), &aside).unwrap();
        std::fs::rename(aside, link).unwrap();
    }

    pub fn publish(&self, name: &str, content: &[u8]) -> Digest {
        let digest = self.object(content);
        self.link(name, &digest);
        digest
    }

    pub fn withdraw(&self, name: &str) {
        std::fs::remove_file(self.layout.link(&id(name))).unwrap();
    }
}

/// One mount point with its cache and daemons.
pub struct Node {
    pub cache: Cache,
    pub settings: MountSettings,
    pub children: Vec<Child>,
    /// The program that the daemons are.
    pub program: PathBuf,
    /// Put before the program, for another user.
    pub wrapper: Vec<String>,
    /// What the daemons' environment has besides.
    pub environment: Vec<(&'static str, String)>,
    dir: TempDir,
}

impl Node {
    pub fn new(passthrough: Feature, beneath: Feature) -> Self {
        let dir = tempfile::Builder::new().prefix("trough-mount-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let path = dir.path().canonicalize().unwrap();
        let settings = MountSettings {
            mountpoint: path.join("mount"),
            passthrough,
            beneath,
            ..MountSettings::default()
        };
        let cache = Cache::new(&path.join("cache"));
        let program = std::env::current_exe().unwrap();
        let (children, wrapper, environment) = (Vec::new(), Vec::new(), Vec::new());
        Self { cache, settings, children, program, wrapper, environment, dir }
    }

    /// With the daemon running.
    pub fn started(passthrough: Feature, beneath: Feature) -> Self {
        let mut node = Self::new(passthrough, beneath);
        node.start();
        node
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.settings.mountpoint.join(format!("{name}.sqlite"))
    }

    pub fn view(&self) -> MountView {
        MountView::new(&self.settings.mountpoint)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Starts a daemon and does not wait for it.
    pub fn spawn(&mut self) -> u32 {
        let json = serde_json::to_string(&self.settings).unwrap();
        let role = format!("{}\n{json}", self.cache.layout.dir().display());
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.dir().join("log"));
        let mut words = self.wrapper.clone();
        words.push(self.program.display().to_string());
        let child = Command::new(&words[0])
            .args(&words[1..])
            .args(["--exact", "fsd_process", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        self.children.push(child);
        self.children.last().unwrap().id()
    }

    /// Starts a daemon and waits until the mount is its.
    pub fn start(&mut self) -> u32 {
        let pid = self.spawn();
        let start = Instant::now();
        while self.status().is_none_or(|status| status.pid != pid || status.mounted_at_ms == 0) {
            let ended = self.children.last_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < BOUND,
                "fsd did not mount: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        pid
    }

    /// The figures, if a live daemon shows them.
    pub fn status(&self) -> Option<FsStatus> {
        if self.view().state() != MountState::Live {
            return None;
        }
        let text = std::fs::read(self.settings.mountpoint.join(".trough/status.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub fn signal(&self, pid: u32, signal: &str) {
        ok(Command::new("kill").args([format!("-{signal}"), pid.to_string()]));
    }

    /// Waits for the end of the `index`-th daemon.
    pub fn ended(&mut self, index: usize) -> ExitStatus {
        let mut status = None;
        let log = self.dir().join("log");
        let what = format!("fsd ends; log in {}", log.display());
        eventually(&what, || {
            status = self.children[index].try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Lines of the mount table at the mount point.
    pub fn layers(&self) -> Vec<table::Layer> {
        table::at(&self.settings.mountpoint).unwrap()
    }

    pub fn query(&self, name: &str) -> rusqlite::Result<(i64, i64, i64)> {
        // with locks SQLite may keep a closed connection's descriptor for the next open of the inode that
        // stat(2) shows, and a cached stat may be old; the reader opens immutable for this, too
        let uri = format!("file:{}?immutable=1", self.path(name).display());
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        all(&Connection::open_with_flags(uri, flags)?)
    }
}

/// Lowest version, highest version and number of rows.
pub fn all(connection: &Connection) -> rusqlite::Result<(i64, i64, i64)> {
    connection.query_row("select min(version), max(version), count(filler) from t", [], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })
}

impl Drop for Node {
    fn drop(&mut self) {
        // a daemon started by an upgrade is no child of ours
        if let Some(status) = self.status()
            && self.children.iter().all(|child| child.id() != status.pid)
        {
            let _ = Command::new("kill").args(["-KILL", &status.pid.to_string()]).status();
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for _ in 0..64 {
            if self.layers().is_empty() {
                break;
            }
            let _ = Command::new("umount").arg("-l").arg(&self.settings.mountpoint).status();
        }
        fsd::mount::bare::release(&self.settings.mountpoint);
        if std::thread::panicking() {
            eprintln!("the daemons' log:\n{}", self.log());
        }
    }
}

/// Runs a program that must be there and succeed.
pub fn ok(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program that must be there.
pub fn run(command: &mut Command) -> Output {
    match command.output() {
        Ok(output) => output,
        Err(error) => panic!("this test needs the program {:?}: {error}", command.get_program()),
    }
}
