//! The whole of trough on one machine, as a person starts it: real processes, a real mount, real HTTP.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "support/trough.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use rustix::process::{Signal, kill_process};
use support::{Trough, run, text, until};

#[test]
fn a_second_up_on_one_directory_is_refused_and_says_who_holds_it() {
    let trough = Trough::started();
    let second = trough.command(&["up"]);
    assert_eq!(second.status.code(), Some(1));
    let said = text(&second.stderr);
    let first = std::fs::read_to_string(trough.dir().join("lock")).unwrap();
    let pid = first.split("\"pid\":").nth(1).unwrap().split(',').next().unwrap();
    assert!(said.contains("is in use by process") && said.contains(pid), "{said}");
}

#[test]
fn a_put_file_becomes_an_answer_and_a_file_and_nothing_stays_after_the_stop() {
    let mut trough = Trough::started();
    trough.put("ohio", 7);
    trough.wait_answers("ohio", 7);
    let file = trough.mounted("ohio");
    let output = run("sqlite3", [file.to_str().unwrap(), "SELECT n FROM t"]);
    assert_eq!(text(&output.stdout), "7\n", "{}", text(&output.stderr));
    // the status is written anew every second
    until("the status says that it is held", || {
        text(&trough.command(&["status"]).stdout).contains("1 held")
    });
    assert!(std::fs::write(trough.dir().join("mount/new"), "x").is_err(), "the mount took a file");

    assert_eq!(trough.stop(), Some(0));
    assert_eq!(trough.mounts(), 0, "something is still mounted");
    assert_eq!(trough.processes(), [], "a process is left");
}

#[test]
fn a_changed_segment_is_answered_with_its_new_rows() {
    let trough = Trough::started();
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    trough.put("ohio", 2);
    trough.wait_answers("ohio", 2);
}

#[test]
fn what_the_reader_refuses_says_so() {
    let trough = Trough::started();
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    for (id, sql) in [("ohio", "DROP TABLE t"), ("ohio", "SELEKT"), ("utah", "SELECT 1")] {
        let (code, said) = trough.query(id, sql).unwrap_err();
        assert_eq!(code, 1, "{id}: {sql}: {said}");
        assert!(!said.trim().is_empty());
    }
}

#[test]
fn s10_each_process_that_is_killed_comes_back_by_itself() {
    // a killed child is said, with what follows from it while it is away
    let mut trough =
        Trough::new().allow("the child ended").allow("starting it again").allow("mount");
    trough.start();
    trough.wait_ready();
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    for (round, name) in (2..).zip(["fsd", "sync", "read", "write"]) {
        let before = trough.child_pid(name);
        kill_process(before, Signal::KILL).unwrap();
        until(&format!("{name} starts again"), || trough.child_pid(name) != before);
        trough.wait_answers("ohio", round - 1);
        // the synchronizer may be back a moment later than the reader
        trough.put("ohio", round);
        trough.wait_answers("ohio", round);
    }
    until("one mount", || trough.mounts() == 1);
}

#[test]
fn s5_a_killed_up_leaves_no_process_and_the_next_one_starts() {
    let mut trough = Trough::started();
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    trough.kill();
    until("the children end", || trough.processes().is_empty());
    until("nothing is mounted", || trough.mounts() == 0);
    trough.start();
    trough.wait_ready();
    trough.wait_answers("ohio", 1);
}

#[test]
fn a_hang_up_replaces_the_mount_process_without_a_failed_open() {
    let trough = Trough::started();
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    let before = trough.child_pid("fsd");
    let up = std::fs::read_to_string(trough.dir().join("lock")).unwrap();
    let up = up.split("\"pid\":").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    let up = rustix::process::Pid::from_raw(up).unwrap();
    kill_process(up, Signal::HUP).unwrap();
    let file = trough.mounted("ohio");
    until("the old process ends", || {
        std::fs::File::open(&file).expect("an open failed during the upgrade");
        !trough.processes().contains(&before)
    });
    assert_ne!(trough.child_pid("fsd"), before);
    trough.wait_answers("ohio", 1);
    assert_eq!(trough.mounts(), 1);
}

#[test]
fn the_segments_of_a_machine_are_listed_with_what_became_of_them() {
    let trough = Trough::started();
    trough.put("ohio", 1);
    trough.put("utah", 1);
    trough.wait_answers("ohio", 1);
    trough.wait_answers("utah", 1);
    let csv = |condition: &str| {
        text(&trough.command(&["segments", "--where", condition, "--format", "csv"]).stdout)
    };
    until("both are held", || csv("state = 'held' AND copies = 1").lines().count() == 3);
    assert!(csv("id GLOB 'u*'").lines().nth(1).unwrap().starts_with("utah,held,"));
}

