//! What a writer does in each of its phases.

use crate::rules::Rules;
use crate::world::{Call, Directory, Key, World};
use crate::writer::{File, Note, Phase, Process, Writer};

impl World {
    /// Takes the lock for `node`: `WriteLocks::ask`, after `look` said `Verdict::Take`.
    pub fn take(&mut self, rules: Rules, node: usize) {
        self.epochs += 1;
        let (epoch, before) = (self.epochs, self.key);
        let own = before.filter(|before| before.node == node);
        self.key = Some(Key {
            held: Some(epoch),
            node,
            epoch: match (rules.taking_keeps_epoch, before) {
                (false, _) => None,
                (true, before) if own.is_some() => before.and_then(|before| before.epoch),
                (true, before) => before.map(|_| epoch),
            },
            dirty: own.is_some_and(|own| own.dirty),
        });
        self.seen.decided |= own.is_none() && before.is_some_and(|before| before.dirty);
        self.writers[node].process =
            Process { phase: Phase::DeleteLower, epoch, before, ..Process::default() };
    }

    /// Whether `node` may take the lock: `Purpose::judge`, where a decision is always to take it.
    pub fn may_take(&self, node: usize) -> bool {
        self.writers[node].process.phase == Phase::Away
            && self.key.is_none_or(|key| key.held.is_none())
    }

    /// The call that `node` makes next, if its next step is one.
    pub fn next_call(&self, node: usize) -> Option<Call> {
        let process = &self.writers[node].process;
        let staged = process.staged();
        Some(match process.phase {
            Phase::DeleteLower => {
                let lowest = (1..process.epoch)
                    .find(|epoch| self.store.staging[usize::from(*epoch) - 1].is_some());
                Call::DeleteDirectory(lowest?)
            }
            Phase::MakeDirectory => Call::MakeDirectory(process.epoch),
            Phase::Stage => Call::Create(staged),
            Phase::RenameSeal => Call::RenameSeal(staged.version),
            Phase::RenameData => Call::RenameData(staged.version),
            _ => return None,
        })
    }

    /// `node` waits for `call` no longer.
    pub fn time_out(&mut self, node: usize, call: Call) {
        self.leave_in_flight(call);
        let process = &mut self.writers[node].process;
        match process.phase {
            Phase::DeleteLower | Phase::MakeDirectory => self.put_back(node),
            // an attempt that failed
            phase => {
                if let Phase::RenameSeal | Phase::RenameData = phase {
                    process.doubt = Some(process.staged().version);
                }
                process.open();
            }
        }
    }

    /// The next step of `node`, whatever it has begun.
    pub fn step(&mut self, rules: Rules, node: usize) {
        let writer = &mut self.writers[node];
        let process = &mut writer.process;
        let epoch = process.epoch;
        match process.phase {
            Phase::Away | Phase::Open => {}
            Phase::DeleteLower => {
                process.phase = Phase::MakeDirectory;
                let (lower, higher) = self.store.staging.split_at_mut(usize::from(epoch) - 1);
                if higher[1..].iter().any(Option::is_some) {
                    self.put_back(node);
                } else if rules.lower_deleted {
                    lower.fill(None);
                }
            }
            Phase::MakeDirectory => {
                process.phase = Phase::ConfirmOpening;
                self.call(rules, Call::MakeDirectory(epoch));
            }
            Phase::ConfirmOpening => {
                process.phase = Phase::Look;
                if self.holds(epoch) || !rules.confirmed_when_made {
                    self.seen.owner = self.seen.owner.max(epoch);
                } else {
                    self.put_back(node);
                }
            }
            Phase::Look => self.prepare(rules, node),
            Phase::SetAsideRest => {
                process.phase = Phase::Fetch;
                let disk = &mut writer.disk;
                let rows = disk.file.map_or(0, |file| file.rows) | disk.half;
                disk.orphans |= rows;
                self.seen.set_aside |= rows & !self.seen.published;
                (disk.note, disk.file, disk.half) = (None, None, 0);
            }
            Phase::Fetch => {
                let there = self.store.data;
                if there.map(|data| data.version) == process.published {
                    let (from, rows) =
                        (there.map(|data| data.version), there.map_or(0, |data| data.rows));
                    // a file without its note is as none, so no step is between them
                    writer.disk.file = Some(File { rows, log: 0 });
                    writer.disk.note = Some(Note { epoch, from, publishing: None, dirty: false });
                    process.open();
                } else {
                    self.end(node, |process| process.before.is_some_and(|before| before.dirty));
                }
            }
            Phase::TellAgain => {
                if self.tell(node, true) {
                    let process = &mut self.writers[node].process;
                    process.dirty = true;
                    process.open();
                } else {
                    // it was not begun, so nobody gives it back
                    self.writers[node].process = Process::default();
                }
            }
            // `Hold::tell`
            Phase::NoteDirty => {
                process.phase = Phase::TellDirty;
                if let Some(note) = &mut writer.disk.note {
                    note.dirty = true;
                }
            }
            Phase::TellDirty => {
                process.open();
                if self.tell(node, true) {
                    self.writers[node].process.dirty = true;
                }
            }
            _ => self.publish(rules, node),
        }
    }

