//! Somebody puts another file where a segment is published while it is written here.

use proxy::writer::PromoteError;
use sync::publish::PublishError;
use sync::store::StorePath;

use crate::support::*;

const TABLE: &str = "CREATE TABLE t (n INTEGER PRIMARY KEY)";

/// A row is published, another is not, and then somebody puts a file with the row 100 there.
async fn contested(place: &Place) -> Node {
    place.schema("default", TABLE).await;
    let node = place.start("one").await;
    node.desk.provision(&id("ohio"), Some(&id("default"))).await.unwrap();
    node.insert("ohio", 1).await;
    node.desk.promote(&id("ohio")).await.unwrap();
    node.insert("ohio", 2).await;
    put(place, 100);
    let error = node.desk.promote(&id("ohio")).await.unwrap_err();
    let PromoteError::Publish(PublishError::Conflict { .. }) = &error else { panic!("{error}") };
    assert!(error.to_string().contains("trough resolve"), "{error}");
    assert_eq!(place.published("ohio"), Some(vec![100]));
    node
}

fn put(place: &Place, row: i64) {
    let path = place.dir.path().join("store").join(StorePath::published(&id("ohio")).as_str());
    let aside = place.dir.path().join("aside.sqlite");
    let _ = std::fs::remove_file(&aside);
    let db = rusqlite::Connection::open(&aside).unwrap();
    db.execute_batch(&format!("{TABLE}; INSERT INTO t VALUES ({row})")).unwrap();
    drop(db);
    std::fs::rename(aside, path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_what_was_written_goes_over_another_file_only_when_a_person_says_so() {
    let place = Place::new();
    let node = contested(&place).await;
    node.insert("ohio", 3).await;
    node.desk.keep_ours(&id("ohio")).await.unwrap();
    assert_eq!(place.published("ohio"), Some(vec![1, 2, 3]));
    // said of that file, and of none that comes later
    node.insert("ohio", 4).await;
    put(&place, 200);
    node.desk.promote(&id("ohio")).await.unwrap_err();
    assert_eq!(place.published("ohio"), Some(vec![200]));
    node.desk.keep_ours(&id("ohio")).await.unwrap();
    assert_eq!(place.published("ohio"), Some(vec![1, 2, 3, 4]));
    assert!(node.desk.files().orphans().unwrap().is_empty());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_what_was_written_is_an_orphan_when_a_person_keeps_the_other_file() {
    let place = Place::new();
    let node = contested(&place).await;
    let name = node.desk.keep_theirs(&id("ohio")).await.unwrap().unwrap();
    let orphans = node.desk.files().orphans().unwrap();
    assert_eq!(orphans.len(), 1);
    assert_eq!(orphans[0].orphan_name(), name);
    assert_eq!(rows(&node.desk.files().orphan(&orphans[0])), [1, 2]);
    assert_eq!(place.published("ohio"), Some(vec![100]));
    assert!(node.write("ohio", "INSERT INTO t VALUES (3)").await.is_none(), "it is still open");
    // nobody's writes are waited for, and what goes on is what was kept
    assert_eq!(node.desk.owner(&id("ohio")).await.unwrap(), None);
    node.desk.provision(&id("ohio"), None).await.unwrap();
    node.insert("ohio", 3).await;
    node.desk.promote(&id("ohio")).await.unwrap();
    assert_eq!(place.published("ohio"), Some(vec![3, 100]));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_given_up_where_there_is_no_conflict() {
    let place = Place::new();
    place.schema("default", TABLE).await;
    let node = place.start("one").await;
    let error = node.desk.keep_theirs(&id("ohio")).await.unwrap_err();
    assert!(matches!(error, PromoteError::NotOpen(_)), "{error}");
    node.desk.provision(&id("ohio"), Some(&id("default"))).await.unwrap();
    node.insert("ohio", 1).await;
    let error = node.desk.keep_theirs(&id("ohio")).await.unwrap_err();
    assert!(matches!(error, PromoteError::NoConflict(_)), "{error}");
    node.insert("ohio", 2).await;
    // and to keep ours is to publish
    node.desk.keep_ours(&id("ohio")).await.unwrap();
    assert_eq!(place.published("ohio"), Some(vec![1, 2]));
    node.stop().await;
}
