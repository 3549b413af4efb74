//! One node: from the first write to the last publication.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use proxy::writer::{OpenError, PromoteError};
use sync::publish::PublishError;

use crate::support::*;

const TABLE: &str = "CREATE TABLE t (n INTEGER PRIMARY KEY)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_a_segment_is_made_written_published_and_given_back() {
    let place = Place::new();
    place.schema("counts", TABLE).await;
    let settings = proxy::writer::WriterSettings { idle_s: 0, ..Place::settings() };
    let node = place.start_with("one", settings).await;
    assert!(node.write("ohio", "INSERT INTO t VALUES (1)").await.is_none(), "nobody opened it");
    let opened = node.desk.provision(&id("ohio"), Some(&id("counts"))).await.unwrap();
    assert_eq!(opened.schema, Some(id("counts")));
    node.insert("ohio", 1).await;
    assert_eq!(place.published("ohio"), None);
    let version = node.desk.promote(&id("ohio")).await.unwrap();
    assert_eq!(place.published("ohio"), Some(vec![1]));
    node.insert("ohio", 2).await;
    assert_eq!(place.published("ohio"), Some(vec![1]));
    let second = node.desk.promote(&id("ohio")).await.unwrap();
    assert_ne!(second.digest, version.digest);
    assert_eq!(node.desk.promote(&id("ohio")).await.unwrap(), second, "nothing was written since");
    assert_eq!(place.published("ohio"), Some(vec![1, 2]));
    // nobody serves it yet
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(node.desk.entries().len(), 1);
    place.served.0.store(true, Ordering::Relaxed);
    until("it is given back", async || node.desk.owner(&id("ohio")).await.unwrap().is_none()).await;
    assert!(node.desk.entries().is_empty());
    let left = std::fs::read_dir(place.writable("one")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "lock, lease and the one before, orphans: {left:?}");
    place.served.0.store(false, Ordering::Relaxed);
    node.desk.provision(&id("ohio"), None).await.unwrap();
    node.insert("ohio", 3).await;
    node.desk.promote(&id("ohio")).await.unwrap();
    assert_eq!(place.published("ohio"), Some(vec![1, 2, 3]));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_at_once_gets_one_segment_and_another_node_is_told_whose_it_is() {
    let place = Place::new();
    place.schema("default", TABLE).await;
    let (one, two) = (Arc::new(place.start("one").await), place.start("two").await);
    let asks = (0..16).map(|n| {
        let one = Arc::clone(&one);
        tokio::spawn(async move {
            one.desk.provision(&id("ohio"), Some(&id("default"))).await.unwrap();
            one.insert("ohio", n).await;
        })
    });
    for ask in asks.collect::<Vec<_>>() {
        ask.await.unwrap();
    }
    assert_eq!(rows(&place.writable("one").join("ohio.sqlite")).len(), 16);
    let error = two.desk.provision(&id("ohio"), Some(&id("default"))).await.unwrap_err();
    assert!(matches!(error, OpenError::Publish(PublishError::HeldBy { .. })), "{error:?}");
    let owner = two.desk.owner(&id("ohio")).await.unwrap().unwrap();
    assert_eq!(owner.write_address, "one:6222");
    assert!(owner.dirty_since_ms.is_some());
    Arc::into_inner(one).unwrap().stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_made_leaves_nothing_behind() {
    let place = Place::new();
    let node = place.start("one").await;
    let error = node.desk.provision(&id("ohio"), Some(&id("unheard"))).await.unwrap_err();
    assert!(matches!(error, OpenError::UnknownSchema(_)), "{error:?}");
    assert_eq!(node.desk.owner(&id("ohio")).await.unwrap(), None);
    let error = node.desk.promote(&id("ohio")).await.unwrap_err();
    assert!(matches!(error, PromoteError::NotOpen(_)), "{error:?}");
    // what is published and no database
    std::fs::create_dir_all(place.dir.path().join("store/bro")).unwrap();
    std::fs::write(place.dir.path().join("store/bro/broken.sqlite"), "no database").unwrap();
    let error = node.desk.provision(&id("broken"), None).await.unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    assert_eq!(node.desk.owner(&id("broken")).await.unwrap(), None);
    // the default schema need not be registered
    node.desk.provision(&id("texas"), Some(&id("default"))).await.unwrap();
    node.stop().await;
    let left = std::fs::read_dir(place.dir.path().join("store")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name != "texas.sqlite"), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_what_is_old_or_much_is_published_by_itself() {
    let place = Place::new();
    place.schema("default", TABLE).await;
    let settings = proxy::writer::WriterSettings { promote_after_s: 1, ..Place::settings() };
    let node = place.start_with("one", settings).await;
    node.desk.provision(&id("ohio"), Some(&id("default"))).await.unwrap();
    node.insert("ohio", 1).await;
    until("it is old", async || place.published("ohio") == Some(vec![1])).await;
    node.stop().await;
    let settings = proxy::writer::WriterSettings { promote_bytes: 1, ..Place::settings() };
    let node = place.start_with("one", settings).await;
    node.desk.provision(&id("ohio"), None).await.unwrap();
    node.insert("ohio", 2).await;
    until("it is much", async || place.published("ohio") == Some(vec![1, 2])).await;
    until("nobody is told more", async || {
        let owner = node.desk.owner(&id("ohio")).await.unwrap().unwrap();
        owner.dirty_since_ms.is_none()
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_a_file_that_somebody_else_put_is_never_overwritten() {
    let place = Place::new();
    place.schema("default", TABLE).await;
    let node = place.start("one").await;
    node.desk.provision(&id("ohio"), Some(&id("default"))).await.unwrap();
    node.insert("ohio", 1).await;
    node.desk.promote(&id("ohio")).await.unwrap();
    node.insert("ohio", 2).await;
    let foreign = place.dir.path().join("foreign.sqlite");
    let db = rusqlite::Connection::open(&foreign).unwrap();
    db.execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (77)").unwrap();
    drop(db);
    std::fs::rename(&foreign, place.dir.path().join("store/o/ohio.sqlite")).unwrap();
    let error = node.desk.promote(&id("ohio")).await.unwrap_err();
    assert!(matches!(error, PromoteError::Publish(PublishError::Conflict { .. })), "{error:?}");
    assert_eq!(place.published("ohio"), Some(vec![77]));
    // what is acknowledged is here, and stays writable
    node.insert("ohio", 3).await;
    node.stop().await;
    assert_eq!(rows(&place.writable("one").join("ohio.sqlite")), [1, 2, 3]);
}
