//! What the machine is, and what else it did while a row was measured.

use std::fmt;

use anyhow::Context;

/// The machine, for those who read the figures elsewhere.
#[derive(Debug)]
pub struct Machine {
    cores: usize,
    processor: String,
    memory_gib: f64,
    kernel: String,
    /// Time of day, in UTC.
    pub date: String,
}

impl Machine {
    /// Looks at this one.
    pub fn look() -> anyhow::Result<Self> {
        let info = std::fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
        let processor = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
        let date = std::process::Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
        let date = date.context("run date")?.stdout;
        Ok(Self {
            cores: std::thread::available_parallelism().context("count the cores")?.get(),
            processor: processor.trim_start_matches([' ', '\t', ':']).to_owned(),
            memory_gib: rustix::system::sysinfo().totalram as f64 / f64::from(1 << 30),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            date: String::from_utf8_lossy(&date).trim().to_owned(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, processor, memory_gib, kernel, .. } = self;
        write!(f, "{cores} cores ({processor}), {memory_gib:.0} GiB of memory, Linux {kernel}")
    }
}

/// Looks at the machine before and after a row.
#[derive(Debug)]
pub struct Watch {
    ticks: Ticks,
}

/// What the machine did around a row.
#[derive(Debug, Clone, Copy)]
pub struct Around {
    /// Part of the processors' time that a hypervisor gave to others, in percent.
    pub steal_percent: f64,
    /// Processes that ran or waited, averaged over the last minute of the row; the row's own are in it.
    pub load: f64,
}

#[derive(Debug, Clone, Copy)]
struct Ticks {
    steal: u64,
    all: u64,
}

impl Watch {
    /// Begins.
    pub fn start() -> anyhow::Result<Self> {
        Ok(Self { ticks: Ticks::now()? })
    }

    /// Ends.
    pub fn stop(self) -> anyhow::Result<Around> {
        let now = Ticks::now()?;
        let all = (now.all - self.ticks.all).max(1);
        let load = std::fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
        let load = load.split(' ').next().and_then(|load| load.parse().ok());
        Ok(Around {
            steal_percent: 100.0 * (now.steal - self.ticks.steal) as f64 / all as f64,
            load: load.context("a load in /proc/loadavg")?,
        })
    }
}

impl Ticks {
    fn now() -> anyhow::Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        let first = stat.lines().next().context("a line in /proc/stat")?;
        // proc_stat(5): user nice system idle iowait irq softirq steal; guest time is in user already
        let ticks: Vec<u64> =
            first.split_whitespace().skip(1).take(8).filter_map(|tick| tick.parse().ok()).collect();
        let steal = *ticks.get(7).context("steal time in /proc/stat")?;
        Ok(Self { steal, all: ticks.iter().sum() })
    }
}
