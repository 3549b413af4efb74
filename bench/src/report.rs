//! The table, for people on a terminal and for BENCHMARKS.md.

use std::fmt;

use crate::harness::Spread;
use crate::machine::{Around, Machine};

/// What must hold.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// Our time is at most this many times theirs.
    TimeAtMost(f64),
    /// Our throughput is at least this many times theirs.
    ThroughputAtLeast(f64),
    /// So many seconds at most.
    SecondsAtMost(f64),
    /// So many MiB at most.
    MibAtMost(f64),
    /// At most so many times as much.
    RatioAtMost(f64),
}

impl Limit {
    fn holds(self, measured: f64) -> bool {
        match self {
            Self::TimeAtMost(most)
            | Self::SecondsAtMost(most)
            | Self::MibAtMost(most)
            | Self::RatioAtMost(most) => measured <= most,
            Self::ThroughputAtLeast(least) => measured >= least,
        }
    }

    fn say(self, measured: f64) -> String {
        match self {
            Self::TimeAtMost(_) | Self::ThroughputAtLeast(_) => format!("{measured:.2}x"),
            Self::SecondsAtMost(_) => format!("{measured:.2} s"),
            Self::MibAtMost(most) if most < 10.0 => format!("{measured:.2} MiB"),
            Self::MibAtMost(_) => format!("{measured:.0} MiB"),
            Self::RatioAtMost(_) => format!("{measured:.3}"),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TimeAtMost(most) => write!(f, "≤ {most}x time"),
            Self::ThroughputAtLeast(least) => write!(f, "≥ {least}x throughput"),
            Self::SecondsAtMost(most) => write!(f, "≤ {most} s"),
            Self::MibAtMost(most) => write!(f, "≤ {most} MiB"),
            Self::RatioAtMost(most) => write!(f, "≤ {most:.2}"),
        }
    }
}

/// One measured promise.
#[derive(Debug)]
pub struct Outcome {
    /// What was done.
    pub what: String,
    /// What must hold.
    pub limit: Limit,
    /// What was measured, in the limit's unit.
    pub measured: Spread,
    /// How often.
    pub runs: usize,
    /// Both sides' own figures, or what else should be known.
    pub note: String,
}

/// One row of the table of promises.
#[derive(Debug)]
pub struct Row {
    /// Its number.
    pub number: u8,
    /// What it promises.
    pub outcomes: Vec<Outcome>,
    /// What else the machine did.
    pub around: Around,
}

/// All that was measured.
#[derive(Debug)]
pub struct Table {
    /// Row by row.
    pub rows: Vec<Row>,
    /// With small sizes: the figures say nothing.
    pub quick: bool,
}

const HEADER: [&str; 9] =
    ["row", "what", "limit", "median", "min to max", "runs", "", "sides", "steal, load"];

impl Table {
    /// Whether every limit holds.
    pub fn passed(&self) -> bool {
        self.rows
            .iter()
            .flat_map(|row| &row.outcomes)
            .all(|one| one.limit.holds(one.measured.median))
    }

    fn cells(&self) -> impl Iterator<Item = [String; 9]> {
        self.rows.iter().flat_map(|row| row.outcomes.iter().map(|one| cells(row, one)))
    }

    /// The whole of BENCHMARKS.md.
    pub fn markdown(&self, machine: &Machine) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut table = line(&HEADER.map(str::to_owned));
        table += &line(&HEADER.map(|_| "---".to_owned()));
        for cells in self.cells() {
            table += &line(&cells);
        }
        format!(
            "# Benchmarks\n\n\
             Written by `make bench` on {date}: one full run, nothing left out.\n\n\
             Machine: {machine}; a virtual machine whose cores and disk are shared with others. HDFS (one NameNode, \
             three DataNodes, every block on all three) runs on the same cores and the same disk, for both sides; so \
             do, for rows 10 to 12, three servers of Consul and three machines with an agent each, in network \
             namespaces. The writer of rows 13 to 15 is a process of its own, and its clients are another, on the same \
             cores.\n\n\
             Ratios come from interleaved runs: both sides one right after the other, who begins changes from round \
             to round; the figure is the median of the rounds' ratios, beside it the lowest and the highest. Steal is \
             the part of processor time that the hypervisor gave to others during the row, load the run queue at its \
             end (the row's own work is in it).\n\n{table}",
            date = machine.date,
        )
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING).set_header(HEADER);
        for cells in self.cells() {
            table.add_row(cells);
        }
        for line in table.lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        if self.quick {
            writeln!(f, "--quick: small sizes and few runs, so these figures say nothing")?;
        }
        Ok(())
    }
}

fn cells(row: &Row, one: &Outcome) -> [String; 9] {
    let Outcome { what, limit, measured, runs, note } = one;
    [
        row.number.to_string(),
        what.clone(),
        limit.to_string(),
        limit.say(measured.median),
        format!("{} to {}", limit.say(measured.min), limit.say(measured.max)),
        runs.to_string(),
        if limit.holds(measured.median) { "pass" } else { "MISS" }.to_owned(),
        note.clone(),
        format!("{:.1} %, {:.1}", row.around.steal_percent, row.around.load),
    ]
}