#[test]
fn where_tokens_are_needed_the_commands_of_the_machine_have_them_and_others_do_not() {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut trough = Trough::new();
    for right in ["read", "write", "manage"] {
        let mut file = std::fs::OpenOptions::new();
        let path = trough.dir().join(right);
        let mut file = file.write(true).create_new(true).mode(0o600).open(path).unwrap();
        std::io::Write::write_all(
            &mut file,
            format!("# whose\n{right}-0123456789abcdef\n").as_bytes(),
        )
        .unwrap();
    }
    // a period that the trigger of `put` need not be waited for with
    trough = trough.with_settings_file(
        "[tokens]\nread_file = \"read\"\nwrite_file = \"write\"\nmanage_file = \"manage\"\n\n[sync]\nperiod_s = 3600\n",
    );
    trough.start();
    trough.wait_ready();
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    trough.put("ohio", 2);
    trough.wait_answers("ohio", 2);
    for order in ["now", "scrub"] {
        let ordered = trough.command(&["sync", order]);
        assert!(ordered.status.success(), "{order}: {}", text(&ordered.stderr));
    }
    assert_eq!(trough.ask("ohio", "SELECT n FROM t").0, 401);
    let orders = format!("http://127.0.0.1:{}/sync", trough.manager_port());
    assert_eq!(support::http("POST", &orders, "").0, 401);
}

#[test]
fn a_file_put_over_what_is_written_is_told_in_the_status_until_a_person_says_which_stays() {
    let mut trough = Trough::new()
        .with_settings(&["write.view_max_age_ms=100"])
        .allow("an order was not carried out")
        .allow("writes that were acknowledged here are an orphan");
    trough.start();
    trough.wait_ready();
    let order = |page: &str| {
        let url = format!("http://127.0.0.1:{}/{page}", trough.manager_port());
        support::http("POST", &url, r#"{"segment": "ohio"}"#)
    };
    let write = |sql: &str| {
        let url = format!("http://127.0.0.1:{}/?segment=ohio", trough.write_port());
        assert_eq!(support::http("POST", &url, sql), (200, "OK\n".to_owned()), "{sql}");
    };
    let status = || text(&trough.command(&["status"]).stdout);
    let put = |n: i64| {
        let file = trough.dir().join("foreign.sqlite");
        let db = rusqlite::Connection::open(&file).unwrap();
        db.execute_batch(&format!("CREATE TABLE t (n); INSERT INTO t VALUES ({n})")).unwrap();
        drop(db);
        let path = sync::store::StorePath::published(&"ohio".parse().unwrap());
        std::fs::rename(file, trough.dir().join("store").join(path.as_str())).unwrap();
    };
    let resolve = |keep: &str| {
        let said = trough.command(&["resolve", "ohio", "--keep", keep]);
        (said.status.code(), text(&said.stdout) + &text(&said.stderr))
    };
    trough.put("ohio", 1);
    assert_eq!(order("provision").0, 200);
    write("UPDATE t SET n = 2");
    let told = status();
    assert!(told.contains("1 segment open; 1 with writes that are not published, ohio"), "{told}");
    assert_eq!(order("promote").0, 200);
    let told = status();
    assert!(told.contains("1 segment open; all that was written is published"), "{told}");
    let (code, said) = resolve("theirs");
    assert!(code == Some(1) && said.contains("nothing to choose from"), "{said}");

    write("UPDATE t SET n = 3");
    put(100);
    let (code, said) = order("promote");
    assert!(code == 409 && said.contains("trough resolve"), "{code} {said}");
    let told = status();
    assert!(
        told.contains("attention   ohio on node") && told.contains("changed by somebody"),
        "{told}"
    );
    let (code, said) = resolve("ours");
    assert!(code == Some(0) && said.contains("what was written to ohio is published"), "{said}");
    trough.wait_answers("ohio", 3);

    write("UPDATE t SET n = 4");
    put(200);
    let (code, said) = resolve("theirs");
    assert!(code == Some(0) && said.contains("is the orphan ohio@"), "{said}");
    trough.wait_answers("ohio", 200);
    let told = status();
    assert!(!told.contains("writes  "), "{told}");
    let told = || status().contains("1 orphan with 1 row on node");
    support::until("the status says that something was overtaken, and how much", told);
    let listed = text(&trough.command(&["orphans", "list"]).stdout);
    assert!(listed.contains("ohio@"), "{listed}");
}
