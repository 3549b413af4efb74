//! One writer: what is on its disk, and what its process knows.

use crate::world::{Content, Epoch, Key, Rows, Version};

/// See `proxy/src/writer/note.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Note {
    pub epoch: Epoch,
    pub from: Option<Version>,
    pub publishing: Option<Rows>,
    pub dirty: bool,
}

/// The segment's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct File {
    /// What it has with its log.
    pub rows: Rows,
    /// What of that is in the log.
    pub log: Rows,
}

/// What a crash leaves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Disk {
    pub note: Option<Note>,
    pub file: Option<File>,
    /// A log that was moved to the orphans, and its file not yet.
    pub half: Rows,
    pub orphans: Rows,
}

/// What a process does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Phase {
    /// Nothing: it does not run, or does not have the segment.
    #[default]
    Away,
    DeleteLower,
    MakeDirectory,
    ConfirmOpening,
    Look,
    SetAsideRest,
    Fetch,
    TellAgain,
    /// Open for writing, and nothing is being published.
    Open,
    NoteDirty,
    TellDirty,
    /// From here to `Settle` it publishes; rows may be written meanwhile.
    LookForDoubt,
    Stage,
    ConfirmRename,
    RenameSeal,
    RenameData,
    NotePublished,
    Settle,
    NoteClean,
}

/// What a crash takes away.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Process {
    pub phase: Phase,
    pub epoch: Epoch,
    /// What the one before left at the key.
    pub before: Option<Key>,
    /// What it last saw or made at the final path.
    pub published: Option<Version>,
    /// Whether that has a seal that counts; else it is published before anything is written.
    pub sealed: bool,
    pub attempts: u8,
    pub broken_off: bool,
    pub doubt: Option<Version>,
    /// What is being published.
    pub copy: Rows,
    /// Whether it has told that something is unpublished.
    pub dirty: bool,
    /// Whether a row came after the copy.
    pub after_copy: bool,
}

/// A writer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Writer {
    pub disk: Disk,
    pub process: Process,
}

impl Process {
    /// What it publishes.
    pub fn staged(&self) -> Content {
        let version = Version { epoch: self.epoch, attempt: self.attempts };
        Content { version, rows: self.copy }
    }

    /// Whether a publication is on its way.
    pub fn publishes(&self) -> bool {
        use Phase::{ConfirmRename, LookForDoubt, NotePublished, RenameData, RenameSeal};
        use Phase::{Settle, Stage};
        let moving = matches!(self.phase, RenameSeal | RenameData | NotePublished | Settle);
        moving || matches!(self.phase, LookForDoubt | Stage | ConfirmRename)
    }

    /// It is open, and publishes nothing, or no longer.
    pub fn open(&mut self) {
        // what is not needed any more makes no other state
        (self.copy, self.after_copy, self.before) = (0, false, None);
        self.phase = Phase::Open;
    }
}

impl Note {
    /// See `Note::goes_on_from`.
    pub fn goes_on_from(&self, published: Option<Version>, sealed: Option<Rows>) -> bool {
        self.from == published || (sealed.is_some() && sealed == self.publishing)
    }
}
