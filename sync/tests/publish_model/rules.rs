//! What may be taken out of the protocol, and how far a model goes.

/// Which of the protocol's rules are kept.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Who takes over deletes what lower epochs staged.
    pub lower_deleted: bool,
    /// A create fails where its directory is gone.
    pub create_needs_directory: bool,
    /// The lock is confirmed once the staging directory was made.
    pub confirmed_when_made: bool,
    /// The lock is confirmed once more before the renames.
    pub confirmed_before_rename: bool,
    /// An attempt first deletes what one before it staged and may still be moved.
    pub leftovers_swept: bool,
    /// Note and registry say that there is something unpublished before it is acknowledged.
    pub told_before_acknowledged: bool,
    /// What an attempt that failed did publish after all is noted before the next one is.
    pub doubt_noted: bool,
    /// A file and its log become an orphan in one step; else a file whose log was moved may go on without it.
    pub set_aside_finished: bool,
    /// The document of who took a lock, and has told nothing yet, keeps the epoch of the one before if that was of the
    /// same node, and else has one that is above all of that node's notes.
    pub taking_keeps_epoch: bool,
}

impl Rules {
    /// What the code does.
    pub const IMPLEMENTED: Self = Self {
        lower_deleted: true,
        create_needs_directory: true,
        confirmed_when_made: true,
        confirmed_before_rename: true,
        leftovers_swept: true,
        told_before_acknowledged: true,
        doubt_noted: true,
        set_aside_finished: true,
        taking_keeps_epoch: true,
    };
}

/// How much of everything there may be, so that there is an end to it.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Locks that are taken; at most [`EPOCHS`].
    pub epochs: u8,
    /// Attempts to publish under each; at most [`ATTEMPTS`].
    pub attempts: u8,
    /// Rows that are acknowledged; at most [`ROWS`].
    pub rows: u8,
    /// Writers that are killed.
    pub crashes: u8,
    /// Calls to the deep store that nobody waits for any more; at most [`LATE`].
    pub late: u8,
    /// Times that the registry is lost.
    pub losses: u8,
}

/// The writers. The first to take the lock is always number 0, for which it is makes no difference.
pub const NODES: usize = 2;
/// The most epochs.
pub const EPOCHS: usize = 4;
/// The most attempts under one.
pub const ATTEMPTS: usize = 2;
/// The most rows.
pub const ROWS: usize = 3;
/// The most late calls.
pub const LATE: usize = 2;
