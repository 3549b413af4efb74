//! What becomes of the order to open a segment: refusals, answers that do not come, and rows that are not published.

use proxy::segments::{ManageError, SegmentManager};

use crate::nodes::{Act, FakeNode, Lead, opened};
use crate::support::id;

#[tokio::test]
async fn what_a_node_says_in_refusing_keeps_its_status_and_its_words() {
    let lead = Lead::new().await;
    let first = FakeNode::new(&lead, "a", 0, 100).await;
    let second = FakeNode::new(&lead, "b", 50, 100).await;
    for status in [400, 404, 409, 500] {
        first.does(Act::Say(status, "because of this\n".to_owned()));
        let error = lead.manager.provision(&id("ohio"), None).await.unwrap_err();
        assert_eq!(error.status().as_u16(), status);
        assert_eq!(error.to_string(), "because of this");
        assert_eq!(error.retry_after_s(), None);
    }
    assert_eq!(second.asked(), [""; 0], "another would say the same");
    for status in [421, 503, 507] {
        for node in [&first, &second] {
            node.does(Act::Say(status, format!("{} does not", node.name)));
        }
        let error = lead.manager.provision(&id("ohio"), None).await.unwrap_err();
        assert_eq!((error.status().as_u16(), error.to_string()), (status, "b does not".to_owned()));
        assert_eq!(error.retry_after_s().is_some(), status == 503);
        assert_eq!(second.asked().len(), 1);
    }
}

#[tokio::test]
async fn s4_an_order_whose_answer_does_not_come_is_given_to_no_other_node() {
    let lead = Lead::new().await;
    let first = FakeNode::new(&lead, "a", 0, 100).await;
    let second = FakeNode::new(&lead, "b", 50, 100).await;
    // it was done: the lock says so
    first.does(Act::OpenAndBreakOff);
    let said = lead.manager.provision(&id("ohio"), None).await.unwrap();
    assert_eq!(said.write_url, first.write_url("ohio"));
    // nobody knows
    for (segment, act) in
        [("iowa", Act::BreakOff), ("utah", Act::Say(200, "no JSON at all".to_owned()))]
    {
        first.does(act);
        let error = lead.manager.provision(&id(segment), None).await.unwrap_err();
        assert!(
            matches!(&error, ManageError::HolderAway { holder, .. } if holder == "node a"),
            "{error}"
        );
        assert_eq!(error.status().as_u16(), 503);
    }
    assert_eq!(second.asked(), [""; 0]);
    // a refusal that is none: it has the lock all the same, of an order before
    first.own("texas").await;
    first.does(Act::Say(503, "no".to_owned()));
    let said = lead.manager.provision(&id("texas"), None).await.unwrap();
    assert_eq!(said.write_url, first.write_url("texas"));
}

#[tokio::test]
async fn s3_rows_that_are_not_published_are_asked_of_the_node_that_has_them() {
    let lead = Lead::new().await;
    let mut owner = FakeNode::new(&lead, "a", 90, 100).await;
    let other = FakeNode::new(&lead, "b", 0, 100).await;
    lead.pool(&[("ohio", &["b"])]).await;
    owner.own("ohio").await;
    owner.leave("ohio", true).await;
    let provision = async || lead.manager.provision(&id("ohio"), Some(&id("web"))).await;
    owner.does(Act::Say(503, "its writer does not run".to_owned()));
    assert_eq!(provision().await.unwrap_err().to_string(), "its writer does not run");
    owner.does(Act::Open);
    assert_eq!(provision().await.unwrap(), opened(&owner, "ohio"));
    owner.leave("ohio", true).await;
    owner.vanish().await;
    let error = provision().await.unwrap_err();
    assert!(matches!(&error, ManageError::HolderAway { holder, .. } if holder == "node a"));
    assert_eq!(other.asked(), [""; 0]);

    // it is gone: another node's attempt shows whether its time is over, and begins to count it
    owner.go().await;
    let words = "segment ohio is held for writing by a, which does not answer: or wait 900s";
    other.does(Act::Say(503, words.to_owned()));
    let error = provision().await.unwrap_err();
    assert_eq!((error.status().as_u16(), error.to_string()), (503, words.to_owned()));
    assert_eq!(other.asked(), ["/provision ohio"]);
    // what was left clean is anybody's
    other.does(Act::Open);
    other.own("iowa").await;
    other.leave("iowa", false).await;
    let said = lead.manager.provision(&id("iowa"), Some(&id("web"))).await.unwrap();
    assert_eq!(said, opened(&other, "iowa"));
}

#[tokio::test]
async fn nodes_are_asked_with_the_token_that_they_want() {
    let lead = Lead::with_token(Some("0123456789abcdef")).await;
    let node = FakeNode::new(&lead, "a", 0, 100).await;
    lead.manager.provision(&id("ohio"), None).await.unwrap();
    lead.manager.promote(&id("ohio")).await.unwrap();
    assert_eq!(node.tokens(), ["Bearer 0123456789abcdef"; 2]);
    assert!(!format!("{:?}", lead.manager).contains("0123456789abcdef"));
}
