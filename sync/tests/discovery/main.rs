//! Who serves what, as DNS answers: on a real Consul, with `dig`; and what of it can be seen on a SQLite file.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

#[path = "../support/breaking.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod breaking;
#[path = "../support/consul_cli.rs"]
mod consul_cli;
mod counting;
mod dns;
mod lead;
#[path = "../support/leading.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod leading;
mod maintenance;
#[path = "../support/one_server.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod one_server;
mod outages;
#[path = "../support/page.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod page;
mod readers;
mod support;
mod telling;
