//! The planner's working table: every copy of every segment, and what each node has and will have.
//!
//! Invariants: `used` of a node is everything that lies or may come to lie on its disk (held, loading and
//! draining), `future` what is to stay there and what room is promised; both are kept with every change, and no
//! copy is added where either would go above the quota.
//!
//! Left out: what should change ([`super::settle`], [`super::place`], [`super::balance`]).

use std::collections::{BTreeSet, HashMap};

use fsd::segment::Stamp;

use super::load::{self, Load};
use super::outcome::{Figures, Move, MoveReason, Unplaced, Why};
use super::rules::Rules;
use super::world::{CopyState, NodeKey, SegmentKey, World};

const NONE: u32 = u32::MAX;

/// What the plan says of a copy so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It lies there and nobody asked for it.
    Stray,
    /// To hold, in the version that the pool has; counts as a copy.
    Hold,
    /// Held as before on a node that cannot be counted on any more.
    Away,
    /// Held until others take its place.
    Leave,
    /// Draining.
    Drain,
}

/// The node reports some version.
pub(super) const HELD: u8 = 1;
/// The node reports the version that the pool has.
pub(super) const HELD_WANTED: u8 = 2;
/// The node was told this version, or is now.
pub(super) const TOLD_WANTED: u8 = 4;
/// Told to hold before this plan, and holds, in the wanted version: others may drain for it.
pub(super) const PROVEN: u8 = 8;
/// The entry was told to drain before this plan.
pub(super) const WAS_DRAIN: u8 = 16;

/// One segment on one node. Small, for there are millions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    entry: u32,
    held: u32,
    pub(super) node: u16,
    pub(super) state: State,
    pub(super) flags: u8,
}

impl Copy {
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// One segment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Row {
    start: u32,
    len: u16,
    room: u16,
    /// Copies that are to stay: in state [`State::Hold`].
    pub(super) staying: u16,
    /// Those of them that are proven.
    pub(super) proven: u16,
    /// Copies asked for by the rules.
    pub(super) target: u8,
    pub(super) rule: u8,
    /// Whether a node within reach holds the wanted version: another copy of it is a move, not news.
    pub(super) copied: bool,
}

pub(super) const NO_RULE: u8 = u8::MAX;

#[derive(Debug)]
pub(super) struct Board<'a> {
    pub(super) world: &'a World,
    pub(super) rules: &'a Rules,
    pub(super) rows: Vec<Row>,
    copies: Vec<Copy>,
    pub(super) loads: Vec<Load>,
    /// Nodes that take new copies, the least stored/quota first.
    pub(super) by_ratio: BTreeSet<(u64, u16)>,
    /// Nodes that each rule prefers.
    pub(super) preferred: Vec<Vec<u16>>,
    /// Whether nothing was assigned: then what is announced counts as assigned.
    pub(super) cold: bool,
    pub(super) places: u16,
    pub(super) racks: usize,
    pub(super) moves: Vec<Move>,
    pub(super) unplaced: Vec<Unplaced>,
    unplaced_at: HashMap<usize, usize>,
    pub(super) figures: Figures,
}

impl<'a> Board<'a> {
    pub(super) fn new(world: &'a World, rules: &'a Rules) -> Self {
        let cold = world.nodes.iter().all(|view| view.entries.is_empty());
        let loads = load::all(world, rules);
        let places = || loads.iter().filter(|load| load.places);
        let mut board = Self {
            world,
            rules,
            rows: rows(world, rules),
            copies: Vec::new(),
            places: places().count() as u16,
            racks: places().map(|load| load.rack).collect::<BTreeSet<_>>().len(),
            loads,
            by_ratio: BTreeSet::new(),
            preferred: preferred(world, rules),
            cold,
            moves: Vec::new(),
            unplaced: Vec::new(),
            unplaced_at: HashMap::new(),
            figures: Figures::default(),
        };
        board.fill();
        board
    }

    /// Lays the copies out segment by segment, with room for those that the plan adds.
    fn fill(&mut self) {
        let world = self.world;
        for node in 0..world.nodes.len() {
            lines(world, node, |segment, _, _| self.rows[segment].len += 1);
        }
        let mut start = 0_u32;
        for row in &mut self.rows {
            // one more than missing can be: a move, or a copy that gave way and found another place
            row.room = if row.target == 0 { row.len } else { row.len + u16::from(row.target) + 1 };
            row.start = start;
            start += u32::from(row.room);
            row.len = 0;
        }
        let blank = Copy { entry: NONE, held: NONE, node: 0, state: State::Stray, flags: 0 };
        self.copies = vec![blank; start as usize];
        for node in 0..world.nodes.len() {
            lines(world, node, |segment, entry, held| self.take(node, segment, entry, held));
        }
        for load in &mut self.loads {
            load.before = load.used;
        }
    }

