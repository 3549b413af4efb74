//! What a person does about writes that were overtaken elsewhere: see them, get them out, put them back, discard them.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fsd::segment::SegmentId;
use proxy::writer::control::Control;
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};
use sync::store::StorePath;

use crate::cluster::{BINARY, Cluster, Role, until};
use crate::segment;
use crate::steps::{http, text};
use crate::support::{self, Trough};

const TABLES: &str =
    "CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT); CREATE TABLE log (at, what, PRIMARY KEY (at, what));
     CREATE TABLE again (what)";
/// Rows that are in the orphan alone: more than three requests of them.
const ROWS: i64 = 3_300;

fn id(name: &str) -> SegmentId {
    SegmentId::new(name).unwrap()
}

/// Publishes a segment of that content, past everybody.
fn publish(store: &Path, name: &str, sql: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made");
    Connection::open(&path).unwrap().execute_batch(&format!("{TABLES};{sql}")).unwrap();
    let path = std::fs::read(path).unwrap();
    segment::lay(&store.join(StorePath::published(&id(name)).as_str()), &path);
}

/// What is published: every row with how often it is there, tables together.
fn published(store: &Path, name: &str) -> BTreeMap<String, u64> {
    content(&store.join(StorePath::published(&id(name)).as_str()))
}

fn content(path: &Path) -> BTreeMap<String, u64> {
    let db = Connection::open(path).unwrap();
    let mut rows = BTreeMap::new();
    for sql in [
        "SELECT 't ' || k || ' ' || v FROM t",
        "SELECT 'log ' || typeof(at) || at || hex(what) FROM log",
        "SELECT 'again ' || what FROM again",
    ] {
        let mut all = db.prepare(sql).unwrap();
        for row in all.query_map([], |row| row.get::<_, String>(0)).unwrap() {
            *rows.entry(row.unwrap()).or_default() += 1;
        }
    }
    rows
}

/// One machine of a cluster, with a writer and the lead.
struct One(Cluster);

impl One {
    fn new() -> Self {
        let mut cluster = Cluster::new();
        cluster.add("a");
        cluster.start_node("a");
        cluster.start("a", Role::Write);
        cluster.start("a", Role::Lead);
        for part in ["the registry has no incarnation", "are an orphan", "is not open yet"] {
            cluster.allow(part);
        }
        cluster.until_the_lead("the node is there", |lead| {
            lead.cycle.as_ref().is_some_and(|cycle| cycle.nodes.len() == 1)
        });
        Self(cluster)
    }

    fn store(&self) -> PathBuf {
        self.0.dir.path().join("store")
    }

    fn write_url(&self) -> String {
        let url = self.0["a"].lead_page("provision");
        let (status, said) = http("POST", &url, &json!({ "segment": "ohio" }).to_string());
        assert_eq!(status, 200, "{said}\n{}", self.0.logs());
        let said: Value = serde_json::from_str(&said).unwrap();
        said["write_url"].as_str().unwrap().to_owned()
    }

    /// What was published is `before`; then `ours` is acknowledged by the writer, which ends; then `theirs` is published,
    /// and it comes back.
    fn overtaken(&mut self, before: &str, ours: &str, theirs: &str) {
        publish(&self.store(), "ohio", before);
        let url = self.write_url();
        assert_eq!(http("POST", &url, ours), (200, "OK\n".to_owned()), "{}", self.0.logs());
        assert!(self.0.end("a", Role::Write, Signal::TERM).success());
        publish(&self.store(), "ohio", theirs);
        self.0.start("a", Role::Write);
        until(
            "the writer tells of its orphan",
            || (self.gauge() == Some("1")).then_some(()),
            || self.0.logs(),
        );
    }

    /// How many orphans the writer says that it has.
    fn gauge(&self) -> Option<&'static str> {
        let url = format!("http://127.0.0.1:{}/metrics", self.0["a"].write_port);
        let (_, page) = http("GET", &url, "");
        let has =
            |count: &&str| page.lines().any(|line| line == format!("trough_write_orphans {count}"));
        ["0", "1"].into_iter().find(has)
    }

    fn orphans(&self, arguments: &[&str]) -> Output {
        self.orphans_at("", arguments)
    }

    /// Killed where `failpoint` says.
    fn orphans_at(&self, failpoint: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.arg("--dir").arg(&self.0["a"].dir).arg("orphans").args(arguments);
        command.env("FAILPOINTS", failpoint).output().unwrap()
    }

    #[track_caller]
    fn says(&self, arguments: &[&str], code: i32, parts: &[&str]) -> String {
        says(&self.orphans(arguments), code, parts)
    }
}

