//! The command line: what can be said, and the help that teaches it.
//!
//! Left out: what the commands do. No subsystem sees these types.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

mod orphans;

use orphans::ORPHANS_HELP;
pub use orphans::{OnConflict, Orphans, Replay};

/// The directory that `trough` works in when nobody names one.
pub const DEFAULT_DIR: &str = "./trough-data";

const TOP_HELP: &str = "\
Examples:
  trough up                                  run everything on this machine, in ./trough-data
  trough put ohio.sqlite texas.sqlite        publish two segments, named ohio and texas
  trough query ohio 'SELECT count(*) FROM strikes'
  sqlite3 trough-data/mount/ohio.sqlite      open the same segment as a file
  trough status                              what is held, pending and refused

A segment is one SQLite database with a name. `put` publishes it in the deep store (a directory, or HDFS),
the synchronizer pulls and verifies it, the mount shows it, the reader answers SELECTs over HTTP.";

/// Big data, small databases: many small SQLite files in HDFS, mounted, verified and queried over HTTP.
#[derive(Debug, Parser)]
#[command(name = "trough", version, after_help = TOP_HELP)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub shared: Shared,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Shared {
    /// Directory of this trough: its settings (DIR/trough.toml), cache, mount and registry
    #[arg(long, global = true, env = "TROUGH_DIR", default_value = DEFAULT_DIR, value_name = "DIR")]
    pub dir: PathBuf,
    /// Settings file, when it is not DIR/trough.toml; relative paths in it start where it lies
    #[arg(long, global = true, env = "TROUGH_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Override one setting, as in `--set sync.period_s=5`; may be given again
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything on this machine: mount, synchronizer and reader; alone, or as a node of a cluster
    Up(Up),
    /// Publish SQLite files as segments in the deep store
    Put(Put),
    /// Ask a segment with SQL and print the rows
    Query(Query),
    /// Show what this machine holds, what is pending and what was refused; or how its cluster is
    Status(Status),
    /// List the segments of the pool, who holds them, and those that are not held
    Segments(Segments),
    /// End a conflict: a file was put by other means where a segment is published that is being written
    Resolve(Resolve),
    /// See, export, put back or discard writes of this machine that another overtook before they were published
    #[command(subcommand, after_help = ORPHANS_HELP)]
    Orphans(Orphans),
    /// Check the settings, or print them all with their defaults
    CheckConfig(CheckConfig),
    /// Run the mount alone (`trough up` starts it for you)
    Fsd,
    /// Run a synchronizer alone (`trough up` starts it for you), or talk to the one that runs
    #[command(subcommand)]
    Sync(Sync),
    /// Run the reader alone (`trough up` starts it for you)
    Read,
    /// Run the writer alone (`trough up` starts it for you)
    Write,
}

/// The synchronizer's modes, and what a person may tell it.
#[derive(Debug, Subcommand)]
pub enum Sync {
    /// Keep this machine's cache what it should be: pull, verify, publish, scrub
    Local,
    /// Be a candidate for the lead of the cluster, which lists the deep store and says which node holds what
    #[command(after_help = LEAD_HELP)]
    Lead,
    /// Say what the lead would do now, or without some nodes, by this machine's settings; nothing is changed
    #[command(after_help = PLAN_HELP)]
    Plan(Plan),
    /// What a person may tell one that runs
    #[command(flatten)]
    Order(Order),
}

/// What a person may tell synchronizers that run. Those to a cluster are kept in its registry: whoever leads obeys.
#[derive(Debug, Subcommand)]
pub enum Order {
    /// Have the deep store looked at now, and wait for that: here until all is held, in a cluster until it is planned
    Now,
    /// Have the synchronizer of this machine read every file of its cache again now, to find damage
    Scrub,
    /// Say that segments which vanished from the deep store at once are meant to go
    AcceptRemovals,
    /// Have the cluster leave the deep store alone: nothing is listed and nothing moves until `resume`
    Pause,
    /// End a `pause`
    Resume,
    /// Have a node of the cluster emptied: others take its segments, then it is forgotten as soon as it is stopped
    #[command(after_help = DECOMMISSION_HELP)]
    Decommission {
        /// Name of the node; `trough status` lists them
        node: String,
        /// Let it keep, and get, its share again
        #[arg(long)]
        undo: bool,
    },
    /// Let the cluster be planned with the quota of the nodes that are there now, when much of it vanished at once
    AcceptQuota {
        /// Wait for the nodes that are missing again
        #[arg(long)]
        undo: bool,
    },
}

