//! What an answer says of how late it may be.

use std::sync::Arc;
use std::time::Duration;

use proxy::reader::ReaderSettings;
use sync::owners_view::OwnersView;

use crate::rig::wait_for;
use crate::support::{BOUND, World, patient};

const TABLE: &str = "CREATE TABLE t (a); INSERT INTO t VALUES (1);";
const SQL: &str = "SELECT a FROM t";
const ROW: &str = "[{\"a\":1}]\n";

#[tokio::test]
async fn s3_a_copy_says_when_it_is_long_since_that_the_owners_were_heard_of() {
    let world = World::new();
    let settings = ReaderSettings { view_max_age_ms: 10_000, ..patient() };
    let fresh = world.node_with("fresh", settings).await;
    let settings = ReaderSettings { view_max_age_ms: 100, ..patient() };
    let old = world.node_with("old", settings.clone()).await;
    let never = Arc::new(OwnersView::default());
    let nobody = tokio::spawn(async {});
    let never = world.deaf_node_with("never", settings, never, nobody).await;
    old.rig.segment("ohio", TABLE);
    world.cluster.held("ohio", &["old"]);
    let written = fresh.own("utah", TABLE).await;
    for node in [&fresh, &old] {
        node.hears("utah", Some(("fresh", true, false))).await;
    }
    old.deafen();
    let long = Duration::from_millis(200);
    wait_for("it is old", BOUND, || old.view.age().unwrap() > long).await;

    // from its own mount, and from another's
    let answer = old.ask("ohio", SQL).await;
    answer.is_copied(ROW);
    let age_ms: u64 = answer.view_age_ms.unwrap().parse().unwrap();
    assert!(age_ms >= 200, "{age_ms}");
    let answer = never.ask("ohio", SQL).await;
    answer.is_copied(ROW);
    assert_eq!(answer.view_age_ms.as_deref(), Some("unknown"));
    // what is passed on says what the one knows that was asked first
    assert_eq!(fresh.ask("ohio", SQL).await.view_age_ms, None);
    // what is written is the newest that there is
    old.ask("utah", SQL).await.is_written(ROW);
    // what is not there may have been made meanwhile
    assert_eq!(fresh.ask("texas", SQL).await.status, 404);
    let answer = old.ask("texas", SQL).await;
    assert_eq!((answer.status, answer.view_age_ms.is_some()), (404, true));
    let answer = never.ask("texas", SQL).await;
    assert_eq!((answer.status, answer.retry_after.as_deref()), (503, Some("1")), "{answer:?}");
    drop(written);
}