    /// `Staging::look`, then `Segment::prepare` up to its first change of the disk: nobody else sees that.
    fn prepare(&mut self, rules: Rules, node: usize) {
        let (data, seal) = (self.store.data, self.store.seal);
        let published = data.map(|data| data.version);
        // a seal that counts
        let sealed = seal.filter(|seal| Some(seal.version) == published).map(|seal| seal.rows);
        let holds = self.holds(self.writers[node].process.epoch);
        let rows = data.map_or(0, |data| data.rows);
        let written_since =
            self.writers[node].disk.note.map_or(0, |left| self.written_after(left.epoch)) & !rows;
        let writer = &mut self.writers[node];
        let (disk, process) = (&mut writer.disk, &mut writer.process);
        let whole = disk.file.is_some();
        (process.published, process.sealed) = (published, sealed.is_some());
        if let Some(left) = disk.note {
            let alone = process.before.is_none_or(|before| {
                before.node == node
                    && before.epoch.is_none_or(|epoch| match rules.taking_keeps_epoch {
                        true => epoch <= left.epoch,
                        false => epoch == left.epoch,
                    })
            });
            let begun = rules.set_aside_finished && disk.half != 0;
            if alone && whole && !begun && left.goes_on_from(published, sealed) {
                // who has lost its lock by now can do nothing with it
                self.seen.passed_over |= holds && written_since != 0;
                let (epoch, dirty) = (process.epoch, left.dirty);
                disk.note = Some(Note { epoch, from: published, publishing: None, dirty });
                match dirty {
                    true => process.phase = Phase::TellAgain,
                    false => process.open(),
                }
                // what was half set aside is nobody's any more
                disk.half = 0;
                return;
            }
            if let (true, Some(file)) = (left.dirty, &mut disk.file) {
                // a log that was moved before stays moved
                disk.half |= file.log;
                file.rows &= !file.log;
                file.log = 0;
                process.phase = Phase::SetAsideRest;
                return;
            }
        }
        (disk.note, disk.file) = (None, None);
        process.phase = Phase::Fetch;
    }

