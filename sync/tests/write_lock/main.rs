//! What every write lock promises, asked of a real Consul and of a SQLite file alike; then many processes at once on
//! one file, and orders of events that nobody thought of.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

#[macro_use]
#[path = "../support/contract.rs"]
mod contract;
#[path = "../support/breaking.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod breaking;
#[path = "../support/day.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod day;
#[path = "../support/one_server.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod one_server;
#[path = "../support/places.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod places;

mod documents;
mod holding;
mod losing;
mod orders;
mod owning;
mod processes;
mod support;
mod watching;

use one_server::OneServer;
use places::File;
use sync::registry::Epoch;

contract!(
    holding:
        s4_a_lock_has_one_holder_and_an_epoch_that_grows,
        what_is_given_back_is_free_at_once_and_leaves_nothing,
        a_hundred_locks_share_a_session,
        many_at_once_get_one_lock;
    losing:
        s4_a_dead_holder_is_followed_by_a_higher_epoch,
        s4_a_holder_whose_time_has_passed_does_not_hold,
        s4_the_end_of_the_session_ends_every_lock_and_the_next_has_a_new_one,
        a_lock_that_nobody_gives_back_is_free_when_its_time_is_over;
    owning:
        s4_a_segment_has_one_owner_whom_everybody_can_read,
        s4_what_an_owner_tells_last_stays_and_leaves_its_epoch,
        what_is_clean_goes_to_whoever_asks_first,
        rows_that_are_not_published_keep_the_lock_for_their_node,
        rows_that_are_not_published_keep_put_away_for_ever,
        a_time_that_is_counted_from_the_future_begins_now,
        a_lock_that_is_put_back_is_as_it_was,
        s3_rows_that_the_registry_forgot_are_told_from_the_first_moment,
        s4_what_is_told_under_a_lost_lock_changes_nothing;
    documents:
        who_asks_for_a_lock_that_is_held_is_told_by_whom,
        what_is_not_understood_is_left_as_it_is;
    watching:
        readers_hear_who_owns_what_and_what_is_at_stake,
        s9_what_was_heard_last_holds_while_the_registry_is_away;
);

// these do harm to the whole store: each has one of its own

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_a_file_that_comes_back_empty_or_garbled_gives_higher_epochs() {
    losing::s4_a_registry_that_comes_back_empty_or_garbled_gives_higher_epochs(&File::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_a_consul_that_comes_back_empty_or_garbled_gives_higher_epochs() {
    losing::s4_a_registry_that_comes_back_empty_or_garbled_gives_higher_epochs(&OneServer::own())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s9_a_file_that_comes_back_empty_takes_no_owner_away() {
    watching::s9_a_registry_that_comes_back_empty_takes_no_owner_away(&File::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s9_a_consul_that_comes_back_empty_takes_no_owner_away() {
    watching::s9_a_registry_that_comes_back_empty_takes_no_owner_away(&OneServer::own()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_incarnation_nobody_takes_a_lock() {
    losing::without_an_incarnation_nobody_takes_a_lock(&File::new()).await;
}

/// The golden file was written by the first version; every later one must read it for ever.
#[tokio::test]
async fn s11_a_file_of_version_1_is_read() {
    let place = File::new();
    std::fs::write(place.path(), include_bytes!("../../testdata/keys-v1.sqlite")).unwrap();
    let writers = support::Writers::new(&place);
    // who holds it there does so in an earlier boot, and its epoch is never given again
    let lock = writers.start("one").0.acquire(&support::id("ohio")).await.unwrap();
    assert_eq!(lock.epoch().incarnation, 7);
    assert!(lock.epoch() > Epoch { incarnation: 7, index: 5 });
}
