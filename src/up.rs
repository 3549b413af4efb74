//! `trough up`: the mount, the synchronizer, the reader and the writer of one machine as child processes; on a node of a cluster
//! also a candidate for the lead, where it is to be one.
//!
//! Invariants: one `up` per directory; when it has ended, no child runs and nothing is mounted (S5, S10); it
//! serves no request itself, so a child's end is never its own.
//!
//! SIGINT and SIGTERM stop; SIGHUP starts a second mount process, which takes over, and lets the first end.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use fsd::layout::Layout;
use fsd::view::{MountState, MountView};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Shared, Up};
use crate::config::{Config, FILE_NAME, Server, Sources, first_file};
use crate::{logging, signals};

pub mod backoff;
pub mod leftover;
pub mod lock;
pub mod ready;
pub mod supervisor;

use lock::{DirLock, Holder};
use supervisor::{ChildSpec, Supervisor, Waits};

/// How long a child may take to stop before it is killed, besides what its settings give requests under way.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Runs the command.
pub fn run(shared: &Shared, options: &Up) -> anyhow::Result<ExitCode> {
    let dir = std::path::absolute(&shared.dir).context("find the directory")?;
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let _lock = DirLock::take(&dir, &Holder::this())?;
    let shared = Shared { dir: dir.clone(), set: overrides(shared, options), ..shared.clone() };
    let written = write_first_file(&shared)?;
    let sources = Sources::of(&shared).context("find the settings")?;
    let config = Config::load(&sources)
        .map_err(|problems| anyhow::anyhow!("the settings cannot be used\n{problems}"))?;
    logging::start(&config.log)?;
    if written {
        tracing::info!(file = %dir.join(FILE_NAME).display(), "wrote the settings, every default in them");
    } else {
        for assignment in &shared.set {
            tracing::info!(setting = assignment, "the command line goes before the settings file");
        }
    }
    check_ports(&config)?;
    create_places(&config)?;
    // one thread: the kernel ties the children to the thread that starts them
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(&shared, &sources, &config))?;
    match leftover::detach(&config.mount.mountpoint) {
        Ok(0) => {}
        Ok(count) => tracing::warn!(count, "detached what the mount process left mounted"),
        Err(error) => bail!("detach {}: {error}", config.mount.mountpoint.display()),
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

async fn serve(shared: &Shared, sources: &Sources, config: &Config) -> anyhow::Result<()> {
    let shutdown = signals::shutdown_token()?;
    let mut hang_up = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let supervisor = Supervisor::start(children(shared, sources, config)?, &Waits::default());
    let mut ready = std::pin::pin!(ready::wait(config));
    let mut is_ready = false;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(()) = hang_up.recv() => supervisor.replace("fsd"),
            answer = &mut ready, if !is_ready => {
                is_ready = true;
                match answer.and_then(|()| ready::block(&shared.dir, config)) {
                    Ok(block) => announce(&block),
                    Err(error) => tracing::error!(error = format!("{error:#}"), "wait until all answer"),
                }
            }
        }
    }
    supervisor.stop().await;
    Ok(())
}

