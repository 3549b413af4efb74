//! The order to publish a segment, on its way from the lead to the node that writes it.

use fsd::segment::Digest;
use proxy::segments::{ManageError, Promoted, SegmentManager};

use crate::nodes::{Act, FakeNode, Lead};
use crate::support::id;

#[tokio::test]
async fn the_node_that_writes_a_segment_publishes_it() {
    let lead = Lead::new().await;
    let owner = FakeNode::new(&lead, "a", 0, 100).await;
    let other = FakeNode::new(&lead, "b", 0, 100).await;
    let promote = async || lead.manager.promote(&id("ohio")).await;
    let error = promote().await.unwrap_err();
    assert!(matches!(error, ManageError::NotWritable(_)), "{error}");
    owner.own("ohio").await;
    let digest = Digest::from(blake3::hash(b"x"));
    let done = Promoted { remote_path: "/pool/ohio.sqlite".to_owned(), size: 4096, digest };
    assert_eq!(promote().await.unwrap(), done);
    for status in [400, 409, 500, 503] {
        owner.does(Act::Say(status, "because of this".to_owned()));
        let error = promote().await.unwrap_err();
        assert_eq!(
            (error.status().as_u16(), error.to_string()),
            (status, "because of this".to_owned())
        );
    }
    owner.does(Act::BreakOff);
    let error = promote().await.unwrap_err();
    assert!(error.to_string().contains("may still do so"), "{error}");
    assert_eq!(error.status().as_u16(), 503);
    // once more, if it says that it is another's
    owner.asked();
    owner.does(Act::Say(421, "it is written by b".to_owned()));
    assert_eq!(promote().await.unwrap_err().status().as_u16(), 421);
    assert_eq!(owner.asked().len(), 2);
    assert_eq!(other.asked(), [""; 0]);
}

#[tokio::test]
async fn what_its_node_has_not_published_is_not_nothing_to_promote() {
    let lead = Lead::new().await;
    let owner = FakeNode::new(&lead, "a", 0, 100).await;
    owner.own("ohio").await;
    owner.leave("ohio", true).await;
    let error = lead.manager.promote(&id("ohio")).await.unwrap_err();
    assert!(matches!(&error, ManageError::HolderAway { holder, .. } if holder == "a"), "{error}");
    // its lock holds, and it does not
    owner.own("ohio").await;
    owner.go().await;
    let error = lead.manager.promote(&id("ohio")).await.unwrap_err();
    assert!(error.to_string().contains("not registered"), "{error}");
    assert_eq!(error.status().as_u16(), 503);
}
