//! Random histories against what a cache would hold and a registry was told.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    List(Vec<(usize, u64)>),
    Tell { fails: bool },
    Pull,
    Publish,
    Fail { refused: bool },
    See,
    Damage(usize),
    Wait(u64),
    Remove { fails: bool },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => prop::collection::btree_map(0_usize..6, 1_u64..4, 0..6)
            .prop_map(|map| Op::List(map.into_iter().collect())),
        3 => any::<bool>().prop_map(|fails| Op::Tell { fails }),
        4 => Just(Op::Pull),
        4 => Just(Op::Publish),
        1 => any::<bool>().prop_map(|refused| Op::Fail { refused }),
        4 => Just(Op::See),
        1 => (0_usize..6).prop_map(Op::Damage),
        2 => (0_u64..9).prop_map(Op::Wait),
        3 => any::<bool>().prop_map(|fails| Op::Remove { fails }),
    ]
}

/// What a cache would hold after the same steps, and what the registry was told.
#[derive(Default)]
struct Outer {
    cache: HashMap<SegmentId, Holding>,
    told: HashMap<SegmentId, PoolRow>,
    pulling: Vec<(SegmentId, PoolEntry)>,
}

fn apply(world: &mut World, outer: &mut Outer, op: Op) {
    match op {
        Op::List(entries) => world.list(&entries),
        Op::Tell { fails } => {
            let (upsert, remove) = world.state.take_dirty(3);
            let ids: Vec<_> =
                upsert.iter().map(|row| row.id.clone()).chain(remove.iter().cloned()).collect();
            if fails {
                world.state.tell_failed(ids.into_iter());
                return;
            }
            outer.told.extend(upsert.into_iter().map(|row| (row.id.clone(), row)));
            outer.told.retain(|id, _| !remove.contains(id));
            world.state.told(ids.iter(), world.now);
        }
        Op::Pull => outer.pulling.extend(world.state.next_pull(world.now)),
        Op::Publish => {
            let Some((id, entry)) = outer.pulling.pop() else { return };
            let mut new = holding(0, entry.stamp.mtime_ms);
            new.version.digest = blake3::hash(format!("{id} {entry:?}").as_bytes()).into();
            new.id = id.clone();
            outer.cache.insert(id, new.clone());
            world.state.published(new);
        }
        Op::Fail { refused } => {
            let Some((id, entry)) = outer.pulling.pop() else { return };
            world.state.failed(&id, entry.stamp, refused, "reason".into(), world.now);
        }
        Op::See => {
            for (id, digest) in world.state.unseen() {
                world.state.seen(&id, digest);
            }
        }
        Op::Damage(n) => {
            if outer.cache.get(&id(n)).is_some_and(|holding| holding.published) {
                outer.cache.remove(&id(n));
                world.state.damaged(&[id(n)]);
            }
        }
        Op::Wait(seconds) => world.now += Duration::from_secs(seconds),
        Op::Remove { fails } => {
            for removal in world.state.due_removals(world.now) {
                let (Removal::Unpublish(id) | Removal::Remove(id)) = &removal;
                match (&removal, fails) {
                    (_, true) => {}
                    (Removal::Remove(_), false) => drop(outer.cache.remove(id)),
                    (Removal::Unpublish(_), false) => {
                        if let Some(holding) = outer.cache.get_mut(id) {
                            holding.published = false;
                        }
                    }
                }
                world.state.removal_ended(id, outer.cache.get(id).cloned());
            }
            world.state.assign(&world.assignment);
        }
    }
}

fn check(world: &World, outer: &Outer) -> Result<(), TestCaseError> {
    let state = &world.state;
    let mut counts = SegmentCounts { pool: state.pool.len() as u64, ..SegmentCounts::default() };
    for id in state.pool.keys() {
        *counts.of(state.judge(id).0) += 1;
    }
    counts.withdrawn = state.withdrawn.len() as u64;
    prop_assert_eq!(state.counts(), counts, "a count is off");
    for (id, row) in &outer.told {
        let now = state.row(id);
        prop_assert!(now.as_ref() == Some(row) || state.dirty.contains(id), "{} is stale", id);
    }
    let published = outer.cache.values().filter(|holding| holding.published);
    for holding in published {
        prop_assert_eq!(
            state.held.get(&holding.id),
            Some(holding),
            "the cache has what is not known"
        );
    }
    prop_assert_eq!(state.held.len(), outer.cache.values().filter(|h| h.published).count());
    // nothing that the registry calls held has left the cache
    for row in outer.told.values().filter(|row| row.state == SegmentState::Held) {
        let held = outer.cache.get(&row.id).is_some_and(|holding| holding.published);
        prop_assert!(held || state.dirty.contains(&row.id), "{} is announced and gone", row.id);
    }
    Ok(())
}

/// Does all that is left to do; a state that never comes to rest is a defect.
fn settle(world: &mut World, outer: &mut Outer) {
    for _ in 0..50 {
        world.now += Duration::from_secs(100);
        while let Some(pull) = world.state.next_pull(world.now) {
            outer.pulling.push(pull);
        }
        while !outer.pulling.is_empty() {
            apply(world, outer, Op::Publish);
        }
        apply(world, outer, Op::See);
        apply(world, outer, Op::Tell { fails: false });
        apply(world, outer, Op::Tell { fails: false });
        apply(world, outer, Op::Remove { fails: false });
    }
}

proptest! {
    /// After any history the state agrees with the cache and the registry, and comes to rest with
    /// everything held that has a place.
    #[test]
    fn any_history_agrees_with_cache_and_registry_and_comes_to_rest(
        ops in prop::collection::vec(op(), 0..60),
        quota in prop_oneof![Just(1_000_u64), Just(35)],
    ) {
        let mut world = World::new(quota);
        let mut outer = Outer::default();
        for op in ops {
            apply(&mut world, &mut outer, op);
            check(&world, &outer)?;
        }
        settle(&mut world, &mut outer);
        check(&world, &outer)?;
        prop_assert!(world.state.settled());
        let counts = world.state.counts();
        prop_assert_eq!(counts.held, counts.pool.min(quota / 10));
        prop_assert_eq!(counts.pool - counts.held, counts.no_place);
        for id in world.state.pool().keys() {
            prop_assert_eq!(&outer.told[id], &world.state.row(id).unwrap());
        }
    }
}
