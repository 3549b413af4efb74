//! The commands as a person calls them: the real binary, without the services behind it.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "support/trough.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

use support::{BINARY, free_port, run, text};

fn trough(dir: &Path, arguments: &[&str]) -> Output {
    let mut all = vec!["--dir", dir.to_str().unwrap()];
    all.extend(arguments);
    run(BINARY, all)
}

/// A server that gives one answer to one request; the request comes back.
fn answering(head: &'static str, body: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.windows(8).any(|part| part == b"SELECT 1") {
            let mut piece = [0; 1024];
            let length = connection.read(&mut piece).unwrap();
            assert!(length > 0, "the request broke off: {}", text(&request));
            request.extend_from_slice(&piece[..length]);
        }
        write!(connection, "HTTP/1.1 {head}\r\nconnection: close\r\n\r\n{body}").unwrap();
        text(&request)
    });
    (url, server)
}

fn query(head: &'static str, body: &'static str, format: &str) -> Output {
    let (url, server) = answering(head, body);
    let directory = tempfile::tempdir().unwrap();
    let output =
        trough(directory.path(), &["query", "ohio", "SELECT 1", "--format", format, "--url", &url]);
    let request = server.join().unwrap();
    assert!(request.starts_with("POST /?segment=ohio HTTP/1.1\r\n"), "{request}");
    output
}

#[test]
fn help_teaches_with_examples() {
    for arguments in [
        &["--help"][..],
        &["up", "--help"],
        &["put", "--help"],
        &["query", "--help"],
        &["sync", "plan", "--help"],
        &["sync", "decommission", "--help"],
        &["orphans", "--help"],
        &["orphans", "replay", "--help"],
        &["status", "--help"],
        &["segments", "--help"],
    ] {
        let output = run(BINARY, arguments);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("Examples:\n"), "{arguments:?}");
    }
}

#[test]
fn what_is_for_a_cluster_says_so_on_a_machine_on_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str]| {
        let output = trough(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.contains("set registry.kind = \"consul\""), "{arguments:?}: {said}");
    };
    for order in ["lead", "pause", "resume", "accept-quota"] {
        refused(&["sync", order]);
    }
    refused(&["sync", "decommission", "a"]);
    refused(&["sync", "plan"]);
    refused(&["up", "--lead"]);
    // what only the lead must say is asked for where it runs
    let set = ["--set", "registry.kind=consul", "--set", "node.name=a"];
    let others = ["--set", "node.read_address=a:1", "--set", "node.manager_address=a:2"];
    let arguments = [&set[..], &others, &["sync", "lead"]].concat();
    let said = text(&trough(directory.path(), &arguments).stderr);
    assert!(
        said.contains("node.lead_address: the other nodes of the cluster cannot use"),
        "{said}"
    );
}

