//! From the command line to the command: settings, log, runtime, exit status.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::cli::{CheckConfig, Cli, Command, Shared, Sync};
use crate::config::{self, Config, Sources};
use crate::{
    logging, orders, orphans, plan, put, query, resolve, segments, signals, status, up, wiring,
};

/// Exit status for settings that cannot be used and for everything else that is no result of the command.
const FAILED: u8 = 1;

/// Runs the command that the process was called with. An error is told here, once.
pub fn run() -> ExitCode {
    logging::abort_on_panic();
    let cli = Cli::parse();
    match dispatch(&cli) {
        Ok(code) => code,
        Err(error) => {
            // a closed standard error is no reason to panic
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("trough: {error:#}\n"),
            );
            ExitCode::from(FAILED)
        }
    }
}

fn dispatch(cli: &Cli) -> anyhow::Result<ExitCode> {
    let shared = &cli.shared;
    match &cli.command {
        Command::Up(options) => up::run(shared, options),
        Command::CheckConfig(options) => check_config(shared, options),
        Command::Put(options) => runtime()?.block_on(put::run(&at_work(shared)?, options)),
        Command::Orphans(order) => runtime()?.block_on(orphans::run(&at_work(shared)?, order)),
        Command::Query(options) => runtime()?.block_on(query::run(&load(shared)?, options)),
        Command::Status(options) => runtime()?.block_on(status::run(&load(shared)?, options)),
        Command::Resolve(options) => runtime()?.block_on(resolve::run(&load(shared)?, options)),
        Command::Segments(options) => runtime()?.block_on(segments::run(&load(shared)?, options)),
        Command::Fsd => {
            let config = service(shared)?;
            wiring::fsd(&config).context("run the mount")?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Sync(Sync::Local) => serve(shared, "run the synchronizer", wiring::sync_local),
        Command::Sync(Sync::Lead) => {
            serve(shared, "run a candidate for the lead", wiring::sync_lead)
        }
        Command::Sync(Sync::Plan(options)) => {
            runtime()?.block_on(plan::run(&load(shared)?, options))
        }
        Command::Sync(Sync::Order(order)) => {
            runtime()?.block_on(orders::run(&load(shared)?, order))
        }
        Command::Read => serve(shared, "run the reader", wiring::read),
        Command::Write => serve(shared, "run the writer", wiring::write),
    }
}

/// Runs a process that ends at SIGTERM.
fn serve(
    shared: &Shared,
    what: &'static str,
    run: impl AsyncFnOnce(&Config, CancellationToken) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let config = service(shared)?;
    runtime()?.block_on(async {
        let shutdown = signals::shutdown_token()?;
        run(&config, shutdown).await.context(what)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn load(shared: &Shared) -> anyhow::Result<Config> {
    let sources = Sources::of(shared).context("find the settings")?;
    Config::load(&sources)
        .map_err(|problems| anyhow::anyhow!("the settings cannot be used\n{problems}"))
}

/// The settings of a command that does something: the person sees the command's own lines, and the log is for what goes
/// wrong below them.
fn at_work(shared: &Shared) -> anyhow::Result<Config> {
    let config = load(shared)?;
    let filter = "warn".to_owned();
    logging::start(&logging::LogSettings { filter, ..config.log.clone() })?;
    Ok(config)
}

/// The settings of a process that runs for long, whose log starts here.
fn service(shared: &Shared) -> anyhow::Result<Config> {
    let config = load(shared)?;
    logging::start(&config.log)?;
    Ok(config)
}

fn runtime() -> anyhow::Result<Runtime> {
    Runtime::new().context("start the runtime's threads")
}

fn check_config(shared: &Shared, options: &CheckConfig) -> anyhow::Result<ExitCode> {
    if options.defaults {
        print!("{}", config::DEFAULTS);
        return Ok(ExitCode::SUCCESS);
    }
    let sources = Sources::of(shared).context("find the settings")?;
    match Config::load(&sources) {
        Ok(_) => {
            match &sources.file {
                Some(file) => println!("{} is in order", file.display()),
                None => println!("there is no settings file; the defaults are in order"),
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => {
            eprintln!("{problems}");
            eprintln!("{} to mend", crate::rows::counted(problems.count(), "setting"));
            Ok(ExitCode::from(FAILED))
        }
    }
}
