//! What a test asks of a whole trough: its reader, its synchronizer, its mount, and its commands.

use super::*;

impl Trough {
    /// What the reader answers to one statement: status and body.
    pub fn ask(&self, id: &str, sql: &str) -> (u16, String) {
        http("POST", &self.url(id), sql)
    }

    /// The number that [`Self::put`] wrote, as the reader answers it.
    pub fn answer(&self, id: &str) -> Result<i64, (u16, String)> {
        let (status, body) = self.ask(id, "SELECT n FROM t");
        let rows: Option<serde_json::Value> = serde_json::from_str(&body).ok();
        let n = rows.as_ref().and_then(|rows| rows[0]["n"].as_i64());
        n.filter(|_| status == 200).ok_or((status, body))
    }

    /// Waits until the reader answers `n` for `id`.
    #[track_caller]
    pub fn wait_answer(&self, id: &str, n: i64) {
        let mut last = None;
        let deadline = Instant::now() + PATIENCE;
        while last.as_ref() != Some(&Ok(n)) {
            let log = || self.log();
            assert!(Instant::now() < deadline, "{id} does not answer {n}: {last:?}\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
            last = Some(self.answer(id));
        }
    }

    /// Waits until the reader's answer to any statement for `id` has this status; its body.
    #[track_caller]
    pub fn wait_refusal(&self, id: &str, status: u16) -> String {
        let mut body = String::new();
        until(&format!("{id} gives {status}"), || {
            let (got, text) = self.ask(id, "SELECT n FROM t");
            body = text;
            got == status
        });
        body
    }

    /// What the synchronizer says of itself.
    #[track_caller]
    pub fn status(&self) -> LocalStatus {
        let (status, body) = self.manager("GET", "/status");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// What `trough status` prints.
    pub fn status_text(&self) -> String {
        text(&self.command(&["status"]).stdout)
    }

    /// Waits until the synchronizer's status is as `holds` wants it.
    #[track_caller]
    pub fn wait_status(&self, what: &str, holds: impl Fn(&LocalStatus) -> bool) -> LocalStatus {
        let mut status = self.status();
        let deadline = Instant::now() + PATIENCE;
        while !holds(&status) {
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}: {status:#?}");
            std::thread::sleep(Duration::from_millis(20));
            status = self.status();
        }
        status
    }

    /// One page of the synchronizer: status and body.
    pub fn manager(&self, method: &str, path: &str) -> (u16, String) {
        http(method, &format!("http://127.0.0.1:{}{path}", self.manager_port), "")
    }

    /// Has the synchronizer look at the deep store `count` times, each to the end of what follows from it, also
    /// of the removals that wait for their drain time.
    #[track_caller]
    pub fn cycles(&self, count: usize) {
        for _ in 0..count {
            let (status, body) = self.manager("POST", "/sync?wait=1");
            assert_eq!(status, 200, "{body}{}", self.log());
            self.wait_status("nothing is on its way out", |s| s.work.draining == 0);
        }
    }

    /// The reason that the status gives for a segment that is not held.
    #[track_caller]
    pub fn wait_problem(&self, id: &str) -> String {
        let mut reason = None;
        until(&format!("{id} has a problem"), || {
            let problems = self.status().problems;
            reason = problems.into_iter().find(|p| p.id.as_str() == id).map(|p| p.reason);
            reason.is_some()
        });
        reason.unwrap()
    }

    /// The names of segments that the mount lists, in order.
    pub fn listed(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir().join("mount")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != ".trough");
        names.sort();
        names
    }

    /// The directory that is the deep store, when it is one.
    pub fn store(&self) -> PathBuf {
        self.dir().join("store")
    }

    /// The rows of a query as JSON, or what the reader said and the exit status.
    pub fn query(&self, id: &str, sql: &str) -> Result<String, (i32, String)> {
        let output = self.command(&["query", id, sql, "--format", "json"]);
        match output.status.code() {
            Some(0) => Ok(text(&output.stdout)),
            code => Err((code.unwrap_or(-1), text(&output.stderr))),
        }
    }

    /// Waits until `id` answers with the row that [`Self::put`] wrote.
    #[track_caller]
    pub fn wait_answers(&self, id: &str, n: i64) {
        let expected = format!("[{{\"n\":{n}}}]\n");
        let squeeze = |text: String| text.replace(": ", ":");
        until(&format!("{id} answers {n}"), || {
            self.query(id, "SELECT n FROM t").map(squeeze) == Ok(expected.clone())
        });
    }
}
