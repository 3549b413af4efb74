//! Takings, givings back, losses and waits in orders that nobody thought of.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use sync::registry::Epoch;
use sync::write_lock::{WriteLock, WriteLockError};

use crate::places::{File, Place};
use crate::support::*;

const WRITERS: usize = 3;
const SEGMENTS: usize = 2;

#[derive(Debug, Clone)]
enum Event {
    Take(usize, usize),
    GiveBack(usize, usize),
    Drop(usize, usize),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let who = || (0..WRITERS, 0..SEGMENTS);
    prop_oneof![
        4 => who().prop_map(|(writer, segment)| Event::Take(writer, segment)),
        2 => who().prop_map(|(writer, segment)| Event::GiveBack(writer, segment)),
        1 => who().prop_map(|(writer, segment)| Event::Drop(writer, segment)),
        2 => (0..7u64).prop_map(Event::Pass),
    ]
}

async fn run(events: Vec<Event>) {
    let place = File::new();
    let writers = Writers::new(&place);
    let processes: Vec<_> = (0..WRITERS).map(|n| writers.start(&n.to_string()).0).collect();
    let ids: Vec<_> = (0..SEGMENTS).map(|n| id(&n.to_string())).collect();
    let mut locks: HashMap<(usize, usize), WriteLock> = HashMap::new();
    let mut newest: HashMap<usize, Epoch> = HashMap::new();
    for event in events {
        match event {
            Event::Take(writer, segment) => {
                let holding = |locks: &HashMap<(usize, usize), WriteLock>| {
                    locks.iter().any(|((_, of), lock)| *of == segment && lock.holds())
                };
                match processes[writer].acquire(&ids[segment]).await {
                    Ok(lock) => {
                        assert!(!holding(&locks), "two hold it");
                        assert!(newest.insert(segment, lock.epoch()) < Some(lock.epoch()));
                        // one before it that nobody knows of any more gives nothing back
                        locks.insert((writer, segment), lock);
                    }
                    Err(WriteLockError::HeldBy { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            Event::GiveBack(writer, segment) => {
                if let Some(lock) = locks.remove(&(writer, segment)) {
                    let held = lock.holds();
                    lock.release().await;
                    if held {
                        assert_eq!(entry(&*place.open(), &ids[segment]).await, None);
                    }
                }
            }
            Event::Drop(writer, segment) => drop(locks.remove(&(writer, segment))),
            Event::Pass(seconds) => place.pass(Duration::from_secs(seconds)).await,
        }
        for ((_, segment), lock) in &locks {
            let confirmed = lock.confirm().await.unwrap();
            assert_eq!(confirmed, lock.holds());
            assert!(!confirmed || newest[segment] == lock.epoch());
        }
    }
    // whatever happened, all can be had when the time is over
    place.pass(TTL).await;
    assert!(!locks.values().any(WriteLock::holds));
    for id in &ids {
        processes[0].acquire(id).await.unwrap().release().await;
        assert_eq!(entry(&*place.open(), id).await, None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn s4_in_no_order_of_events_two_hold_a_lock_or_an_epoch_comes_again(
        events in prop::collection::vec(event(), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(events));
    }
}
