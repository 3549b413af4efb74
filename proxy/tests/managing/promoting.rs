//! The order to publish a segment, on its way from the lead to the node that writes it.

use fsd::segment::Digest;
use proxy::segments::{Keep, ManageError, Promoted, Resolved, SegmentManager};

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
async fn a_conflict_is_ended_by_the_node_that_writes_the_segment() {
    let lead = Lead::new().await;
    let owner = FakeNode::new(&lead, "a", 0, 100).await;
    let resolve = async |keep| lead.manager.resolve(&id("ohio"), keep).await;
    let error = resolve(Keep::Ours).await.unwrap_err();
    assert!(matches!(error, ManageError::NotWritable(_)), "{error}");
    owner.own("ohio").await;
    owner.does(Act::Say(200, r#"{"orphan": "ohio@1-2"}"#.to_owned()));
    let kept = resolve(Keep::Theirs).await.unwrap();
    assert_eq!(kept, Resolved::Theirs(Some("ohio@1-2".to_owned())));
    let digest = blake3::hash(b"x");
    let said = format!(r#"{{"remote_path": "/p", "size": 7, "blake3": "{}"}}"#, digest.to_hex());
    owner.does(Act::Say(200, said));
    let promoted = Promoted { remote_path: "/p".to_owned(), size: 7, digest: Digest::from(digest) };
    assert_eq!(resolve(Keep::Ours).await.unwrap(), Resolved::Ours(promoted));
    owner.does(Act::Say(409, "there is no conflict".to_owned()));
    let error = resolve(Keep::Theirs).await.unwrap_err();
    assert_eq!((error.status().as_u16(), error.to_string()), (409, "there is no conflict".into()));
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
