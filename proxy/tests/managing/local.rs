//! The segment manager of a node, with a real writer behind its socket.

use std::sync::atomic::Ordering;

use proxy::managing::local::{LocalManager, LocalOutside};
use proxy::segments::{ManageError, Provisioned, SegmentManager};
use proxy::writer::control::{Control, serve};
use sync::delete::PoolSource;
use sync::store::StorePath;
use tokio_util::sync::CancellationToken;

use crate::nodes::{deleter, in_time, locks, name};
use crate::support::{Node, Place, id, until};

const TABLE: &str = "CREATE TABLE t (n INTEGER PRIMARY KEY)";

fn manager(place: &Place, node: &str) -> LocalManager {
    LocalManager::new(LocalOutside {
        node: name(node),
        write_address: format!("{node}:6222"),
        view_max_age_ms: 77,
        control: Control::new(&place.writable(node)),
        store: place.store(),
        deleter: deleter(place, PoolSource::Table(place.kv())),
    })
}

/// A node with its writer, which takes orders until the token is cancelled.
async fn start(place: &Place, node: &str) -> (LocalManager, Node, CancellationToken) {
    let writer = place.start(node).await;
    let stop = CancellationToken::new();
    tokio::spawn(serve(writer.desk.clone(), stop.clone()));
    let control = Control::new(&place.writable(node));
    until("its writer takes orders", async || control.open().await.is_ok()).await;
    (manager(place, node), writer, stop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_is_opened_published_and_deleted_by_its_node() {
    let place = Place::new();
    place.schema("counts", TABLE).await;
    let (manager, writer, _stop) = start(&place, "n1").await;
    let ohio = id("ohio");
    let error = manager.promote(&ohio).await.unwrap_err();
    assert!(matches!(error, ManageError::NotWritable(_)), "{error}");
    let opened = manager.provision(&ohio, Some(&id("counts"))).await.unwrap();
    let Provisioned { write_url, size, schema, view_max_age_ms } = opened;
    assert_eq!(write_url, "http://n1:6222/?segment=ohio");
    assert!(size.is_some_and(|size| size >= 4096), "{size:?}");
    assert_eq!((schema, view_max_age_ms), (Some(id("counts")), None));
    writer.insert("ohio", 7).await;
    let promoted = manager.promote(&ohio).await.unwrap();
    assert_eq!(place.published("ohio"), Some(vec![7]));
    let path = StorePath::published(&ohio);
    let stamp = place.store().stat(&path).await.unwrap().unwrap();
    assert_eq!(promoted.remote_path, format!("{}/{path}", place.store().address()));
    assert_eq!(promoted.size, stamp.length);
    // readers may have copies now
    let again = manager.provision(&ohio, None).await.unwrap();
    assert_eq!((again.view_max_age_ms, again.schema), (Some(77), Some(id("counts"))));

    let error = manager.delete(&ohio).await.unwrap_err();
    assert!(matches!(&error, ManageError::Locked { holder, .. } if holder.contains("n1")));
    place.served.0.store(true, Ordering::Relaxed);
    assert!(Control::new(&place.writable("n1")).hand_back(&ohio).await.unwrap());
    manager.delete(&ohio).await.unwrap();
    assert_eq!(place.published("ohio"), None);
    writer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_node_writes_is_said_and_not_moved() {
    let place = Place::new();
    place.schema("counts", TABLE).await;
    let (one, writer, _stop) = start(&place, "n1").await;
    let (two, other, _stop_too) = start(&place, "n2").await;
    let ohio = id("ohio");
    one.provision(&ohio, Some(&id("counts"))).await.unwrap();
    let said = two.provision(&ohio, Some(&id("other"))).await.unwrap();
    assert_eq!(said.write_url, "http://n1:6222/?segment=ohio");
    assert_eq!(said.schema, Some(id("counts")));
    let error = two.promote(&ohio).await.unwrap_err();
    assert_eq!(error.status().as_u16(), 421);
    assert!(error.to_string().contains("n1"), "{error}");
    assert!(other.desk.entries().is_empty());
    assert_eq!(writer.desk.entries().len(), 1);

    // it has rows, and is gone
    writer.insert("ohio", 1).await;
    writer.stop().await;
    let error = two.promote(&ohio).await.unwrap_err();
    assert!(matches!(&error, ManageError::HolderAway { holder, .. } if holder == "n1"), "{error}");
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_is_being_put_is_locked_and_a_writer_that_is_away_is_said() {
    let place = Place::new();
    let (manager, writer, stop) = start(&place, "n1").await;
    let ohio = id("ohio");
    let put = locks(&place, "`trough put`").acquire(&ohio).await.unwrap();
    let error = manager.provision(&ohio, None).await.unwrap_err();
    assert!(matches!(&error, ManageError::Locked { holder, .. } if holder == "`trough put`"));
    put.release().await;
    stop.cancel();
    writer.stop().await;
    let away =
        async || matches!(manager.provision(&ohio, None).await, Err(ManageError::WriterAway(_)));
    in_time("the socket is closed", until("it is away", away)).await;
}