    /// A step of `Segment::promote`.
    fn publish(&mut self, rules: Rules, node: usize) {
        let writer = &mut self.writers[node];
        let process = &mut writer.process;
        let epoch = process.epoch;
        match process.phase {
            Phase::LookForDoubt => {
                process.broken_off = false;
                let there = self.store.data.map(|data| data.version);
                if process.doubt.take().is_some_and(|doubt| Some(doubt) == there) {
                    process.published = there;
                }
                self.about_to(rules, node);
            }
            // and the look after it, which only finds more
            Phase::ConfirmRename => {
                process.doubt = Some(process.staged().version);
                let same = self.store.data.map(|data| data.version) == process.published;
                let holds = !rules.confirmed_before_rename || self.holds(epoch);
                let process = &mut self.writers[node].process;
                match holds && same {
                    true => process.phase = Phase::RenameSeal,
                    false => process.open(),
                }
            }
            Phase::NotePublished => {
                process.phase = Phase::Settle;
                if let Some(note) = &mut writer.disk.note {
                    note.from = process.published;
                    note.publishing = None;
                }
            }
            Phase::Settle => {
                let dirty = process.after_copy;
                let told = self.tell(node, dirty);
                let process = &mut self.writers[node].process;
                process.dirty &= dirty || !told;
                process.open();
                if told && !dirty {
                    process.phase = Phase::NoteClean;
                }
            }
            Phase::NoteClean => {
                process.open();
                if let Some(note) = &mut writer.disk.note {
                    note.dirty = false;
                }
            }
            _ => {
                let done = self.next_call(node).is_some_and(|call| self.call(rules, call));
                let process = &mut self.writers[node].process;
                match process.phase {
                    Phase::Stage if done => process.phase = Phase::ConfirmRename,
                    Phase::RenameSeal if done => process.phase = Phase::RenameData,
                    Phase::RenameData if done => {
                        process.published = Some(process.staged().version);
                        process.sealed = true;
                        (process.broken_off, process.doubt) = (false, None);
                        process.phase = Phase::NotePublished;
                    }
                    // `Staging::failed`: the fence
                    _ => process.open(),
                }
            }
        }
    }

    /// A publication begins: `Writable::copy`, then `Tenure::settle`, whose look is a step of its own.
    pub fn promote(&mut self, rules: Rules, node: usize) {
        let writer = &mut self.writers[node];
        let process = &mut writer.process;
        process.copy = writer.disk.file.map_or(0, |file| file.rows);
        let epoch = process.epoch;
        if process.broken_off {
            process.phase = Phase::LookForDoubt;
            // `Staging::sweep`
            if let (true, Some(directory)) = (rules.leftovers_swept, self.staging(epoch)) {
                *directory = Directory::default();
            }
        } else {
            self.about_to(rules, node);
        }
    }

    /// What `Segment::publish` writes down.
    fn about_to(&mut self, rules: Rules, node: usize) {
        let Writer { disk, process } = &mut self.writers[node];
        process.phase = Phase::Stage;
        process.attempts += 1;
        process.broken_off = true;
        if let Some(note) = &mut disk.note {
            note.publishing = Some(process.copy);
            if rules.doubt_noted {
                note.from = process.published;
            }
        }
    }

    /// `WriteLock::tell`, once for each revision: whether it was done.
    fn tell(&mut self, node: usize, dirty: bool) -> bool {
        let epoch = self.writers[node].process.epoch;
        let Some(key) = self.key.as_mut().filter(|key| key.held == Some(epoch)) else {
            return false;
        };
        (key.epoch, key.dirty) = (Some(epoch), dirty);
        true
    }

    /// The end of a `Tenure::begin` that failed: `Staging::clear`, `WriteLock::put_back`.
    fn put_back(&mut self, node: usize) {
        let process = std::mem::take(&mut self.writers[node].process);
        *self.staging(process.epoch) = None;
        if self.holds(process.epoch) {
            self.key = process.before.filter(|before| before.dirty);
        }
    }

    /// `Tenure::end`.
    pub fn end(&mut self, node: usize, dirty: impl FnOnce(&Process) -> bool) {
        let process = std::mem::take(&mut self.writers[node].process);
        let epoch = process.epoch;
        *self.staging(epoch) = None;
        if self.holds(epoch) {
            let left = Key { held: None, node, epoch: Some(epoch), dirty: true };
            self.key = dirty(&process).then_some(left);
        }
    }

    /// A row is written to the file of `node`, synced and acknowledged.
    pub fn write(&mut self, node: usize) {
        let writer = &mut self.writers[node];
        let Some(file) = &mut writer.disk.file else { return };
        let row = self.seen.acknowledged + 1;
        file.rows |= row;
        file.log |= row;
        // before a copy it says nothing
        writer.process.after_copy = writer.process.publishes();
        self.seen.acknowledged |= row;
        self.seen.wrote[row.ilog2() as usize] = writer.process.epoch;
    }
}