#[track_caller]
fn says(output: &Output, code: i32, parts: &[&str]) -> String {
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
    said
}

fn insert(table: &str, values: impl IntoIterator<Item = String>) -> String {
    let values: Vec<_> = values.into_iter().collect();
    format!("INSERT INTO {table} VALUES {};", values.join(", "))
}

#[test]
fn s4_the_rows_of_an_orphan_are_put_back_once_however_often_that_is_begun() {
    let mut one = One::new();
    one.says(&["list"], 0, &["no orphans on this machine"]);
    one.says(&["replay", "ohio"], 2, &["this machine has none"]);
    // values of all kinds, equal rows among them
    let ours = format!(
        "{}{}INSERT INTO again VALUES ('a'), ('a'), ('a'), ('b')",
        insert("t", (10..10 + ROWS).map(|k| format!("({k}, 'ours {k}')"))),
        insert(
            "log",
            ["(0.1, x'00ff')", "(1, 'x')", "(1.5, 'x')", "(9e999, char(0))"].map(str::to_owned)
        ),
    );
    one.overtaken(
        "INSERT INTO t VALUES (1, 'same')",
        &ours,
        "INSERT INTO t VALUES (1, 'same'), (2, 'theirs'), (11, 'ours 11');
         INSERT INTO log VALUES (1.5, 'x'); INSERT INTO again VALUES ('a'), ('c')",
    );
    let before = published(&one.store(), "ohio");
    let missing = ROWS - 1 + 3 + 3;

    let said = one.says(&["list", "--rows", "--json"], 0, &[]);
    let listed: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&listed[0]["segment"], &listed[0]["missing"]), (&json!("ohio"), &json!(missing)));
    let name = listed[0]["name"].as_str().unwrap().to_owned();
    one.says(&["list"], 0, &[&name, "unpublished since"]);
    let rows = format!("{missing} rows");
    one.says(&["list", "--rows"], 0, &[&name, &rows, "table \"log\": 3 rows"]);

    let copy = one.0.dir.path().join("copy.sqlite");
    let path = copy.to_str().unwrap();
    one.says(&["export", "ohio", path], 0, &[&name, path]);
    let orphan = PathBuf::from(listed[0]["path"].as_str().unwrap());
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&orphan).unwrap());
    one.says(&["export", &name, path], 2, &["is there already"]);
    one.says(&["export", "texas", path], 2, &["there are ohio@"]);

    let are = format!("{missing} rows are not in what is published");
    one.says(&["replay", "ohio", "--dry-run"], 0, &[&are, "nothing was sent"]);
    assert_eq!(published(&one.store(), "ohio"), before);

    // it dies when the second request was acknowledged, and in the next run again
    for _ in 0..2 {
        let killed = one.orphans_at("replay.sent=1*off->return", &["replay", "ohio"]);
        assert_eq!(killed.status.signal(), Some(9), "{}", text(&killed.stderr));
    }
    let said = one.says(&["replay", &name], 0, &["nothing of it is missing any more"]);
    assert!(said.contains("sent ") && !said.contains(&are), "a part was there already: {said}");
    let mut expected = content(&copy);
    expected.extend([("t 2 theirs".to_owned(), 1), ("again c".to_owned(), 1)]);
    assert_eq!(published(&one.store(), "ohio"), expected, "nothing twice, and nothing missing");

    let said = one.says(&["replay", "ohio"], 0, &["nothing of it is missing any more"]);
    assert!(!said.contains("sent"), "{said}");
    assert_eq!(published(&one.store(), "ohio"), expected);

    one.says(&["discard", "ohio"], 2, &["ohio@EPOCH"]);
    one.says(&["discard", &name], 2, &["0 rows would be lost", "nothing was changed", "--yes"]);
    assert!(orphan.try_exists().unwrap());
    one.says(&["discard", &name, "--yes"], 0, &["is gone"]);
    assert_eq!(std::fs::read_dir(orphan.parent().unwrap()).unwrap().count(), 0);
    one.says(&["list"], 0, &["no orphans on this machine"]);
    until("the writer sees that", || (one.gauge() == Some("0")).then_some(()), || one.0.logs());
}

