//! What services promise, asked of a real Consul and of a SQLite file alike; then what only the one or the other can
//! be asked.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

#[macro_use]
#[path = "../support/contract.rs"]
mod contract;
mod consul;
#[path = "../support/consul_cli.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod consul_cli;
mod instances;
#[path = "../support/one_server.rs"]
mod one_server;
#[path = "../support/page.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod page;
mod places;
mod support;

use one_server::OneServer;
use places::File;

contract!(
    instances:
        what_is_registered_is_found_by_name_and_tag,
        who_registers_again_takes_the_place_of_what_was_there,
        an_instance_passes_while_its_check_passes,
        an_instance_keeps_its_health_when_it_registers_again,
        an_instance_under_maintenance_stays_so_until_that_or_it_ends,
        too_many_tags_are_refused_and_change_nothing,
        what_stays_critical_is_taken_out;
);

// these do harm to the whole place: each has one of its own

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_of_a_machine_with_a_file_takes_all_out() {
    instances::maintenance_of_a_machine_takes_all_out(&File::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_comes_back_empty_is_seen_so() {
    instances::a_place_that_comes_back_empty_is_seen_so(&File::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_of_a_machine_with_consul_takes_all_out_and_it_may_come_back_empty() {
    let consul = OneServer::own();
    instances::maintenance_of_a_machine_takes_all_out(&consul).await;
    instances::a_place_that_comes_back_empty_is_seen_so(&consul).await;
}