fn announce(block: &str) {
    // neither a closed output nor a service manager that is not there is a reason to stop
    let _ = writeln!(std::io::stdout(), "{block}");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// What the command line says, as overrides of settings; the flags of `up` are short for some of them.
fn overrides(shared: &Shared, options: &Up) -> Vec<String> {
    let mut overrides = shared.set.clone();
    if let Some(store) = &options.store {
        // a path is said from where the person is, not from where the settings lie
        let url = match store.contains("://") {
            true => store.clone(),
            false => std::path::absolute(store)
                .map_or_else(|_| store.clone(), |path| path.display().to_string()),
        };
        overrides.push(format!("store.url={}", toml::Value::String(url)));
    }
    for (key, port) in [
        ("node.read_listen", options.read_port),
        ("node.write_listen", options.write_port),
        ("node.manager_listen", options.manager_port),
    ] {
        overrides.extend(port.map(|port| format!("{key}=\"127.0.0.1:{port}\"")));
    }
    if options.lead {
        overrides.push("lead.candidate=true".to_owned());
    }
    overrides
}

/// Writes `DIR/trough.toml` if nobody named another file and it is not there.
fn write_first_file(shared: &Shared) -> anyhow::Result<bool> {
    let path = shared.dir.join(FILE_NAME);
    if shared.config.is_some()
        || path.try_exists().with_context(|| format!("look at {}", path.display()))?
    {
        return Ok(false);
    }
    let text = first_file(&shared.set).map_err(anyhow::Error::msg)?;
    // nothing is written that could not be read again
    Config::from_text(&path, &text, &[], &shared.dir)
        .map_err(|problems| anyhow::anyhow!("the settings cannot be used\n{problems}"))?;
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".trough.toml.").tempfile_in(&shared.dir)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        std::fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        file.persist(&path)?;
        File::open(&shared.dir)?.sync_all()
    };
    write().with_context(|| format!("write {}", path.display()))?;
    Ok(true)
}

/// A port in use is said here, once, instead of by a child again and again.
fn check_ports(config: &Config) -> anyhow::Result<()> {
    for (server, way) in [
        (Server::Read, "--read-port or "),
        (Server::Write, "--write-port or "),
        (Server::Manager, "--manager-port or "),
        (Server::Lead, ""),
    ] {
        let runs = match server {
            Server::Lead => config.lead.candidate,
            Server::Write => config.writes(),
            Server::Read | Server::Manager => true,
        };
        if !runs {
            continue;
        }
        let setting = server.listen_setting();
        let address: SocketAddr =
            config.listen(server).parse().with_context(|| format!("read {setting}"))?;
        std::net::TcpListener::bind(address).with_context(|| {
            format!("listen on {address}; choose another port with {way}{setting}")
        })?;
    }
    Ok(())
}

/// Makes the directories. The deep store's only at the first start: later, one that is not there is a deep
/// store that is away, and an empty one in its place would look like segments that were deleted.
fn create_places(config: &Config) -> anyhow::Result<()> {
    let first = !config.cache.dir.try_exists().context("look at the cache")?;
    // the mount process watches this directory from its start on
    let segments = Layout::new(&config.cache.dir).segments();
    let mut places = vec![segments.as_path()];
    if MountView::new(&config.mount.mountpoint).state() == MountState::Absent {
        places.push(&config.mount.mountpoint);
    }
    places.extend(config.registry.path.parent());
    if first && !config.store.url.contains("://") {
        places.insert(0, Path::new(&config.store.url));
    }
    for place in places {
        std::fs::create_dir_all(place).with_context(|| format!("create {}", place.display()))?;
    }
    Ok(())
}

/// The children, in the order in which they start: the mount before those who look at it.
fn children(shared: &Shared, sources: &Sources, config: &Config) -> anyhow::Result<Vec<ChildSpec>> {
    let program = std::env::current_exe().context("find this program's own file")?;
    let spec = |name: &'static str, command: &[&str], requests_ms: u64| {
        let mut args: Vec<OsString> = command.iter().map(OsString::from).collect();
        args.extend(["--dir".into(), shared.dir.clone().into()]);
        if let Some(file) = &sources.file {
            args.extend(["--config".into(), file.clone().into()]);
        }
        for assignment in &shared.set {
            args.extend(["--set".into(), assignment.into()]);
        }
        let stop_wait = STOP_WAIT + Duration::from_millis(requests_ms);
        ChildSpec { name, program: program.clone(), args, stop_wait }
    };
    let mut children = vec![
        spec("fsd", &["fsd"], 0),
        spec("sync", &["sync", "local"], config.manager.http.stop_ms),
        spec("read", &["read"], config.read.http.stop_ms),
    ];
    if config.writes() {
        children.push(spec("write", &["write"], config.write.http.stop_ms));
    }
    if config.lead.candidate {
        children.push(spec("lead", &["sync", "lead"], config.manager.http.stop_ms));
    }
    Ok(children)
}
