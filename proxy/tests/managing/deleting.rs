//! Deletion, as the lead is told to do it.

use std::sync::Arc;

use proxy::segments::{ManageError, SegmentManager};
use sync::store::{Store, StorePath};
use sync::tomb::Tombs;

use crate::nodes::{FakeNode, Lead, in_time, locks};
use crate::support::id;

async fn published(lead: &Lead, segment: &str) {
    let (store, path) = (lead.place.store(), StorePath::published(&id(segment)));
    store.mkdir(&path.parent()).await.unwrap();
    let mut file = store.create(&path).await.unwrap();
    file.write(b"what was published".as_slice().into()).await.unwrap();
    file.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_is_deleted_once_however_many_order_it() {
    let lead = Lead::new().await;
    lead.pool(&[]).await;
    published(&lead, "ohio").await;
    let orders = (0..8).map(|_| {
        let manager = Arc::clone(&lead.manager);
        tokio::spawn(async move { manager.delete(&id("ohio")).await })
    });
    let mut deleted = 0;
    for order in orders.collect::<Vec<_>>() {
        match order.await.unwrap() {
            Ok(()) => deleted += 1,
            Err(error) => assert!(matches!(error, ManageError::NotFound(_)), "{error}"),
        }
    }
    assert_eq!(deleted, 1);
    let path = StorePath::published(&id("ohio"));
    assert_eq!(lead.place.store().stat(&path).await.unwrap(), None);
    let mut tombs = Tombs::default();
    tombs.look(&*lead.kv).await.unwrap();
    assert_eq!(tombs.ids().collect::<Vec<_>>(), [&id("ohio")]);
}

#[tokio::test]
async fn s3_what_is_written_or_has_rows_that_are_not_published_is_not_deleted() {
    let lead = Lead::new().await;
    let node = FakeNode::new(&lead, "a", 0, 100).await;
    lead.pool(&[("ohio", &["a"])]).await;
    published(&lead, "ohio").await;
    let refused = async |by: &str| {
        let error = lead.manager.delete(&id("ohio")).await.unwrap_err();
        assert!(matches!(&error, ManageError::Locked { .. }), "{error}");
        assert_eq!(error.status().as_u16(), 400);
        assert!(error.to_string().contains(by), "{error}");
        let path = StorePath::published(&id("ohio"));
        assert!(lead.place.store().stat(&path).await.unwrap().is_some());
    };
    node.own("ohio").await;
    refused("by a;").await;
    node.leave("ohio", true).await;
    refused("node a, which is gone").await;
    node.own("ohio").await;
    node.leave("ohio", false).await;
    let put = locks(&lead.place, "`trough put`").acquire(&id("ohio")).await.unwrap();
    refused("by `trough put`").await;
    put.release().await;
    lead.manager.delete(&id("ohio")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_orders_a_deletion_and_leaves_does_not_stop_it() {
    let lead = Lead::new().await;
    lead.pool(&[]).await;
    published(&lead, "ohio").await;
    let manager = Arc::clone(&lead.manager);
    let ordered = tokio::spawn(async move { manager.delete(&id("ohio")).await });
    let path = StorePath::published(&id("ohio"));
    let store: Arc<dyn Store> = lead.place.store();
    // as soon as it was taken up
    tokio::task::yield_now().await;
    ordered.abort();
    let _ = ordered.await;
    if store.stat(&path).await.unwrap().is_some() {
        // it had not even begun, or is under way: the next one waits for its turn and finds what is so then
        match in_time("the next", lead.manager.delete(&id("ohio"))).await {
            Ok(()) | Err(ManageError::NotFound(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(store.stat(&path).await.unwrap(), None);
}
