//! Who may run it, how often, and who may go away meanwhile.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::faults::{self, AGAIN, Asker, page, short, started, within};
use crate::support::{BINARY, PATIENCE, Trough, free_port, run, text, until};

/// Fault: two `trough up` on one port. The second says so, and starts and mounts nothing.
#[test]
fn a_second_up_on_one_port_is_refused_and_starts_nothing() {
    let trough = started(short(""));
    let other = tempfile::tempdir().unwrap();
    let dir = other.path().to_str().unwrap();
    let port = trough.read_port().to_string();
    let output = run(
        BINARY,
        ["up", "--dir", dir, "--read-port", &port, "--write-port", "0", "--manager-port", "0"],
    );
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("choose another port with --read-port"), "{said}");
    assert!(!Path::new(dir).join("mount").try_exists().unwrap(), "a mount point was made");
}

/// Fault: a client that goes away while its query runs. The query ends, and the gauges go back to 0 (S8).
#[test]
fn s8_a_client_that_goes_away_leaves_no_query_behind() {
    let patient = faults::SHORT.replace("query_ms = 2000", "query_ms = 60000");
    let trough = started(Trough::new().with_settings_file(&patient));
    trough.put("ohio", 1);
    trough.wait_answers("ohio", 1);
    let endless =
        "WITH RECURSIVE c(n) AS (VALUES(1) UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c";
    let gauge = |name: &str| {
        let page = page(&trough, "metrics").body;
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.map(|value| value.parse::<f64>().unwrap())
    };
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = std::net::TcpStream::connect(("127.0.0.1", trough.read_port())).unwrap();
        let length = endless.len();
        write!(
            client,
            "POST /?segment=ohio HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{endless}"
        )
        .unwrap();
        clients.push(client);
    }
    until("the queries run", || gauge("trough_read_queries_in_flight") == Some(3.0));
    drop(clients);
    within(AGAIN, "the queries end", || {
        gauge("trough_read_queries_in_flight") == Some(0.0)
            && gauge("trough_read_queries_admitted") == Some(0.0)
    });
}

/// As a user with no right but CAP_SYS_ADMIN, on a FUSE device of its own: up, put, query, stop.
#[test]
fn a_user_with_cap_sys_admin_alone_runs_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let device = dir.path().join("fuse");
    let (uid, gid) = ("65432", "65432");
    for arguments in [
        &["mknod", device.to_str().unwrap(), "c", "10", "229"][..],
        &["chown", "-R", "65432:65432", dir.path().to_str().unwrap()],
    ] {
        let output = run(arguments[0], &arguments[1..]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    // the built binary may lie where that user may not go
    let binary = dir.path().join("trough");
    std::fs::copy(BINARY, &binary).unwrap();
    let work = dir.path().join("work");
    let as_user = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", uid, "--regid", gid, "--clear-groups"]);
        command.args(["--inh-caps", "-all,+sys_admin", "--ambient-caps", "+sys_admin"]);
        command.args(["--bounding-set", "-all,+sys_admin"]).arg(&binary).args(arguments);
        command.arg("--dir").arg(&work).env("TMPDIR", dir.path()).stdin(Stdio::null());
        command
    };
    let (read, write, manager) = (free_port(), free_port(), free_port());
    let log = dir.path().join("log");
    let mut up = as_user(&[
        "up",
        "--read-port",
        &read.to_string(),
        "--write-port",
        &write.to_string(),
        "--manager-port",
        &manager.to_string(),
        "--set",
        &format!("mount.fuse_device={:?}", device.to_str().unwrap()),
    ])
    .stdout(File::create(dir.path().join("ready")).unwrap())
    .stderr(File::create(&log).unwrap())
    .spawn()
    .unwrap();
    let log = || std::fs::read_to_string(&log).unwrap();
    let mut story = || {
        let deadline = Instant::now() + PATIENCE;
        while !std::fs::read_to_string(dir.path().join("ready")).unwrap().contains("is ready") {
            if up.try_wait().unwrap().is_some() || Instant::now() > deadline {
                return Err("not ready".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let source = faults::database(&dir.path().join("ohio.sqlite"), 3);
        let put = as_user(&["put", source.to_str().unwrap()]).output().unwrap();
        if !put.status.success() {
            return Err(text(&put.stderr));
        }
        let url = format!("http://127.0.0.1:{read}/?segment=ohio");
        let asker = Asker::new(Duration::from_secs(30));
        let mut last = None;
        while Instant::now() < deadline {
            last = Some(asker.ask(&url, "SELECT count(*) AS n FROM t"));
            if matches!(&last, Some(Ok(answer)) if answer.body == "[{\"n\":3}]\n") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("{last:?}"))
    };
    let told = story();
    let _ = rustix::process::kill_process(Pid::from_child(&up), Signal::INT);
    let code = up.wait().unwrap().code();
    let left = trough::up::leftover::detach(&work.join("mount")).unwrap();
    assert_eq!((told, code, left), (Ok(()), Some(0), 0), "{}", log());
    let bad = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
    let log = log();
    assert_eq!(log.lines().filter(bad).collect::<Vec<_>>(), Vec::<&str>::new());
}
