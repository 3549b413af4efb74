//! Which node the lead tells to write a segment.

use std::sync::Arc;

use proxy::segments::{ManageError, SegmentManager};
use sync::lead::{LeadStatus, Leader, Orders};

use crate::nodes::{Act, FakeNode, Lead, name, opened};
use crate::support::id;

#[tokio::test]
async fn one_that_does_not_lead_carries_nothing_out_and_says_who_does() {
    let lead = Lead::new().await;
    let node = FakeNode::new(&lead, "a", 0, 100).await;
    let leader = Leader { node: "x".to_owned(), address: "x:6111".to_owned(), since_ms: 1 };
    for leader in [Some(leader), None] {
        let known = leader.is_some();
        lead.status.send_replace(Arc::new(LeadStatus { leader, ..LeadStatus::default() }));
        let ohio = id("ohio");
        for error in [
            lead.manager.provision(&ohio, None).await.unwrap_err(),
            lead.manager.promote(&ohio).await.unwrap_err(),
            lead.manager.delete(&ohio).await.unwrap_err(),
        ] {
            assert_eq!(error.status().as_u16(), 421);
            assert_eq!(error.to_string().contains("x at x:6111"), known, "{error}");
        }
    }
    assert_eq!(node.asked(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn something_new_goes_to_the_least_full_node_and_all_who_ask_are_told_that_one() {
    let lead = Lead::new().await;
    let full = FakeNode::new(&lead, "a", 60, 100).await;
    let roomy = FakeNode::new(&lead, "b", 100, 1000).await;
    let mut out = FakeNode::new(&lead, "c", 0, 100).await;
    out.maintain().await;
    let leaving = FakeNode::new(&lead, "d", 0, 100).await;
    Orders::change(&*lead.kv, |orders| orders.decommission.extend([name("d")])).await.unwrap();
    let asks = (0..16).map(|_| {
        let manager = Arc::clone(&lead.manager);
        tokio::spawn(async move { manager.provision(&id("ohio"), Some(&id("web"))).await })
    });
    for ask in asks.collect::<Vec<_>>() {
        assert_eq!(ask.await.unwrap().unwrap(), opened(&roomy, "ohio"));
    }
    assert_eq!(roomy.busy_with(), 1, "they ask one after the other");
    for other in [&full, &out, &leaving] {
        assert_eq!(other.asked(), [""; 0], "{}", other.name);
    }
    // it is full now, and has the lock
    lead.pool(&[("ohio", &["a"])]).await;
    let again = lead.manager.provision(&id("ohio"), Some(&id("web"))).await.unwrap();
    assert_eq!(again, opened(&roomy, "ohio"));
    assert_eq!(full.asked(), [""; 0]);
}

#[tokio::test]
async fn a_segment_that_is_written_is_said_also_when_its_node_does_not_answer() {
    let lead = Lead::new().await;
    let mut owner = FakeNode::new(&lead, "a", 60, 100).await;
    let other = FakeNode::new(&lead, "b", 0, 100).await;
    owner.own("ohio").await;
    for act in [Act::Say(503, "no".to_owned()), Act::BreakOff] {
        owner.does(act);
        let said = lead.manager.provision(&id("ohio"), None).await.unwrap();
        assert_eq!(said.write_url, owner.write_url("ohio"));
        assert_eq!((said.size, said.schema), (None, Some(id("web"))));
    }
    owner.vanish().await;
    let said = lead.manager.provision(&id("ohio"), None).await.unwrap();
    assert_eq!(said.write_url, owner.write_url("ohio"));
    owner.go().await;
    let said = lead.manager.provision(&id("ohio"), None).await.unwrap();
    assert_eq!(said.write_url, "http://a:6222/?segment=ohio");
    assert_eq!(other.asked(), [""; 0]);
}

#[tokio::test]
async fn what_is_published_goes_to_the_holder_that_has_least_to_do() {
    let lead = Lead::new().await;
    let mut nodes = Vec::new();
    // the least full holds nothing of it
    for (node, stored) in [("a", 90), ("b", 80), ("c", 10), ("d", 0)] {
        nodes.push(FakeNode::new(&lead, node, stored, 100).await);
    }
    nodes[0].has_to_do(Some(9));
    nodes[1].has_to_do(Some(2));
    nodes[2].has_to_do(None);
    let holders: &[&str] = &["a", "b", "c", "gone"];
    let names = ["ohio", "iowa", "utah", "idaho"];
    lead.pool(&names.map(|name| (name, holders))).await;
    let provision =
        async |segment: &str| lead.manager.provision(&id(segment), Some(&id("web"))).await;
    assert_eq!(provision("ohio").await.unwrap(), opened(&nodes[1], "ohio"));
    // one that cannot be reached, and one that cannot take it
    nodes[1].vanish().await;
    assert_eq!(provision("iowa").await.unwrap(), opened(&nodes[0], "iowa"));
    nodes[0].does(Act::Say(507, "too many are open".to_owned()));
    nodes[2].has_to_do(Some(50));
    assert_eq!(provision("utah").await.unwrap(), opened(&nodes[2], "utah"));
    // nobody but those: three are enough
    nodes[2].does(Act::Say(503, "the writer does not run".to_owned()));
    let error = provision("idaho").await.unwrap_err();
    assert_eq!(
        (error.status().as_u16(), error.to_string()),
        (503, "the writer does not run".to_owned())
    );
    assert_eq!(nodes[3].asked(), [""; 0]);
}

#[tokio::test]
async fn a_holder_whose_reader_does_not_say_how_it_is_comes_last() {
    let lead = Lead::new().await;
    let silent = FakeNode::new(&lead, "a", 0, 100).await;
    let busy = FakeNode::new(&lead, "b", 90, 100).await;
    silent.has_to_do(None);
    busy.has_to_do(Some(1_000));
    lead.pool(&[("ohio", &["a", "b"])]).await;
    let said = lead.manager.provision(&id("ohio"), Some(&id("web"))).await.unwrap();
    assert_eq!(said, opened(&busy, "ohio"));
    assert_eq!(silent.asked(), [""; 0]);
}

#[tokio::test]
async fn where_no_node_takes_anything_there_is_no_room() {
    let lead = Lead::new().await;
    let error = lead.manager.provision(&id("ohio"), None).await.unwrap_err();
    assert!(matches!(error, ManageError::NoRoom { .. }), "{error}");
    let mut node = FakeNode::new(&lead, "a", 0, 100).await;
    node.vanish().await;
    let error = lead.manager.provision(&id("ohio"), None).await.unwrap_err();
    assert_eq!(error.status().as_u16(), 503);
    assert!(error.to_string().contains("node a at 127.0.0.1:"), "{error}");
}
