//! Ends and returns: what was acknowledged goes on where it was, or is kept and never published.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use proxy::writer::Desk;
use proxy::writer::orphans::Orphan;

use crate::support::*;

const TABLE: &str = "CREATE TABLE t (n INTEGER PRIMARY KEY)";

async fn written(place: &Place) -> Node {
    place.schema("default", TABLE).await;
    let node = place.start("one").await;
    node.desk.provision(&id("ohio"), Some(&id("default"))).await.unwrap();
    node.insert("ohio", 1).await;
    node.desk.promote(&id("ohio")).await.unwrap();
    node.insert("ohio", 2).await;
    node
}

/// The registry comes back empty.
fn forget(place: &Place) {
    for entry in std::fs::read_dir(place.dir.path()).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with("registry") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

async fn goes_on(place: &Place) {
    let node = place.start("one").await;
    until("it is taken up again", async || node.desk.entries().len() == 1).await;
    node.insert("ohio", 3).await;
    node.desk.promote(&id("ohio")).await.unwrap();
    assert_eq!(place.published("ohio"), Some(vec![1, 2, 3]));
    assert!(node.desk.files().orphans().unwrap().is_empty());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_what_was_not_published_goes_on_after_an_orderly_end() {
    let place = Place::new();
    written(&place).await.stop().await;
    goes_on(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_what_was_not_published_goes_on_after_a_death() {
    let place = Place::new();
    written(&place).await.die(&place, "ohio").await;
    // another process has it
    std::fs::rename(place.writable("one"), place.writable("gone")).unwrap();
    copy(&place.writable("gone"), &place.writable("one"));
    goes_on(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_what_was_not_published_goes_on_in_a_registry_that_came_back_empty() {
    let place = Place::new();
    written(&place).await.stop().await;
    forget(&place);
    place.schema("default", TABLE).await;
    goes_on(&place).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_what_another_overtook_is_an_orphan_and_never_published() {
    let place = Place::new();
    written(&place).await.die(&place, "ohio").await;
    std::fs::rename(place.writable("one"), place.writable("gone")).unwrap();
    copy(&place.writable("gone"), &place.writable("one"));
    // in these settings nobody waits for who is gone
    let two = place.start("two").await;
    two.desk.provision(&id("ohio"), None).await.unwrap();
    two.insert("ohio", 20).await;

    // while the other has it
    let one = place.start("one").await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(one.desk.entries().is_empty());
    assert_eq!(rows(&place.writable("one").join("ohio.sqlite")), [1, 2]);
    two.desk.promote(&id("ohio")).await.unwrap();
    assert!(two.desk.hand_back(&id("ohio")).await);

    // and afterwards
    until("it is set aside", async || !one.desk.files().orphans().unwrap().is_empty()).await;
    let orphans = one.desk.files().orphans().unwrap();
    assert_eq!(rows(&one.desk.files().orphan(&orphans[0])), [1, 2]);
    assert!(orphans[0].unpublished_since_ms.is_some());
    assert!(one.desk.entries().is_empty(), "nobody wants to write it");
    assert_eq!(place.published("ohio"), Some(vec![1, 20]));
    one.desk.provision(&id("ohio"), None).await.unwrap();
    one.insert("ohio", 21).await;
    one.desk.promote(&id("ohio")).await.unwrap();
    assert_eq!(place.published("ohio"), Some(vec![1, 20, 21]));
    assert_eq!(one.desk.files().orphans().unwrap(), orphans);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_what_was_set_aside_is_not_told_to_be_unpublished_any_more() {
    let place = Place::new();
    written(&place).await.stop().await;
    forget(&place);
    place.schema("default", TABLE).await;
    let two = place.start("two").await;
    two.desk.provision(&id("ohio"), None).await.unwrap();
    two.insert("ohio", 20).await;
    two.desk.promote(&id("ohio")).await.unwrap();
    assert!(two.desk.hand_back(&id("ohio")).await);

    // somebody wants to write it before the writer has looked at what it left
    let one = Desk::start(place.outside("one", Place::settings())).await.unwrap();
    one.provision(&id("ohio"), None).await.unwrap();
    assert_eq!(one.files().orphans().unwrap().len(), 1);
    let owner = one.owner(&id("ohio")).await.unwrap().unwrap();
    assert_eq!((owner.node.as_str(), owner.dirty_since_ms), ("one", None));
    assert_eq!(rows(&place.writable("one").join("ohio.sqlite")), [1, 20]);
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_everybody_is_told_of_an_orphan_for_as_long_as_it_is_there() {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    let metrics = METRICS.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap());
    let told = async |place: &Place| {
        let all = sync::orphans::read_all(&*place.kv()).await.unwrap();
        assert_eq!(all.not_understood, []);
        all.nodes
    };
    let place = Place::new();
    written(&place).await.die(&place, "ohio").await;
    std::fs::rename(place.writable("one"), place.writable("gone")).unwrap();
    copy(&place.writable("gone"), &place.writable("one"));
    let two = place.start("two").await;
    two.desk.provision(&id("ohio"), None).await.unwrap();
    two.insert("ohio", 20).await;
    two.desk.promote(&id("ohio")).await.unwrap();
    assert!(two.desk.hand_back(&id("ohio")).await);
    assert_eq!(told(&place).await, []);

    let one = place.start("one").await;
    until("it is told, and its rows are counted", async || {
        told(&place)
            .await
            .iter()
            .any(|node| node.orphans.iter().any(|orphan| orphan.rows.is_some()))
    })
    .await;
    let nodes = told(&place).await;
    let [node] = &nodes[..] else { panic!("{nodes:?}") };
    let orphan = &Orphan::all(one.desk.files()).unwrap()[0];
    assert_eq!((node.node.as_str(), node.count()), ("one", 1));
    let expected = sync::orphans::Orphan {
        segment: id("ohio"),
        epoch: orphan.note.epoch,
        unpublished_since_ms: orphan.note.unpublished_since_ms,
        set_aside_ms: orphan.set_aside_ms,
        bytes: orphan.bytes,
        rows: Some(1),
    };
    assert_eq!(node.orphans, [expected]);
    assert!(orphan.set_aside_ms > 0 && orphan.bytes > 0);
    // other tests have writers without orphans
    let gauge = |count| metrics.render().contains(&format!("\ntrough_write_orphans {count}\n"));
    until("the figure is 1", async || gauge(1)).await;

    // it outlives its node, and is told by that's next life
    one.stop().await;
    assert_eq!(told(&place).await, nodes);
    let one = place.start("one").await;
    until("it is told again", async || told(&place).await == nodes).await;
    one.desk.files().discard(&orphan_note(&one)).unwrap();
    until("nothing is told any more", async || told(&place).await.is_empty()).await;
    until("the figure is 0", async || gauge(0)).await;
    one.stop().await;
    two.stop().await;
}

fn orphan_note(node: &Node) -> proxy::writer::Note {
    node.desk.files().orphans().unwrap().remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_a_writer_whose_lock_is_lost_writes_nothing_more_and_takes_it_up_again() {
    let place = Place::new();
    let node = written(&place).await;
    let kv = place.kv();
    let key = sync::kv::Key::new(format!("trough/write/{}", id("ohio").label())).unwrap();
    let session = kv.get(&key).await.unwrap().unwrap().session.unwrap();
    kv.destroy_session(&session).await.unwrap();
    let mut refused = 0;
    until("it is open again", async || {
        let Some(Ok(_)) = node.write("ohio", "INSERT OR IGNORE INTO t VALUES (3)").await else {
            refused += 1;
            return false;
        };
        kv.get(&key).await.unwrap().unwrap().session.is_some_and(|new| new != session)
    })
    .await;
    assert!(refused > 0, "a lock that is lost is noticed");
    node.desk.promote(&id("ohio")).await.unwrap();
    assert_eq!(place.published("ohio"), Some(vec![1, 2, 3]));
    node.stop().await;
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
