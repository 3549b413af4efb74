//! What the writers share, the registry's key and the deep store, and what an onlooker remembers.

use crate::rules::{ATTEMPTS, EPOCHS, LATE, NODES, ROWS, Rules};
use crate::writer::Writer;

/// An index of the registry; from 1.
pub type Epoch = u8;
/// A set of rows. It also stands for the digest of a file that has them.
pub type Rows = u8;

/// What a stamp tells apart: by which attempt of which epoch a file was staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub epoch: Epoch,
    pub attempt: u8,
}

/// A segment, or what a seal says of one: its stamp and its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Content {
    pub version: Version,
    pub rows: Rows,
}

/// The lock's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Under which lock the session that holds it took it; `None` when that has ended.
    pub held: Option<Epoch>,
    /// The rest is the document.
    pub node: usize,
    /// Under which it told that; `None` before it told anything.
    pub epoch: Option<Epoch>,
    pub dirty: bool,
}

/// A staging directory: data and seal of each attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Directory {
    pub data: [Option<Rows>; ATTEMPTS],
    pub seals: [Option<Rows>; ATTEMPTS],
}

/// A call to the deep store. Those that create data and seal are one: that its directory is gone stops both alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    MakeDirectory(Epoch),
    DeleteDirectory(Epoch),
    Create(Content),
    RenameSeal(Version),
    RenameData(Version),
}

/// The deep store, of one segment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct DeepStore {
    pub staging: [Option<Directory>; EPOCHS],
    pub data: Option<Content>,
    pub seal: Option<Content>,
}

/// What no one of those who take part knows, for the properties.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Seen {
    pub acknowledged: Rows,
    /// Those that were published at some time.
    pub published: Rows,
    /// The highest version that was ever published.
    pub highest: Option<Version>,
    /// Whether data was moved to the final path that found another's seal there.
    pub shown_without_seal: bool,
    /// The highest epoch that took over: it confirmed its lock once lower ones could stage nothing more.
    pub owner: Epoch,
    /// Under which epoch each row was acknowledged.
    pub wrote: [Epoch; ROWS],
    /// Whether a file went on although a row was acknowledged elsewhere since.
    pub passed_over: bool,
    /// Whether a node took what another left dirty.
    pub decided: bool,
    /// Whether a rename that came late was refused.
    pub refused_late: bool,
    /// Rows that were set aside without ever having been published.
    pub set_aside: Rows,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct World {
    /// Locks that were taken.
    pub epochs: u8,
    pub crashes: u8,
    pub losses: u8,
    /// Calls that nobody waits for, ever.
    pub late: u8,
    pub key: Option<Key>,
    pub store: DeepStore,
    /// Those of them that have not arrived, in order.
    pub in_flight: [Option<Call>; LATE],
    pub writers: [Writer; NODES],
    pub seen: Seen,
}

impl World {
    /// Whether the lock taken at `epoch` is held: `CheckSession` of the registry.
    pub fn holds(&self, epoch: Epoch) -> bool {
        self.key.is_some_and(|key| key.held == Some(epoch))
    }

    /// Rows that were acknowledged under a lock taken after `epoch`.
    pub fn written_after(&self, epoch: Epoch) -> Rows {
        let wrote = self.seen.wrote.iter().enumerate();
        wrote.filter(|(_, at)| **at > epoch).fold(0, |rows, (row, _)| rows | 1 << row)
    }

    /// The staging directory of `epoch`.
    pub fn staging(&mut self, epoch: Epoch) -> &mut Option<Directory> {
        &mut self.store.staging[usize::from(epoch) - 1]
    }

    /// Carries `call` out; `false`: what it needs is not there.
    pub fn call(&mut self, rules: Rules, call: Call) -> bool {
        match call {
            Call::MakeDirectory(epoch) => {
                self.staging(epoch).get_or_insert_default();
                true
            }
            Call::DeleteDirectory(epoch) => self.staging(epoch).take().is_some(),
            Call::Create(Content { version, rows }) => {
                let directory = self.staging(version.epoch);
                if directory.is_none() && !rules.create_needs_directory {
                    *directory = Some(Directory::default());
                }
                let Some(directory) = directory else { return false };
                let attempt = usize::from(version.attempt) - 1;
                directory.data[attempt] = Some(rows);
                directory.seals[attempt] = Some(rows);
                true
            }
            Call::RenameSeal(version) => {
                let Some(directory) = self.staging(version.epoch) else { return false };
                let source = directory.seals[usize::from(version.attempt) - 1].take();
                let Some(rows) = source else { return false };
                self.store.seal = Some(Content { version, rows });
                true
            }
            Call::RenameData(version) => {
                let Some(directory) = self.staging(version.epoch) else { return false };
                let source = directory.data[usize::from(version.attempt) - 1].take();
                let Some(rows) = source else { return false };
                let copy = Content { version, rows };
                self.store.data = Some(copy);
                self.seen.shown_without_seal |= self.store.seal != Some(copy);
                self.seen.highest = self.seen.highest.max(Some(version));
                self.seen.published |= rows;
                true
            }
        }
    }

    /// The call at `place` arrives at last.
    pub fn arrive(&mut self, rules: Rules, place: usize) {
        let Some(call) = self.in_flight[place].take() else { return };
        self.in_flight.sort_unstable();
        let done = self.call(rules, call);
        if let (false, Call::RenameSeal(_) | Call::RenameData(_)) = (done, call) {
            self.seen.refused_late = true;
        }
    }

    /// Nobody waits for `call` any more.
    pub fn leave_in_flight(&mut self, call: Call) {
        self.late += 1;
        if let Some(free) = self.in_flight.iter_mut().find(|place| place.is_none()) {
            *free = Some(call);
        }
        // in which order they were sent says nothing of how they arrive
        self.in_flight.sort_unstable();
    }
}