    fn take(&mut self, node: usize, segment: usize, entry: u32, held: u32) {
        let view = &self.world.nodes[node];
        let wanted = self.world.segments[segment].wanted;
        let load = &mut self.loads[node];
        let mut flags = 0;
        let holding = (held != NONE).then(|| view.held[held as usize].version);
        if let Some(version) = holding {
            load.used += version.length;
            flags |= HELD;
            if Some(version) == wanted {
                flags |= HELD_WANTED;
            }
        }
        let (state, told) = match (entry != NONE).then(|| view.entries[entry as usize]) {
            Some(told) => {
                if holding != Some(told.version) {
                    load.used += told.version.length;
                }
                let state = match told.state {
                    CopyState::Hold => State::Hold,
                    CopyState::Leave => State::Leave,
                    CopyState::Drain { .. } => State::Drain,
                };
                (state, Some(told.version))
            }
            None if self.cold => (State::Hold, holding),
            None => (State::Stray, None),
        };
        if told.is_some() && told == wanted {
            flags |= TOLD_WANTED;
        }
        let row = &mut self.rows[segment];
        if flags & HELD_WANTED != 0 && load.reachable {
            row.copied = true;
            if state == State::Hold && flags & TOLD_WANTED != 0 {
                flags |= PROVEN;
            }
        }
        if state == State::Drain {
            flags |= WAS_DRAIN;
        }
        let copy = Copy { entry, held, node: node as u16, state, flags };
        self.copies[row.start as usize + usize::from(row.len)] = copy;
        row.len += 1;
    }

    pub(super) fn copies(&self, segment: usize) -> &[Copy] {
        let row = &self.rows[segment];
        &self.copies[row.start as usize..][..usize::from(row.len)]
    }

    fn copy_mut(&mut self, segment: usize, at: usize) -> &mut Copy {
        &mut self.copies[self.rows[segment].start as usize + at]
    }

    /// What the pool's version of it takes, in bytes.
    pub(super) fn size(&self, segment: usize) -> u64 {
        self.world.segments[segment].wanted.map_or(0, |stamp| stamp.length)
    }

    pub(super) fn key(segment: usize) -> SegmentKey {
        SegmentKey(segment as u32)
    }

    /// How many proven copies allow another to go.
    pub(super) fn enough(&self, segment: usize) -> u16 {
        u16::from(self.rows[segment].target).min(self.places)
    }

    /// The version of an entry that is written for `copy`; a new one has the pool's.
    pub(super) fn version(&self, segment: usize, copy: &Copy) -> Option<Stamp> {
        let view = &self.world.nodes[usize::from(copy.node)];
        let old = || match (copy.entry, copy.held) {
            (NONE, NONE) => None,
            (NONE, held) => Some(view.held[held as usize].version),
            (entry, _) => Some(view.entries[entry as usize].version),
        };
        match copy.state {
            State::Hold => self.world.segments[segment].wanted,
            _ if copy.has(TOLD_WANTED) => self.world.segments[segment].wanted,
            _ => old(),
        }
    }

    /// Since when `copy` drains.
    pub(super) fn drains_since(&self, copy: &Copy) -> u64 {
        let told = self.world.nodes[usize::from(copy.node)].entries.get(copy.entry as usize);
        match told.map(|entry| entry.state) {
            Some(CopyState::Drain { since_ms }) => since_ms,
            Some(CopyState::Hold | CopyState::Leave) | None => self.world.now_ms,
        }
    }

    /// Whether there was an entry for `copy`.
    pub(super) fn was_told(copy: &Copy) -> bool {
        copy.entry != NONE
    }

    /// Makes a copy that was not to stay one that is, taking `extra` bytes of disk. The caller has seen that
    /// they are there.
    pub(super) fn keep(&mut self, segment: usize, at: usize, extra: u64) {
        let size = self.size(segment);
        let copy = self.copy_mut(segment, at);
        copy.state = State::Hold;
        copy.flags |= TOLD_WANTED;
        let node = usize::from(copy.node);
        let proven = copy.has(PROVEN);
        let row = &mut self.rows[segment];
        row.staying += 1;
        row.proven += u16::from(proven);
        let load = &mut self.loads[node];
        load.used += extra;
        load.largest = load.largest.max(size);
        self.promise(node, size);
    }

    /// Makes a copy that was to stay one that is not.
    pub(super) fn release(&mut self, segment: usize, at: usize, state: State) {
        let size = self.size(segment);
        let copy = self.copy_mut(segment, at);
        copy.state = state;
        let node = usize::from(copy.node);
        let proven = copy.has(PROVEN);
        let row = &mut self.rows[segment];
        row.staying -= 1;
        row.proven -= u16::from(proven);
        self.forget(node, size);
    }

    /// Changes the state of a copy that does not stay either way.
    pub(super) fn mark(&mut self, segment: usize, at: usize, state: State) {
        self.copy_mut(segment, at).state = state;
    }

    /// Whether another copy of the segment can be written down in this plan.
    pub(super) fn can_add(&self, segment: usize) -> bool {
        self.rows[segment].len < self.rows[segment].room
    }

