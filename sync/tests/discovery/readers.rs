//! Segments, found by DNS at the nodes that serve them.

use std::collections::BTreeSet;
use std::time::Instant;

use fsd::segment::SegmentId;

use crate::dns::{addresses, places};
use crate::one_server::OneServer;
use crate::page::Page;
use crate::support::*;

fn hosts(hosts: &[&str]) -> Result<BTreeSet<String>, String> {
    Ok(hosts.iter().map(|&host| host.to_owned()).collect())
}

fn none() -> Result<BTreeSet<String>, String> {
    Err("NXDOMAIN".to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_finds_a_segment_at_the_nodes_that_serve_it() {
    let place = OneServer::own();
    let consul = place.consul();
    let services = on(consul);
    let at = |label: &str| addresses(consul, label, READ);
    let becomes = async |label: &str, expected: Result<BTreeSet<String>, String>| {
        until(&format!("{label} is at {expected:?}"), async || at(label) == expected).await;
    };
    let (odd, odd_label) = ("Big_Data.2024", id("Big_Data.2024").label().to_string());
    assert!(odd_label.starts_with("x--"), "{odd_label}");
    assert_eq!(at("nevada"), none());

    let one = Reader::start(&services, "one", "127.0.0.1").await;
    let two = Reader::start(&services, "two", "127.0.0.2").await;
    one.serves(&["nevada", odd]);
    two.serves(&["nevada"]);
    becomes("nevada", hosts(&["127.0.0.1", "127.0.0.2"])).await;
    let both = [&one, &two].map(|reader| reader.page.address().to_owned());
    assert_eq!(places(consul, "nevada", READ), BTreeSet::from(both));
    becomes(&odd_label, hosts(&["127.0.0.1"])).await;
    let its = BTreeSet::from([one.page.address().to_owned()]);
    assert_eq!(places(consul, &odd_label, READ), its);
    assert_eq!(at("utah"), none());

    // one does not serve it any more, then none
    two.serves(&["utah"]);
    becomes("nevada", hosts(&["127.0.0.1"])).await;
    becomes("utah", hosts(&["127.0.0.2"])).await;
    one.serves(&[odd]);
    becomes("nevada", none()).await;
    assert_eq!(at(&odd_label), hosts(&["127.0.0.1"]));

    // who is not well is not found
    one.page.says(503);
    becomes(&odd_label, none()).await;
    one.page.says(200);
    becomes(&odd_label, hosts(&["127.0.0.1"])).await;

    // nor who has stopped
    let page = one.stop().await;
    assert_eq!(readers(&services).await.len(), 1);
    assert_eq!(at(&odd_label), none());
    let again = Reader::behind(&services, "one", &settings(), page);
    again.serves(&["nevada"]);
    becomes("nevada", hosts(&["127.0.0.1"])).await;
    assert_eq!(at(&odd_label), none());
}

/// How long it takes is printed: what it may take is for the benchmarks to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_segments_of_a_node_are_found() {
    let place = OneServer::own();
    let consul = place.consul();
    let services = on(consul);
    let label = |n: usize| id(&format!("segment-{n:05}")).label().to_string();
    let ids = |range: std::ops::Range<usize>| -> BTreeSet<SegmentId> {
        // every other one with a label that is a hash
        let text = |n: usize| match n % 2 {
            0 => format!("segment-{n:05}"),
            _ => format!("Segment_{n:05}"),
        };
        range.map(|n| id(&text(n))).collect()
    };
    let reader = Reader::start(&services, "many", "127.0.0.1").await;
    let changes = [("first", 0..10_000), ("one more", 0..10_002), ("a tenth less", 0..9_000)];
    for (what, range) in changes {
        let begun = Instant::now();
        let (last, gone) = (label(range.end - 2), label(range.end));
        reader.serves.send_replace(Some(ids(range).into()));
        let is = async || {
            addresses(consul, &last, READ).is_ok() && addresses(consul, &gone, READ) == none()
        };
        until("it is told", is).await;
        println!("{what}: told and found after {} ms", begun.elapsed().as_millis());
    }
    let odd = id("Segment_00001").label().to_string();
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(addresses(consul, &odd, READ), hosts(&["127.0.0.1"]));
    }
    println!("a look-up with dig: {} ms", begun.elapsed().as_millis() / 20);
    let begun = Instant::now();
    assert_eq!(tags(&services).await.len(), 9_000);
    println!("all tags of the service: {} ms", begun.elapsed().as_millis());
}

/// The file of one machine has no DNS, and the rest of it.
#[tokio::test]
async fn on_one_machine_readers_are_found_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let services = on_file(dir.path());
    // was there before, and has nothing to tell yet
    let silent = Reader::start(&services, "silent", "127.0.0.1").await;
    let one = Reader::start(&services, "one", "127.0.0.1").await;
    one.serves(&["nevada", "Utah"]);
    let found = async || {
        let passing = services.instances(&name(READ), Some(&name("nevada")), true).await.unwrap();
        passing.iter().map(|found| found.address.to_string()).collect::<Vec<_>>()
    };
    until("it is found", async || found().await == [one.page.address()]).await;
    assert_eq!(tags(&services).await, ["nevada".to_owned(), id("Utah").label().to_string()]);
    one.page.says(500);
    assert!(found().await.is_empty());
    // nothing is not the same as nothing yet
    silent.serves(&[]);
    until("it is there too", async || readers(&services).await.len() == 2).await;
    let _: Page = one.stop().await;
    let left = readers(&services).await;
    assert_eq!((left.len(), left[0].tags.len()), (1, 0));
}
