//! Owners that are gone, silent, or have lost what they wrote.

use std::sync::Arc;
use std::time::Duration;

use proxy::reader::ReaderSettings;
use sync::owners_view::OwnersView;

use crate::rig::wait_for;
use crate::scripted::{Act, Scripted, answer};
use crate::support::{BOUND, Node, World, patient};

const OLD: &str = "CREATE TABLE t (a); INSERT INTO t VALUES ('old');";
const NEW: &str = "CREATE TABLE t (a); INSERT INTO t VALUES ('new');";
const SQL: &str = "SELECT a FROM t";
const OLD_ROW: &str = "[{\"a\":\"old\"}]\n";
const NEW_ROW: &str = "[{\"a\":\"new\"}]\n";

/// Two nodes with an old version of `ohio`, which is soon to be written.
async fn two(world: &World) -> (Node, Node) {
    let (a, b) = (world.node("a").await, world.node("b").await);
    a.rig.segment("ohio", OLD);
    b.rig.segment("ohio", OLD);
    world.cluster.held("ohio", &["a", "b"]);
    (a, b)
}

#[tokio::test]
async fn s4_a_file_is_not_read_when_its_lease_has_passed() {
    let world = World::new();
    let (a, b) = two(&world).await;
    let written = a.own("ohio", NEW).await;
    written.dirty().await;
    for node in [&a, &b] {
        node.hears("ohio", Some(("a", true, true))).await;
        node.ask("ohio", SQL).await.is_written(NEW_ROW);
    }
    written.lease_passes();
    for node in [&a, &b] {
        node.ask("ohio", SQL).await.is_away("a");
    }
    written.lend();
    for node in [&a, &b] {
        node.ask("ohio", SQL).await.is_written(NEW_ROW);
    }
    // with nothing at stake any copy is as good
    written.clean().await;
    written.lease_passes();
    for node in [&a, &b] {
        node.hears("ohio", Some(("a", true, false))).await;
        node.ask("ohio", SQL).await.is_copied(OLD_ROW);
    }
}

#[tokio::test]
async fn s4_an_answer_whose_lease_passes_before_its_first_byte_is_none() {
    let world = World::new();
    let settings = ReaderSettings { writable_read_ms: 60_000, ..patient() };
    let (a, b) = (world.node_with("a", settings).await, world.node("b").await);
    b.rig.segment("ohio", OLD);
    world.cluster.held("ohio", &["b"]);
    let written = a.own("ohio", NEW).await;
    for node in [&a, &b] {
        node.hears("ohio", Some(("a", true, false))).await;
    }
    // only the file that is being written is read for long
    let slow = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 10000000) \
                SELECT a FROM t WHERE a = 'old' OR (SELECT max(n) FROM c) > 0";
    for node in [&a, &b] {
        written.lend();
        let passing = async {
            wait_for("it runs", BOUND, || written.is_being_read()).await;
            written.lease_passes();
        };
        let (answered, ()) = tokio::join!(node.ask("ohio", slow), passing);
        answered.is_copied(OLD_ROW);
    }
}

#[tokio::test]
async fn s3_rows_that_only_a_dead_owner_has_are_not_passed_over() {
    let world = World::new();
    let (a, b) = two(&world).await;
    let written = a.own("ohio", NEW).await;
    written.dirty().await;
    b.hears("ohio", Some(("a", true, true))).await;
    b.ask("ohio", SQL).await.is_written(NEW_ROW);
    // its machine is gone, and nobody has noticed
    a.rig.shutdown.cancel();
    wait_for("it is down", BOUND, || a.rig.served.is_finished()).await;
    b.ask("ohio", SQL).await.is_away("a");
    // its session has ended
    world.end_lock("ohio").await;
    b.hears("ohio", Some(("a", false, true))).await;
    b.ask("ohio", SQL).await.is_away("a");
}

#[tokio::test]
async fn a_dead_owner_without_rows_of_its_own_is_not_missed() {
    let world = World::new();
    let (a, b) = two(&world).await;
    let written = a.own("ohio", NEW).await;
    b.hears("ohio", Some(("a", true, false))).await;
    b.ask("ohio", SQL).await.is_written(NEW_ROW);
    a.rig.shutdown.cancel();
    wait_for("it is down", BOUND, || a.rig.served.is_finished()).await;
    b.ask("ohio", SQL).await.is_copied(OLD_ROW);
    world.end_lock("ohio").await;
    b.hears("ohio", Some(("a", false, false))).await;
    b.ask("ohio", SQL).await.is_copied(OLD_ROW);
    drop(written);
}

#[tokio::test]
async fn s3_an_owner_that_gives_up_with_rows_of_its_own_is_waited_for() {
    let world = World::new();
    let (a, b) = two(&world).await;
    let written = a.own("ohio", NEW).await;
    written.dirty().await;
    b.hears("ohio", Some(("a", true, true))).await;
    written.lease_passes();
    written.lock.leave(Some(1)).await;
    for node in [&a, &b] {
        node.hears("ohio", Some(("a", false, true))).await;
        node.ask("ohio", SQL).await.is_away("a");
    }
}