const LEAD_HELP: &str = "\
Run it on two or three machines of the cluster: one leads, the others wait. SIGTERM hands the lead over at
once; when a lead dies another follows after lead.session_ttl_s, at most twice that, and lead.lock_delay_s.
While nobody leads everything goes on being served, and nothing moves.

Example of DIR/trough.toml:
  [node]
  lead_listen = \"10.0.0.1:6111\"     its pages: /status, /health, /metrics, POST /sync
  [manager]
  insecure_open = true               they are for the other machines, too
  [registry]
  kind = \"consul\"
  [store]
  url = \"hdfs://namenode:8020/trough\"

`trough up --lead` runs one beside everything else.";

const PLAN_HELP: &str = "\
Examples:
  trough sync plan                              what is still to be done
  trough sync plan --decommission worker-3      before `trough sync decommission worker-3`
  trough sync plan --without worker-3           what its loss would cost, and whether all still has a place
  trough sync plan --set plan.copies=3          what another rule would cost

It looks at the registry and lists the deep store (not while the cluster is paused), and plans as the lead
does, but for all cycles in one: what moves is not capped, and nodes that are gone are not waited for.
Needs no lead, and changes nothing.";

/// Options of `trough sync plan`.
#[derive(Debug, Clone, Args)]
pub struct Plan {
    /// As if this node were to be emptied; may be given again
    #[arg(long, value_name = "NODE")]
    pub decommission: Vec<String>,
    /// As if this node were gone for good; may be given again
    #[arg(long, value_name = "NODE")]
    pub without: Vec<String>,
    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

const DECOMMISSION_HELP: &str = "\
Examples:
  trough sync plan --decommission worker-3   what would move, and whether the others have room
  trough sync decommission worker-3          begin; `trough status` shows how far it is
  trough sync decommission worker-3 --undo   it is needed after all

Each of its segments is held by another node before it lets go of it. When it holds nothing any more, stop it.";

const UP_HELP: &str = "\
Examples:
  trough up                                         everything below ./trough-data
  trough up --dir /srv/trough --store hdfs://namenode:8020/trough
  trough up --read-port 8080

Ctrl-C stops everything and leaves nothing mounted. SIGHUP replaces the process that owns the mount without
a failed open. DIR/trough.toml is written at the first start with every default in it; edit it and start
again. A port other than the default must be given, or written into the file, so that `trough query` and
`trough status` find it.

A cluster, with a Consul agent on each machine; on worker-1 of three:
  trough up --dir /srv/trough --store hdfs://namenode:8020/trough --set registry.kind=consul \\
     --set node.read_listen=10.0.0.1:6444 --set node.manager_listen=10.0.0.1:6112 \\
     --set node.lead_listen=10.0.0.1:6111 --set manager.insecure_open=true --lead
The same on the others with their addresses; --lead on two or three of them. `trough status` on any of them
shows all.";

/// Options of `trough up`.
#[derive(Debug, Clone, Args)]
#[command(after_help = UP_HELP)]
pub struct Up {
    /// Deep store: a directory, or hdfs://HOST:PORT/PATH [default: DIR/store]
    #[arg(long, value_name = "DIR|URL")]
    pub store: Option<String>,
    /// Port of the reader on 127.0.0.1 [default: 6444]
    #[arg(long, value_name = "PORT")]
    pub read_port: Option<u16>,
    /// Port of the writer on 127.0.0.1 [default: 6222]
    #[arg(long, value_name = "PORT")]
    pub write_port: Option<u16>,
    /// Port of the synchronizer's status and of the segment manager on 127.0.0.1 [default: 6112]
    #[arg(long, value_name = "PORT")]
    pub manager_port: Option<u16>,
    /// Run a candidate for the lead of the cluster, too, as lead.candidate = true does
    #[arg(long)]
    pub lead: bool,
}

const PUT_HELP: &str = "\
Examples:
  trough put ohio.sqlite                 publishes the segment `ohio`
  trough put --id ohio-2026 export.db    publishes it under another name
  trough put segments/*.sqlite           publishes many, several at a time

The source is read through SQLite's backup API, so a database that is being written, or that is in WAL
mode, is published as one consistent copy. Exit status: 0 all published, 1 at least one was not.";

/// Options of `trough put`.
#[derive(Debug, Clone, Args)]
#[command(after_help = PUT_HELP)]
pub struct Put {
    /// SQLite databases to publish
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Name of the segment, when it is not the file's name without its ending (one FILE only)
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
}

const QUERY_HELP: &str = "\
Examples:
  trough query ohio 'SELECT species, count(*) AS strikes FROM strikes GROUP BY 1 ORDER BY 2 DESC LIMIT 5'
  trough query ohio - < report.sql                      the statement from standard input
  trough query ohio 'SELECT * FROM strikes' --format csv > ohio.csv

Exit status: 0 answered; 1 the reader refused the question (its text is printed as it came);
2 wrong use of this command; 3 no answer, or not a whole one: ask again later.";

/// Options of `trough query`.
#[derive(Debug, Clone, Args)]
#[command(after_help = QUERY_HELP)]
pub struct Query {
    /// Segment to ask
    pub segment: String,
    /// One SELECT, or `-` to read it from standard input
    pub sql: String,
    /// How to print the rows
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Reader to ask [default: the one of the settings, http://127.0.0.1:6444]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
}

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for reading, at most 10,000 rows
    Table,
    /// One JSON array of objects, as the reader answers
    Json,
    /// A head line and one line a row
    Csv,
}

const STATUS_HELP: &str = "\
Examples:
  trough status                  a machine on its own: what it holds; a cluster: who leads, its nodes, what moves
  trough status --node           a node of a cluster: what this machine holds
  trough status --watch          the same again every 2 seconds, until Ctrl-C
  trough status --json | jq '.nodes[] | select(.registered | not) | .name'

Exit status: 0; 3 when the synchronizer, or the registry of the cluster, does not answer. What can be said
without it is shown all the same.";

/// Options of `trough status`.
#[derive(Debug, Clone, Args)]
#[command(after_help = STATUS_HELP)]
pub struct Status {
    /// Print everything as JSON, one document a line
    #[arg(long)]
    pub json: bool,
    /// Show it again every 2 seconds until Ctrl-C
    #[arg(long)]
    pub watch: bool,
    /// This machine's synchronizer, also on a node of a cluster
    #[arg(long, visible_alias = "local")]
    pub node: bool,
    /// The synchronizer at this address [default: the one of the settings, http://127.0.0.1:6112]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
}

const SEGMENTS_HELP: &str = "\
Examples:
  trough segments
  trough segments --where 'copies < 2'
  trough segments --where \"has(holders, 'worker-3')\"
  trough segments --where \"id GLOB 'web-2026-*' AND length > 1e9\" --format csv
  trough segments --where \"mtime_ms > 1000 * unixepoch('now', '-1 day')\"

CONDITION is what SQL has after WHERE, on these columns:
  id        the segment
  state     held; short: a copy of it has no place; pending: nobody has it yet; no_place: nobody can have it;
            refused: what the deep store has is no sound segment; vanished: the deep store does not show it any
            more, and it stays until `trough sync accept-removals`
  length    of the version that the deep store has, in bytes
  mtime_ms  when that was published, milliseconds since 1970
  tag       the beginning of the digest of what is served
  copies    how many nodes answer for it
  holders   which, joined by commas
  unplaced  why a copy of it has no place, or it is not held
  vanished  1 where state is vanished, else 0

Exit status: 0; 2 a CONDITION that cannot be used; 3 nobody knows the pool now.";

/// Options of `trough segments`.
#[derive(Debug, Clone, Args)]
#[command(after_help = SEGMENTS_HELP)]
pub struct Segments {
    /// Only segments for which this SQL condition holds
    #[arg(long = "where", value_name = "CONDITION")]
    pub condition: Option<String>,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

const RESOLVE_HELP: &str = "\
Examples:
  trough resolve ohio --keep ours      publish what was written, over the file that somebody put there
  trough resolve ohio --keep theirs    leave that file, and stop writing here

A segment that is open for writing is published over the version that its writer published last, and over no
other. When somebody puts a file there meanwhile (`hdfs dfs -put`, a restore), the writer stops publishing it,
says so in its log and in `trough status`, and goes on taking writes: a person has to say which is to stay.
With `theirs` what was written and not published is kept as an orphan: `trough orphans list`.

Exit status: 0 done; 1 it was refused, or failed; nothing is lost then.";

/// Options of `trough resolve`.
#[derive(Debug, Clone, Args)]
#[command(after_help = RESOLVE_HELP)]
pub struct Resolve {
    /// The segment
    pub segment: String,
    /// Which version is to stay
    #[arg(long, value_enum)]
    pub keep: KeepOf,
}

/// Which version stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeepOf {
    /// What was written through the writer
    Ours,
    /// The file that somebody put there
    Theirs,
}

/// Options of `trough check-config`.
#[derive(Debug, Clone, Args)]
pub struct CheckConfig {
    /// Print a complete settings file instead: every setting, its default and what it means
    #[arg(long)]
    pub defaults: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