#[test]
fn what_contradicts_is_told_before_anything_is_sent_and_skipped_or_replaced_when_asked() {
    let mut one = One::new();
    one.overtaken(
        "",
        "INSERT INTO t VALUES (1, 'ours'), (2, 'ours'); INSERT INTO again VALUES ('ours')",
        "INSERT INTO t VALUES (2, 'theirs'); INSERT INTO log VALUES (1, 2)",
    );
    let before = published(&one.store(), "ohio");
    let row =
        "does not take the row (2, \"ours\"): UNIQUE constraint failed: t.k; nothing was sent";
    one.says(&["replay", "ohio"], 2, &[row, "--on-conflict"]);
    one.says(&["replay", "ohio", "--dry-run"], 2, &[row]);
    assert_eq!(published(&one.store(), "ohio"), before);

    let skip = ["replay", "ohio", "--on-conflict", "skip"];
    one.says(&skip, 0, &["3 rows are not in", "1 row is left out", "in the orphan alone"]);
    let with = |more: &[&str], less: &str| {
        let mut all = before.clone();
        all.extend(more.iter().map(|row| ((*row).to_owned(), 1)));
        all.remove(less);
        all
    };
    let skipped = with(&["t 1 ours", "again ours"], "");
    assert_eq!(published(&one.store(), "ohio"), skipped);
    one.says(&skip, 0, &["1 row is left out", "nothing else is missing"]);
    assert_eq!(published(&one.store(), "ohio"), skipped);

    let replace = ["replay", "ohio", "--on-conflict", "replace"];
    one.says(&replace, 0, &["1 row is not in", "nothing of it is missing any more"]);
    let replaced = with(&["t 1 ours", "t 2 ours", "again ours"], "t 2 theirs");
    assert_eq!(published(&one.store(), "ohio"), replaced);

    // another command is at it
    let orphans = one.0["a"].dir.join("writable/orphans");
    let lock = std::fs::read_dir(orphans).unwrap().map(|entry| entry.unwrap().path());
    let lock = lock.into_iter().find(|path| path.extension().is_some_and(|end| end == "lock"));
    let file = std::fs::File::open(lock.unwrap()).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    one.says(&["replay", "ohio"], 2, &["another `trough orphans`"]);
}

#[test]
fn a_table_that_is_gone_keeps_everything_from_being_sent() {
    let mut one = One::new();
    one.overtaken(
        "",
        "INSERT INTO t VALUES (1, 'x'); INSERT INTO again VALUES ('x')",
        "DROP TABLE again",
    );
    let parts = ["\"again\" have no place", "no such table", "nothing was sent"];
    one.says(&["replay", "ohio"], 2, &parts);
    std::fs::remove_file(one.store().join(StorePath::published(&id("ohio")).as_str())).unwrap();
    one.says(&["list", "--rows"], 0, &["2 rows"]);
    one.says(&["replay", "ohio"], 2, &["nothing is published as ohio", "trough put"]);
}

/// On a machine on its own, where only who has a token gives orders.
#[test]
fn s4_an_orphan_of_a_machine_on_its_own_is_put_back_with_its_token() {
    let trough = Trough::new();
    let token = trough.dir().join("manage");
    std::fs::write(&token, "a-token-that-is-long-enough-for-orders\n").unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&token, private).unwrap();
    let settings = "[write]\nview_max_age_ms = 200\n[tokens]\nmanage_file = \"manage\"\n";
    let mut trough = trough.with_settings_file(settings).allow("are an orphan");
    std::fs::create_dir_all(trough.store()).unwrap();
    publish(&trough.store(), "ohio", "");
    trough.start();
    trough.wait_ready();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let control = Control::new(&trough.dir().join("writable"));
    runtime.block_on(control.provision(&id("ohio"), None)).unwrap();
    let url = format!("http://127.0.0.1:{}/?segment=ohio", trough.write_port());
    assert_eq!(http("POST", &url, "INSERT INTO t VALUES (1, 'ours')").0, 200);
    assert_eq!(trough.stop(), Some(0));
    publish(&trough.store(), "ohio", "INSERT INTO t VALUES (2, 'theirs')");
    trough.start();
    trough.wait_ready();
    support::until("it is an orphan", || trough.log().contains("are an orphan"));
    let done = trough.command(&["orphans", "replay", "ohio"]);
    says(&done, 0, &["1 row is not in", "nothing of it is missing any more"]);
    let rows = "[{\"k\":1,\"v\":\"ours\"},\n{\"k\":2,\"v\":\"theirs\"}]\n".to_owned();
    support::until("it is read", || {
        trough.ask("ohio", "SELECT * FROM t ORDER BY k") == (200, rows.clone())
    });

    // it is needed
    std::fs::write(&token, "a-token-that-is-another-one-than-theirs\n").unwrap();
    let refused = trough.command(&["orphans", "replay", "ohio"]);
    says(&refused, 1, &["token"]);
}
