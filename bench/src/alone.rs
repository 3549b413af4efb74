//! What is measured in a process of its own, because its memory counts: this program starts itself again with
//! `--alone NAME`, and that one prints its figures as JSON. So does the writer of rows 13 to 15, which is asked instead.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use clap::ValueEnum;

use crate::rows;

/// What can be measured alone.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Alone {
    /// Plans of a large cluster.
    Planner,
    /// The pool table in a reader.
    PoolTable,
    /// A writer, until its standard input ends.
    Writer,
}

impl Alone {
    /// What the option calls it.
    pub fn name(self) -> anyhow::Result<String> {
        let name = self.to_possible_value().context("a name for what is measured")?;
        Ok(name.get_name().to_owned())
    }
}

/// Figures by name.
pub type Figures = BTreeMap<String, f64>;

/// Measures and prints; `segments` of them.
pub fn run(what: Alone, segments: u64) -> anyhow::Result<()> {
    let mut figures = match what {
        Alone::Planner => rows::planner::measure(segments),
        Alone::PoolTable => rows::pool_table::measure(segments),
        Alone::Writer => return rows::writing::server::serve(),
    }?;
    figures.insert("peak_mib".to_owned(), memory_mib("VmHWM")?);
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

/// Has another process measure `what`, with a file that it finds by the name of a variable.
pub fn start(what: Alone, segments: u64, file: Option<(&str, &Path)>) -> anyhow::Result<Figures> {
    let name = what.name()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--alone", &name, "--segments", &segments.to_string()]);
    command.envs(file);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "measuring {name} ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("read the figures")
}

/// A line of `/proc/self/status`, in MiB.
pub fn memory_mib(line: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let kib = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let kib = kib.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    Ok(kib.with_context(|| format!("no {line} in /proc/self/status"))? / 1024.0)
}
