//! Tests of the supervisor with shell scripts as children.

use std::path::Path;

use super::*;

/// The bound of every wait for an event; none of the tests asserts a time.
const PATIENCE: Duration = Duration::from_secs(30);

fn waits() -> Waits {
    let ms = Duration::from_millis;
    Waits {
        restart_first: ms(10),
        restart_longest: ms(100),
        well_after: ms(60_000),
        kill_wait: ms(10_000),
    }
}

fn shell(name: &'static str, script: &str, stop_wait: Duration) -> ChildSpec {
    ChildSpec { name, program: "/bin/sh".into(), args: vec!["-c".into(), script.into()], stop_wait }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn alive(pid: &str) -> bool {
    // a zombie is dead, though its number is still taken
    let stat = text(Path::new(&format!("/proc/{}/stat", pid.trim())));
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test]
async fn s10_a_child_that_ends_is_started_again() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let script = format!("echo run >> {}; exit 3", log.display());
    let supervisor = Supervisor::start(vec![shell("a", &script, PATIENCE)], &waits());
    until("a third run", || text(&log).lines().count() >= 3).await;
    supervisor.stop().await;
    let runs = text(&log);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(text(&log), runs, "it was started again after the stop");
}

#[tokio::test]
async fn s10_a_killed_child_is_started_again() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let script = format!("echo $$ >> {}; exec sleep 1000", log.display());
    let supervisor = Supervisor::start(vec![shell("a", &script, PATIENCE)], &waits());
    until("the start", || text(&log).lines().count() == 1).await;
    let pid = Pid::from_raw(text(&log).trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    until("the restart", || text(&log).lines().count() == 2).await;
    let second = text(&log).lines().nth(1).unwrap().to_owned();
    supervisor.stop().await;
    assert!(!alive(&second));
}

#[tokio::test]
async fn children_stop_in_reverse_order_and_one_after_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let spec = |name: &'static str| {
        let script = format!(
            "trap 'echo {name} begins >> {log}; sleep 0.1; echo {name} ends >> {log}; exit 0' TERM; \
             touch {dir}/{name}; while :; do sleep 0.01; done",
            log = log.display(),
            dir = directory.path().display()
        );
        shell(name, &script, PATIENCE)
    };
    let supervisor = Supervisor::start(vec![spec("a"), spec("b"), spec("c")], &waits());
    for name in ["a", "b", "c"] {
        until("the start", || directory.path().join(name).try_exists().unwrap()).await;
    }
    supervisor.stop().await;
    assert_eq!(text(&log), "c begins\nc ends\nb begins\nb ends\na begins\na ends\n");
}

#[tokio::test]
async fn a_child_that_ignores_sigterm_is_killed_with_all_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let script = format!(
        "trap '' TERM; sleep 1000 & echo $! > {log}.tmp; echo $$ >> {log}.tmp; mv {log}.tmp {log}; \
         while :; do sleep 0.05; done",
        log = log.display()
    );
    let spec = shell("a", &script, Duration::from_millis(200));
    let supervisor = Supervisor::start(vec![spec], &waits());
    until("the start", || text(&log).lines().count() == 2).await;
    supervisor.stop().await;
    for pid in text(&log).lines() {
        until("the end", || !alive(pid)).await;
    }
}

#[tokio::test]
async fn a_replaced_child_ends_by_itself_while_the_next_one_runs() {
    let directory = tempfile::tempdir().unwrap();
    let (log, go) = (directory.path().join("log"), directory.path().join("go"));
    let script = format!(
        "echo $$ >> {log}; trap 'exit 0' TERM; while [ ! -e {go} ]; do sleep 0.01; done; [ $(wc -l < {log}) = 2 ] && \
         [ $$ = $(head -1 {log}) ] && exit 0; while :; do sleep 0.01; done",
        log = log.display(),
        go = go.display()
    );
    let supervisor = Supervisor::start(vec![shell("a", &script, PATIENCE)], &waits());
    until("the start", || text(&log).lines().count() == 1).await;
    supervisor.replace("a");
    until("the second start", || text(&log).lines().count() == 2).await;
    let pids: Vec<String> = text(&log).lines().map(str::to_owned).collect();
    assert!(alive(&pids[0]), "the first one was not left to drain");
    std::fs::write(&go, "").unwrap();
    until("the first one's end", || !alive(&pids[0])).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(text(&log).lines().count(), 2, "the drained child was started again");
    assert!(alive(&pids[1]));
    supervisor.stop().await;
    assert!(!alive(&pids[1]));
}

/// Not a test by itself: the process that the next test kills.
#[test]
fn helper_that_supervises_until_it_is_killed() {
    let Ok(log) = std::env::var("TROUGH_TEST_SUPERVISED_LOG") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let script = format!("echo $$ >> {log}; exec sleep 1000");
        let _supervisor = Supervisor::start(vec![shell("a", &script, PATIENCE)], &waits());
        std::future::pending::<()>().await;
    });
}

#[tokio::test]
async fn s10_children_of_a_killed_supervisor_end() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut supervisor = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "up::supervisor::tests::helper_that_supervises_until_it_is_killed"])
        .env("TROUGH_TEST_SUPERVISED_LOG", &log)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the start", || text(&log).ends_with('\n')).await;
    let pid = text(&log);
    assert!(alive(&pid));
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    until("the child's end", || !alive(&pid)).await;
}
