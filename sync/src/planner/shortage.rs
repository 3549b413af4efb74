//! What happens when no node has room: room that drains free is waited for, and what is of lower order gives
//! way to what is of higher order.
//!
//! Invariants: nothing gives way to something of lower or equal order, so an over-full pool settles; room that
//! was freed for a copy is kept for it from cycle to cycle, because the most important copy asks first.

use std::cmp::Reverse;

use super::board::{Board, State, TOLD_WANTED};
use super::load::Load;
use super::outcome::Why;
use super::place::Demands;
use super::settle::Demand;

/// How many missing copies of one plan may look for others to give way. Each looks at every node; those that
/// were not tried are tried when the more important ones have found their place.
const TRIES_MAX: u32 = 5_000;

/// What is known of room in this plan.
#[derive(Debug)]
pub(super) struct Shortage {
    /// No node has more room now.
    pub(super) room_now_max: u64,
    tries: u32,
    /// For each node the segments that stay there, the least important last; made when first needed.
    by_order: Vec<Vec<u32>>,
    /// No node will have more room when all has drained.
    room_later_max: u64,
}

impl Shortage {
    pub(super) fn new() -> Self {
        let by_order = Vec::new();
        Self { room_now_max: u64::MAX, tries: 0, by_order, room_later_max: u64::MAX }
    }

    /// Sees to it that there will be room for `demand`, and says why there is none now.
    pub(super) fn make_room(
        &mut self,
        board: &mut Board<'_>,
        demand: &Demand,
        missing: &mut Demands,
    ) -> Why {
        let segment = demand.segment;
        let size = board.size(segment);
        if self.tries >= TRIES_MAX && size > self.room_later_max {
            return Why::NoRoom;
        }
        let places = || board.loads.iter().filter(|load| load.places);
        // room only shrinks while copies are placed
        self.room_now_max = places().map(Load::room_now).max().unwrap_or(0);
        self.room_later_max = places().map(Load::room_later).max().unwrap_or(0);
        if places().all(|load| load.quota < size) {
            return Why::TooLarge;
        }
        let free = |node: &u16| !board.has_copy(segment, *node);
        let nodes: Vec<u16> = board.by_ratio.iter().map(|&(_, node)| node).filter(free).collect();
        let later = nodes.iter().find(|&&node| {
            let load = &board.loads[usize::from(node)];
            load.room_later() >= size
        });
        if let Some(&node) = later {
            board.promise(usize::from(node), size);
            return Why::RoomDrains;
        }
        if self.tries >= TRIES_MAX {
            return Why::NoRoom;
        }
        self.tries += 1;
        if self.by_order.is_empty() {
            self.by_order = orders(board);
        }
        let mut best: Option<(Demand, u16, Vec<usize>)> = None;
        for node in nodes {
            let Some(victims) = self.victims(board, demand, node, size) else { continue };
            let Some(dearest) = victims.iter().map(|&v| rank(board, v)).min() else { continue };
            // the least is the most important: the greatest of the dearest hurts least
            if best.as_ref().is_none_or(|(other, ..)| dearest > *other) {
                best = Some((dearest, node, victims));
            }
        }
        let Some((_, node, victims)) = best else { return Why::NoRoom };
        for victim in victims {
            let again = rank(board, victim);
            if let Some(at) = staying_at(board, victim, node) {
                board.release(victim, at, State::Drain);
                // it may find a place elsewhere; then it drains here only once it is held there
                missing.push(Reverse((Reverse(0), again)));
            }
        }
        board.promise(usize::from(node), size);
        self.room_later_max = u64::MAX;
        Why::RoomDrains
    }

    /// The least important copies on `node` that together make room for `demand`, all of lower order.
    fn victims(
        &mut self,
        board: &Board<'_>,
        demand: &Demand,
        node: u16,
        size: u64,
    ) -> Option<Vec<usize>> {
        let load = &board.loads[usize::from(node)];
        if load.quota < size {
            return None;
        }
        let list = &mut self.by_order[usize::from(node)];
        while list.last().is_some_and(|&s| staying_at(board, s as usize, node).is_none()) {
            list.pop();
        }
        let needed = size - load.room_later();
        let (mut victims, mut bytes) = (Vec::new(), 0);
        for &segment in list.iter().rev() {
            let segment = segment as usize;
            if staying_at(board, segment, node).is_none() {
                continue;
            }
            if rank(board, segment) <= *demand {
                return None;
            }
            bytes += board.size(segment);
            victims.push(segment);
            if bytes >= needed {
                return Some(victims);
            }
        }
        None
    }
}

impl Board<'_> {
    /// Where a quota became smaller than what is to stay: the least important copies leave, and are missing.
    pub(super) fn shed(&mut self, missing: &mut Vec<Demand>) {
        let over = |load: &Load| load.places && load.room_over() > 0;
        if !self.loads.iter().any(over) {
            return;
        }
        for (node, list) in (0_u16..).zip(orders(self)) {
            for segment in list.into_iter().rev() {
                if !over(&self.loads[usize::from(node)]) {
                    break;
                }
                let segment = segment as usize;
                let again = rank(self, segment);
                if let Some(at) = staying_at(self, segment, node) {
                    self.release(segment, at, State::Leave);
                    missing.push(again);
                }
            }
        }
    }
}

/// What is asked for by the last of a segment's copies: that one goes first.
fn rank(board: &Board<'_>, segment: usize) -> Demand {
    board.demand(segment, board.rows[segment].staying)
}

fn staying_at(board: &Board<'_>, segment: usize, node: u16) -> Option<usize> {
    board
        .copies(segment)
        .iter()
        .position(|copy| copy.node == node && copy.state == State::Hold && copy.has(TOLD_WANTED))
}

/// For each node the segments that stay there, the most important first.
fn orders(board: &Board<'_>) -> Vec<Vec<u32>> {
    let mut lists = vec![Vec::new(); board.loads.len()];
    for segment in 0..board.world.in_pool {
        for copy in board.copies(segment).iter().filter(|copy| copy.state == State::Hold) {
            lists[usize::from(copy.node)].push(segment as u32);
        }
    }
    for list in &mut lists {
        list.sort_by_cached_key(|&segment| rank(board, segment as usize));
    }
    lists
}
