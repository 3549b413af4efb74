//! `make bench`: each row of the speed table, measured and held against its limit.
//!
//! Invariants: a ratio comes from interleaved runs of both sides on the same machine; what is written to
//! BENCHMARKS.md is one full run of all rows, and a row that misses its limit says so there too.
//!
//! Left out: building the release binaries, and fetching HDFS and Consul, which `rig/bench.sh` does before it calls this.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

mod alone;
mod data;
mod harness;
mod machine;
mod report;
mod rows;
mod service;

/// Measures trough and prints the table of its speed promises.
#[derive(Debug, Parser)]
struct Options {
    /// Measure this row alone; may be given again [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=15))]
    row: Vec<u8>,
    /// Small sizes and few runs, to try the benchmark itself; nothing is written
    #[arg(long)]
    quick: bool,
    /// Where the table is written after a full run of all rows
    #[arg(long, value_name = "FILE", default_value = "BENCHMARKS.md")]
    write: PathBuf,
    /// Measure this in this process, and print the figures as JSON; for this program itself
    #[arg(long, value_name = "WHAT", hide = true)]
    alone: Option<alone::Alone>,
    /// How many segments that is done with
    #[arg(long, value_name = "N", hide = true, default_value_t = 0)]
    segments: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    if let Some(what) = options.alone {
        return alone::run(what, options.segments).map(|()| ExitCode::SUCCESS);
    }
    harness::stop_on_signals().context("listen for signals")?;
    let place = data::Place::open(options.quick)?;
    let mut measured = Vec::new();
    for (number, row) in rows::ALL {
        if options.row.is_empty() || options.row.contains(&number) {
            eprintln!("row {number}");
            let watch = machine::Watch::start()?;
            let outcomes = row(&place).with_context(|| format!("measure row {number}"))?;
            measured.push(report::Row { number, outcomes, around: watch.stop()? });
        }
    }
    let table = report::Table { rows: measured, quick: options.quick };
    println!("{table}");
    if options.row.is_empty() && !options.quick {
        let text = table.markdown(&machine::Machine::look()?);
        let file = &options.write;
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
        println!("written to {}", file.display());
    }
    Ok(ExitCode::from(u8::from(!table.passed())))
}