    /// A new copy on `node`. The caller has seen that there is room.
    pub(super) fn add(&mut self, segment: usize, node: u16, from: Option<u16>, reason: MoveReason) {
        let copy = Copy { entry: NONE, held: NONE, node, state: State::Stray, flags: 0 };
        let at = usize::from(self.rows[segment].len);
        self.rows[segment].len += 1;
        *self.copy_mut(segment, at) = copy;
        self.keep(segment, at, self.size(segment));
        self.note_move(segment, node, from, reason);
    }

    /// Writes a pull down.
    pub(super) fn note_move(
        &mut self,
        segment: usize,
        to: u16,
        from: Option<u16>,
        reason: MoveReason,
    ) {
        let bytes = self.size(segment);
        if reason.capped() {
            self.figures.moved_bytes += bytes;
        }
        let (segment, from, to) = (Self::key(segment), from.map(NodeKey), NodeKey(to));
        self.moves.push(Move { segment, from, to, bytes, reason });
    }

    /// Writes down that a copy has no place.
    pub(super) fn note_unplaced(&mut self, segment: usize, why: Why) {
        let next = self.unplaced.len();
        let at = *self.unplaced_at.entry(segment).or_insert(next);
        if at == next {
            self.unplaced.push(Unplaced { segment: Self::key(segment), copies: 0, why });
        }
        self.unplaced[at].copies += 1;
    }

    /// Whether the cap on moved bytes allows `bytes` more.
    pub(super) fn within_cap(&self, bytes: u64) -> bool {
        let moved = self.figures.moved_bytes;
        moved == 0 || moved.saturating_add(bytes) <= self.rules.settings().moved_bytes_max
    }

    /// Takes `bytes` of what `node` will have.
    pub(super) fn promise(&mut self, node: usize, bytes: u64) {
        self.change_future(node, |future| future + bytes);
    }

    fn forget(&mut self, node: usize, bytes: u64) {
        self.change_future(node, |future| future - bytes);
    }

    fn change_future(&mut self, node: usize, change: impl FnOnce(u64) -> u64) {
        let load = &mut self.loads[node];
        let listed = self.by_ratio.remove(&(load.ratio().to_bits(), node as u16));
        load.future = change(load.future);
        if listed {
            // ratios are never negative, and such floats are in order of their bits
            self.by_ratio.insert((load.ratio().to_bits(), node as u16));
        }
    }

    /// Orders the nodes by what they will have; from here on every change keeps the order.
    pub(super) fn order_nodes(&mut self) {
        let listed = |(node, load): (usize, &Load)| {
            (load.places && load.quota > 0).then(|| (load.ratio().to_bits(), node as u16))
        };
        self.by_ratio = self.loads.iter().enumerate().filter_map(listed).collect();
    }

    /// Stored/quota over all nodes that take new copies.
    pub(super) fn average(&self) -> f64 {
        let places = self.loads.iter().filter(|load| load.places);
        let (future, quota) =
            places.fold((0_u64, 0_u64), |(f, q), load| (f + load.future, q + load.quota));
        if quota == 0 { 0.0 } else { future as f64 / quota as f64 }
    }
}

/// Every segment that `node` has a line for, in order: its entry and its holding.
fn lines(world: &World, node: usize, mut each: impl FnMut(usize, u32, u32)) {
    let view = &world.nodes[node];
    let (mut e, mut h) = (0, 0);
    loop {
        let entry = view.entries.get(e).map(|entry| entry.segment);
        let held = view.held.get(h).map(|held| held.segment);
        let segment = match (entry, held) {
            (Some(entry), Some(held)) => entry.min(held),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return,
        };
        let (told, has) = (entry == Some(segment), held == Some(segment));
        let at = |is: bool, index: usize| if is { index as u32 } else { NONE };
        each(segment.0 as usize, at(told, e), at(has, h));
        e += usize::from(told);
        h += usize::from(has);
    }
}

fn rows(world: &World, rules: &Rules) -> Vec<Row> {
    let mut scratch = Vec::new();
    let mut rows = vec![Row::default(); world.segments.len()];
    for (row, segment) in rows.iter_mut().zip(&world.segments) {
        if segment.wanted.is_none() {
            continue;
        }
        // a rule's index fits: RULES_MAX is below NO_RULE
        let rule = rules.find(segment.id.as_str(), &mut scratch);
        row.rule = rule.map_or(NO_RULE, |rule| rule as u8);
        row.target = rule.map_or(rules.settings().copies, |rule| rules.rules()[rule].copies);
    }
    rows
}

fn preferred(world: &World, rules: &Rules) -> Vec<Vec<u16>> {
    let nodes = |names: &Vec<String>| {
        names.iter().filter_map(|name| world.node_key(name)).map(|key| key.0).collect()
    };
    rules.rules().iter().map(|rule| nodes(&rule.nodes)).collect()
}
