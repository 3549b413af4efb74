//! What can be said about orphans.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

pub(super) const ORPHANS_HELP: &str = "\
Examples:
  trough orphans list --rows                     what there is, and what of it is not published
  trough orphans export ohio ohio-orphan.sqlite  a copy, to look at it with sqlite3
  trough orphans replay ohio --dry-run           whether its rows would go in, and how many
  trough orphans replay ohio                     puts them in, and publishes
  trough orphans discard ohio@1-17 --yes         it is not needed any more

An orphan is a segment that was written here, acknowledged, and then published or written elsewhere
before it was published from here: this machine was away for longer than
write.takeover_dirty_after_s, or somebody put another version. Its rows are kept, and nobody but a
person decides about them. It lies on the machine that wrote it: give these commands there, as a user
who may read write.dir. The writer may run or not; `replay` needs one somewhere.

Exit status: 0 done; 1 failed; 2 refused, and nothing was changed.";

const REPLAY_HELP: &str = "\
Examples:
  trough orphans replay ohio --dry-run
  trough orphans replay ohio@1-17 --on-conflict skip

Rows that the orphan has and the published version has not are sent to the segment's writer as INSERTs,
as any application sends them, and published. Equal rows are counted: what is there twice here and
once there is sent once. All of it is tried before on a private copy of the published version: where a
constraint is in the way nothing is sent, unless --on-conflict says what to do. Broken off or failed
in its middle it is run again, and goes on where it ended: nothing is there twice.

What the orphan changed or deleted of rows that were published before is not repeated: a changed row
comes as a new one beside (or in conflict with) the one before the change. Triggers of the segment run
again for the rows that are put back. Virtual tables (FTS5, R-tree) are not compared; where triggers
keep them they are kept.

It asks the segment manager (:6112; in a cluster the lead's, :6111), and needs room in write.dir for
the published version and the rows.

Exit status: 0 nothing is missing any more, but for what was to be skipped; 1 failed, run it again;
2 refused, and nothing was sent.";

/// What a person may do about orphans of this machine.
#[derive(Debug, Subcommand)]
pub enum Orphans {
    /// List them
    List {
        /// Count the rows that are not in what is published, which is fetched for that
        #[arg(long)]
        rows: bool,
        /// Print everything as JSON
        #[arg(long)]
        json: bool,
    },
    /// Copy one into a file
    Export {
        /// Which: ID, or ID@EPOCH as `list` has it
        #[arg(value_name = "ID[@EPOCH]")]
        orphan: String,
        /// Where to; nothing may be there
        file: PathBuf,
    },
    /// Put the rows of one that are not published back into its segment
    #[command(after_help = REPLAY_HELP)]
    Replay(Replay),
    /// Delete one for good
    Discard {
        /// Which, with its epoch, as `list` has it
        #[arg(value_name = "ID@EPOCH")]
        orphan: String,
        /// Do it; else it is only said what would be lost
        #[arg(long)]
        yes: bool,
    },
}

/// Options of `trough orphans replay`.
#[derive(Debug, Clone, Args)]
pub struct Replay {
    /// Which: ID, or ID@EPOCH as `list` has it
    #[arg(value_name = "ID[@EPOCH]")]
    pub orphan: String,
    /// What to do about a row in whose place there is another
    #[arg(long, value_enum, default_value_t = OnConflict::Stop)]
    pub on_conflict: OnConflict,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// What becomes of a row in whose place there is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnConflict {
    /// Nothing is put back at all
    Stop,
    /// The published row stays
    Skip,
    /// The orphan's row takes its place
    Replace,
}
