//! What tests of whole processes do often: wait, run a program, ask by HTTP, find a port.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// The bound of every wait for an event; no test asserts a time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `holds`, or fails saying `what` did not happen.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Standard output and error as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a program to its end.
#[track_caller]
pub fn run<I: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = I>) -> Output {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"))
}

/// A port on loopback that nobody listened on a moment ago: from below the range that the kernel gives to
/// outgoing connections, so that none of those has it when it is bound again after a stop.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let ports = 20_000..32_000_u16;
    let seed = std::process::id() as u16;
    loop {
        let step = seed.wrapping_mul(31).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = ports.start + step % (ports.end - ports.start);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Tells the other threads of a test to end when it goes, also by a failure.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One HTTP request to its end: status and body. Status 0 when no whole answer came.
pub fn http(method: &str, url: &str, body: &str) -> (u16, String) {
    http_within(PATIENCE, method, url, body)
}

/// The same by one who waits no longer than `patience`.
pub fn http_within(patience: Duration, method: &str, url: &str, body: &str) -> (u16, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = async {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let client = reqwest::Client::builder().no_proxy().timeout(patience).build().unwrap();
        let answer = client.request(method, url).body(body.to_owned()).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    };
    runtime.block_on(answer).unwrap_or_else(|error: reqwest::Error| (0, format!("{error:?}")))
}
