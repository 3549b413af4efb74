//! The steps that may come next, and what is true after each.

use stateright::{Model, Property};

use crate::rules::{Bounds, LATE, NODES, Rules};
use crate::world::{Call, Rows, World};
use crate::writer::{File, Phase, Process};

/// The protocol, for one segment.
pub struct Publishing {
    pub rules: Rules,
    pub bounds: Bounds,
}

/// A step of the writer that it names, or of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It takes the lock.
    Take(usize),
    /// The next step of what it has begun.
    Step(usize),
    /// It waits for that call no longer.
    TimeOut(usize, Call),
    /// It only saw to what was left on its disk, and ends without going on.
    Resumed(usize),
    /// It acknowledges a row.
    Write(usize),
    /// It is asked to write a row and has to tell first.
    Unsettle(usize),
    /// It begins to publish.
    Promote(usize),
    /// It gives a segment back of which everything is published.
    HandBack(usize),
    /// It shuts down, or sees that its lock is lost.
    Leave(usize),
    /// It is killed.
    Crash(usize),
    /// The session ends that holds the lock.
    Expire,
    /// The registry comes back empty.
    Lose,
    /// A late call arrives.
    Arrive(usize),
}

// what is always so
pub const NEVER_BACK: &str = "what is published never goes back to a lower epoch";
pub const FORWARD: &str = "versions of one epoch only go forward";
pub const SEALED: &str =
    "what is moved to the final path finds the seal there that was made for it";
pub const KEPT: &str = "nothing acknowledged vanishes";
pub const STAYS: &str = "what was published stays in what is published after it";
pub const FENCED: &str = "nothing is staged below an epoch that took over";
pub const DECIDED: &str = "rows are set aside only after somebody decided so";
pub const ALONE: &str = "a file goes on only where nobody else wrote meanwhile";

// what happens at some time, for a model in which nothing happens proves nothing
pub const LATE_REFUSED: &str = "a late rename is refused";
pub const TAKEN_OVER: &str = "a take-over succeeds, and publishes";
pub const SET_ASIDE: &str = "an orphan is made";
pub const WENT_ON: &str = "a file goes on under a later lock";

impl Publishing {
    fn of_writer(&self, world: &World, node: usize, actions: &mut Vec<Action>) {
        let process = &world.writers[node].process;
        let taken = world.epochs;
        if world.may_take(node) {
            // which node is first makes no difference
            if taken < self.bounds.epochs && (taken > 0 || node == 0) {
                actions.push(Action::Take(node));
            }
            return;
        }
        if process.phase == Phase::Away {
            return;
        }
        if world.crashes < self.bounds.crashes {
            actions.push(Action::Crash(node));
        }
        if let Some(call) = world.next_call(node)
            && world.late < self.bounds.late
        {
            actions.push(Action::TimeOut(node, call));
        }
        let room = world.seen.acknowledged.count_ones() < u32::from(self.bounds.rows);
        let open = process.phase == Phase::Open;
        if room && (open || process.publishes()) && process.dirty {
            actions.push(Action::Write(node));
        }
        match process.phase {
            Phase::Open => self.of_open(world, node, room, actions),
            Phase::Fetch => {
                actions.extend([Action::Step(node), Action::Resumed(node)]);
            }
            _ => actions.push(Action::Step(node)),
        }
    }

    fn of_open(&self, world: &World, node: usize, room: bool, actions: &mut Vec<Action>) {
        let writer = &world.writers[node];
        let process = &writer.process;
        let noted = writer.disk.note.is_some_and(|note| note.dirty);
        if (process.dirty || !process.sealed) && process.attempts < self.bounds.attempts {
            actions.push(Action::Promote(node));
        }
        if !process.dirty && room {
            actions.push(match self.rules.told_before_acknowledged {
                true => Action::Unsettle(node),
                false => Action::Write(node),
            });
        }
        let holds = world.holds(process.epoch);
        if !process.dirty && !noted && holds {
            actions.push(Action::HandBack(node));
        } else {
            actions.push(Action::Leave(node));
        }
    }
}