#[test]
fn check_config_tells_every_problem_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("trough.toml");
    std::fs::write(&file, "[sync]\nperiod_s = 0\npuls = 3\n\n[log]\nformat = \"xml\"\n").unwrap();
    let output = trough(directory.path(), &["check-config"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    for part in
        [":3: ", "`puls`", "puls = 3\n", ":6: ", "`xml`", "`text`", "^^^^^", "2 settings to mend"]
    {
        assert!(said.contains(part), "{part} is missing in\n{said}");
    }
    std::fs::write(&file, "[sync]\nperiod_s = 0\n").unwrap();
    let said = text(&trough(directory.path(), &["check-config"]).stderr);
    assert!(said.contains(":2: sync.period_s: 0 is too small; allowed is 1 and above"), "{said}");
    // no other command works with settings that are wrong
    assert_eq!(trough(directory.path(), &["status"]).status.code(), Some(1));
}

#[test]
fn the_defaults_are_a_file_that_is_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let defaults = trough(directory.path(), &["check-config", "--defaults"]);
    assert!(defaults.status.success());
    std::fs::write(directory.path().join("trough.toml"), &defaults.stdout).unwrap();
    let output = trough(directory.path(), &["check-config"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("trough.toml is in order"));
}

#[test]
fn rows_are_printed_as_table_json_and_csv() {
    let body = "[{\"species\":\"gull, \\\"small\\\"\",\"n\":1},\n{\"species\":null,\"n\":22}]\n";
    let json = query("200 OK", body, "json");
    assert_eq!((json.status.code(), text(&json.stdout).as_str()), (Some(0), body));
    let csv = query("200 OK", body, "csv");
    assert_eq!(text(&csv.stdout), "species,n\n\"gull, \"\"small\"\"\",1\n,22\n");
    let table = query("200 OK", body, "table");
    let shown = text(&table.stdout);
    assert!(
        shown.contains(" species ") && shown.contains(" 22 ") && shown.ends_with("2 rows\n"),
        "{shown}"
    );
    assert_eq!(text(&query("200 OK", "[]\n", "table").stdout), "0 rows\n");
}

#[test]
fn what_the_reader_says_is_shown_as_it_is_and_the_exit_status_tells_the_kind() {
    for (head, code) in
        [("400 Bad Request", 1), ("404 Not Found", 1), ("503 Service Unavailable", 3)]
    {
        let output = query(head, "near \"x\": syntax error\n", "table");
        assert_eq!(output.status.code(), Some(code), "{head}");
        assert_eq!(text(&output.stderr), "near \"x\": syntax error\n");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn an_answer_that_breaks_off_is_no_success() {
    for format in ["table", "json", "csv"] {
        let output = query("200 OK", "[{\"n\":1},\n{\"n\":2}", format);
        assert_eq!(output.status.code(), Some(3), "{format}");
        assert!(text(&output.stderr).contains("broke off"), "{}", text(&output.stderr));
    }
}

#[test]
fn commands_say_when_nothing_runs_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("http://127.0.0.1:{}", free_port());
    for arguments in [&["status", "--url", &url][..], &["query", "ohio", "SELECT 1", "--url", &url]]
    {
        let output = trough(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(3));
        assert!(text(&output.stderr).contains("`trough up` starts it"), "{}", text(&output.stderr));
    }
}

#[test]
fn put_refuses_what_is_no_file_before_it_sends_anything() {
    let directory = tempfile::tempdir().unwrap();
    let output = trough(directory.path(), &["put", directory.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("nothing was published") && said.contains("/*.sqlite"), "{said}");
}

#[test]
fn put_publishes_without_any_service_and_leaves_no_lock() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ohio.sqlite");
    rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE t (n)").unwrap();
    for _ in 0..2 {
        let output = trough(directory.path(), &["put", file.to_str().unwrap()]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert!(directory.path().join("store/o/ohio.sqlite").is_file());
    let keys = rusqlite::Connection::open(directory.path().join("registry.keys.sqlite")).unwrap();
    let count = |sql| keys.query_row(sql, [], |row| row.get::<_, u64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM kv WHERE key LIKE 'trough/write/%'"), 0);
    assert_eq!(count("SELECT count(*) FROM session"), 0);
}

#[test]
fn up_writes_a_complete_settings_file_that_it_reads_again() {
    let directory = tempfile::tempdir().unwrap();
    // a port that is taken ends it right after the settings were written
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let up = ["up", "--read-port", &port, "--store", "hdfs://127.0.0.1:1/x"];
    let output = trough(directory.path(), &up);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("choose another port with --read-port"));
    let written = std::fs::read_to_string(directory.path().join("trough.toml")).unwrap();
    assert!(written.contains("url = \"hdfs://127.0.0.1:1/x\"\n"), "{written}");
    assert!(written.contains(&format!("read_listen = \"127.0.0.1:{port}\"\n")), "{written}");
    assert!(trough(directory.path(), &["check-config"]).status.success());
    let again = trough(directory.path(), &up);
    assert!(text(&again.stderr).contains("the command line goes before the settings file"));
}
