//! What the schemas in the registry promise, asked of a real Consul and of a SQLite file alike.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

#[macro_use]
#[path = "../support/contract.rs"]
mod contract;
mod cases;
#[path = "../support/one_server.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod one_server;
#[path = "../support/places.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod places;

use one_server::OneServer;
use places::File;

contract!(
    cases:
        a_schema_reads_back_and_who_registers_it_is_told_whether_it_was_there,
        its_sql_alone_is_replaced_with_its_verbs_kept,
        a_listing_names_each_schema_by_its_id,
        many_at_once_create_one_schema_once,
        s11_what_is_not_understood_is_an_error_and_is_left_alone,
        what_is_too_long_is_refused_and_changes_nothing;
);

/// A registry that does not answer says nothing of what is registered.
#[tokio::test]
async fn a_registry_that_is_away_is_an_error_and_no_empty_list() {
    cases::nothing_is_said_of_a_registry_that_is_away().await;
}