/// Cut from the registry right after its writer began: its reader never heard of the first rows.
#[tokio::test]
async fn s3_a_reader_that_heard_nothing_for_long_goes_by_what_its_own_writer_wrote_down() {
    let world = World::new();
    let settings = ReaderSettings { view_max_age_ms: 100, ..patient() };
    let a = world.node_with("a", settings.clone()).await;
    let unheard = Arc::<OwnersView>::default();
    let b = world.deaf_node_with("b", settings, unheard, tokio::spawn(async {})).await;
    let old = Duration::from_millis(200);
    for node in [&a, &b] {
        node.rig.segment("ohio", OLD);
        world.cluster.held("ohio", &[&node.name]);
        let written = node.own("ohio", NEW).await;
        if node.view.age().is_some() {
            node.hears("ohio", Some(("a", true, false))).await;
            node.deafen();
            wait_for("it is long ago", BOUND, || node.view.age().unwrap() > old).await;
        }
        node.ask("ohio", SQL).await.is_written(NEW_ROW);
        written.lease_passes();
        // the copy is as good as what was written
        let answer = node.ask("ohio", SQL).await;
        assert!(answer.view_age_ms.is_some(), "{answer:?}");
        answer.is_copied(OLD_ROW);
        for note in [Some(written.note(Some(1))), None] {
            node.write_note("ohio", note.as_ref());
            let answer = node.ask("ohio", SQL).await;
            assert_eq!((answer.status, answer.retry_after.as_deref()), (503, Some("1")));
            assert!(answer.text.contains("only this node has"), "{answer:?}");
        }
        node.write_note("ohio", Some(&written.note(None)));
        node.ask("ohio", SQL).await.is_copied(OLD_ROW);
        written.hand_back().await;
    }
}

/// What its writer wrote down is old when the registry says that another writes the segment.
#[tokio::test]
async fn what_was_heard_lately_counts_more_than_what_was_written_down() {
    let world = World::new();
    let (a, b) = two(&world).await;
    let written = a.own("ohio", NEW).await;
    b.write_note("ohio", Some(&written.note(Some(1))));
    b.hears("ohio", Some(("a", true, false))).await;
    written.lease_passes();
    b.ask("ohio", SQL).await.is_copied(OLD_ROW);
}

#[tokio::test]
async fn s4_who_is_asked_as_the_owner_does_not_take_a_copy() {
    let world = World::new();
    let (a, b) = two(&world).await;
    let of_reader = [("trough-forwarded-by", "b")];
    let of_owner = [("trough-forwarded-by", "b"), ("trough-forwarded", "owner")];
    a.ask_with("ohio", SQL, &of_reader).await.is_copied(OLD_ROW);
    assert_eq!(a.ask_with("ohio", SQL, &of_owner).await.status, 421);
    let written = a.own("ohio", NEW).await;
    // also who takes any copy gets the newest
    a.ask_with("ohio", SQL, &of_reader).await.is_written(NEW_ROW);
    a.ask_with("ohio", SQL, &of_owner).await.is_written(NEW_ROW);
    written.lease_passes();
    assert_eq!(a.ask_with("ohio", SQL, &of_owner).await.status, 421);

    // one that knows nothing of this, and takes what it has
    written.dirty().await;
    b.hears("ohio", Some(("a", true, true))).await;
    let older = Scripted::new(Act::Say(answer("200 OK", OLD_ROW))).await;
    world.cluster.member("a", &older.address.to_string());
    b.ask("ohio", SQL).await.is_away("a");
    let asked = older.asked();
    assert!(!asked.is_empty() && asked.iter().all(|head| head.contains("trough-forwarded: owner")));
    // what an owner says of itself is its answer
    older.queries(Act::Say(answer("429 Too Many Requests", "busy\n")));
    assert_eq!(b.ask("ohio", SQL).await.status, 429);
    written.clean().await;
    b.hears("ohio", Some(("a", true, false))).await;
    older.queries(Act::Say(answer("200 OK", OLD_ROW)));
    b.ask("ohio", SQL).await.is_copied(OLD_ROW);
}

#[tokio::test]
async fn an_owner_that_is_silent_is_given_up() {
    let world = World::new();
    let (a, b) = (world.node("a").await, world.node_with("b", ReaderSettings::default()).await);
    b.rig.segment("ohio", OLD);
    world.cluster.held("ohio", &["b"]);
    let written = a.own("ohio", NEW).await;
    written.dirty().await;
    b.hears("ohio", Some(("a", true, true))).await;
    let silent = Scripted::new(Act::SayAndHang(String::new())).await;
    silent.health(Act::SayAndHang(String::new()));
    world.cluster.member("a", &silent.address.to_string());
    let answered = tokio::time::timeout(BOUND, b.ask("ohio", SQL)).await.unwrap();
    answered.is_away("a");
    assert!(answered.text.contains("no answer within"), "{answered:?}");
    // one whose connection broke is asked again
    let breaks = Scripted::new(Act::SayAndClose(String::new())).await;
    world.cluster.member("a", &breaks.address.to_string());
    b.ask("ohio", SQL).await.is_away("a");
    assert_eq!(breaks.asked().len(), 2);
    written.clean().await;
    b.hears("ohio", Some(("a", true, false))).await;
    b.ask("ohio", SQL).await.is_copied(OLD_ROW);
}

#[tokio::test]
async fn on_a_machine_of_its_own_its_writer_is_the_only_one() {
    let world = World::new();
    let settings = ReaderSettings { view_max_age_ms: 50, ..patient() };
    let a = world.node_with("a", settings.clone()).await;
    let written = a.own("ohio", NEW).await;
    written.dirty().await;
    a.hears("ohio", Some(("a", true, true))).await;
    // a second reader of the same machine, with no way to others
    let elsewhere = proxy::reader::Elsewhere {
        route: None,
        owners: Some(Arc::clone(&a.view)),
        leases: Some(proxy::lease::Leases::new(
            a.writable.clone(),
            Arc::new(sync::clock::since_boot),
        )),
        ..world.cluster.elsewhere("a", &settings)
    };
    let alone = world.cluster.reader_of("alone", settings, elsewhere).await;
    assert_eq!(alone.ask_of("ohio", SQL).await, (200, NEW_ROW.to_owned()));
    written.lease_passes();
    let (status, text) = alone.ask_of("ohio", SQL).await;
    assert_eq!((status, text.contains("written by node a")), (503, true), "{text}");
}