impl Model for Publishing {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::default()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for node in 0..NODES {
            self.of_writer(world, node, actions);
        }
        if world.key.is_some_and(|key| key.held.is_some()) {
            actions.push(Action::Expire);
        }
        if world.key.is_some() && world.losses < self.bounds.losses {
            actions.push(Action::Lose);
        }
        actions.extend(
            (0..LATE).filter(|place| world.in_flight[*place].is_some()).map(Action::Arrive),
        );
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::Take(node) => world.take(self.rules, node),
            Action::Step(node) => world.step(self.rules, node),
            Action::TimeOut(node, call) => world.time_out(node, call),
            Action::Resumed(node) => world.end(node, |_| false),
            Action::Write(node) => {
                world.write(node);
                if !world.writers[node].process.dirty {
                    world.writers[node].process.phase = Phase::NoteDirty;
                }
            }
            Action::Unsettle(node) => world.writers[node].process.phase = Phase::NoteDirty,
            Action::Promote(node) => world.promote(self.rules, node),
            Action::HandBack(node) => {
                let disk = &mut world.writers[node].disk;
                (disk.note, disk.file) = (None, None);
                world.end(node, |_| false);
            }
            Action::Leave(node) => {
                let disk = &mut world.writers[node].disk;
                // closing moves the log into the file
                disk.file = disk.file.map(|file| File { log: 0, ..file });
                let dirty = disk.note.is_some_and(|note| note.dirty);
                world.end(node, |_| dirty);
            }
            Action::Crash(node) => {
                world.crashes += 1;
                world.writers[node].process = Process::default();
            }
            Action::Expire => {
                if let Some(key) = &mut world.key {
                    key.held = None;
                }
            }
            Action::Lose => {
                world.losses += 1;
                world.key = None;
            }
            Action::Arrive(place) => world.arrive(self.rules, place),
        }
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NEVER_BACK, |_, world: &World| {
                world.store.data.map(|data| data.version.epoch)
                    == world.seen.highest.map(|highest| highest.epoch)
            }),
            Property::always(FORWARD, |_, world: &World| {
                let (now, highest) = (world.store.data, world.seen.highest);
                now.zip(highest).is_none_or(|(now, highest)| {
                    now.version.epoch != highest.epoch || now.version == highest
                })
            }),
            Property::always(SEALED, |_, world: &World| !world.seen.shown_without_seal),
            Property::always(KEPT, |_, world: &World| world.seen.acknowledged & !kept(world) == 0),
            Property::always(STAYS, |_, world: &World| {
                let now = world.store.data.map_or(0, |data| data.rows);
                world.seen.published & !now == 0
            }),
            Property::always(FENCED, |_, world: &World| {
                let lower = &world.store.staging[..usize::from(world.seen.owner.max(1)) - 1];
                lower
                    .iter()
                    .flatten()
                    .all(|below| below.data.iter().chain(&below.seals).all(Option::is_none))
            }),
            Property::always(DECIDED, |_, world: &World| {
                let acknowledged = world.seen.set_aside & world.seen.acknowledged;
                acknowledged == 0 || world.seen.decided || world.losses > 0
            }),
            Property::always(ALONE, |_, world: &World| !world.seen.passed_over || world.losses > 0),
            Property::sometimes(LATE_REFUSED, |_, world: &World| world.seen.refused_late),
            Property::sometimes(TAKEN_OVER, |_, world: &World| {
                let now = world.store.data.map(|data| data.version.epoch);
                world.seen.decided && now.is_some_and(|epoch| epoch > 1)
            }),
            Property::sometimes(SET_ASIDE, |_, world: &World| world.seen.set_aside != 0),
            Property::sometimes(WENT_ON, |_, world: &World| {
                let went_on = |node: usize| {
                    let process = &world.writers[node].process;
                    process.phase == Phase::TellAgain
                };
                (0..NODES).any(went_on)
            }),
        ]
    }
}

/// Rows that are where they can be found.
fn kept(world: &World) -> Rows {
    let published = world.store.data.map_or(0, |data| data.rows);
    let on_disk = |node: usize| {
        let (disk, process) = (&world.writers[node].disk, &world.writers[node].process);
        let file = disk.file.map_or(0, |file| file.rows) | disk.half;
        let noted = disk.note.is_some_and(|note| note.dirty);
        let owned = process.phase != Phase::Away && world.holds(process.epoch);
        disk.orphans | if noted || owned { file } else { 0 }
    };
    (0..NODES).map(on_disk).fold(published, |all, rows| all | rows)
}
