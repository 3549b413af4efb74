//! What every store of keys promises, asked of a real Consul and of a SQLite file alike; then what only the one
//! or the other can be asked.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

#[macro_use]
#[path = "../support/contract.rs"]
mod contract;
mod consul;
mod keys;
mod locks;
#[path = "../support/one_server.rs"]
mod one_server;
#[path = "../support/places.rs"]
mod places;
mod support;
mod watches;

use one_server::OneServer;
use places::File;

contract!(
    keys:
        a_key_reads_back_as_it_was_written,
        a_listing_is_what_lies_below_and_nothing_else,
        compare_and_set_sees_every_change,
        a_transaction_is_whole_or_nothing,
        a_refusal_names_each_operation_that_refused,
        what_exceeds_a_limit_is_refused_and_changes_nothing;
    locks:
        a_lock_has_one_holder_and_a_fence_that_grows,
        many_at_once_get_one_lock,
        a_transaction_takes_a_lock_or_changes_nothing,
        a_released_lock_is_free_at_once_and_a_destroyed_session_s_after_its_delay,
        a_session_that_is_not_renewed_ends_and_can_change_nothing;
    watches:
        a_watch_returns_on_a_change_and_on_nothing_else,
        a_watch_of_what_lies_below_sees_changes_and_removals,
        a_watch_that_waits_in_vain_ends,
        a_watch_sees_a_session_end;
);

// these do harm to the whole store: each has one of its own

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_comes_back_empty_is_seen_so() {
    watches::a_store_that_comes_back_empty_is_seen_so(&File::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consul_that_comes_back_empty_is_seen_so() {
    watches::a_store_that_comes_back_empty_is_seen_so(&OneServer::own()).await;
}
